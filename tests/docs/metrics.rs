//! `docs/metrics.md` from what `/metrics` shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

const HEAD: &str = "\
# Metrics

Generated from what `/metrics` of the ops port shows (`make docs`). Every family is there from the
start, at 0; only `weir_billable_messages_total` and `weir_ledger_messages_total` wait until a
start has restored them, because a 0 would read as a reset. Labels come from the configuration and
from weir itself, never from a caller, so their number is the operator's. A histogram has the
series `_bucket`, `_sum` and `_count`.

Money comes from the ledger ([billing.md](billing.md)); these families are for watching. Counters
begin at 0 with each start of weir, but for those two, which begin where the ledger and the journal
stand.

";

/// Units that a family's name does not end with.
const UNITS: [(&str, &str); 6] = [
    ("weir_delivered_total", "messages"),
    ("weir_delivery_duplicates_possible_total", "messages"),
    ("weir_journal_no_space_total", "turns"),
    ("weir_queue_depth", "messages"),
    ("weir_quota_messages_per_second", "messages per second"),
    ("weir_throttled_total", "calls"),
];
/// Labels whose values are the operator's, or the build's.
const OPEN_LABELS: [&str; 5] = ["instance_id", "shard", "version", "commit", "le"];

#[derive(Default)]
struct Family<'t> {
    help: &'t str,
    kind: &'t str,
    labels: BTreeMap<&'t str, BTreeSet<&'t str>>,
}

/// The page for an exposition.
pub(crate) fn page(exposition: &str) -> String {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    for line in exposition.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            families.entry(name).or_default().help = help;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            families.entry(name).or_default().kind = kind;
        } else if let Some((name, labels)) = series(line)
            && let Some(family) = families.get_mut(family_of(name))
        {
            for (label, value) in labels {
                family.labels.entry(label).or_default().insert(value);
            }
        }
    }
    let mut text = HEAD.to_owned();
    let _ = writeln!(text, "| family | type | labels | unit | meaning |\n|---|---|---|---|---|");
    for (name, family) in &families {
        assert!(!family.help.is_empty() && !family.kind.is_empty(), "{name} says what it is");
        let shown = family.labels.keys().filter(|label| **label != "le");
        let labels: Vec<String> = shown.map(|label| format!("`{label}`")).collect();
        let Family { kind, help, .. } = family;
        let cells = [&format!("`{name}`"), *kind, &labels.join(" "), unit(name), *help];
        let _ = writeln!(text, "{}", row(&cells));
    }
    let _ = writeln!(text, "\n## Values of labels\n");
    for (name, family) in &families {
        for (label, values) in family.labels.iter().filter(|(it, _)| !OPEN_LABELS.contains(it)) {
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            let list = format!("- `{label}` of `{name}`: {}.", values.join(", "));
            text.push_str(&wrapped(&list));
        }
    }
    text
}

/// A row of a table; an empty cell is as wide as its bars.
fn row(cells: &[&str]) -> String {
    let cells =
        cells.iter().map(|cell| if cell.is_empty() { " ".into() } else { format!(" {cell} ") });
    format!("|{}|", cells.collect::<Vec<String>>().join("|"))
}

fn series(line: &str) -> Option<(&str, Vec<(&str, &str)>)> {
    let (series, _) = line.rsplit_once(' ')?;
    let Some((name, rest)) = series.split_once('{') else { return Some((series, vec![])) };
    let pairs = rest.trim_end_matches('}').split("\",");
    let pairs = pairs.filter_map(|pair| pair.trim_end_matches('"').split_once("=\""));
    Some((name, pairs.collect()))
}

/// The family of a series; only a histogram's series are named otherwise.
fn family_of(series: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|end| series.strip_suffix(end)).unwrap_or(series)
}

fn unit(family: &str) -> &str {
    if let Some((_, unit)) = UNITS.iter().find(|(name, _)| *name == family) {
        return unit;
    }
    let counted = family.split('_').skip(1).filter(|word| word.ends_with('s'));
    counted.last().unwrap_or("")
}

/// A list's entry in lines of at most 100 characters.
fn wrapped(entry: &str) -> String {
    let (mut text, mut line) = (String::new(), String::new());
    for word in entry.split(' ') {
        if line.len() + word.len() >= 99 {
            text += &(std::mem::take(&mut line) + "\n");
            line.push(' ');
        }
        line += if line.is_empty() { "" } else { " " };
        line += word;
    }
    text + &line + "\n"
}
