//! A subscriber of QoS 1 whose session outlives its connection: rumqttc's own client.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

use super::support::{INSTANCE, eventually};
use super::within;

/// What came, in the order in which it came.
pub(crate) struct Listener {
    received: Arc<Mutex<Vec<(String, String)>>>,
    client: Client,
}

impl Listener {
    /// Subscribes to all of the instance, and comes back whenever it loses its connection.
    pub(crate) fn start(broker: SocketAddr) -> Self {
        let mut options = MqttOptions::new("listener", broker.ip().to_string(), broker.port());
        options.set_clean_session(false).set_keep_alive(Duration::from_secs(5));
        options.set_max_packet_size(256 * 1024, 256 * 1024);
        let (client, mut connection) = Client::new(options, 16);
        let received: Arc<Mutex<Vec<_>>> = Arc::default();
        let (kept, again) = (Arc::clone(&received), client.clone());
        // NATS gives its own `$JS` topics to whoever asks for `#`.
        let all = format!("{INSTANCE}/#");
        let granted = Arc::new(Mutex::new(false));
        let subscribed = Arc::clone(&granted);
        std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(answer))) if !answer.session_present => {
                        again.try_subscribe(&all, QoS::AtLeastOnce).expect("room for a request");
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        *subscribed.lock().expect("no panic") = true;
                    }
                    Ok(Event::Incoming(Packet::Publish(message))) => {
                        let text = String::from_utf8_lossy(&message.payload).into_owned();
                        kept.lock().expect("no panic").push((message.topic, text));
                    }
                    Ok(_) => {}
                    Err(rumqttc::ConnectionError::RequestsDone) => return,
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        });
        eventually("the SUBACK", || granted.lock().expect("no panic").then_some(()));
        Self { received, client }
    }

    /// What came so far: topic and payload.
    pub(crate) fn received(&self) -> Vec<(String, String)> {
        self.received.lock().expect("no panic").clone()
    }

    /// Waits for every one of these payloads; their first arrivals are in order in each topic.
    pub(crate) fn has_all_in_order(&self, sent: &HashMap<String, Vec<String>>) {
        let all: usize = sent.values().map(Vec::len).sum();
        within(&format!("{all} messages"), || {
            let seen: HashSet<_> = self.received().into_iter().collect();
            (seen.len() >= all).then_some(())
        });
        let mut firsts: HashMap<String, Vec<String>> = HashMap::new();
        let mut seen = HashSet::new();
        for (topic, payload) in self.received() {
            if seen.insert((topic.clone(), payload.clone())) {
                firsts.entry(topic).or_default().push(payload);
            }
        }
        for (topic, expected) in sent {
            assert_eq!(firsts.get(topic), Some(expected), "the order of {topic}");
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.client.try_disconnect();
    }
}
