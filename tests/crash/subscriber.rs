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

/// A subscribed device; QoS 1, a clean session.
pub(crate) struct Subscriber {
    given: Arc<Mutex<Given>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Subscriber {
    /// Connects to a weir and subscribes to everything; returns once that is granted.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let mut options = MqttOptions::new("crash-lamp", address.ip().to_string(), address.port());
        options.set_credentials(format!("Device|lamp|{INSTANCE}"), DEVICE_PASSWORD);
        options.set_max_packet_size(1 << 20, 1 << 20);
        options.set_keep_alive(Duration::from_secs(5));
        let (client, mut connection) = Client::new(options, 16);
        client.subscribe(format!("{TOPIC}/#"), QoS::AtLeastOnce).expect("there is room");
        let (given, stop) = (Arc::<Mutex<Given>>::default(), Arc::<AtomicBool>::default());
        let granted = Arc::<AtomicBool>::default();
        let (log, stopped, ready) = (Arc::clone(&given), Arc::clone(&stop), Arc::clone(&granted));
        let thread = std::thread::spawn(move || {
            // Alive, so that the connection is not closed under the loop.
            let _client = client;
            while !stopped.load(Ordering::Relaxed) {
                match connection.recv_timeout(Duration::from_millis(50)) {
                    Ok(Ok(Event::Incoming(Packet::Publish(publish)))) => {
                        let payload = String::from_utf8_lossy(&publish.payload).into_owned();
                        let mut log = log.lock().expect("nobody panics with it");
                        log.push((publish.topic, payload));
                    }
                    Ok(Ok(Event::Incoming(Packet::SubAck(_)))) => {
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

    /// Ends it; what it was given.
    pub(crate) fn finish(self) -> Given {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a subscriber does not panic");
        std::mem::take(&mut self.given.lock().expect("nobody panics with it"))
    }
}
