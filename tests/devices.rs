//! Devices over TLS and WebSocket, and listed: mosquitto_sub and paho-mqtt against a running weir.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "devices/authority.rs"]
mod authority;
#[expect(dead_code, reason = "a shared harness: other tests use the rest")]
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use authority::Authority;
use support::caller::Caller;
use support::device::Paho;
use support::{Device, INSTANCE, PATIENCE, Subscriber, TOPIC, Weir, eventually};

const EVERYWHERE: &str = "TopicA/#";

/// A weir with every listener there is, and the authority of its certificate.
fn start() -> (Weir, Authority) {
    start_with("")
}

fn start_with(tls: &str) -> (Weir, Authority) {
    let authority = Authority::new("weir's");
    let settings = format!(
        r#"
        [delivery.embedded]
        websocket_listen = "127.0.0.1:0"
        [delivery.embedded.tls]
        listen = "127.0.0.1:0"
        websocket_listen = "127.0.0.1:0"
        cert = "{folder}/cert.pem"
        key = "{folder}/key.pem"
        {tls}
        "#,
        folder = authority.folder().display(),
    );
    (Weir::start_with(&settings), authority)
}

fn send(weir: &Weir, payload: &[u8]) -> String {
    let answer = Caller::connect(weir.http()).send(TOPIC, payload);
    answer.body["MsgId"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// What ends the arguments of mosquitto_sub on a TLS listener.
fn over_tls(weir: &Weir, authority: &Authority) -> Vec<String> {
    let port = weir.links().tls.port().to_string();
    ["-p", &port, "--cafile", &authority.text("ca.pem")].map(str::to_owned).to_vec()
}

fn trusting(authority: &Authority) -> ClientConfig {
    weir::tls::install_provider();
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(authority.path("ca.pem")).expect("a certificate");
    roots.add(ca).expect("a root");
    ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A connection that has shaken hands and says nothing more.
fn shake_hands(at: SocketAddr, authority: &Authority) -> Stream {
    let name = ServerName::try_from("localhost").expect("a name");
    let client = ClientConnection::new(Arc::new(trusting(authority)), name).expect("a client");
    let stream = TcpStream::connect(at).expect("it accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut stream = StreamOwned::new(client, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).expect("a handshake");
    }
    stream
}

fn shown(at: SocketAddr, authority: &Authority) -> Vec<u8> {
    let stream = shake_hands(at, authority);
    stream.conn.peer_certificates().expect("a certificate")[0].to_vec()
}

#[test]
fn mosquitto_receives_over_tls() {
    let (weir, authority) = start();
    let device = Device::new("receiver", EVERYWHERE);
    let subscriber = Subscriber::start_with(&weir, &device, &over_tls(&weir, &authority));
    send(&weir, b"hello");
    assert_eq!(subscriber.received(1)[0].payload, b"hello");
}

#[test]
fn paho_receives_over_every_link_with_both_protocols() {
    let (weir, authority) = start();
    let ca = authority.text("ca.pem");
    let links = weir.links();
    for (name, at, more) in [
        ("tcp", weir.devices(), json!({})),
        ("tls", links.tls, json!({ "ca": ca })),
        ("ws", links.websocket, json!({ "transport": "websockets" })),
        ("wss", links.tls_websocket, json!({ "transport": "websockets", "ca": ca })),
    ] {
        for version in [4, 5] {
            let mut more = more.clone();
            more["version"] = version.into();
            let device = Device::new(&format!("{name}{version}"), EVERYWHERE);
            let paho = Paho::start_with(at, &device, &more);
            let payload = vec![b'x'; 64 * 1024];
            let msg_id = send(&weir, &payload);
            let line: Value = paho.line();
            assert_eq!(line["payload"], hex::encode(&payload), "{name}, MQTT {version}");
            let properties = match version {
                5 => json!([["msg_id", msg_id], ["instance_id", INSTANCE]]),
                _ => json!(null),
            };
            assert_eq!(line["user_properties"], properties, "{name}, MQTT {version}");
        }
    }
}

#[test]
fn a_client_that_trusts_another_authority_does_not_connect() {
    let (weir, _authority) = start();
    let stranger = Authority::new("somebody else's");
    let port = weir.links().tls.port().to_string();
    let refused = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port, "-t", "x", "-i", "x", "-E"])
        .args(["--cafile", &stranger.text("ca.pem")])
        .output()
        .expect("mosquitto_sub (`make tools` installs it)");
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("certificate verify failed") || said.contains("TLS error"), "{said}");
}

