//! The OpenAPI document against a validator, and against a running weir by schemathesis: what is
//! drawn from it is sent, signed and not, and every answer has to be one of those it describes.
//!
//! A test that lacks a tool fails and says so: `make tools` installs them.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, unused_imports, reason = "a shared harness: other tests use the rest")]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{INSTANCE, KEY_ID, SECRET, SLOW, SLOW_SETTINGS, Weir};

/// Another seed is another run; this one is the same everywhere.
const SEED: u32 = 1;
/// What any answer has to be, whatever was asked.
const ALWAYS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,unsupported_method,\
    allow_header_conformance";

fn checkout(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A tool of `tests/openapi/install`, run to its end; one that fails shows all it said.
fn run(tool: &str, arguments: &[&str], environment: &[(&str, &str)]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = checkout("target/tools/openapi/bin").join(tool);
    let output = Command::new(&program)
        .args(arguments)
        .current_dir(folder.path())
        .env("PYTHONPATH", checkout("tests/openapi"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(environment.iter().copied())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}: run `make tools`", program.display()));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success(), "{tool} {arguments:?}\n{out}{err}");
}

fn schemathesis(port: std::net::SocketAddr, which: &[&str], environment: &[(&str, &str)]) {
    let (document, url, seed) =
        (checkout("docs/openapi.json"), format!("http://{port}"), SEED.to_string());
    let document = document.display().to_string();
    let mut arguments = vec!["run", &document, "--url", &url, "--seed", &seed];
    arguments.extend(["--phases", "examples,coverage,fuzzing", "--no-color"]);
    arguments.extend(["--suppress-health-check", "all", "--warnings", "off"]);
    arguments.extend(which);
    run("st", &arguments, environment);
}

#[test]
fn the_document_is_valid_openapi() {
    let document = checkout("docs/openapi.json").display().to_string();
    run("openapi-spec-validator", &["--schema", "3.1", &document], &[]);
}

#[test]
fn the_ops_port_serves_the_document() {
    let weir = Weir::start();
    assert_eq!(weir.ops_page("/openapi.json"), weir::pipeline::openapi());
}

#[test]
fn every_answer_of_the_data_port_is_as_described() {
    let weir = Weir::start_with(SLOW_SETTINGS);
    let signing =
        [("SCHEMATHESIS_HOOKS", "sign"), ("WEIR_KEY_ID", KEY_ID), ("WEIR_SECRET", SECRET)];
    let drawn = ["--include-path", "/", "--max-examples", "40"];
    let anything = [&drawn[..], &["--checks", ALWAYS]].concat();
    schemathesis(weir.http(), &anything, &[]);
    schemathesis(weir.http(), &anything, &signing);
    // What is right in everything has to be accepted, or throttled.
    let known = serde_json::json!({
        "InstanceId": [INSTANCE, SLOW],
        "MqttTopic": ["TopicA", "TopicA/b"],
        "Payload": ["", "aGVsbG8=", "AAEC/w=="],
    });
    let known = known.to_string();
    let known = [&signing[..], &[("WEIR_KNOWN", &known)]].concat();
    let checks = format!("{ALWAYS},positive_data_acceptance");
    let right = [&drawn[..], &["--mode", "positive", "--checks", &checks]].concat();
    schemathesis(weir.http(), &right, &known);

    let answered = |code: &str| weir.metric(&format!("weir_requests_total{{code=\"{code}\"}}"));
    for code in ["OK", "Throttling.User", "Missing", "ParameterCheckFailed", "ApiNotSupport"] {
        assert!(answered(code) > 0.0, "schemathesis has not met {code}");
    }
    assert_eq!(answered("SignatureDoesNotMatch"), 0.0, "what is signed is signed rightly");
    let billed = weir.billed()
        + weir.metric(&format!("weir_billable_messages_total{{instance_id=\"{SLOW}\"}}"));
    assert_eq!(answered("OK"), billed, "a 200 is billed, and nothing else");
    assert_eq!(weir.metric("weir_panics_total"), 0.0);
}

#[test]
fn every_answer_of_the_ops_port_is_as_described() {
    let weir = Weir::start();
    let checks = format!("{ALWAYS},negative_data_rejection");
    let which = ["--exclude-path", "/", "--max-examples", "40", "--checks", &checks];
    schemathesis(weir.ops(), &which, &[]);
}
