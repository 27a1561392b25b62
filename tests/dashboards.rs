//! Every query of every dashboard and every rule, asked of a real Prometheus that scrapes a real
//! weir under traffic of which the test knows every answer.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "dashboards/falsifier.rs"]
mod falsifier;
#[path = "dashboards/grafana.rs"]
mod grafana;
#[path = "dashboards/prometheus.rs"]
mod prometheus;
#[expect(dead_code, reason = "a shared harness: other tests use the rest")]
mod support;
#[path = "dashboards/traffic.rs"]
mod traffic;

use std::collections::{BTreeMap, BTreeSet};

use falsifier::Falsifier;
use grafana::{Chosen, Dashboard, Found, RATE_SECONDS};
use prometheus::{Prometheus, Series, TOKEN};
use serde_json::Value;
use support::certificates::Certificates;
use support::{INSTANCE, Weir, eventually};
use traffic::{SETTINGS, SMALL, Truth};
use weir::clock::{Clock, SystemClock};

/// Prometheus counts between scrapes and extrapolates; panels that do so say "approximate".
const APPROXIMATE_SHARE_MAX: f64 = 0.15;

/// What all panels of a dashboard found, by title and in the order of their queries.
type Answers = BTreeMap<String, Vec<Found>>;

fn chosen(weirs: &[&Weir]) -> Chosen {
    let instances = vec![INSTANCE.to_owned(), SMALL.to_owned()];
    let replicas = weirs.iter().map(|weir| weir.ops().to_string()).collect();
    Chosen { replicas, instances, now: SystemClock.unix().0 }
}

/// Waits until everything is answered, folded and scraped.
fn settle(prometheus: &Prometheus, weir: &Weir, truth: &Truth) {
    let replica = weir.ops();
    for (family, counted) in [
        ("weir_requests_total", truth.all_answered()),
        ("weir_billable_messages_total", truth.all_billed()),
        ("weir_ledger_messages_total", truth.all_billed()),
    ] {
        let sum = format!("sum({family}{{job=\"weir\",instance=\"{replica}\"}})");
        prometheus.wait_for(&sum, count(counted));
    }
    let level = format!("weir_ledger_lag_messages{{instance=\"{replica}\"}} == bool 0");
    prometheus.wait_for(&level, 1.0);
    // On a machine that is too busy a scrape may come to nothing, and takes every series with it.
    prometheus.wait_for("min(min_over_time(up[5s]))", 1.0);
}

fn count(messages: u64) -> f64 {
    f64::from(u32::try_from(messages).expect("a test sends few"))
}

fn ask(dashboard: &Dashboard, chosen: &Chosen, prometheus: &Prometheus) -> Answers {
    let mut answers = Answers::new();
    for panel in dashboard.panels() {
        assert!(!panel.targets.is_empty(), "{} asks nothing", panel.title);
        let found = panel.targets.iter().map(|target| {
            let found = chosen.ask(prometheus, target);
            let found = found.unwrap_or_else(|error| panic!("{}: {error}\n{target}", panel.title));
            let is_there = match &found {
                Found::Series(series) => {
                    series.iter().flat_map(|one| &one.values).any(|value| value.is_finite())
                }
                Found::Rows(rows) => !rows.is_empty(),
            };
            assert!(is_there, "{} is empty: {target}\n{found:?}", panel.title);
            found
        });
        answers.insert(panel.title.to_owned(), found.collect());
    }
    answers
}

