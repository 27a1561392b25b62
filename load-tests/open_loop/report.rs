//! What a run comes to, for people and as JSON.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::connection::Tally;
use super::plan::Plan;

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// The outcome of a run.
pub(crate) struct Report {
    value: Value,
    is_clean: bool,
}

impl Report {
    pub(crate) fn new(
        plan: &Plan,
        tally: &Tally,
        elapsed: Duration,
        cpu: Option<Duration>,
    ) -> Self {
        let answered: u64 = tally.answers.values().sum();
        let lost: u64 = tally.lost.values().sum();
        let admitted = tally.answers.get("OK").copied().unwrap_or_default();
        let good = |code: &str| code == "OK" || code.ends_with(" Throttling.User");
        let is_clean = lost == 0 && tally.answers.keys().all(|code| good(code));
        let seconds = elapsed.as_secs_f64();
        let value = json!({
            "planned": { "rate": plan.rate(), "calls": plan.calls(),
                "ramp_seconds": plan.ramp().as_secs_f64(), "seconds": plan.length().as_secs_f64() },
            "seconds": seconds,
            "answered": answered,
            "answered_per_second": answered as f64 / seconds,
            "admitted": admitted,
            "admitted_per_second": admitted as f64 / seconds,
            "admitted_by_second": tally.admitted_by_second,
            "answers": tally.answers,
            "lost": tally.lost,
            "late": tally.late,
            "latency_ms": {
                "admitted": latencies(&tally.admitted),
                "refused": latencies(&tally.refused),
                "from_sending": latencies(&tally.service),
            },
            "server_cpu": cpu.map(|cpu| json!({
                "seconds": cpu.as_secs_f64(),
                "micros_per_answer": cpu.as_secs_f64() * 1e6 / answered.max(1) as f64,
            })),
        });
        Self { value, is_clean }
    }

    /// Whether every call was admitted or throttled.
    pub(crate) const fn is_clean(&self) -> bool {
        self.is_clean
    }

    pub(crate) fn json(&self) -> String {
        format!("{:#}\n", self.value)
    }

    pub(crate) fn text(&self) -> String {
        let value = &self.value;
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        let mut text = format!(
            "planned    {} calls, {}/s, {:.1} s\nanswered   {} in {:.1} s, {:.1}/s\n\
             admitted   {}, {:.1}/s\n",
            value["planned"]["calls"],
            value["planned"]["rate"],
            number(&value["planned"]["seconds"]),
            value["answered"],
            number(&value["seconds"]),
            number(&value["answered_per_second"]),
            value["admitted"],
            number(&value["admitted_per_second"]),
        );
        for (kind, title) in [("answers", "refused"), ("lost", "lost")] {
            let counts = value[kind].as_object().into_iter().flatten();
            for (code, times) in counts.filter(|(code, _)| *code != "OK") {
                text += &format!("{title:<10} {times} {code}\n");
            }
        }
        text += &format!("late       {}\n\n", value["late"]);
        text += &format!("{:<22}{:>9}", "latency, ms", "calls");
        let columns = QUANTILES.map(|(name, _)| name);
        for name in columns.iter().chain(&["max"]) {
            text += &format!("{name:>10}");
        }
        for (kind, title) in [
            ("admitted", "admitted, from plan"),
            ("refused", "refused, from plan"),
            ("from_sending", "all, from sending"),
        ] {
            let row = &value["latency_ms"][kind];
            text += &format!("\n{title:<22}{:>9}", row["calls"]);
            for name in columns.iter().chain(&["max"]) {
                text += &format!("{:>10.3}", number(&row[*name]));
            }
        }
        text.push('\n');
        if value["server_cpu"].is_object() {
            text += &format!(
                "\nserver CPU {:.2} s, {:.1} us an answer\n",
                number(&value["server_cpu"]["seconds"]),
                number(&value["server_cpu"]["micros_per_answer"]),
            );
        }
        text
    }
}

fn latencies(histogram: &Histogram<u64>) -> Value {
    let millis = |micros: u64| micros as f64 / 1e3;
    let mut row = json!({ "calls": histogram.len(), "max": millis(histogram.max()) });
    for (name, quantile) in QUANTILES {
        row[name] = millis(histogram.value_at_quantile(quantile)).into();
    }
    row
}
