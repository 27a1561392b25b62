//! Who may look: the ops port's token and certificate. What is written down: the access log.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, unused_imports, reason = "a shared harness: other tests use the rest")]
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use support::caller::{Answer, Caller};
use support::certificates::Certificates;
use support::{INSTANCE, KEY_ID, PATIENCE, SECRET, TOPIC, Weir, eventually};

const TOKEN: &str = "a-token-of-the-test";

/// The status and the head of an answer of the ops port, all of it.
fn ask(to: SocketAddr, path: &str, header: &str) -> String {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", to.port()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    asked().expect("the ops port answers")
}

#[test]
fn beyond_this_machine_the_ops_port_opens_to_the_token_alone() {
    let settings = format!("ops = {{ listen = \"0.0.0.0:0\", token = \"{TOKEN}\" }}");
    let mut weir = Weir::start_with(&settings);
    let right = format!("authorization: Bearer {TOKEN}\r\n");
    for path in ["/metrics", "/usage", "/nowhere"] {
        for wrong in ["", "authorization: Bearer a-token\r\n", "authorization: Basic eDp4\r\n"] {
            let refused = ask(weir.ops(), path, wrong);
            assert!(refused.starts_with("HTTP/1.1 401"), "{path} {wrong}: {refused}");
            assert!(refused.contains("www-authenticate: Bearer"), "{refused}");
            assert!(!refused.contains("weir_"), "{refused}");
        }
        assert!(!ask(weir.ops(), path, &right).starts_with("HTTP/1.1 401"), "{path}");
    }
    assert!(ask(weir.ops(), "/metrics", &right).contains("weir_ready 1"));
    for path in ["/healthz", "/readyz"] {
        assert!(ask(weir.ops(), path, "").starts_with("HTTP/1.1 200"), "{path}");
    }
    assert_eq!(weir.terminate(), Some(0));
    assert!(!weir.log().contains(TOKEN), "{}", weir.log());
}

#[test]
fn an_ops_port_without_a_token_stays_on_this_machine() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("weir.toml");
    let text = "ops = { listen = \"0.0.0.0:0\" }\n[[accounts]]\nid = \"1\"\n[[instances]]\n\
                id = \"post-cn-1\"\naccount = \"1\"\ntopics = [\"TopicA\"]\n";
    std::fs::write(&file, text).expect("the file is written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    let refused = command.arg("--config").arg(&file).output().expect("weir runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("ops.token is missing") && said.lines().count() == 1, "{said}");
    assert!(!folder.path().join("weir-data").exists());
}

