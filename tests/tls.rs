//! HTTPS on the data port: both protocols, the deadlines, renewal, client certificates.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, unused_imports, reason = "a shared harness: other tests use the rest")]
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;

use support::caller::Caller;
use support::certificates::{Certificates, Secured};
use support::{INSTANCE, KEY_ID, PATIENCE, SECRET, TOPIC, Weir, eventually, sdk_file, start_tool};

const EXPIRY: &str = "weir_tls_certificate_expiry_seconds{listener=\"http\"}";

fn start(certificates: &Certificates, tls: &str, more: &str) -> Weir {
    Weir::start_with(&format!("http = {{ tls = {}{more} }}", certificates.table(tls)))
}

/// A signed request, as bytes of HTTP/1.1.
fn signed(weir: &Weir, payload: &[u8]) -> Vec<u8> {
    Caller::connect(weir.http()).sign(TOPIC, payload)
}

fn weir_send(weir: &Weir, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.arg("send").args(arguments);
    command.args(["--endpoint", &format!("https://localhost:{}", weir.http().port())]);
    command.args(["--instance", INSTANCE, "--topic", TOPIC, "hello"]);
    command.env("ALIBABA_CLOUD_ACCESS_KEY_ID", KEY_ID);
    command.env("ALIBABA_CLOUD_ACCESS_KEY_SECRET", SECRET);
    command.env_remove("SSL_CERT_FILE").envs(variables.iter().copied());
    command.output().expect("weir send runs")
}

#[test]
fn calls_over_tls_are_taken_as_without_and_plain_ones_are_not() {
    let certificates = Certificates::new();
    let weir = start(&certificates, "", "");
    let mut secured = certificates.connect(weir.http());
    for payload in [b"one", b"two"] {
        let (head, body) = secured.exchange(&signed(&weir, payload));
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(body.contains("MsgId"), "{body}");
    }
    // A line of 200,000 bytes, far beyond what hyper takes by itself.
    let long = format!("GET /?Payload={} HTTP/1.1\r\nhost: x\r\n\r\n", "A".repeat(200_000));
    let (head, body) = secured.exchange(long.as_bytes());
    assert!(head.starts_with("HTTP/1.1 400") && body.contains("MissingAction"), "{head}{body}");
    let (head, _) = secured.exchange(&signed(&weir, b"three"));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut plain = Caller::connect(weir.http());
    assert!(plain.try_send(TOPIC, b"four").is_err());
    assert!((weir.billed() - 3.0).abs() < 0.5, "{} billed", weir.billed());
}

#[tokio::test(flavor = "multi_thread")]
async fn alpn_leads_to_http2_and_a_large_payload_passes() {
    let certificates = Certificates::new();
    let weir = start(&certificates, "", "");
    let stream = tokio::net::TcpStream::connect(weir.http()).await.expect("the port accepts");
    let config = Arc::new(certificates.client(&[b"h2", b"http/1.1"]));
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream = connector.connect(name, stream).await.expect("hands are shaken");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let executor = TokioExecutor::new();
    let http2 = hyper::client::conn::http2::handshake(executor, TokioIo::new(stream));
    let (mut sender, connection) = http2.await.expect("HTTP/2");
    tokio::spawn(connection);
    // Over the 64 KiB of a window by default.
    let signed = signed(&weir, &vec![7; 64 * 1024]);
    let end = signed.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = str::from_utf8(&signed[..end]).expect("text");
    let mut request = http::Request::post(format!("https://{}/", weir.http()));
    for line in head.lines().skip(1) {
        let (name, value) = line.split_once(": ").expect("a header");
        if name != "host" {
            request = request.header(name, value);
        }
    }
    let body = Full::new(bytes::Bytes::copy_from_slice(&signed[end + 4..]));
    let answer = sender.send_request(request.body(body).expect("a request")).await;
    let answer = answer.expect("an answer");
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(status, 200, "{body:?}");
}