#[test]
fn every_panel_and_rule_finds_what_the_answers_to_known_traffic_said() {
    let weir = Weir::start_with(SETTINGS);
    let certificates = Certificates::new();
    let secured = Weir::start_with(&format!(
        "{SETTINGS}\n[http]\ntls = {}\n[ops]\ntoken = \"{TOKEN}\"",
        certificates.table("")
    ));
    let prometheus = Prometheus::start(&[("weir", &[weir.ops(), secured.ops()])]);
    let (truth, _device) = traffic::run(&weir);
    settle(&prometheus, &weir, &truth);
    let chosen = chosen(&[&weir, &secured]);
    let mut seen = BTreeSet::new();
    for dashboard in Dashboard::all() {
        for (name, query) in dashboard.queried_variables() {
            let mut wanted = match name {
                "replica" => chosen.replicas.clone(),
                _ => chosen.instances.clone(),
            };
            wanted.sort();
            assert_eq!(chosen.values(&prometheus, query), wanted, "{name} of {}", dashboard.uid());
        }
        let answers = ask(&dashboard, &chosen, &prometheus);
        match dashboard.uid() {
            "weir-billing" => billing_is_true(&answers, &truth),
            "weir-service" => service_is_true(&answers, &truth),
            other => panic!("{other}: nobody says what is true of it"),
        }
        seen.insert(dashboard.uid().to_owned());
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    rules_are_evaluated(&prometheus);
    let expected = [
        ("WeirErrorBudgetBurnsFast", ""),
        ("WeirErrorBudgetBurnsSlowly", ""),
        ("WeirTenantThrottled", SMALL),
    ];
    let expected = expected.map(|(alert, instance)| (alert.to_owned(), instance.to_owned()));
    let firing = eventually("the alerts this traffic has earned", || {
        let firing = firing(&prometheus);
        expected.iter().all(|alert| firing.contains(alert)).then_some(firing)
    });
    // What else may fire is the machine's own: a disk that is slow, or nearly full.
    let of_us = |name: &str| !name.starts_with("WeirDisk") && name != "WeirJournalSyncSlow";
    let ours: Vec<_> = firing.into_iter().filter(|(name, _)| of_us(name)).collect();
    assert_eq!(ours, expected);
}

/// The sum of a column of a money panel, by instance.
fn rows_by_instance(found: &Found, column: &str) -> BTreeMap<String, u64> {
    let Found::Rows(rows) = found else { panic!("money does not come from {found:?}") };
    let mut sums = BTreeMap::new();
    for row in rows {
        let instance = row["Instance"].as_str().expect("a column of names").to_owned();
        *sums.entry(instance).or_default() += row[column].as_u64().expect("a column of numbers");
    }
    sums
}

fn series(found: &Found) -> &[Series] {
    match found {
        Found::Series(series) => series,
        Found::Rows(rows) => panic!("these come from the ledger: {rows:?}"),
    }
}

/// The newest value of each series, by a label.
fn by_label(found: &Found, label: &str) -> BTreeMap<String, f64> {
    series(found).iter().map(|one| (one.label(label).to_owned(), one.last())).collect()
}

/// What a rate makes of something that happened within the time it is taken over.
fn a_second(happened: f64) -> f64 {
    happened / f64::from(RATE_SECONDS)
}

fn is_near(what: &str, shown: f64, truth: f64) {
    let off = (shown - truth).abs() / truth;
    assert!(off <= APPROXIMATE_SHARE_MAX, "{what} shows {shown}, and {truth} is true");
}

fn billing_is_true(answers: &Answers, truth: &Truth) {
    for money in ["Messages this hour", "Messages this day", "Messages this month"] {
        assert_eq!(rows_by_instance(&answers[money][0], "Messages"), truth.billed, "{money}");
    }
    for (found, column) in
        answers["By instance"].iter().zip(["This hour", "This day", "This month"])
    {
        assert_eq!(rows_by_instance(found, column), truth.billed, "{column}");
    }
    let by_hour = &answers["Messages by hour"][0];
    assert_eq!(rows_by_instance(by_hour, "Messages"), truth.billed, "by hour");
    let peaks = &answers["Peak in one second of each minute"][0];
    for (instance, peak) in rows_by_instance(peaks, "Peak in one second") {
        assert!((1..=truth.billed[&instance]).contains(&peak), "{instance}: {peak}");
    }
    let exact: BTreeMap<_, _> =
        truth.billed.iter().map(|(instance, billed)| (instance.clone(), count(*billed))).collect();
    for (side, totals) in answers["Totals ever"].iter().enumerate() {
        assert_eq!(by_label(totals, "instance_id"), exact, "query {side} of the totals");
    }
    let talkers = by_label(&answers["Top talkers"][0], "instance_id");
    let projected = by_label(&answers["Projected month"][0], "instance_id");
    for (instance, billed) in &exact {
        is_near("top talkers", talkers[instance], *billed);
        let days = (projected[instance] / talkers[instance]).round();
        assert!((28.0..=31.0).contains(&days), "a month of {days} days");
    }
    let throttled = count(truth.refused["Throttling.User"]);
    let share = by_label(&answers["Throttled share"][0], "instance_id");
    is_near("throttled share", share[SMALL], throttled / (throttled + exact[SMALL]));
    assert!(share[INSTANCE].abs() < f64::EPSILON, "{share:?}");
    // The quotas are 2 and 1,000 messages a second, of each of two replicas.
    let used = by_label(&answers["Share of quota"][0], "instance_id");
    is_near("share of the small quota", used[SMALL], a_second(exact[SMALL]) / 4.0);
    is_near("share of the large quota", used[INSTANCE], a_second(exact[INSTANCE]) / 2_000.0);
    let now = series(&answers["Billable TPS now"][0])[0].last();
    is_near("TPS now", now, a_second(count(truth.all_billed())));
    for drift in series(&answers["Drift"][0]) {
        assert!(drift.values.iter().all(|value| value.abs() < f64::EPSILON), "{drift:?}");
    }
}

fn service_is_true(answers: &Answers, truth: &Truth) {
    assert!(truth.refused.len() >= 6, "{:?}", truth.refused);
    let shown = by_label(&answers["Refusals by code"][0], "code");
    let codes: BTreeSet<_> = shown.keys().collect();
    assert_eq!(codes, truth.refused.keys().collect(), "what is refused is shown by its code");
    for (code, refused) in &truth.refused {
        is_near(code, shown[code], a_second(count(*refused)));
    }
    let outcomes: Vec<f64> =
        answers["Calls by outcome"].iter().map(|found| series(found)[0].last()).collect();
    let [throttled, failed] =
        ["Throttling.User", "SystemOverFlow"].map(|code| truth.answered(code));
    let refused = truth.refused.values().sum::<u64>() - throttled - failed;
    let by_outcome = [truth.all_billed(), throttled, refused, failed];
    for (at, truth) in by_outcome.into_iter().enumerate() {
        is_near("calls by outcome", outcomes[at], a_second(count(truth)));
    }
    let failed = count(failed);
    let share = series(&answers["Failed share, 1 h"][0])[0].last();
    is_near("failed share", share, failed / (failed + count(truth.all_billed())));
    let delivered = series(&answers["Delivered, twice, or given up"][0])[0].last();
    is_near("delivered", delivered, a_second(count(truth.all_billed())));
    assert!(truth.received >= 1, "the device received");
    let devices = by_label(&answers["Devices"][0], "state");
    let expected = [("connected", 1.0), ("stored", 1.0)];
    assert_eq!(devices, expected.map(|(state, many)| (state.to_owned(), many)).into());
    // Certificates end with 2039; how long that is, the clock of the machine says.
    let left = by_label(&answers["Certificates"][0], "listener");
    let now = count(SystemClock.unix().seconds());
    is_near("certificates", left["http"], 2_208_988_800.0 - now);
    assert_eq!(left.len(), 1, "one listener has TLS: {left:?}");
    let ready = series(&answers["Replicas ready"][0])[0].last();
    assert!((ready - 2.0).abs() < f64::EPSILON, "{ready} replicas are ready");
}

fn rules(prometheus: &Prometheus) -> Vec<Value> {
    let found = prometheus.list("rules", &[]);
    let groups = found["groups"].as_array().into_iter().flatten();
    groups.flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
}

fn rules_are_evaluated(prometheus: &Prometheus) {
    let rules = rules(prometheus);
    let mut recorded = 0;
    for rule in &rules {
        let name = rule["name"].as_str().expect("a rule has a name");
        assert_eq!(rule["health"], "ok", "{name}: {}", rule["lastError"]);
        if rule["type"] == "recording" {
            let found = prometheus.query(name);
            assert!(found.iter().any(|one| one.last().is_finite()), "{name} is empty: {found:?}");
            recorded += 1;
        }
    }
    assert!(recorded > 0 && rules.len() > recorded, "{} rules, {recorded} record", rules.len());
}

/// The alerts that fire, each with the instance it is about.
fn firing(prometheus: &Prometheus) -> BTreeSet<(String, String)> {
    let found = prometheus.list("alerts", &[]);
    let alerts = found["alerts"].as_array().into_iter().flatten();
    let firing = alerts.filter(|alert| alert["state"] == "firing");
    let label = |alert: &Value, name: &str| alert["labels"][name].as_str().unwrap_or("").to_owned();
    firing.map(|alert| (label(alert, "alertname"), label(alert, "instance_id"))).collect()
}

#[test]
fn a_falsified_counter_fires_the_drift_alert_and_an_honest_one_does_not() {
    const HIDDEN: u64 = 5;
    let weir = Weir::start_with(SETTINGS);
    let falsifier = Falsifier::start(weir.ops());
    let prometheus =
        Prometheus::start(&[("weir", &[weir.ops()]), ("falsified", &[falsifier.at()])]);
    let (truth, _device) = traffic::run(&weir);
    settle(&prometheus, &weir, &truth);
    let drifts = || {
        let found = prometheus.list("alerts", &[]);
        let alerts = found["alerts"].as_array().cloned().unwrap_or_default();
        let drift = |alert: &Value| alert["labels"]["alertname"] == "WeirUsageDrift";
        alerts.into_iter().filter(drift).collect::<Vec<_>>()
    };
    let always = "max(max_over_time(weir:drift_messages[1m]))";
    assert!(prometheus.query(always)[0].last().abs() < f64::EPSILON, "both were honest");
    assert_eq!(drifts(), Vec::<Value>::new());
    falsifier.hide(HIDDEN);
    let fired = eventually("the drift alert of both instances", || {
        let fired = drifts();
        (fired.iter().filter(|alert| alert["state"] == "firing").count() == 2).then_some(fired)
    });
    for alert in fired {
        assert_eq!(alert["labels"]["job"], "falsified", "{alert}");
        assert_eq!(alert["value"], "5e+00", "{alert}");
        let summary = alert["annotations"]["summary"].as_str().expect("a summary");
        assert!(summary.ends_with("differ by 5 messages."), "{summary}");
    }
    falsifier.hide(0);
    eventually("the drift alert to end", || drifts().is_empty().then_some(()));
}
