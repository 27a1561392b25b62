//! The command line as a newcomer and an operator meet it: pasted lines, exit codes, one-line
//! errors.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "a shared harness: other tests use the rest")]
mod support;

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::{
    Device, INSTANCE, KEY_ID, Lines, Owned, SECRET, Subscriber, TOPIC, Weir, eventually, start_tool,
};
use tempfile::TempDir;

const WEIR: &str = env!("CARGO_BIN_EXE_weir");
/// The demo's ports: http, ops, devices.
const DEMO_PORTS: [u16; 3] = [8080, 8081, 1883];
const EXIT_FAILED: i32 = 1;
const EXIT_USAGE: i32 = 2;
const EXIT_CONFIG: i32 = 78;

/// One test, because the demo's ports are fixed.
#[test]
fn every_line_the_demo_prints_works_as_pasted() {
    DEMO_PORTS.into_iter().for_each(assert_free);
    ["mosquitto_sub", "curl"].into_iter().for_each(assert_installed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let demo = Demo::start(folder.path());
    let device = demo.paste("mosquitto_sub ");
    let send = demo.line("send 'hello'");
    // The line does not say when it has subscribed: what is sent until then is not for it.
    eventually("the device to print what was sent", || {
        let sent = sh(folder.path(), &send);
        assert_eq!(sent.code, 0, "{sent:?}");
        device.printed("TopicA hello").then_some(())
    });
    let curl = demo.line("curl '");
    let first = sh(folder.path(), &curl);
    assert!(first.out.contains("\"MsgId\""), "{first:?}");
    device.wait_for("TopicA hello from curl");
    let second = sh(folder.path(), &curl);
    assert!(second.out.contains("\"SignatureNonceUsed\""), "signed for one use: {second:?}");
    demo_keeps_its_key(demo, folder.path());
}

fn demo_keeps_its_key(mut demo: Demo, folder: &Path) {
    let file = folder.join("weir-data/demo.toml");
    let mode = std::fs::metadata(&file).expect("the demo's file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others may not read the secret");
    let secret = demo.line("secret ");
    let kept = std::fs::read(&file).expect("the demo's file");
    demo.stop();
    drop(demo);
    assert_eq!(Demo::start(folder).line("secret "), secret, "the second start prints the same");
    assert_eq!(std::fs::read(&file).expect("the demo's file"), kept);
}

#[test]
fn send_prints_the_id_of_a_message_the_device_receives() {
    let weir = Weir::start();
    let device = Subscriber::start(&weir, &Device::new("receiver", "TopicA/#"));
    let sent = send(&weir, &["--topic", TOPIC, "grüße"]);
    assert_eq!(sent.code, 0, "{sent:?}");
    assert_eq!(sent.out.trim().len(), 32, "{sent:?}");
    let signed_otherwise = send(&weir, &["--topic", "TopicA/b", "--sign", "sm3", "2"]);
    assert_eq!(signed_otherwise.code, 0, "{signed_otherwise:?}");
    let mut payloads: Vec<_> = device.received(2).into_iter().map(|it| it.payload).collect();
    payloads.sort();
    assert_eq!(payloads, [b"2".to_vec(), "grüße".into()]);
}

#[test]
fn send_takes_any_bytes_from_a_file_and_from_standard_input() {
    let weir = Weir::start();
    let device = Subscriber::start(&weir, &Device::new("receiver", "TopicA/#"));
    let bytes: Vec<u8> = (0..=255).cycle().take(64 * 1024).collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("payload");
    std::fs::write(&path, &bytes).expect("the file is written");
    let path = path.display().to_string();
    let from_file = send(&weir, &["--topic", TOPIC, "--file", &path]);
    assert_eq!(from_file.code, 0, "{from_file:?}");
    let piped = send_from(&weir, &["--topic", TOPIC], &bytes);
    assert_eq!(piped.code, 0, "{piped:?}");
    assert!(device.received(2).iter().all(|message| message.payload == bytes));
}

#[test]
fn a_refused_send_exits_1_with_code_and_message_on_stderr() {
    let weir = Weir::start();
    let refused = send(&weir, &["--topic", "TopicB", "hello"]);
    assert_eq!(refused.code, EXIT_FAILED, "{refused:?}");
    assert_eq!(refused.out, "");
    assert!(refused.err.starts_with("weir: PermissionCheckFailed: "), "{refused:?}");
    assert_eq!(refused.err.lines().count(), 1, "{refused:?}");
}

#[test]
fn a_send_to_nobody_exits_1_and_names_the_endpoint() {
    let mut weir = Weir::start();
    let endpoint = weir.http().to_string();
    weir.kill();
    let failed = send(&weir, &["--topic", TOPIC, "hello"]);
    assert_eq!(failed.code, EXIT_FAILED, "{failed:?}");
    assert!(failed.err.contains(&endpoint), "{failed:?}");
}

#[test]
fn many_messages_are_sent_no_faster_than_the_rate_and_all_arrive() {
    let weir = Weir::start();
    let device = Subscriber::start(&weir, &Device::new("receiver", "TopicA/#"));
    let began = support::now();
    let sent = send(&weir, &["--topic", TOPIC, "--count", "50", "--rate", "100", "x"]);
    let elapsed = support::now() - began;
    assert_eq!(sent.code, 0, "{sent:?}");
    assert!(sent.out.starts_with("50 accepted in "), "{sent:?}");
    // The first leaves at 0 s, the fiftieth at 0.49 s.
    assert!(elapsed.as_secs_f64() > 0.49, "50 at 100/s took {elapsed:?}");
    assert_eq!(device.received(50).len(), 50);
    assert_eq!(weir.billed(), 50.0);
}

#[test]
fn many_messages_of_which_some_are_refused_exit_1_and_are_counted_by_code() {
    let weir = Weir::start_with("limits = { instance_qps = 1, burst = 10 }");
    let sent = send(&weir, &["--topic", TOPIC, "--count", "40", "x"]);
    assert_eq!(sent.code, EXIT_FAILED, "{sent:?}");
    let accepted = weir.billed();
    assert!(sent.out.starts_with(&format!("{accepted} accepted in ")), "{sent:?}");
    let refused = 40.0 - accepted;
    assert!(sent.out.contains(&format!("{refused} refused: Throttling.User")), "{sent:?}");
    assert!(sent.err.contains(&format!("{refused} of 40 refused, such as ")), "{sent:?}");
}

#[test]
fn check_of_a_good_file_says_what_would_run() {
    let weir = Weir::start();
    let file = weir.config_file().display().to_string();
    let checked = run(Command::new(WEIR).args(["check", "--config", &file]));
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(checked.out.contains(INSTANCE), "{checked:?}");
    assert!(!checked.out.contains(SECRET), "a secret is not printed: {checked:?}");
}

#[test]
fn a_bad_file_exits_78_with_one_line_that_names_the_key() {
    for (text, key) in [
        ("colour = 1", "colour"),
        ("limits.burst = 0", "limits.burst"),
        ("limits.throttle_status = 500", "limits.throttle_status"),
        ("http.drain_notice = \"2h\"", "http.drain_notice"),
        ("delivery.kind = \"pigeon\"", "delivery.kind"),
        ("data_dir = ", "line 1"),
    ] {
        is_refused_in_one_line(text, key);
    }
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_a_line_that_names_its_key() {
    is_refused_in_one_line("http.drain_notice = 3", "drain_notice");
    is_refused_in_one_line("[limits]\nburst = \"many\"", "burst");
}

fn is_refused_in_one_line(text: &str, key: &str) {
    let (folder, file) = bad_file(text);
    for command in ["check", "serve"] {
        let refused = run(Command::new(WEIR).args(["--config", &file, command]));
        assert_eq!(refused.code, EXIT_CONFIG, "{command} {text}: {refused:?}");
        assert_eq!(refused.out, "", "{command} {text}");
        assert_eq!(refused.err.lines().count(), 1, "{command} {text}: {refused:?}");
        assert!(refused.err.contains(key), "{command} {text}: {refused:?}");
    }
    let left = std::fs::read_dir(folder.path()).expect("the folder").count();
    assert_eq!(left, 1, "nothing but the file itself is there: {text}");
}

#[test]
fn a_file_that_is_not_there_exits_78_and_is_named() {
    let refused = run(Command::new(WEIR).args(["check", "--config", "no/such.toml"]));
    assert_eq!(refused.code, EXIT_CONFIG, "{refused:?}");
    assert!(refused.err.starts_with("weir: no/such.toml: "), "{refused:?}");
}

#[test]
fn an_unknown_option_exits_2_and_is_named() {
    let refused = run(Command::new(WEIR).arg("--colour"));
    assert_eq!(refused.code, EXIT_USAGE, "{refused:?}");
    assert!(refused.err.contains("--colour"), "{refused:?}");
    let refused = run(Command::new(WEIR).args(["send", "--rate", "5", "x"]));
    assert_eq!(refused.code, EXIT_USAGE, "a rate needs a count: {refused:?}");
}

#[test]
fn the_version_names_the_release_and_the_commit() {
    let printed = run(Command::new(WEIR).arg("--version"));
    let release = concat!("weir ", env!("CARGO_PKG_VERSION"), " (");
    let commit = printed.out.trim().strip_prefix(release).and_then(|rest| rest.strip_suffix(')'));
    assert!(commit.is_some_and(|commit| !commit.is_empty()), "{printed:?}");
}

#[test]
fn a_port_in_use_exits_1_and_names_its_key() {
    let weir = Weir::start();
    let text = std::fs::read_to_string(weir.config_file()).expect("the file");
    for (key, taken) in [("http", weir.http()), ("ops", weir.ops())] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut table: toml::Table = text.parse().expect("the file is TOML");
        table["data_dir"] = folder.path().join("data").display().to_string().into();
        table[key]["listen"] = taken.to_string().into();
        let file = folder.path().join("weir.toml");
        std::fs::write(&file, table.to_string()).expect("the file is written");
        let failed = run(Command::new(WEIR).arg("--config").arg(&file));
        assert_eq!(failed.code, EXIT_FAILED, "{failed:?}");
        assert!(failed.err.contains(&format!("{key}.listen {taken}")), "{failed:?}");
    }
}

#[test]
fn two_processes_never_serve_from_one_data_folder() {
    let weir = Weir::start();
    let failed = run(Command::new(WEIR).arg("--config").arg(weir.config_file()));
    assert_eq!(failed.code, EXIT_FAILED, "{failed:?}");
    let last = failed.err.lines().last().unwrap_or_default();
    assert!(last.contains("lock") || last.contains("in use"), "{failed:?}");
}

#[test]
fn sigterm_drains_and_exits_0_with_a_device_connected() {
    let mut weir = Weir::start();
    let device = Subscriber::start(&weir, &Device::new("receiver", "TopicA/#"));
    let sent = send(&weir, &["--topic", TOPIC, "last words"]);
    assert_eq!(sent.code, 0, "{sent:?}");
    assert_eq!(weir.terminate(), Some(0), "{}", weir.log());
    assert_eq!(device.received(1).len(), 1);
}

#[test]
fn the_billed_count_survives_a_drain_and_a_crash() {
    let mut weir = Weir::start();
    let send_ten = |weir: &Weir| {
        let sent = send(weir, &["--topic", TOPIC, "--count", "10", "x"]);
        assert_eq!(sent.code, 0, "{sent:?}");
    };
    send_ten(&weir);
    assert_eq!(weir.terminate(), Some(0), "{}", weir.log());
    weir.restart();
    assert_eq!(weir.billed(), 10.0, "after a drain");
    send_ten(&weir);
    weir.kill();
    weir.restart();
    assert_eq!(weir.billed(), 20.0, "after a crash");
}

/// A demo, started without arguments in a folder.
struct Demo {
    process: Owned,
    greeting: String,
}

impl Demo {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(WEIR);
        let piped = command.current_dir(folder).stdin(Stdio::null()).env_remove("RUST_LOG");
        let piped = piped.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Owned(piped.spawn().expect("weir starts"));
        let log = Lines::of("the demo's log", process.0.stderr.take().expect("it is piped"));
        let output = Lines::of("the demo", process.0.stdout.take().expect("it is piped"));
        let greeting = output.wait_for("how to stop it", |lines| {
            let complete = lines.iter().any(|line| line.contains("Stop with ctrl-C"));
            complete.then(|| lines.join("\n"))
        });
        let greeting = greeting.unwrap_or_else(|why| panic!("{why}{}", log.text()));
        Self { process, greeting }
    }

    /// The one line that holds `words`, as a reader would copy it.
    fn line(&self, words: &str) -> String {
        let mut lines = self.greeting.lines().filter(|line| line.contains(words));
        match (lines.next(), lines.next()) {
            (Some(line), None) => line.trim().to_owned(),
            _ => panic!("one line holds {words}:\n{}", self.greeting),
        }
    }

    /// Runs the line that holds `words`, and lets it run.
    fn paste(&self, words: &str) -> Pasted {
        // Without exec the shell would be the child, and outlive its death.
        let line = format!("exec {}", self.line(words));
        let mut child = start_tool(Command::new("sh").args(["-c", &line]));
        let output = Lines::of("the pasted line", child.stdout.take().expect("it is piped"));
        Pasted { _process: Owned(child), output }
    }

    /// Stops it as ctrl-C does.
    fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
        let ended = eventually("the demo to stop at ctrl-C", || {
            self.process.0.try_wait().expect("a child of ours")
        });
        assert_eq!(ended.code(), Some(0));
    }
}

