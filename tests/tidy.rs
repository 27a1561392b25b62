//! The house rules: who may name whom, how long things get, which words and calls are out.
//!
//! A rule that finds nothing to look at fails, so that none of them dies unnoticed.
#![expect(clippy::unwrap_used, reason = "a rule that cannot read its files has to fail")]

#[path = "tidy/checkout.rs"]
mod checkout;
#[path = "tidy/dashboards.rs"]
mod dashboards;
#[path = "tidy/metrics.rs"]
mod metrics;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;

use source::{SOURCES, Source, Token};

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 100;

/// Every module of the house, and the modules it may name besides itself and `clock`.
const HOUSE: [(&str, &str); 18] = [
    ("clock", ""),
    ("deadline", ""),
    ("message", ""),
    ("metering", "message"),
    ("tls", ""),
    ("admission", "message metering"),
    ("wire", "deadline message metering tls admission queue"),
    ("queue", "message metering admission"),
    ("journal", "message metering admission"),
    ("shard", "message metering admission queue journal delivery"),
    ("delivery", "message metering tls journal"),
    ("ledger", "message metering journal"),
    ("ops", "deadline message metering tls ledger"),
    ("config", "message metering tls admission wire queue journal shard delivery ledger ops"),
    (
        "pipeline",
        "message metering tls admission wire queue journal shard delivery ledger ops config",
    ),
    ("cli", "message tls admission journal delivery ledger config pipeline"),
    ("lib", ""),
    ("main", "cli"),
];

/// Words that say nothing, in the names of files, modules and types; plurals are out as well.
const EMPTY_WORDS: [&str; 11] = [
    "manager",
    "handler",
    "helper",
    "util",
    "common",
    "core",
    "base",
    "processor",
    "context",
    "info",
    "data",
];

/// Files that gather by kind what belongs to a stage.
const FILES_OF_A_KIND: [&str; 3] = ["errors", "models", "prelude"];

/// What a rule found.
#[derive(Default)]
struct Findings {
    looked_at: usize,
    broken: Vec<String>,
}

impl Findings {
    fn break_at(&mut self, path: &str, line: usize, fix: &str) {
        self.broken.push(format!("  {path}:{line}: {fix}"));
    }

    #[track_caller]
    fn judge(self) {
        assert!(self.looked_at > 0, "this rule found nothing to look at: it has to be mended");
        let (many, list) = (self.broken.len(), self.broken.join("\n"));
        assert!(many == 0, "{many} of {} are against the house rules:\n{list}\n", self.looked_at);
    }
}

fn house() -> impl Iterator<Item = &'static Source> {
    SOURCES.iter().filter(|source| source.path.starts_with("src/"))
}

/// The top-level module a path leads to from a source, if it says so.
fn leads_to<'n>(source: &Source, segments: &'n [String]) -> Option<&'n str> {
    let module = source.module();
    let supers = segments.iter().take_while(|segment| *segment == "super").count();
    let target = match segments[0].as_str() {
        "crate" => 1,
        "weir" if module[0] == "main" => 1,
        "super" if supers >= module.len() => supers,
        // A path of the root of the crate may begin with a module at once.
        first if module[0] == "lib" && HOUSE.iter().any(|(name, _)| *name == first) => 0,
        _ => return None,
    };
    segments.get(target).map(String::as_str)
}

#[test]
fn a_module_names_only_the_modules_it_may() {
    let mut findings = Findings::default();
    for source in house().filter(|source| !source.only_tests) {
        let module = source.module();
        let row = HOUSE.iter().find(|(name, _)| *name == module[0]);
        let may = row.map_or("", |(_, may)| *may);
        for name in source.names().iter().filter(|name| !name.in_test) {
            let Some(target) = leads_to(source, &name.segments) else { continue };
            findings.looked_at += 1;
            if target != module[0] && target != "clock" && !may.split(' ').any(|it| it == target) {
                let fix = format!(
                    "{} names {target}, and may name: clock {may}; pass it in, or move it",
                    module[0]
                );
                findings.break_at(&source.path, name.line, &fix);
            }
        }
    }
    findings.judge();
}

#[test]
fn only_one_file_names_http_statuses() {
    const AT_HOME: &str = "src/wire/response.rs";
    let mut findings = Findings::default();
    for source in house() {
        for token in source.product().filter(|token| token.text == "StatusCode") {
            if source.path == AT_HOME {
                findings.looked_at += 1;
            } else {
                let fix = format!("StatusCode belongs to {AT_HOME}: return an outcome instead");
                findings.break_at(&source.path, token.line, &fix);
            }
        }
    }
    findings.judge();
}

#[test]
fn a_file_has_at_most_400_lines_without_its_tests() {
    let mut findings = Findings::default();
    for source in house().filter(|source| !source.only_tests) {
        findings.looked_at += 1;
        let lines = source.product_lines();
        if lines > FILE_LINES_MAX {
            let fix = format!("{lines} lines without tests: split it at {FILE_LINES_MAX}");
            findings.break_at(&source.path, 1, &fix);
        }
    }
    findings.judge();
}

#[test]
fn a_function_has_at_most_70_lines() {
    let mut findings = Findings::default();
    for source in SOURCES.iter() {
        for (name, first, last) in source.functions() {
            findings.looked_at += 1;
            let lines = last - first + 1;
            if lines > FUNCTION_LINES_MAX {
                let fix = format!("{name} has {lines} lines: split it at {FUNCTION_LINES_MAX}");
                findings.break_at(&source.path, first, &fix);
            }
        }
    }
    findings.judge();
}