#[test]
fn the_ops_port_speaks_tls_where_it_has_a_certificate() {
    let certificates = Certificates::new();
    let weir = Weir::start_with(&format!("ops = {{ tls = {} }}", certificates.table("")));
    let mut secured = certificates.connect(weir.ops());
    let (head, body) = secured.exchange(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let expiry = "weir_tls_certificate_expiry_seconds{listener=\"ops\"} 2208988800";
    assert!(body.contains(expiry), "{body}");
    let mut plain = TcpStream::connect(weir.ops()).expect("the port accepts");
    plain.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").expect("written");
    let mut answer = vec![];
    // An alert, and then a close or a reset.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

/// Runs a command from this weir's configuration, with the ops port it was given and these settings
/// of `ops` laid over it; returns the exit code and what was printed.
fn run(weir: &Weir, arguments: &[&str], ops: &str) -> (Option<i32>, String) {
    let text = std::fs::read_to_string(weir.config_file()).expect("the file is there");
    let mut file: toml::Table = text.parse().expect("it is TOML");
    let settings: toml::Table = ops.parse().expect("the settings are TOML");
    let table = file["ops"].as_table_mut().expect("it is a table");
    table.insert("listen".to_owned(), weir.ops().to_string().into());
    table.extend(settings);
    let config = weir.config_file().with_file_name("found.toml");
    std::fs::write(&config, file.to_string()).expect("the file is written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.arg("--config").arg(config).args(arguments).env("WEIR_OPS_TOKEN", TOKEN);
    let output = command.output().expect("weir runs");
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(printed).expect("text"))
}

#[test]
fn commands_know_a_weir_that_speaks_tls_by_the_certificate_it_was_given() {
    let certificates = Certificates::new();
    certificates.certify_for(&["weir.example.com"], "cert.pem", "key.pem", 2040);
    let tls = certificates.table("");
    let ops = format!("listen = \"0.0.0.0:0\", token = \"{TOKEN}\"");
    let weir = Weir::start_with(&format!("ops = {{ {ops}, tls = {tls} }}"));
    let (ready, devices) = (&["check", "--ready"], &["devices"]);
    assert_eq!(run(&weir, ready, ""), (Some(0), "ready\n".to_owned()));
    let (code, printed) = run(&weir, devices, "");
    assert!(code == Some(0) && printed.ends_with("\n0 connected, 0 stored\n"), "{printed}");

    let strangers = Certificates::new();
    let another = format!("tls = {}", strangers.table(""));
    let ca = certificates.path("ca.pem");
    let asked = certificates.table(&format!(", client_ca = \"{}\"", ca.display()));
    let asked = format!("tls = {asked}");
    for (ops, because) in [(another, "certificate"), (asked, "ops.tls.client_cert")] {
        for arguments in [&ready[..], devices] {
            let (code, said) = run(&weir, arguments, &ops);
            assert!(code == Some(1) && said.contains(because), "{arguments:?} {code:?}: {said}");
        }
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

/// Waits until the file has so many lines.
fn written(path: &Path, count: usize) -> Vec<Value> {
    eventually("lines of the access log", || Some(lines(path)).filter(|all| all.len() >= count))
}

fn log_to(path: &Path, more: &str) -> String {
    format!("log = {{ access = \"{}\"{more} }}", path.display())
}

fn request_id(answer: &Answer) -> &str {
    answer.body["RequestId"].as_str().expect("every answer has one")
}

#[test]
fn every_call_is_a_line_that_tells_no_secret() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("access.log");
    let mut weir = Weir::start_with(&log_to(&file, ""));
    let mut caller = Caller::connect(weir.http());
    let taken = caller.send(TOPIC, b"payload-of-the-test");
    let refused = caller.send("TopicNobodyKnows", b"payload-of-the-test");
    // Whose instance it names is not known before the signature is.
    let request = String::from_utf8(caller.sign(TOPIC, b"payload-of-the-test")).expect("text");
    let (head, _) = request.split_once("Signature=").expect("it is signed");
    let forged = format!("{head}Signature={}\r\ncontent-length: 0\r\n\r\n", "0".repeat(64));
    let forged = caller.try_send_signed(forged.as_bytes()).expect("an answer");
    let all = written(&file, 3);
    for (answer, line) in [&taken, &refused, &forged].into_iter().zip(&all) {
        assert_eq!(line["request_id"], request_id(answer));
        assert_eq!(line["status"], answer.status);
        assert_eq!(line["peer"], "127.0.0.1");
        assert!(line["millis"].as_f64().is_some_and(|millis| millis >= 0.0), "{line}");
        assert!(line["bytes_out"].as_u64().is_some_and(|bytes| bytes > 50), "{line}");
        assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    }
    assert_eq!((&all[0]["code"], &all[0]["instance"]), (&"OK".into(), &INSTANCE.into()));
    let known = (&all[1]["code"], &all[1]["instance"]);
    assert_eq!(known, (&"PermissionCheckFailed".into(), &INSTANCE.into()));
    assert_eq!(
        (all[2]["code"].clone(), all[2].get("instance")),
        (forged.body["Code"].clone(), None)
    );
    assert!(all[0]["bytes_in"].as_u64().is_some_and(|bytes| bytes > 60), "{}", all[0]);
    let text = std::fs::read_to_string(&file).expect("the file is there");
    for secret in [SECRET, KEY_ID, "payload-of-the-test", "cGF5bG9hZC", "TopicNobodyKnows"] {
        assert!(!text.contains(secret), "{secret} is in\n{text}");
    }
    assert_eq!(weir.terminate(), Some(0), "{}", weir.log());
    assert_eq!(lines(&file).len(), 3);
}

#[test]
fn of_what_succeeds_a_share_is_written_and_of_refusals_everything() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("access.log");
    let mut weir = Weir::start_with(&log_to(&file, ", access_sample = 0.25"));
    let mut caller = Caller::connect(weir.http());
    for _ in 0..40 {
        assert_eq!(caller.send(TOPIC, b"x").status, 200);
        assert_eq!(caller.send("TopicNobodyKnows", b"x").status, 400);
    }
    assert_eq!(weir.terminate(), Some(0), "{}", weir.log());
    let all = lines(&file);
    let taken = all.iter().filter(|line| line["code"] == "OK").count();
    assert!((8..=12).contains(&taken), "{taken} of 40");
    assert_eq!(all.len() - taken, 40);
}

#[test]
fn a_log_that_was_moved_away_is_begun_anew() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, old) = (folder.path().join("access.log"), folder.path().join("old.log"));
    let weir = Weir::start_with(&log_to(&file, ""));
    let mut caller = Caller::connect(weir.http());
    caller.send(TOPIC, b"one");
    written(&file, 1);
    std::fs::rename(&file, &old).expect("the file is moved");
    // Whoever writes finds out behind its next line.
    caller.send(TOPIC, b"two");
    written(&old, 2);
    eventually("a new file", || file.exists().then_some(()));
    caller.send(TOPIC, b"three");
    written(&file, 1);
}