#[test]
fn a_device_without_a_certificate_is_refused_where_a_ca_is_named() {
    let devices = Authority::new("the devices'");
    let (weir, authority) = start_with(&format!("client_ca = {:?}", devices.text("ca.pem")));
    let device = Device::new("certified", EVERYWHERE);
    let mut more = over_tls(&weir, &authority);
    let with = ["--cert", &devices.text("cert.pem"), "--key", &devices.text("key.pem")];
    more.extend(with.map(str::to_owned));
    let subscriber = Subscriber::start_with(&weir, &device, &more);
    send(&weir, b"certified");
    assert_eq!(subscriber.received(1).len(), 1);
    let name = ServerName::try_from("localhost").expect("a name");
    let client = ClientConnection::new(Arc::new(trusting(&authority)), name).expect("a client");
    let stream = TcpStream::connect(weir.links().tls).expect("it accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut stream = StreamOwned::new(client, stream);
    // In TLS 1.3 the refusal comes behind the client's own end of the handshake.
    let refused = stream.write_all(b"x").and_then(|()| stream.read(&mut [0; 1]));
    let said = refused.expect_err("no certificate was shown").to_string();
    assert!(said.contains("CertificateRequired"), "{said}");
}

#[test]
fn tls_1_1_is_refused_by_its_version() {
    let (weir, _authority) = start();
    let mut stream = TcpStream::connect(weir.links().tls).expect("it accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // RFC 4346, 7.4.1.2: version 3.2, 32 random bytes, no session, one suite, no compression; and
    // signature_algorithms, without which it would be refused for that.
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xC0, 0x14, 1, 0, 0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let bytes = u8::try_from(body.len()).expect("it is short");
    let mut hello = vec![22, 3, 1, 0, bytes + 4, 1, 0, 0, bytes];
    hello.extend(body);
    stream.write_all(&hello).expect("it is sent");
    let mut alert = [0; 7];
    stream.read_exact(&mut alert).expect("an alert");
    assert_eq!((alert[0], &alert[5..]), (21, &[2, 70][..]), "fatal, protocol_version");
}

#[test]
fn whoever_connects_and_says_nothing_is_shown_out() {
    let (weir, authority) = start();
    let links = weir.links();
    let plain = |at| {
        let stream = TcpStream::connect(at).expect("it accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    };
    let mut upgraded = plain(links.websocket);
    upgrade(&mut upgraded);
    let mut halfway = plain(links.websocket);
    upgrade(&mut halfway);
    // The first byte of a CONNECT, in a masked frame of one byte.
    halfway.write_all(&[0x82, 0x81, 0, 0, 0, 0, 0x10]).expect("it is sent");
    let mut shaken = shake_hands(links.tls, &authority);
    let (mut tls, mut websocket) = (plain(links.tls), plain(links.websocket));
    let mut byte = [0];
    for (name, silent) in [
        ("no TLS handshake", &mut tls as &mut dyn Read),
        ("no WebSocket upgrade", &mut websocket),
        ("no MQTT over WebSocket", &mut upgraded),
        ("half a CONNECT over WebSocket", &mut halfway),
        ("no MQTT over TLS", &mut shaken),
    ] {
        match silent.read(&mut byte) {
            Ok(0) => {}
            Ok(_) => panic!("{name}: an answer to nothing"),
            Err(error) => {
                let waited = matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                );
                assert!(!waited, "{name}: still open");
            }
        }
    }
}

fn upgrade(stream: &mut TcpStream) {
    let request = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
}

#[test]
fn a_new_certificate_is_shown_without_a_restart_and_drops_nobody() {
    let (weir, authority) = start();
    let device = Device::new("old", EVERYWHERE);
    let subscriber = Subscriber::start_with(&weir, &device, &over_tls(&weir, &authority));
    let before = shown(weir.links().tls, &authority);
    authority.renew();
    for at in [weir.links().tls, weir.links().tls_websocket] {
        eventually("the new certificate", || (shown(at, &authority) != before).then_some(()));
    }
    send(&weir, b"still here");
    assert_eq!(subscriber.received(1)[0].payload, b"still here");
    let expiry = weir.metric("weir_tls_certificate_expiry_seconds{listener=\"devices\"}");
    assert!(expiry > 1_795_392_000.0, "{expiry}");
}

#[test]
fn the_listener_behind_the_links_lets_nobody_else_in() {
    let (weir, _authority) = start();
    let known = [weir.http(), weir.ops(), weir.devices()].into_iter();
    let links = weir.links();
    let known: Vec<u16> = known
        .chain([links.tls, links.websocket, links.tls_websocket])
        .map(|at| at.port())
        .collect();
    let inner: Vec<u16> =
        weir.listening().into_iter().filter(|port| !known.contains(port)).collect();
    assert_eq!(inner.len(), 1, "{inner:?}");
    let at = SocketAddr::from(([127, 0, 0, 1], inner[0]));
    let refused = Paho::refused(at, &Device::new("intruder", EVERYWHERE), &json!({}));
    assert!(refused.contains("Not authorized"), "{refused}");
}

fn listed(weir: &Weir, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.arg("devices").args(arguments);
    let ops = format!("http://{}", weir.ops());
    command.args(["--ops", &ops, "--instance", INSTANCE]).output().expect("weir runs")
}

#[test]
fn devices_are_listed_with_state_link_and_what_waits_for_them() {
    let (weir, authority) = start();
    let away = Device { persistent: true, ..Device::new("away", EVERYWHERE) };
    drop(Subscriber::start(&weir, &away));
    let tls = over_tls(&weir, &authority);
    let _near = Subscriber::start_with(&weir, &Device::new("near", EVERYWHERE), &tls);
    let links = weir.links();
    let more = json!({ "transport": "websockets", "version": 5 });
    let _web = Paho::start_with(links.websocket, &Device::new("web", EVERYWHERE), &more);
    send(&weir, b"one");
    send(&weir, b"two");
    let devices = eventually("the stored session", || {
        let printed = listed(&weir, &["--format", "json"]);
        assert!(printed.status.success(), "{printed:?}");
        let devices: Vec<Value> = serde_json::from_slice(&printed.stdout).expect("an array");
        let waits = devices[0]["state"] == "stored" && devices[0]["queued"] == 2;
        (waits && devices.iter().skip(1).all(|it| it["queued"] == 0)).then_some(devices)
    });
    let column = |name: &str| -> Vec<&str> {
        devices.iter().map(|it| it[name].as_str().expect("text")).collect()
    };
    assert_eq!(column("client_id"), ["GID_test@@@away", "GID_test@@@near", "GID_test@@@web"]);
    assert_eq!(column("state"), ["stored", "connected", "connected"]);
    assert_eq!(column("protocol"), ["3.1.1", "3.1.1", "5"]);
    assert_eq!(column("link"), ["", "tls", "ws"]);
    assert!(column("since").iter().all(|since| since.ends_with('Z')), "{devices:?}");
    let addresses = column("address");
    assert!(addresses[0].is_empty() && addresses[1].starts_with("127.0.0.1:"), "{addresses:?}");
    let csv = String::from_utf8(listed(&weir, &["--format", "csv"]).stdout).expect("text");
    assert_eq!(csv.lines().count(), 4, "{csv}");
    assert!(csv.starts_with("instance_id,client_id,state,"), "{csv}");
    let table = String::from_utf8(listed(&weir, &[]).stdout).expect("text");
    assert!(table.ends_with("\n2 connected, 1 stored\n"), "{table}");
}

#[test]
fn a_page_of_devices_says_where_the_next_begins() {
    let weir = Weir::start();
    let names: Vec<String> = (0..5).map(|number| format!("d{number}")).collect();
    let _devices: Vec<_> =
        names.iter().map(|name| Subscriber::start(&weir, &Device::new(name, EVERYWHERE))).collect();
    let page = |query: &str| -> Value {
        let text = support::weir::get(weir.ops(), &format!("/devices?instance={INSTANCE}&{query}"));
        serde_json::from_str(&text).expect("an object")
    };
    let ids = |page: &Value| -> Vec<String> {
        let devices = page["devices"].as_array().expect("a list").iter();
        devices
            .map(|it| it["client_id"].as_str().expect("text").replace("GID_test@@@", ""))
            .collect()
    };
    let first = page("limit=2");
    assert_eq!((ids(&first), &first["connected"]), (names[..2].to_vec(), &json!(5)));
    let second = page(&format!("limit=2&after={}", first["next"].as_str().expect("more")));
    assert_eq!(ids(&second), names[2..4]);
    let last = page(&format!("limit=2&after={}", second["next"].as_str().expect("more")));
    assert_eq!((ids(&last), &last["next"]), (names[4..].to_vec(), &json!(null)));
}

#[test]
fn a_list_of_nobody_says_whom_it_asked() {
    let mut weir = Weir::start();
    let unknown = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["devices", "--instance", "post-cn-none", "--ops", &format!("http://{}", weir.ops())])
        .output()
        .expect("weir runs");
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(unknown.status.code() == Some(1) && said.contains("post-cn-none: no such"), "{said}");
    let no_port = Command::new(env!("CARGO_BIN_EXE_weir"))
        .arg("--config")
        .arg(weir.config_file())
        .arg("devices")
        .output()
        .expect("weir runs");
    let said = String::from_utf8_lossy(&no_port.stderr).into_owned();
    assert!(no_port.status.code() == Some(1) && said.contains("give --ops"), "{said}");
    weir.kill();
    let nobody = listed(&weir, &[]);
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(nobody.status.code() == Some(1) && said.contains("does weir run?"), "{said}");
}