#[test]
fn a_line_has_at_most_100_characters() {
    let mut findings = Findings::default();
    for source in SOURCES.iter() {
        for (line, text) in (1..).zip(source.text.lines()) {
            findings.looked_at += 1;
            let chars = text.chars().count();
            if chars > LINE_CHARS_MAX {
                let fix = format!("{chars} characters: break it at {LINE_CHARS_MAX}");
                findings.break_at(&source.path, line, &fix);
            }
        }
    }
    findings.judge();
}

#[test]
fn only_the_clock_asks_the_operating_system_for_the_time() {
    const CLOCKS: [&str; 3] = ["Instant", "SystemTime", "Timestamp"];
    let mut findings = Findings::default();
    for source in house() {
        for name in source.names() {
            let asks = name.segments.windows(2).any(|two| {
                CLOCKS.contains(&two[0].as_str()) && matches!(two[1].as_str(), "now" | "elapsed")
            });
            findings.looked_at += usize::from(asks);
            if asks && source.path != "src/clock.rs" {
                findings.break_at(&source.path, name.line, "take a Clock and ask that");
            }
        }
    }
    findings.judge();
}

#[test]
fn every_channel_is_bounded() {
    let mut findings = Findings::default();
    for source in house() {
        for name in source.names() {
            let segments: Vec<&str> = name.segments.iter().map(String::as_str).collect();
            let last = segments.last().copied().unwrap_or_default();
            findings.looked_at += usize::from(last == "bounded" || last == "channel");
            let unbounded = matches!(last, "unbounded" | "unbounded_channel");
            if unbounded || segments.starts_with(&["std", "sync", "mpsc"]) {
                let fix = "use crossbeam_channel::bounded or tokio::sync::mpsc::channel, with a \
                           named bound";
                findings.break_at(&source.path, name.line, fix);
            }
        }
    }
    findings.judge();
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["TO-DO", "FIX-ME", "XX-X"].map(|word| word.replace('-', ""));
    let mut findings = Findings::default();
    for source in SOURCES.iter() {
        findings.looked_at += 1;
        for (line, text) in (1..).zip(source.text.lines()) {
            let mut found = text.split(|letter: char| !letter.is_alphanumeric());
            if found.any(|word| words.iter().any(|left| left == word)) {
                findings.break_at(&source.path, line, "do it now, or file an issue");
            }
        }
        for pair in source.tokens.windows(2).filter(|pair| pair[1].text == "!") {
            if matches!(pair[0].text.as_str(), "todo" | "unimplemented" | "dbg") {
                let fix = format!("{}! is no code to keep", pair[0].text);
                findings.break_at(&source.path, pair[0].line, &fix);
            }
        }
    }
    findings.judge();
}

#[test]
fn no_lint_and_no_test_is_switched_off_quietly() {
    let mut findings = Findings::default();
    for source in SOURCES.iter() {
        for attribute in source.attributes() {
            findings.looked_at += 1;
            let fix = |token: &Token| match token.text.as_str() {
                "allow" => Some("use #[expect(lint, reason = \"...\")]"),
                "ignore" => Some("make the test run everywhere, or remove it"),
                _ => None,
            };
            if let Some(fix) = attribute.iter().find_map(fix) {
                findings.break_at(&source.path, attribute[0].line, fix);
            }
        }
    }
    findings.judge();
}

/// The words of `snake_case` and `CamelCase`, in small letters, without a plural's s.
fn words(name: &str) -> BTreeSet<String> {
    let mut spaced = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() || letter == '_' || letter == '-' {
            spaced.push(' ');
        }
        spaced.extend(letter.to_lowercase().filter(|letter| letter.is_alphanumeric()));
    }
    spaced.split(' ').map(|word| word.strip_suffix('s').unwrap_or(word).to_owned()).collect()
}

#[test]
fn files_modules_and_types_are_named_after_what_they_are() {
    let is_empty = |name: &str| words(name).iter().any(|word| EMPTY_WORDS.contains(&&**word));
    let mut findings = Findings::default();
    for source in SOURCES.iter() {
        let is_bad =
            |name: &str| is_empty(name) || !source.only_tests && FILES_OF_A_KIND.contains(&name);
        findings.looked_at += 1;
        for part in source.path.trim_end_matches(".rs").split('/') {
            if is_bad(part) {
                let fix = format!("{part} says no more than a folder would: name the thing");
                findings.break_at(&source.path, 1, &fix);
            }
        }
        let mut depth: usize = 0;
        for pair in source.tokens.windows(2) {
            let declares = match pair[0].text.as_str() {
                "{" => {
                    depth += 1;
                    false
                }
                "}" => {
                    depth -= 1;
                    false
                }
                "struct" | "enum" | "trait" | "union" | "mod" => true,
                // Deeper in, it is an associated type, and its trait has named it.
                "type" => depth == 0,
                _ => false,
            };
            let name = &pair[1];
            if declares && is_bad(&name.text) {
                let fix = format!("{} holds a word that says nothing: name the thing", name.text);
                findings.break_at(&source.path, name.line, &fix);
            }
        }
    }
    findings.judge();
}

#[test]
fn a_bound_ends_with_max_or_min() {
    let mut findings = Findings::default();
    for source in SOURCES.iter() {
        let pairs = source.tokens.windows(2);
        for pair in pairs.filter(|pair| matches!(pair[0].text.as_str(), "const" | "static")) {
            // Small letters: a `const fn`, or the lifetime `'static`.
            if !pair[1].text.starts_with(char::is_uppercase) {
                continue;
            }
            findings.looked_at += 1;
            let (name, line) = (&pair[1].text, pair[1].line);
            let mut words = name.split('_').rev().skip(1);
            if words.any(|word| matches!(word, "MAX" | "MIN")) {
                let fix = format!("{name}: what is bounded, then its unit, then MAX or MIN");
                findings.break_at(&source.path, line, &fix);
            }
        }
    }
    findings.judge();
}