#[test]
fn a_log_on_standard_output_is_apart_from_the_log_proper() {
    let weir = Weir::start();
    let file = weir.config_file();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = std::fs::read_to_string(&file).expect("the file is there");
    let data = format!("data_dir = \"{}\"\n[log]\naccess = \"stdout\"\n", folder.path().display());
    let text = text.lines().filter(|line| !line.starts_with("data_dir"));
    let text = data + &text.collect::<Vec<_>>().join("\n");
    let other = folder.path().join("weir.toml");
    std::fs::write(&other, text).expect("the file is written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    let mut child = support::start_tool(command.arg("--config").arg(&other));
    let out = support::Lines::of("stdout", child.stdout.take().expect("it is piped"));
    let log = support::Lines::of("stderr", child.stderr.take().expect("it is piped"));
    let _child = support::Owned(child);
    let at = log.wait_for("ready", |lines| {
        let event = |line: &String| serde_json::from_str::<Value>(line).ok();
        let ready = lines.iter().filter_map(event).find(|event| event["message"] == "ready");
        ready.and_then(|event| event["http"].as_str().map(str::to_owned))
    });
    let at: SocketAddr = at.expect("weir is ready").parse().expect("an address");
    let answer = Caller::connect(at).send(TOPIC, b"one");
    let id = request_id(&answer).to_owned();
    let line =
        out.wait_for("the call", |lines| lines.iter().find(|line| line.contains(&id)).cloned());
    assert!(line.expect("a line").starts_with("{\"time\":"));
    assert!(!log.text().contains(&id));
}

#[test]
fn behind_a_trusted_proxy_the_peer_is_its_client() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("access.log");
    let http = "\nhttp = { trusted_proxies = [\"127.0.0.1\"], proxy_protocol = true }";
    let weir = Weir::start_with(&(log_to(&file, "") + http));
    let get = |before: &[u8], target: &str, header: &str| {
        let mut stream = TcpStream::connect(weir.http()).expect("the port accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
        let request = request + header + "\r\n";
        stream.write_all(&[before, request.as_bytes()].concat()).expect("written");
        let mut answer = String::new();
        // A reset is as good as a close for who is not served.
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    let version_1 = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n";
    let version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xCB\0\x71\x0A\xC0\0\x02\x01\0\x01\0\x02";
    // The boundary behind the header is one of HTTP: a line far too long for hyper passes.
    let long = format!("/?Payload={}", "A".repeat(200_000));
    assert!(get(version_1, &long, "").contains("MissingAction"));
    assert!(get(version_2, "/", "").contains("MissingAction"));
    let forwarded = "x-forwarded-for: 1.2.3.4, 203.0.113.11\r\n";
    assert!(get(b"PROXY UNKNOWN\r\n", "/", forwarded).contains("MissingAction"));
    assert_eq!(get(b"", "/", ""), "", "a trusted proxy that says nothing is not served");
    let peers: Vec<_> = written(&file, 3).iter().map(|line| line["peer"].clone()).collect();
    assert_eq!(peers, ["203.0.113.9", "203.0.113.10", "203.0.113.11"]);
}

#[test]
fn nobody_else_says_whom_a_call_comes_from() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("access.log");
    let http = "\nhttp = { trusted_proxies = [\"192.0.2.0/24\"], proxy_protocol = true }";
    let weir = Weir::start_with(&(log_to(&file, "") + http));
    let mut stream = TcpStream::connect(weir.http()).expect("the port accepts");
    let request = "GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 203.0.113.9\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("written");
    assert_eq!(written(&file, 1)[0]["peer"], "127.0.0.1");
}

#[test]
fn a_replica_admits_its_share_and_says_so() {
    let weir = Weir::start_with("limits = { instance_qps = 30, burst = 30, replicas = 10 }");
    let mut caller = Caller::connect(weir.http());
    let began = support::now();
    let first = caller.send(TOPIC, b"x");
    assert_eq!(first.headers["ratelimit-policy"], "\"instance\";q=3;w=1", "{first:?}");
    let admitted = 1 + (0..30).filter(|_| caller.send(TOPIC, b"x").status == 200).count();
    let allowed = 3.0 + 3.0 * began.elapsed().as_secs_f64();
    let admitted = f64::from(u32::try_from(admitted).expect("few"));
    assert!(admitted <= allowed, "{admitted} admitted, {allowed} allowed");
    let share =
        weir.metric(&format!("weir_quota_messages_per_second{{instance_id=\"{INSTANCE}\"}}"));
    assert!((share - 3.0).abs() < 1e-9, "{share}");
}
