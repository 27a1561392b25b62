//! Every command that README and docs/ print is run as printed, in a folder and a network of its
//! own: each page's blocks are one script, in their order.
//!
//! Blocks marked `sh` are run, and `python` and `js` of docs/migrating.md; `console` is not. A test
//! that lacks a tool fails and says so: `make tools` installs them.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const WEIR: &str = env!("CARGO_BIN_EXE_weir");
/// They take minutes, and CI runs what they do.
const NOT_RUN: [&str; 2] = ["cargo run --release\n", "make test\n"];
/// The prompt of a block that follows a start.
const READY: &str = "until curl -sf http://127.0.0.1:8081/readyz; do sleep 0.1; done\n";

fn checkout(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A fenced block, and the line it begins at.
struct Block {
    at: String,
    text: String,
}

/// The blocks of a page in one language.
fn blocks(page: &str, language: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(checkout(page)).expect("the page is there");
    let fence = format!("```{language}");
    let mut blocks: Vec<Block> = vec![];
    let mut inside = false;
    for (number, line) in (1..).zip(text.lines()) {
        match blocks.last_mut().filter(|_| inside) {
            Some(_) if line == "```" => inside = false,
            Some(block) => block.text += &format!("{line}\n"),
            None if line == fence => {
                inside = true;
                blocks.push(Block { at: format!("{page} line {number}"), text: String::new() });
            }
            None => {}
        }
    }
    blocks.retain(|block| !NOT_RUN.contains(&block.text.as_str()));
    assert!(!blocks.is_empty(), "{page} has a block of {language}");
    blocks
}

/// The commands of a page; a failure shows which block it was in.
fn commands(page: &str) -> String {
    let mut script = String::new();
    for Block { at, text } in blocks(page, "sh") {
        let _ = write!(script, ": {at:?}\n{text}");
    }
    script
}

/// Runs a script with bash in a folder where weir is `weir` and `target/release/weir`. Nothing else
/// is in its network, so that the ports of the pages are free.
fn run(folder: &Path, script: &str) {
    std::fs::create_dir_all(folder.join("target/release")).expect("a folder");
    for place in ["weir", "target/release/weir"] {
        symlink(WEIR, folder.join(place)).expect("a link");
    }
    let whole = format!(
        "set -euxo pipefail\nip link set lo up\ntrap 'kill $(jobs -p) 2> /dev/null' EXIT\n{script}"
    );
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "bash", "-c", &whole]).current_dir(folder);
    command.env("PATH", path).env_remove("RUST_LOG").env_remove("WEIR_ENDPOINT");
    let output = command.output().expect("unshare is there: install util-linux");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}\n`make tools`", output.status);
}

/// The SDKs' environments, for blocks that are Python or Node.
fn programs(folder: &Path) -> String {
    let sdk = checkout("tests/sdk");
    let sdk = sdk.display();
    let mut script = String::new();
    for (language, run) in [
        ("python", format!("{sdk}/.venv/tea/bin/python")),
        ("js", format!("env NODE_PATH={sdk}/node_modules node")),
    ] {
        for Block { at, text } in blocks("docs/migrating.md", language) {
            let file = format!("send.{language}");
            std::fs::write(folder.join(&file), text).expect("the program is written");
            let _ = write!(script, ": {at:?}\n{run} {file} | grep -E '^[0-9A-F]{{32}}$'\n");
        }
    }
    script
}

#[test]
fn every_command_of_the_pages_for_operators_works_as_printed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let start = format!("weir --config weir.toml 2>> weir.log &\n{READY}");
    let operating = commands("docs/operating.md");
    let (billing, programs) = (commands("docs/billing.md"), programs(folder.path()));
    run(folder.path(), &format!("{operating}{start}{programs}sleep 1\n{billing}"));
    let billed = std::fs::read_to_string(folder.path().join("weir.log")).expect("a log");
    assert!(billed.contains("\"ready\""), "{billed}");
}

#[test]
fn every_command_of_the_readme_works_as_printed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let demo = format!("target/release/weir > demo.txt 2> demo.log &\n{READY}");
    run(folder.path(), &format!("{demo}{}", commands("README.md")));
}
