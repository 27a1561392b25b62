//! What a dashboard says of its panels, and what rules, cases and runbook say of each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::Findings;
use super::source::{ROOT, relative, walk};

const ALERTS: &str = "dashboards/rules/weir.alerts.yml";
const RULES: &str = "dashboards/rules/weir.rules.yml";
const CASES: &str = "dashboards/rules/tests/alerts.yml";
const RUNBOOK: &str = "docs/runbook.md";
const PROVISIONED: &str = "dashboards/provisioning/datasources/weir.yml";
const GRID_COLUMNS_MAX: u64 = 24;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// Every dashboard, with its path.
fn dashboards() -> Vec<(String, Value)> {
    let mut paths = vec![];
    walk(&Path::new(ROOT).join("dashboards"), &mut paths);
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    let parsed = paths.iter().map(|path| {
        let text = fs::read_to_string(path).unwrap();
        (relative(path), serde_json::from_str(&text).unwrap())
    });
    parsed.collect()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().into_iter().flatten()
}

fn is_said(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.trim().is_empty())
}

/// What follows a key such as `- alert: ` in a file of rules, with its line.
fn values<'t>(text: &'t str, key: &str) -> Vec<(usize, &'t str)> {
    let lines = (1..).zip(text.lines());
    lines.filter_map(|(line, text)| Some((line, text.trim().strip_prefix(key)?.trim()))).collect()
}

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit() {
    let mut findings = Findings::default();
    for (path, dashboard) in dashboards() {
        let mut ids = BTreeSet::new();
        for panel in panels(&dashboard) {
            findings.looked_at += 1;
            let title = panel["title"].as_str().unwrap_or("without a title");
            let mut fix = |fix: &str| findings.break_at(&path, 1, &format!("{title}: {fix}"));
            if !ids.insert(panel["id"].as_u64()) {
                fix("its id is another's as well");
            }
            if panel["type"] == "row" {
                continue;
            }
            if !is_said(&panel["description"]) {
                fix("it has no description");
            }
            if !is_said(&panel["fieldConfig"]["defaults"]["unit"]) {
                fix("it has no unit");
            }
            let from_prometheus = panel["datasource"]["type"] == "prometheus";
            let says = |word| panel["description"].as_str().is_some_and(|text| text.contains(word));
            if path.ends_with("billing.json") && !from_prometheus && !says("Exact: ") {
                fix("it shows money and does not say that it is exact");
            }
            let estimates = panel["targets"].to_string();
            let estimates =
                ["(rate(", " rate(", "(increase("].iter().any(|of| estimates.contains(of));
            if path.ends_with("billing.json") && estimates && !says("Approximate: ") {
                fix("it is taken from a rate and does not say that it is approximate");
            }
        }
    }
    findings.judge();
}

#[test]
fn no_panel_lies_over_another() {
    let mut findings = Findings::default();
    for (path, dashboard) in dashboards() {
        let mut taken = BTreeSet::new();
        for panel in panels(&dashboard) {
            findings.looked_at += 1;
            let [x, y, w, h] =
                ["x", "y", "w", "h"].map(|at| panel["gridPos"][at].as_u64().unwrap());
            let cells = (y..y + h).flat_map(|row| (x..x + w).map(move |column| (row, column)));
            let free = cells.filter(|cell| !taken.insert(*cell)).count() == 0;
            if !free || x + w > GRID_COLUMNS_MAX {
                findings.break_at(&path, 1, &format!("{}: its place is taken", panel["title"]));
            }
        }
    }
    findings.judge();
}

#[test]
fn dashboards_and_alerts_name_only_what_a_rule_records() {
    let rules = read(RULES);
    let recorded: BTreeSet<_> =
        values(&rules, "- record: ").into_iter().map(|(_, name)| name).collect();
    let mut texts = vec![(ALERTS.to_owned(), read(ALERTS)), (RULES.to_owned(), rules.clone())];
    texts.extend(dashboards().into_iter().map(|(path, board)| (path, board.to_string())));
    let mut findings = Findings::default();
    for (path, text) in &texts {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || "_:".contains(letter);
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.starts_with('#')) {
            let names = text.split(|letter| !is_part(letter));
            for name in names.filter(|name| name.starts_with("weir:") && *name != "weir:") {
                findings.looked_at += 1;
                if !recorded.contains(name) {
                    findings.break_at(path, line, &format!("{name} is recorded nowhere"));
                }
            }
        }
    }
    findings.judge();
}

#[test]
fn every_alert_has_its_runbook_section_and_a_case_that_fires_it_and_one_that_does_not() {
    let (alerts, cases, runbook) = (read(ALERTS), read(CASES), read(RUNBOOK));
    let alerts = values(&alerts, "- alert: ");
    let sections: Vec<_> = values(&runbook, "## ");
    let cases: Vec<&str> = cases.split("- name: ").skip(1).collect();
    let links = read(ALERTS);
    let mut findings = Findings::default();
    for (line, alert) in &alerts {
        findings.looked_at += 1;
        let mut fix = |fix: &str| findings.break_at(ALERTS, *line, &format!("{alert} {fix}"));
        if !sections.iter().any(|(_, section)| section == alert) {
            fix("has no section in docs/runbook.md");
        }
        let link = format!("runbook_url: \"{RUNBOOK}#{}\"", alert.to_lowercase());
        if !links.contains(&link) {
            fix("does not link to its section");
        }
        let of_it = |case: &&&str| case.contains(&format!("alertname: {alert}\n"));
        let fires = |case: &&str| !case.contains("exp_alerts: []");
        let (fire, quiet): (Vec<&str>, Vec<&str>) =
            cases.iter().filter(of_it).copied().partition(|case| fires(case));
        if fire.is_empty() || quiet.is_empty() {
            fix("needs a case that fires it and one that does not");
        }
    }
    for (line, section) in sections {
        if !alerts.iter().any(|(_, alert)| *alert == section) {
            findings.break_at(RUNBOOK, line, &format!("{section} is no alert"));
        }
    }
    findings.judge();
}

#[test]
fn every_datasource_a_dashboard_asks_is_provisioned() {
    let provisioned = read(PROVISIONED);
    let kinds: BTreeSet<_> =
        values(&provisioned, "type: ").into_iter().map(|(_, kind)| kind).collect();
    let mut findings = Findings::default();
    for (path, dashboard) in dashboards() {
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let chosen = |kind: &str, uid: &str| {
            variables.iter().any(|variable| {
                let name = format!("${{{}}}", variable["name"].as_str().unwrap_or_default());
                variable["type"] == "datasource" && variable["query"] == kind && name == uid
            })
        };
        for panel in panels(&dashboard) {
            for target in panel["targets"].as_array().into_iter().flatten() {
                findings.looked_at += 1;
                let [kind, uid] = ["type", "uid"].map(|key| &target["datasource"][key]);
                let (kind, uid) = (kind.as_str().unwrap(), uid.as_str().unwrap());
                if !kinds.contains(kind) || !chosen(kind, uid) {
                    let fix =
                        format!("{}: {kind} is neither chosen nor provisioned", panel["title"]);
                    findings.break_at(&path, 1, &fix);
                }
            }
        }
    }
    findings.judge();
}