struct Pasted {
    _process: Owned,
    output: Lines,
}

impl Pasted {
    fn printed(&self, line: &str) -> bool {
        self.output.any(line)
    }

    fn wait_for(&self, line: &str) {
        let waited =
            self.output.wait_for(line, |lines| lines.iter().any(|it| it == line).then_some(()));
        waited.unwrap_or_else(|why| panic!("{why}"));
    }
}

fn assert_free(port: u16) {
    let Err(error) = TcpListener::bind(("127.0.0.1", port)) else { return };
    let filter = format!("sport = :{port}");
    let holder = Command::new("ss").args(["-Hltnp", &filter]).output();
    let holder = holder
        .map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).into_owned());
    panic!("the demo needs port {port} ({error}); stop who holds it: {}", holder.trim());
}

fn assert_installed(tool: &str) {
    let found = run(Command::new("sh").args(["-c", &format!("command -v {tool}")]));
    assert_eq!(found.code, 0, "{tool} is missing: `make tools` installs it");
}

fn bad_file(text: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("weir.toml");
    let tenants = r#"
        [[accounts]]
        id = "1"
        [[instances]]
        id = "post-cn-a"
        account = "1"
        topics = ["TopicA"]
    "#;
    std::fs::write(&path, format!("{text}\n{tenants}")).expect("the file is written");
    let file = path.display().to_string();
    (folder, file)
}

