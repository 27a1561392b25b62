//! A weir that keeps its ports from start to start, as one behind a balancer does.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::support::Weir;

/// Replicas behind one balancer.
const REPLICAS: usize = 3;
/// Ports that no connection is given as its own end: those begin at 32,768.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Three replicas and a balancer are a crowd on a small machine.
static TURN: Mutex<()> = Mutex::new(());

/// Waits until no other test has replicas.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of several.
pub(crate) struct Replica {
    pub(crate) weir: Weir,
}

impl Replica {
    /// As many as tests have, ready, with the drain notice weir ships with.
    pub(crate) fn start_all() -> Vec<Self> {
        (0..REPLICAS).map(|_| Self::start()).collect()
    }

    /// One.
    pub(crate) fn start() -> Self {
        let settings = format!(
            "limits = {{ instance_qps = 100000, burst = 1000 }}\n\
             http = {{ listen = \"{}\", drain_notice = \"3s\" }}\n\
             ops = {{ listen = \"{}\" }}\n",
            free_address(),
            free_address(),
        );
        Self { weir: Weir::start_with(&settings) }
    }
}

/// An address nobody listens at, for a process that cannot be given port 0.
pub(crate) fn free_address() -> SocketAddr {
    loop {
        let mut random = [0; 2];
        getrandom::fill(&mut random).expect("random bytes");
        let port = PORTS.start + u16::from_ne_bytes(random) % (PORTS.end - PORTS.start);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
