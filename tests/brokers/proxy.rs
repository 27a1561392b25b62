//! A TCP proxy that can stop forwarding without closing anything: what a dead router looks like.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Forwards connections to a broker.
pub(crate) struct Proxy {
    address: SocketAddr,
    /// Connections with a lower number lead nowhere.
    alive_from: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (alive_from, accepted) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (alive, count) = (Arc::clone(&alive_from), Arc::clone(&accepted));
        std::thread::spawn(move || {
            for incoming in listener.incoming().map_while(Result::ok) {
                let Ok(outgoing) = TcpStream::connect(to) else { continue };
                let number = count.fetch_add(1, Ordering::SeqCst);
                for (from, to) in [(&incoming, &outgoing), (&outgoing, &incoming)] {
                    let from = from.try_clone().expect("a descriptor");
                    let to = to.try_clone().expect("a descriptor");
                    let alive = Arc::clone(&alive);
                    std::thread::spawn(move || forward(from, to, number, &alive));
                }
            }
        });
        Self { address, alive_from, accepted }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every connection there is leads nowhere from now on, and neither end is told.
    pub(crate) fn swallow(&self) {
        self.alive_from.store(self.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, number: usize, alive_from: &AtomicUsize) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(bytes @ 1..) = from.read(&mut chunk) {
        if number >= alive_from.load(Ordering::SeqCst) && to.write_all(&chunk[..bytes]).is_err() {
            break;
        }
    }
    if number >= alive_from.load(Ordering::SeqCst) {
        // Fails if the other direction has done it.
        let _ = to.shutdown(Shutdown::Both);
    }
}
