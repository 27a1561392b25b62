use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::Config;

use super::{Failure, say};

/// For the ops port to accept, and again for its answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The status line and the state; an answer that is longer is not ours.
const ANSWER_BYTES_MAX: u64 = 4 * 1024;

/// Asks the weir that runs from this configuration whether it is ready, and prints its state.
pub(super) fn run(config: &Config) -> Result<(), Failure> {
    let at = reachable(config.ops_listen);
    if at.port() == 0 {
        let why = "is 0, so nobody knows where weir listens: give ops.listen a port of its own";
        return Err(Failure::because("--ready: the ops port", why));
    }
    let answer =
        ask(at).map_err(|error| Failure::because(&format!("http://{at}/readyz"), error))?;
    let (head, state) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let state = state.trim();
    if head.split(' ').nth(1) == Some("200") {
        say(&format!("{state}\n"));
        return Ok(());
    }
    Err(Failure::Failed(format!("not ready: {state}")))
}

/// A listener on every address is reached by loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn ask(at: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_by_loopback() {
        let reached = |listen: &str| reachable(listen.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:8081"), "127.0.0.1:8081");
        assert_eq!(reached("[::]:8081"), "[::1]:8081");
        assert_eq!(reached("10.0.0.1:8081"), "10.0.0.1:8081");
    }
}