fn send(weir: &Weir, arguments: &[&str]) -> Ran {
    send_from(weir, arguments, b"")
}

/// `weir send` to this weir's instance, with this on its standard input.
fn send_from(weir: &Weir, arguments: &[&str], input: &[u8]) -> Ran {
    let mut command = Command::new(WEIR);
    command.arg("send").args(["--instance", INSTANCE]).args(arguments);
    command.env("WEIR_ENDPOINT", format!("http://{}", weir.http()));
    command.env("ALIBABA_CLOUD_ACCESS_KEY_ID", KEY_ID);
    command.env("ALIBABA_CLOUD_ACCESS_KEY_SECRET", SECRET);
    let mut child = start_tool(&mut command);
    let mut stdin = child.stdin.take().expect("it is piped");
    // It may end without having read it.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("a child of ours").into()
}

fn sh(folder: &Path, line: &str) -> Ran {
    run(Command::new("sh").args(["-c", line]).current_dir(folder))
}

fn run(command: &mut Command) -> Ran {
    let variables = ["ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"];
    variables.into_iter().chain(["WEIR_ENDPOINT"]).for_each(|name| {
        command.env_remove(name);
    });
    command.stdin(Stdio::null()).output().expect("it starts").into()
}

/// What a command left behind.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it is not killed by a signal"),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