#[test]
fn a_handshake_that_is_not_finished_is_cut_and_so_is_silence_behind_it() {
    let certificates = Certificates::new();
    let deadlines = ", first_byte_timeout = \"200ms\", idle_timeout = \"200ms\"";
    let weir = start(&certificates, "", deadlines);
    let mut silent = TcpStream::connect(weir.http()).expect("the port accepts");
    silent.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert_eq!(silent.read(&mut [0; 1]).expect("a close, not a timeout"), 0);
    let mut halfway = TcpStream::connect(weir.http()).expect("the port accepts");
    halfway.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // The head of a record of 512 bytes, of which two come.
    halfway.write_all(&[22, 3, 1, 2, 0, 1, 0]).expect("written");
    assert_eq!(halfway.read(&mut [0; 1]).expect("a close, not a timeout"), 0);
    let failed = weir.metric("weir_tls_handshakes_failed_total");
    assert!((failed - 2.0).abs() < 0.5, "{failed}");
    let mut shaken = certificates.connect(weir.http());
    shaken.ended();
    let mut idle = certificates.connect(weir.http());
    let (head, _) = idle.exchange(&signed(&weir, b"one"));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    idle.ended();
}

/// The first 7 bytes a listener answers to a hello of TLS 1.`minor` with.
fn greeted(weir: &Weir, minor: u8) -> [u8; 7] {
    let mut hello = vec![1, 0, 0, 0, 3, minor + 1];
    hello.extend([9; 32]);
    // No session; ECDHE-ECDSA-AES128-GCM-SHA256; no compression.
    hello.extend([0, 0, 2, 0xC0, 0x2B, 1, 0]);
    // X25519, signatures of ECDSA-P256-SHA256, and uncompressed points.
    hello.extend([0, 22, 0, 10, 0, 4, 0, 2, 0, 29, 0, 13, 0, 4, 0, 2, 4, 3, 0, 11, 0, 2, 1, 0]);
    let length = u8::try_from(hello.len()).expect("short");
    hello[3] = length - 4;
    let mut stream = TcpStream::connect(weir.http()).expect("the port accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(&[&[22, 3, 1, 0, length][..], &hello].concat()).expect("written");
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).expect("an answer");
    answer
}

#[test]
fn tls_1_2_is_spoken_and_1_1_is_not() {
    let certificates = Certificates::new();
    let weir = start(&certificates, "", "");
    let hello = greeted(&weir, 2);
    assert_eq!((hello[0], hello[5]), (22, 2), "a ServerHello: {hello:?}");
    let alert = greeted(&weir, 1);
    // RFC 8446, section 6.2: fatal, protocol_version.
    assert_eq!((alert[0], alert[5], alert[6]), (21, 2, 70), "{alert:?}");
}

#[test]
fn a_renewed_certificate_is_shown_to_who_comes_next() {
    let certificates = Certificates::new();
    let weir = start(&certificates, "", "");
    let mut before = certificates.connect(weir.http());
    before.exchange(&signed(&weir, b"one"));
    assert!((weir.metric(EXPIRY) - 2_208_988_800.0).abs() < 0.5, "2040-01-01");
    let at_rest = "weir_tls_certificate_expiry_seconds{listener=\"devices\"}";
    assert!(weir.metric(at_rest).abs() < 0.5, "0 without TLS");

    certificates.write("key.pem", "half of a k");
    eventually("a complaint about the key", || {
        let log = weir.log();
        (log.matches("the old certificate stays").count() == 1).then_some(())
    });
    let mut meanwhile = certificates.connect(weir.http());
    meanwhile.exchange(&signed(&weir, b"two"));
    assert_eq!(meanwhile.shown(), before.shown());

    certificates.certify("cert.pem", "key.pem", 2041);
    eventually("the new expiry", || (weir.metric(EXPIRY) > 2_209_000_000.0).then_some(()));
    let mut after = certificates.connect(weir.http());
    after.exchange(&signed(&weir, b"three"));
    assert_ne!(after.shown(), before.shown());
    let (head, _) = before.exchange(&signed(&weir, b"four"));
    assert!(head.starts_with("HTTP/1.1 200"), "the old connection is left alone: {head}");
    assert_eq!(weir.log().matches("the old certificate stays").count(), 1, "{}", weir.log());
}

