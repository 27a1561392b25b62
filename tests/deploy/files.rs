//! The files of `deploy/` that no process here can run: they are checked instead.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use toml::Table;

use crate::balancer::{shipped, tool};
use crate::replica::Replica;

/// Of 100, by `systemd-analyze security`; a unit without any protection has 96.
const EXPOSURE_MAX: &str = "20";

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn ran(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| {
        let program = command.get_program().display();
        panic!("{program}: {error}; `make tools` brings it")
    })
}

fn succeeds(command: &mut Command) {
    let output = ran(command);
    let written = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&written));
}

#[test]
fn what_containers_are_given_is_valid_and_names_only_what_there_is() {
    let python = tool("../python/bin/python");
    succeeds(Command::new(python).arg("tests/deploy/files.py").current_dir(checkout()));
}

#[test]
fn the_unit_leaves_weir_little_to_harm() {
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--threshold", EXPOSURE_MAX, "--no-pager"]);
    succeeds(analyze.arg(shipped("systemd/weir.service")));
}

#[test]
fn every_file_of_the_package_is_there() {
    let text = std::fs::read_to_string(checkout().join("Cargo.toml")).expect("it is there");
    let file: Table = text.parse().expect("it is TOML");
    let package = &file["package"]["metadata"]["deb"];
    let assets = package["assets"].as_array().expect("a list of files");
    let assets = assets.iter().map(|asset| asset[0].as_str().expect("a path"));
    let (built, kept): (Vec<_>, Vec<_>) = assets.partition(|path| path.starts_with("target/"));
    for path in kept.iter().map(|path| path.trim_end_matches("/*")) {
        assert!(checkout().join(path).exists(), "{path}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut prepare = Command::new(shipped("debian/prepare"));
    succeeds(prepare.arg(env!("CARGO_BIN_EXE_weir")).arg(folder.path()));
    let mut missed: BTreeSet<_> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .map(|file| file.expect("a file").file_name().into_string().expect("text"))
        .collect();
    for path in built.iter().filter_map(|path| path.strip_prefix("target/deb/")) {
        let before = missed.len();
        missed
            .retain(|name| !path.strip_prefix('*').map_or(name == path, |end| name.ends_with(end)));
        assert!(missed.len() < before, "prepare does not make {path}");
    }
    assert!(missed.is_empty(), "the package leaves out {missed:?}");
    for key in ["maintainer-scripts", "readme"] {
        let path = package.get(key).or_else(|| file["package"].get(key));
        let path = path.and_then(toml::Value::as_str).expect("a path");
        assert!(checkout().join(path).exists(), "{path}");
    }
}

#[test]
fn every_shipped_configuration_is_good_once_its_secrets_are_there() {
    const FILES: [&str; 4] = [
        "systemd/weir.toml",
        "compose/weir.toml",
        "kubernetes/base/weir.toml",
        "kubernetes/replicas/weir.toml",
    ];
    for file in FILES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let here = folder.path().display().to_string();
        for secret in ["secret", "ops-token", "access-key-secret"] {
            std::fs::write(folder.path().join(secret), "0123456789abcdef0123").expect("a file");
        }
        let mut text = std::fs::read_to_string(shipped(file)).expect("it is shipped");
        for place in ["/run/secrets", "/etc/weir/secrets", "/etc/weir", "/var/lib/weir"] {
            text = text.replace(&format!("\"{place}"), &format!("\"{here}"));
        }
        let copy = folder.path().join("weir.toml");
        std::fs::write(&copy, text).expect("a file");
        let checked =
            ran(Command::new(env!("CARGO_BIN_EXE_weir")).arg("--config").arg(copy).arg("check"));
        let why = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{file}: {why}");
    }
}

#[test]
fn the_health_check_of_a_container_follows_readiness() {
    let mut replica = Replica::start();
    let check = |replica: &Replica| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.arg("--config").arg(replica.weir.config_file()).args(["check", "--ready"]);
        let output = ran(&mut command);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, why) = check(&replica);
    assert_eq!(code, Some(0), "{why}");
    replica.weir.begin_drain();
    crate::support::eventually("it to see the drain", || {
        let (code, why) = check(&replica);
        (code == Some(1) && why.contains("not ready")).then_some(())
    });
    replica.weir.kill();
    let (code, why) = check(&replica);
    assert!(code == Some(1) && why.contains("/readyz: "), "{code:?} {why}");
}
