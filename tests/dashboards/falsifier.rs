//! An exporter that passes a weir's metrics on and, when told, counts less than it billed.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::prometheus::get;

const FALSIFIED: &str = "weir_billable_messages_total{";

/// A stand-in for an ops port.
pub(crate) struct Falsifier {
    at: SocketAddr,
    hidden: Arc<AtomicU64>,
}

impl Falsifier {
    /// Stands before the ops port `of`, honest at first.
    pub(crate) fn start(of: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("its address");
        let hidden = Arc::new(AtomicU64::new(0));
        let shared = Arc::clone(&hidden);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A scraper that goes away is no failure of the test.
                let _ = answer(stream, of, shared.load(Ordering::Acquire));
            }
        });
        Self { at, hidden }
    }

    /// Where Prometheus scrapes it.
    pub(crate) const fn at(&self) -> SocketAddr {
        self.at
    }

    /// From now on each billing counter shows so many messages less.
    pub(crate) fn hide(&self, messages: u64) {
        self.hidden.store(messages, Ordering::Release);
    }
}

fn answer(stream: TcpStream, of: SocketAddr, hidden: u64) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (_, metrics) = get(of, "/metrics");
    let falsify = |line: &str| match line.strip_prefix(FALSIFIED).and(line.rsplit_once(' ')) {
        Some((series, value)) => {
            let value: u64 = value.parse().expect("a counter of whole messages");
            format!("{series} {}\n", value - hidden)
        }
        None => format!("{line}\n"),
    };
    let body: String = metrics.lines().map(falsify).collect();
    write!(
        reader.get_mut(),
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}
