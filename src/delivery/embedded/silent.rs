//! Connections that never sign in.
//!
//! rmqtt waits without end for the first bytes of a connection, and hands nobody the socket. But
//! it is a descriptor of this process, and Linux duplicates those by number
//! (`pidfd_getfd(2)`): so it can be told from the others by its addresses, and shut down.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::tenants::Tenants;
use crate::clock::Clock;

/// The sockets of this process, as the kernel numbers them.
const DESCRIPTORS: &str = "/proc/self/fd";

/// How often they are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks for them as long as the broker runs.
pub(super) async fn watch(
    tenants: Arc<Tenants>,
    port: u16,
    sign_in_within: Duration,
    clock: Arc<dyn Clock>,
) {
    let mut silent = match Silent::new(port, sign_in_within, clock) {
        Ok(silent) => silent,
        Err(error) => {
            return tracing::warn!(
                %error,
                "connections that never sign in stay open: pidfd_getfd(2) is forbidden here; \
                 allow it, or have a load balancer in front end them"
            );
        }
    };
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let signed_in = tenants.connected_from().await;
        let look = tokio::task::spawn_blocking(move || {
            let looked = silent.sweep(&signed_in);
            (silent, looked)
        });
        let Ok((again, looked)) = look.await else { return };
        silent = again;
        match looked {
            Ok(0) => {}
            Ok(ended) => tracing::info!(ended, "connections that did not sign in in time"),
            Err(error) => tracing::warn!(%error, "connections cannot be listed"),
        }
    }
}

impl Tenants {
    /// Where the devices that are connected come from.
    async fn connected_from(&self) -> HashSet<SocketAddr> {
        let mut addresses = HashSet::new();
        for tenant in self.iter() {
            for id in tenant.session_ids() {
                if tenant.is_connected(&id.client_id).await {
                    addresses.extend(id.remote_addr);
                }
            }
        }
        addresses
    }
}

/// Ends what has been connected to one port for too long without having signed in.
pub(super) struct Silent {
    port: u16,
    sign_in_within: Duration,
    clock: Arc<dyn Clock>,
    process: OwnedFd,
    known: HashMap<u64, Known>,
}

#[derive(Clone, Copy)]
enum Known {
    /// Not a device's, or one that has signed in: of no further interest.
    Settled,
    /// A device's, first seen then.
    Since(Instant),
}

impl Silent {
    /// # Errors
    /// If the operating system does not let a process look at its own descriptors.
    pub(super) fn new(
        port: u16,
        sign_in_within: Duration,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let process = pidfd_open(getpid(), PidfdFlags::empty())?;
        let silent = Self { port, sign_in_within, clock, process, known: HashMap::new() };
        // Some sandboxes forbid it: better known now than when the descriptors are used up.
        silent.duplicate(0)?;
        Ok(silent)
    }

    /// Looks at every socket not looked at before, and ends those whose time is up. `signed_in`
    /// are the addresses of the devices that are connected.
    ///
    /// # Errors
    /// If the descriptors cannot be listed.
    pub(super) fn sweep(&mut self, signed_in: &HashSet<SocketAddr>) -> io::Result<usize> {
        let now = self.clock.now();
        let mut ended = 0;
        let mut known = HashMap::new();
        for entry in std::fs::read_dir(DESCRIPTORS)? {
            let Some((descriptor, socket)) = socket_of(&entry?) else { continue };
            let before = self.known.get(&socket).copied();
            let seen = match before {
                Some(Known::Settled) => Known::Settled,
                _ => match self.device(descriptor).filter(|(_, at)| !signed_in.contains(at)) {
                    None => Known::Settled,
                    Some((stream, _)) => {
                        let since = match before {
                            Some(Known::Since(since)) => since,
                            _ => now,
                        };
                        if now.saturating_duration_since(since) >= self.sign_in_within {
                            // One that is gone already needs no ending.
                            let _ = stream.shutdown(Shutdown::Both);
                            ended += 1;
                        }
                        Known::Since(since)
                    }
                },
            };
            known.insert(socket, seen);
        }
        self.known = known;
        Ok(ended)
    }

    /// The socket behind a descriptor with the address of its other end, if it is a device's.
    fn device(&self, descriptor: i32) -> Option<(TcpStream, SocketAddr)> {
        let stream = TcpStream::from(self.duplicate(descriptor).ok()?);
        let is_ours = stream.local_addr().is_ok_and(|at| at.port() == self.port);
        let peer = stream.peer_addr().ok().filter(|_| is_ours)?;
        Some((stream, peer))
    }

    fn duplicate(&self, descriptor: i32) -> io::Result<OwnedFd> {
        Ok(pidfd_getfd(&self.process, descriptor, PidfdGetfdFlags::empty())?)
    }
}

/// The descriptor and the kernel's number of a socket; `None` for any other file.
fn socket_of(entry: &std::fs::DirEntry) -> Option<(i32, u64)> {
    let descriptor = entry.file_name().to_str()?.parse().ok()?;
    let target = std::fs::read_link(entry.path()).ok()?;
    let socket = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
    Some((descriptor, socket.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;
    use crate::clock::{ManualClock, UnixMillis};

    const WITHIN: Duration = Duration::from_secs(10);

    #[test]
    fn who_does_not_sign_in_is_ended_in_time_and_nobody_else() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let clock = ManualClock::at(UnixMillis(0));
        let mut silent = Silent::new(at.port(), WITHIN, Arc::new(clock.clone())).unwrap();
        let connect = |listener: &TcpListener| {
            let device = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (device, listener.accept().unwrap().0)
        };
        let (mut mute, _mute_here) = connect(&listener);
        let (device, device_here) = connect(&listener);
        let (other, other_here) = connect(&elsewhere);
        let signed_in = HashSet::from([device.local_addr().unwrap()]);
        assert_eq!(silent.sweep(&signed_in).unwrap(), 0);
        clock.advance(WITHIN - Duration::from_millis(1));
        assert_eq!(silent.sweep(&signed_in).unwrap(), 0);
        let (late, late_here) = connect(&listener);
        clock.advance(Duration::from_millis(1));
        assert_eq!(silent.sweep(&signed_in).unwrap(), 1);
        mute.set_read_timeout(Some(WITHIN)).unwrap();
        assert_eq!(mute.read(&mut [0]).unwrap(), 0, "the end of the stream");
        for stream in [&device, &device_here, &other, &other_here, &late, &late_here] {
            stream.set_nonblocking(true).unwrap();
            let read = (&*stream).read(&mut [0]).unwrap_err();
            assert_eq!(read.kind(), io::ErrorKind::WouldBlock);
        }
    }
}