#[test]
fn weir_send_trusts_whom_it_is_told_to_and_shows_what_it_is_given() {
    let certificates = Certificates::new();
    let ca = certificates.path("ca.pem");
    let ca = ca.to_str().expect("text");
    let weir = start(&certificates, "", "");
    let sent = weir_send(&weir, &["--ca-file", ca], &[]);
    assert!(sent.status.success(), "{sent:?}");
    assert!(weir_send(&weir, &[], &[("SSL_CERT_FILE", ca)]).status.success());
    let strangers = Certificates::new();
    let stranger = strangers.path("ca.pem");
    let sent = weir_send(&weir, &["--ca-file", stranger.to_str().expect("text")], &[]);
    assert_eq!(sent.status.code(), Some(1), "{sent:?}");
    assert!((weir.billed() - 2.0).abs() < 0.5, "{} billed", weir.billed());
}

#[test]
fn the_official_python_sdk_sends_64_kib_over_https() {
    let certificates = Certificates::new();
    let weir = start(&certificates, "", "");
    let call = serde_json::json!({
        "endpoint": format!("localhost:{}", weir.http().port()),
        "ca": certificates.path("ca.pem"),
        "key": KEY_ID,
        "secret": SECRET,
        "instance": INSTANCE,
        "topic": TOPIC,
        "payload": STANDARD.encode(vec![0xFB; 64 * 1024]),
    });
    let mut command = Command::new(sdk_file(".venv/tea/bin/python"));
    let mut client = start_tool(command.arg(sdk_file("tea.py")).arg("v3"));
    let mut input = client.stdin.take().expect("it is piped");
    writeln!(input, "{call}").expect("the client reads");
    drop(input);
    let output = client.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout);
    let why = said.chars().rev().take(300).collect::<Vec<_>>();
    assert!(said.contains("msg_id"), "…{}", why.into_iter().rev().collect::<String>());
    assert!((weir.billed() - 1.0).abs() < 0.5, "{} billed", weir.billed());
}

#[test]
fn who_has_no_certificate_is_let_in_only_where_that_is_said() {
    let certificates = Certificates::new();
    certificates.certify("client.pem", "client.key", 2040);
    let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"]
        .map(|name| certificates.path(name).to_str().expect("text").to_owned());
    let known = ["--ca-file", &ca, "--cert", &cert, "--key", &key];
    let required = start(&certificates, &format!(", client_ca = \"{ca}\""), "");
    let sent = weir_send(&required, &["--ca-file", &ca], &[]);
    assert_eq!(sent.status.code(), Some(1), "{sent:?}");
    assert!(weir_send(&required, &known, &[]).status.success());
    assert!((required.billed() - 1.0).abs() < 0.5, "{} billed", required.billed());

    let asked = format!(", client_ca = \"{ca}\", client_cert = \"optional\"");
    let optional = start(&certificates, &asked, "");
    assert!(weir_send(&optional, &["--ca-file", &ca], &[]).status.success());
    assert!(weir_send(&optional, &known, &[]).status.success());
    let strangers = Certificates::new();
    let identity =
        weir::tls::Identity { cert: &strangers.path("cert.pem"), key: &strangers.path("key.pem") };
    let config = weir::tls::client(Some(&certificates.path("ca.pem")), Some(identity));
    let config = config.expect("the files are good").as_ref().clone();
    let stream = TcpStream::connect(optional.http()).expect("the port accepts");
    let mut stranger = Secured::over(stream, config);
    let request = signed(&optional, b"let me in");
    assert!(stranger.write(&request).and_then(|()| stranger.read()).is_err());
}
