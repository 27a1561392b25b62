use std::io::{self, Write};

use crate::ledger::Usage;

use super::usage::behind;

/// Columns of a sparkline, at most.
const CELLS_MAX: usize = 60;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const HEAD: [&str; 4] = ["instance", "start (UTC)", "count", "peak/s"];

/// Writes rows, totals, the course of the period and how far behind the ledger is.
pub(super) fn write(usage: &Usage, out: &mut impl Write) -> io::Result<()> {
    let label = |start| usage.by.label(start);
    let (count, peak) = usage.total();
    let mut lines: Vec<[String; 4]> = vec![HEAD.map(str::to_owned)];
    lines.extend(usage.rows.iter().map(|row| {
        let instance = row.instance.to_string();
        [instance, label(row.start), row.count.to_string(), row.peak.to_string()]
    }));
    lines.push(["total".into(), String::new(), count.to_string(), peak.to_string()]);
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    for [instance, start, count, peak] in &lines {
        let [w0, w1, w2, w3] = widths;
        writeln!(out, "{instance:w0$}  {start:w1$}  {count:>w2$}  {peak:>w3$}")?;
    }
    let starts = || usage.rows.iter().map(|row| row.start);
    if let (Some(first), Some(last)) = (starts().min(), starts().max()) {
        let line = sparkline(&usage.course(CELLS_MAX));
        writeln!(out, "\n{} {line} {}", label(first), label(last))?;
    }
    writeln!(out, "{}", behind(usage))
}

/// A bar a number; nothing is a space, and the highest is the full height.
fn sparkline(course: &[u64]) -> String {
    let highest = course.iter().copied().max().unwrap_or(0).max(1);
    let bar = |count: u64| {
        let height = (u128::from(count) * BARS.len() as u128).div_ceil(u128::from(highest));
        let at = usize::try_from(height).unwrap_or(BARS.len()).checked_sub(1);
        at.and_then(|at| BARS.get(at)).copied().unwrap_or(' ')
    };
    course.iter().copied().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{By, Row};
    use crate::message::InstanceId;

    fn row(instance: &str, start: u64, count: u64, peak: u64) -> Row {
        Row { instance: InstanceId::parse(instance).unwrap(), start, count, peak }
    }

    fn written(usage: &Usage) -> String {
        let mut text = vec![];
        write(usage, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_table_has_a_line_a_row_then_totals_the_course_and_the_lag() {
        let day = 29_000_160;
        let rows = vec![
            row("post-cn-a", day, 1_000, 90),
            row("post-cn-a", day + 2 * 1_440, 7, 2),
            row("post-cn-long-name", day, 3, 1),
        ];
        let usage = Usage { rows, by: By::Day, behind: 12 };
        assert_eq!(
            written(&usage),
            "instance           start (UTC)  count  peak/s\n\
             post-cn-a          2025-02-20    1000      90\n\
             post-cn-a          2025-02-22       7       2\n\
             post-cn-long-name  2025-02-20       3       1\n\
             total                            1010      90\n\
             \n\
             2025-02-20 █ ▁ 2025-02-22\n\
             12 messages are journaled and not yet in the ledger; all count\n"
        );
    }

    #[test]
    fn a_table_of_nothing_says_so_in_its_totals() {
        let usage = Usage { rows: vec![], by: By::Hour, behind: 0 };
        assert_eq!(
            written(&usage),
            "instance  start (UTC)  count  peak/s\n\
             total                      0       0\n\
             the ledger is level with the journal\n"
        );
    }

    #[test]
    fn a_sparkline_is_as_high_as_its_highest_number() {
        assert_eq!(sparkline(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), " ▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&[u64::MAX, u64::MAX / 2]), "█▄");
        assert_eq!(sparkline(&[]), "");
    }
}
