//! Metric families, and who names them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::source::{ROOT, Source, Token, relative, walk};
use super::{Findings, house};

/// The metric families of `src/metering`: wherever a call begins with a name and a help.
fn families() -> Vec<(&'static Source, &'static Token)> {
    let is_text = |token: &Token| token.text.starts_with('"');
    let mut families = vec![];
    for source in house().filter(|source| source.module()[0] == "metering") {
        for call in source.tokens.windows(4).filter(|call| !call[1].in_test) {
            let marks = call[0].text == "(" && call[2].text == ",";
            if marks && is_text(&call[1]) && is_text(&call[3]) {
                families.push((source, &call[1]));
            }
        }
    }
    families
}

#[test]
fn every_metric_family_begins_with_weir_and_is_documented() {
    let mut pages = vec![];
    walk(&Path::new(ROOT).join("docs"), &mut pages);
    let docs: String = pages.iter().filter_map(|page| fs::read_to_string(page).ok()).collect();
    let mut findings = Findings::default();
    for (source, family) in families() {
        findings.looked_at += 1;
        let name = family.text.trim_matches('"');
        if !name.starts_with("weir_") {
            let fix = format!("{name} does not begin with weir_");
            findings.break_at(&source.path, family.line, &fix);
        }
        if !docs.is_empty() && !names_in(&docs).any(|(_, documented)| documented == name) {
            findings.break_at(&source.path, family.line, &format!("{name} is not in docs/"));
        }
    }
    findings.judge();
}

/// Metric names in a text, each with its line.
fn names_in(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "_:".contains(letter);
    (1..).zip(text.lines()).flat_map(move |(line, text)| {
        // In JSON a line ends as these two characters.
        let lines = text.split("\\n");
        let names = lines.flat_map(move |text| text.split(move |letter: char| !is_part(letter)));
        let names = names.map(|name| name.trim_end_matches(':'));
        names.filter(|name| name.starts_with("weir_")).map(move |name| (line, name))
    })
}

#[test]
fn dashboards_rules_and_docs_name_only_metric_families_that_exist() {
    let families: BTreeSet<&str> =
        families().iter().map(|(_, token)| token.text.trim_matches('"')).collect();
    let exists = |name: &str| {
        // The series of a histogram; a counter has none.
        let series = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let family = series.filter(|family| !family.ends_with("_total")).unwrap_or(name);
        families.contains(name) || families.contains(family)
    };
    let mut pages = vec![];
    walk(&Path::new(ROOT).join("dashboards"), &mut pages);
    walk(&Path::new(ROOT).join("docs"), &mut pages);
    // Which folders there must be is another rule's; one that is there has to name something.
    let mut findings = Findings { looked_at: usize::from(pages.is_empty()), broken: vec![] };
    for page in &pages {
        let Ok(text) = fs::read_to_string(page) else { continue };
        for (line, name) in names_in(&text) {
            findings.looked_at += 1;
            if !exists(name) {
                let fix = format!("{name} is no family of src/metering");
                findings.break_at(&relative(page), line, &fix);
            }
        }
    }
    findings.judge();
}
