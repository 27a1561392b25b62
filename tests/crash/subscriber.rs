//! A device that comes back as often as weir does, and writes down what it is given.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

use super::weir::{DEVICE_PASSWORD, INSTANCE, TOPIC, within};
use super::{PATIENCE, now};

/// What one connection was given: topic and payload, in the order in which they came.
pub(crate) type Given = Vec<(String, String)>;

/// How long a device's session lasts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    /// As long as its connection.
    Clean,
    /// Until the device comes back.
    Stored,
}

/// A subscribed device; QoS 1.
pub(crate) struct Subscriber {
    given: Arc<Mutex<Given>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Subscriber {
    /// Connects to a weir and subscribes, with a stored session to all but bulk; returns once that
    /// is granted.
    pub(crate) fn start(address: SocketAddr, session: Session) -> Self {
        Self::connect(address, session, true)
    }

    /// The device with the stored session again; it subscribes to nothing.
    pub(crate) fn come_back(address: SocketAddr) -> Self {
        let subscriber = Self::connect(address, Session::Stored, false);
        assert!(!subscriber.thread.is_finished(), "its connection lasts");
        subscriber
    }

    fn connect(address: SocketAddr, session: Session, subscribes: bool) -> Self {
        let is_clean = session == Session::Clean;
        let client_id = if is_clean { "crash-lamp" } else { "crash-keeper" };
        let mut options = MqttOptions::new(client_id, address.ip().to_string(), address.port());
        options.set_clean_session(is_clean);
        // Left to itself it acknowledges what it has read before it hands it over.
        options.set_manual_acks(true);
        options.set_credentials(format!("Device|lamp|{INSTANCE}"), DEVICE_PASSWORD);
        options.set_max_packet_size(1 << 20, 1 << 20);
        options.set_keep_alive(PATIENCE);
        let (client, mut connection) = Client::new(options, 1_024);
        // A CONNACK comes after a sync, which may take long on a disk that others write to.
        let patience_s = PATIENCE.as_secs();
        connection.eventloop.network_options.set_connection_timeout(patience_s);
        if subscribes {
            let filter = if is_clean { "#" } else { "+" };
            client.subscribe(format!("{TOPIC}/{filter}"), QoS::AtLeastOnce).expect("there is room");
        }
        let (given, stop) = (Arc::<Mutex<Given>>::default(), Arc::<AtomicBool>::default());
        let granted = Arc::<AtomicBool>::default();
        let (log, stopped, ready) = (Arc::clone(&given), Arc::clone(&stop), Arc::clone(&granted));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // A wait that is given up begins the connection anew.
                let is_ready = ready.load(Ordering::Relaxed);
                let patience = if is_ready { Duration::from_millis(50) } else { PATIENCE };
                match connection.recv_timeout(patience) {
                    Ok(Ok(Event::Incoming(Packet::Publish(publish)))) => {
                        let payload = String::from_utf8_lossy(&publish.payload).into_owned();
                        let mut log = log.lock().expect("nobody panics with it");
                        log.push((publish.topic.clone(), payload));
                        client.try_ack(&publish).expect("fewer are in flight than there is room");
                    }
                    Ok(Ok(Event::Incoming(Packet::SubAck(_)))) => {
                        ready.store(true, Ordering::Relaxed);
                    }
                    Ok(Ok(Event::Incoming(Packet::ConnAck(ack)))) if !subscribes => {
                        assert!(ack.session_present, "its session is there");
                        ready.store(true, Ordering::Relaxed);
                    }
                    // Weir is gone: this connection has seen all it will see.
                    Ok(Err(_)) => return,
                    Ok(Ok(_)) | Err(_) => {}
                }
            }
        });
        let began = now();
        let ready = within(PATIENCE, || granted.load(Ordering::Relaxed) || thread.is_finished());
        assert!(ready && now() - began < PATIENCE, "the broker grants a subscription");
        Self { given, stop, thread }
    }

    /// How much it was given so far.
    pub(crate) fn count(&self) -> usize {
        self.given.lock().expect("nobody panics with it").len()
    }

    /// Whether it was given this.
    pub(crate) fn has(&self, payload: &str) -> bool {
        let given = self.given.lock().expect("nobody panics with it");
        given.iter().rev().any(|(_, given)| given == payload)
    }

    /// Ends it; what it was given.
    pub(crate) fn finish(self) -> Given {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a subscriber does not panic");
        std::mem::take(&mut self.given.lock().expect("nobody panics with it"))
    }
}
