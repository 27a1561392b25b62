//! The load tests of `load-tests/`, run for a moment: they start, they judge, and a threshold that
//! is broken breaks the run.
//!
//! A test that lacks k6 fails and says so: `make tools` brings it.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../load-tests/open_loop/main.rs"]
#[expect(dead_code, reason = "its unit tests run here; the program itself is an example")]
mod open_loop;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SCRIPTS: [&str; 6] = ["smoke", "limit", "tenants", "spike", "soak", "failover"];
/// What k6 exits with when a threshold was broken.
const EXIT_THRESHOLD: i32 = 99;

fn checkout(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The sender, which `cargo test` builds beside the tests.
fn sender() -> PathBuf {
    let mut path = std::env::current_exe().expect("a test has a path");
    path.pop();
    path.pop();
    path.push("examples/open_loop");
    assert!(path.exists(), "{} is missing: `cargo build --example open_loop`", path.display());
    path
}

/// Runs `load-tests/run` with this weir; what it wrote, and its exit code.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(checkout("load-tests/run"));
    command.args(arguments).envs(environment.iter().copied());
    command.env("WEIR_BIN", env!("CARGO_BIN_EXE_weir")).env("OPEN_LOOP_BIN", sender());
    let ran = command.stdin(Stdio::null()).output().expect("bash runs it");
    let written = [ran.stdout, ran.stderr].concat();
    (ran.status.code(), String::from_utf8_lossy(&written).into_owned())
}

#[test]
fn k6_reads_every_script_and_each_can_fail() {
    for script in SCRIPTS {
        let mut k6 = Command::new(checkout("target/tools/bin/k6"));
        k6.arg("inspect").arg(checkout("load-tests").join(script).with_extension("js"));
        let read = k6.output().unwrap_or_else(|error| panic!("{error}; `make tools` brings k6"));
        assert!(read.status.success(), "{script}: {}", String::from_utf8_lossy(&read.stderr));
        let options: serde_json::Value = serde_json::from_slice(&read.stdout).expect("it is JSON");
        let thresholds = options["thresholds"].as_object().map_or(0, serde_json::Map::len);
        assert!(thresholds > 1, "{script} has {thresholds} thresholds");
    }
}

/// A small machine that compiles at the same time is slow, and that is not what is tested.
const PATIENT: [&str; 4] = ["-e", "P99_MS=30000", "-e", "NOT_SENT_MAX=1000"];

#[test]
fn smoke_passes_against_a_good_weir_and_fails_where_it_throttles() {
    let short = ["smoke", "-e", "RATE=20", "-e", "DURATION=3s"];
    let arguments = [short.as_slice(), &PATIENT].concat();
    let (code, written) = run(&arguments, &[]);
    assert_eq!(code, Some(0), "{written}");
    let outcome = checkout("target/load-tests/smoke.json");
    let outcome = std::fs::read_to_string(outcome).expect("it writes its outcome");
    let outcome: serde_json::Value = serde_json::from_str(&outcome).expect("it is JSON");
    assert_eq!(outcome["passed"], true, "{outcome}");
    assert!(outcome["admitted"].as_u64().is_some_and(|count| count > 0), "{outcome}");
    let page = std::fs::read_to_string(checkout("target/load-tests/smoke.html"));
    let page = page.expect("it writes a page");
    assert!(page.contains(">passed<") && !page.contains("http://"), "{page}");

    let (code, written) = run(&arguments, &[("LIMIT", "1"), ("BURST", "1")]);
    assert_eq!(code, Some(EXIT_THRESHOLD), "{written}");
    assert!(written.contains("BROKEN weir_throttled count==0"), "{written}");
}

#[test]
fn the_open_loop_sender_counts_what_weir_bills_and_what_it_refuses() {
    let arguments = ["open_loop", "--rate", "200", "--ramp", "1s", "--duration", "1s"];
    let (code, written) = run(&arguments, &[("LIMIT", "50"), ("BURST", "10")]);
    assert_eq!(code, Some(0), "{written}");
    let outcome = checkout("target/load-tests/open_loop.json");
    let outcome = std::fs::read_to_string(outcome).expect("it writes its outcome");
    let outcome: serde_json::Value = serde_json::from_str(&outcome).expect("it is JSON");
    assert_eq!(outcome["answered"], 300, "100 of the ramp, 200 after it: {outcome}");
    let throttled = outcome["answers"]["429 Throttling.User"].as_u64().unwrap_or_default();
    let admitted = outcome["admitted"].as_u64().unwrap_or_default();
    assert!(throttled > 0 && throttled + admitted == 300, "{outcome}");
    assert!(outcome["server_cpu"]["seconds"].as_f64() > Some(0.0), "{outcome}");
}

#[test]
fn the_open_loop_sender_fails_where_calls_are_lost() {
    let mut lost = Command::new(sender());
    // Nobody can listen there.
    lost.args(["--endpoint", "127.0.0.1:1", "--rate", "10", "--duration", "1s"]);
    lost.args(["--connections", "2", "--key", "a", "--secret", "b"]);
    let lost = lost.output().expect("it runs");
    let written = String::from_utf8_lossy(&lost.stdout);
    assert_eq!(lost.status.code(), Some(1), "{written}");
    assert!(written.contains("lost       10 Connection refused"), "{written}");
}
