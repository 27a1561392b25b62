//! The PROXY protocol (haproxy's proxy-protocol.txt, versions 1 and 2): whom a connection comes
//! from, said by the proxy before the connection's first byte.
//!
//! ```text
//! version 1   PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n          at most 107 bytes
//! version 2    0  12  0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A
//!             12   1  version 2 in the high half; 0 LOCAL or 1 PROXY in the low one
//!             13   1  0x11 TCP over IPv4, 0x21 TCP over IPv6, others say nothing of a client
//!             14   2  length of what follows, big-endian
//!             16      source, destination, source port, destination port, then options
//! ```
//!
//! Exactly the header is read, and nothing of what comes behind it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LINE_START: &[u8] = b"PROXY ";
/// Longest header of version 1, in bytes, its line's end included.
const LINE_BYTES_MAX: usize = 107;
/// Longest rest of a header of version 2, in bytes: addresses and the options of any proxy known.
const REST_BYTES_MAX: usize = 4 * 1024;

/// Reads a header. `None` where the proxy speaks for itself, or of a client that has no address.
///
/// # Errors
/// `InvalidData` for anything but a header; what a read ends with.
pub(super) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<IpAddr>> {
    // The shortest header of version 1 is longer than this: "PROXY UNKNOWN\r\n".
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let rest_bytes = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if rest_bytes > REST_BYTES_MAX {
            return Err(malformed());
        }
        let mut rest = vec![0; rest_bytes];
        stream.read_exact(&mut rest).await?;
        return binary(head[0], head[1], &rest).ok_or_else(malformed);
    }
    if !start.starts_with(LINE_START) {
        return Err(malformed());
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LINE_BYTES_MAX {
            return Err(malformed());
        }
        line.push(stream.read_u8().await?);
    }
    text(&line[LINE_START.len()..line.len() - 2]).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no PROXY header")
}

/// A line of version 1, between its first word and its end.
fn text(line: &[u8]) -> Option<Option<IpAddr>> {
    let line = str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, destination): (IpAddr, IpAddr) =
        (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let ports: [Option<u16>; 2] = [words.next()?.parse().ok(), words.next()?.parse().ok()];
    let fits = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    let whole = fits && ports.iter().all(Option::is_some) && words.next().is_none();
    whole.then_some(Some(source))
}

/// What stands behind the signature of version 2.
fn binary(command: u8, family: u8, rest: &[u8]) -> Option<Option<IpAddr>> {
    match (command, family) {
        (0x20, _) => Some(None),
        (0x21, 0x11) => {
            let (source, _) = rest.split_first_chunk::<4>().filter(|_| rest.len() >= 12)?;
            Some(Some(Ipv4Addr::from(*source).into()))
        }
        (0x21, 0x21) => {
            let (source, _) = rest.split_first_chunk::<16>().filter(|_| rest.len() >= 36)?;
            Some(Some(Ipv6Addr::from(*source).into()))
        }
        (0x21, _) => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is read of these bytes, and what is left of them.
    fn read_of(mut bytes: &[u8]) -> (io::Result<Option<IpAddr>>, &[u8]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = runtime.block_on(read(&mut bytes));
        (read, bytes)
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let bytes = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE, &[command, family][..], &bytes, rest].concat()
    }

    #[test]
    fn a_header_is_read_to_its_last_byte_and_no_further() {
        let line = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\nGET /";
        let (client, left) = read_of(line);
        assert_eq!((client.unwrap(), left), (Some("203.0.113.9".parse().unwrap()), &b"GET /"[..]));
        let six = [&[0x20; 16][..], &[0; 16], &[1, 2, 3, 4], b"options"].concat();
        let bytes = [&version_2(0x21, 0x21, &six)[..], b"GET /"].concat();
        let (client, left) = read_of(&bytes);
        let six: IpAddr = "2020:2020:2020:2020:2020:2020:2020:2020".parse().unwrap();
        assert_eq!((client.unwrap(), left), (Some(six), &b"GET /"[..]));
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        for bytes in
            [b"PROXY UNKNOWN\r\n".to_vec(), version_2(0x20, 0, &[]), version_2(0x21, 0, &[])]
        {
            assert_eq!(read_of(&bytes).0.unwrap(), None);
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200], b"\r\n".to_vec()].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 192.0.2.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 65536\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.7 192.0.2.1 1 2\r\n".to_vec(),
            version_2(0x21, 0x11, &[1; 11]),
            version_2(0x11, 0x11, &[1; 12]),
            version_2(0x22, 0x11, &[1; 12]),
            version_2(0x20, 0, &vec![0; REST_BYTES_MAX + 1]),
            long,
        ] {
            assert_eq!(read_of(&bytes).0.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    proptest! {
        #[test]
        fn every_client_is_read_back(
            source: [u8; 4], port: u16, more in prop::collection::vec(any::<u8>(), 0..40)
        ) {
            let client = IpAddr::from(source);
            let line = format!("PROXY TCP4 {client} 192.0.2.1 {port} 443\r\n");
            prop_assert_eq!(read_of(line.as_bytes()).0.unwrap(), Some(client));
            let rest = [&source[..], &[0; 8], &more].concat();
            prop_assert_eq!(read_of(&version_2(0x21, 0x11, &rest)).0.unwrap(), Some(client));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), pick in 0..3_usize) {
            let starts: [&[u8]; 3] = [b"", LINE_START, &SIGNATURE];
            let _ = read_of(&[starts[pick], &bytes].concat());
        }
    }
}
