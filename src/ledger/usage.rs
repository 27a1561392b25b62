use std::io::{self, Write};

use serde::Serialize;

use crate::message::InstanceId;

use super::period::{By, moment};

/// What an instance sent in one minute, hour, day or month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The instance, configured or not.
    pub instance: InstanceId,
    /// The first minute, since 1970, UTC.
    pub start: u64,
    /// Messages billed.
    pub count: u64,
    /// Most messages in one second.
    pub peak: u64,
}

/// An answer of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// By instance, then by time. A row without a message is left out.
    pub rows: Vec<Row>,
    /// What the rows are cut into.
    pub by: By,
    /// Messages that are in the rows and in the journal, but not in the ledger yet.
    pub behind: u64,
}

/// A row as JSON and CSV have it.
#[derive(Serialize)]
struct Line<'r> {
    instance_id: &'r str,
    start: String,
    count: u64,
    peak_1s: u64,
}

impl Usage {
    /// All messages, and the highest peak of one instance.
    #[must_use]
    pub fn total(&self) -> (u64, u64) {
        let add = |(count, peak): (u64, u64), row: &Row| (count + row.count, peak.max(row.peak));
        self.rows.iter().fold((0, 0), add)
    }

    /// Messages of all instances in each minute, hour, day or month from the first row's to the
    /// last row's, empty ones among them; in steps of as many as it takes to give `cells_max`.
    #[must_use]
    pub fn course(&self, cells_max: usize) -> Vec<u64> {
        let starts = || self.rows.iter().map(|row| row.start);
        let (Some(first), Some(last)) = (starts().min(), starts().max()) else { return vec![] };
        let mut bounds = vec![];
        let mut start = first;
        while start <= last {
            bounds.push(start);
            start = self.by.bounds(start).1;
        }
        let step = bounds.len().div_ceil(cells_max.max(1));
        let mut cells = vec![0; bounds.len().div_ceil(step)];
        for row in &self.rows {
            let at = bounds.partition_point(|start| *start <= row.start).saturating_sub(1);
            cells[at / step] += row.count;
        }
        cells
    }

    /// A JSON array, an object a row.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(b"[")?;
        for (at, row) in self.rows.iter().enumerate() {
            out.write_all(if at == 0 { b"\n" } else { b",\n" })?;
            serde_json::to_writer(&mut *out, &row.line())?;
        }
        out.write_all(if self.rows.is_empty() { b"]\n" } else { b"\n]\n" })
    }

    /// Comma-separated values with a head line; no value needs a quote.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_csv(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(b"instance_id,start,count,peak_1s\n")?;
        for row in &self.rows {
            let Line { instance_id, start, count, peak_1s } = row.line();
            writeln!(out, "{instance_id},{start},{count},{peak_1s}")?;
        }
        Ok(())
    }
}

impl Row {
    fn line(&self) -> Line<'_> {
        Line {
            instance_id: self.instance.as_str(),
            start: moment(self.start),
            count: self.count,
            peak_1s: self.peak,
        }
    }
}

/// Rows being added up; what is added in order costs little.
pub(super) struct Adder {
    by: By,
    rows: Vec<Row>,
    /// Bounds of the row added to last.
    bounds: (u64, u64),
}

impl Adder {
    pub(super) const fn new(by: By) -> Self {
        Self { by, rows: vec![], bounds: (0, 0) }
    }

    pub(super) fn add(&mut self, instance: &InstanceId, minute: u64, count: u64, peak: u64) {
        let within = self.bounds.0 <= minute && minute < self.bounds.1;
        if let Some(last) = self.rows.last_mut().filter(|row| within && row.instance == *instance) {
            last.count += count;
            last.peak = last.peak.max(peak);
            return;
        }
        if !within {
            self.bounds = self.by.bounds(minute);
        }
        self.rows.push(Row { instance: instance.clone(), start: self.bounds.0, count, peak });
    }

    pub(super) fn finish(mut self) -> Vec<Row> {
        self.rows.sort_by(|a, b| (&a.instance, a.start).cmp(&(&b.instance, b.start)));
        self.rows.dedup_by(|later, kept| {
            let same = later.start == kept.start && later.instance == kept.instance;
            if same {
                kept.count += later.count;
                kept.peak = kept.peak.max(later.peak);
            }
            same
        });
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(instance: &str, start: u64, count: u64, peak: u64) -> Row {
        Row { instance: InstanceId::parse(instance).unwrap(), start, count, peak }
    }

    fn usage(by: By, rows: Vec<Row>) -> Usage {
        Usage { rows, by, behind: 0 }
    }

    #[test]
    fn json_and_csv_have_exactly_these_bytes() {
        let rows = vec![row("post-cn-a", 29_000_160, 3, 2), row("post-cn-b", 29_000_220, 1, 1)];
        let usage = usage(By::Hour, rows);
        let (mut json, mut csv) = (vec![], vec![]);
        usage.write_json(&mut json).unwrap();
        usage.write_csv(&mut csv).unwrap();
        assert_eq!(
            String::from_utf8(json).unwrap(),
            "[\n\
             {\"instance_id\":\"post-cn-a\",\"start\":\"2025-02-20T00:00:00Z\",\
             \"count\":3,\"peak_1s\":2},\n\
             {\"instance_id\":\"post-cn-b\",\"start\":\"2025-02-20T01:00:00Z\",\
             \"count\":1,\"peak_1s\":1}\n]\n"
        );
        assert_eq!(
            String::from_utf8(csv).unwrap(),
            "instance_id,start,count,peak_1s\n\
             post-cn-a,2025-02-20T00:00:00Z,3,2\n\
             post-cn-b,2025-02-20T01:00:00Z,1,1\n"
        );
    }

    #[test]
    fn nothing_used_is_an_empty_array_and_a_head_line() {
        let (mut json, mut csv) = (vec![], vec![]);
        usage(By::Day, vec![]).write_json(&mut json).unwrap();
        usage(By::Day, vec![]).write_csv(&mut csv).unwrap();
        assert_eq!(json, b"[]\n");
        assert_eq!(csv, b"instance_id,start,count,peak_1s\n");
    }

    #[test]
    fn what_is_added_out_of_order_comes_out_by_instance_and_time_and_once() {
        let mut adder = Adder::new(By::Hour);
        let (a, b) = (InstanceId::parse("a").unwrap(), InstanceId::parse("b").unwrap());
        for (instance, minute, count, peak) in
            [(&b, 61, 1, 1), (&b, 62, 2, 5), (&a, 0, 3, 1), (&b, 119, 4, 2), (&b, 59, 1, 1)]
        {
            adder.add(instance, minute, count, peak);
        }
        let expected = [row("a", 0, 3, 1), row("b", 0, 1, 1), row("b", 60, 7, 5)];
        assert_eq!(adder.finish(), expected);
    }

    #[test]
    fn the_course_shows_empty_hours_and_keeps_its_sum_in_fewer_cells() {
        let rows = vec![row("a", 0, 3, 1), row("a", 180, 4, 1), row("b", 60, 1, 1)];
        let usage = usage(By::Hour, rows);
        assert_eq!(usage.course(60), [3, 1, 0, 4]);
        assert_eq!(usage.course(2), [4, 4]);
        assert_eq!(usage.course(3), [4, 4]);
        assert_eq!(usage.total(), (8, 1));
    }
}
