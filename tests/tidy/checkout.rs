//! What lies in the checkout, and what must not stand in it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::source::ROOT;
use super::{Findings, HOUSE, house};

/// What a checkout has at its top.
const TOP: [&str; 7] =
    ["Cargo.toml", "src", "benches", "docs", "load-tests", "dashboards", "deploy"];

/// Every file git knows, and can be read as text.
fn tracked() -> Vec<(String, String)> {
    let mut git = Command::new("git");
    // The checkout may be another user's.
    git.args(["-c", "safe.directory=*", "-C", ROOT, "ls-files", "-z"]);
    let output = git.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).unwrap();
    let paths = listed.split_terminator('\0');
    let read =
        |path: &str| Some((path.to_owned(), fs::read_to_string(Path::new(ROOT).join(path)).ok()?));
    paths.filter_map(read).collect()
}

#[test]
fn no_tracked_file_names_a_machine_or_a_registry() {
    // In parts, so that this file is not one of those it looks for.
    let places = [["/wo", "rk/"], ["/ro", "ot/"], ["/tm", "p/weir"]];
    let hosts = [
        ["crates", ".io"],
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["npmjs", ".org"],
        ["npmjs", ".com"],
        ["deb.debian", ".org"],
        ["proxy.golang", ".org"],
    ];
    let needles: Vec<String> = places.iter().chain(&hosts).map(|parts| parts.concat()).collect();
    let mut findings = Findings::default();
    for (path, text) in tracked() {
        if path.ends_with(".lock") || path.ends_with("package-lock.json") {
            continue;
        }
        findings.looked_at += 1;
        for (line, text) in (1..).zip(text.lines()) {
            if let Some(needle) = needles.iter().find(|needle| text.contains(needle.as_str())) {
                findings.break_at(&path, line, &format!("{needle} is no part of the project"));
            }
        }
    }
    findings.judge();
}

#[test]
fn the_checkout_and_its_sources_are_laid_out_as_the_house_is() {
    let mut findings = Findings::default();
    for name in TOP {
        findings.looked_at += 1;
        if !Path::new(ROOT).join(name).exists() {
            findings.break_at(name, 1, "is missing");
        }
    }
    for source in house() {
        findings.looked_at += 1;
        if !HOUSE.iter().any(|(name, _)| *name == source.module()[0]) {
            findings.break_at(&source.path, 1, "is of no module of the house: see HOUSE");
        }
    }
    for (name, _) in HOUSE {
        findings.looked_at += 1;
        if !house().any(|source| source.module()[0] == name) {
            findings.break_at("src", 1, &format!("{name} of the house has no source"));
        }
    }
    findings.judge();
}
