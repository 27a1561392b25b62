use std::io::{self, BufWriter, Write};
use std::path::Path;

use clap::ValueEnum;

use crate::ledger::{By, Query, QueryError, ReadError, Reader, Usage};

use super::{Failure, data_dir, say, table};

pub(super) const LONG_ABOUT: &str = "\
Show what was billed, from the ledger and the journal's tail. It reads the data directory of
--config, or the demo's, whether weir runs or not, and writes nothing there.

A row is an instance and a minute, hour, day or month of UTC. Its count is the SendMessage calls
that were journaled, by the time of their admission; its peak is the most of them in one second. A
row without a message is left out. Without --from and --to everything is shown.

Messages that are journaled and not yet in the ledger are counted; how many they are is said below
the table, and on standard error with csv and json.";

const AFTER_HELP: &str = "\
Hours close five minutes after their end and never change again: what arrives later with a time in a
closed hour, because the clock went back, is counted in the open one. After ledger.minutes_kept (395
days) an hour is kept as one row, shown at its first minute.

Examples:
  weir usage --from 2026-11-01 --to 2026-12-01        each day of November
  weir usage --by month --format csv                  for an invoice
  weir usage verify                                   is the ledger as it was written?
  weir usage export --from 2026-11-01 > events        for OpenMeter, Lago or Stripe

Exit codes:
  0   done; for verify: everything fits
  1   failed: no ledger, or it cannot be read; for verify: the first chunk that does not fit
  2   usage: an unknown option, or a value that is none
  78  bad configuration";

const VERIFY_ABOUT: &str = "\
Check that the ledger is as it was written. Each closed hour of an instance is a chunk with the
SHA-256 of its content and of the chunk before; rows of open hours carry a checksum; the total of an
instance is the sum of its hours. The first chunk or row that does not fit is named, and the exit
code is 1.

The last line is a digest of the ends of all chains. Noted down elsewhere, it shows later that
nobody wrote the whole ledger anew.";

const EXPORT_ABOUT: &str = "\
Write closed hours as CloudEvents 1.0, an event an instance and hour, a JSON object a line.

An event's id, time and bytes are always the same, so sending it twice counts once where the id is
the key: OpenMeter takes the events as they are, Lago takes the id as transaction_id, Stripe as
identifier. Its time is the start of the hour, its subject the instance, and its data count and
peak_1s. Hours that are still open are left out: they follow in a later export.";

const VERIFY_HELP: &str = "\
Examples:
  weir usage verify
  weir --config weir.toml usage verify >> heads.txt    note the digest down elsewhere

Exit codes:
  0   everything fits
  1   the first chunk or row that does not fit is named; or there is no ledger
  78  bad configuration";

const EXPORT_HELP: &str = "\
Examples:
  weir usage export > november.ndjson
  weir usage export --from 2026-11-01 --to 2026-12-01 --source weir-a

Exit codes:
  0   done
  1   failed: no ledger, or it cannot be read
  2   usage: a value that is none
  78  bad configuration";

/// What `weir usage` takes.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    which: Which,
    /// The length of a row, in UTC
    #[arg(long, value_enum, default_value = "day")]
    by: Length,
    /// How it is written
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Check that the ledger is as it was written
    #[command(long_about = VERIFY_ABOUT, after_help = VERIFY_HELP)]
    Verify,
    /// Write closed hours as CloudEvents, an object a line
    #[command(long_about = EXPORT_ABOUT, after_help = EXPORT_HELP)]
    Export(Export),
}

#[derive(clap::Args)]
struct Which {
    /// Where it begins: a date, or a moment in RFC 3339 such as 2026-11-23T14:05:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Where it ends, itself left out
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only this instance, configured or not
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
}

#[derive(clap::Args)]
struct Export {
    #[command(flatten)]
    which: Which,
    /// Which weir the events are from: one name a data directory, if several send to one place
    #[arg(long, value_name = "URI", default_value = "weir")]
    source: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Length {
    Minute,
    Hour,
    Day,
    Month,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people: with totals, the course of the period, and how far behind the ledger is
    Table,
    /// An array of objects with instance_id, start, count and peak_1s
    Json,
    /// The same columns, with a head line
    Csv,
}

/// Shows, verifies or exports usage.
pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.action {
        None => show(config, arguments),
        Some(Action::Verify) => verify(&reader(config)?),
        Some(Action::Export(export)) => {
            let Query { span, instance, .. } = query(&export.which, By::Hour)?;
            let reader = reader(config)?;
            write(|out| reader.export(span, instance.as_ref(), &export.source, out))
        }
    }
}

fn show(config: Option<&Path>, arguments: &Arguments) -> Result<(), Failure> {
    let by = match arguments.by {
        Length::Minute => By::Minute,
        Length::Hour => By::Hour,
        Length::Day => By::Day,
        Length::Month => By::Month,
    };
    let query = query(&arguments.which, by)?;
    let usage = reader(config)?.usage(&query)?;
    write(|out| match arguments.format {
        Format::Table => Ok(table::write(&usage, out)?),
        Format::Json => Ok(usage.write_json(out)?),
        Format::Csv => Ok(usage.write_csv(out)?),
    })?;
    if arguments.format != Format::Table {
        let _ = writeln!(io::stderr(), "weir: {}", behind(&usage));
    }
    Ok(())
}

/// How far the ledger is behind the journal.
pub(super) fn behind(usage: &Usage) -> String {
    match usage.behind {
        0 => "the ledger is level with the journal".to_owned(),
        1 => "1 message is journaled and not yet in the ledger; it is counted".to_owned(),
        behind => format!("{behind} messages are journaled and not yet in the ledger; all count"),
    }
}

fn verify(reader: &Reader) -> Result<(), Failure> {
    let found = reader.verify().map_err(|error| Failure::Failed(error.to_string()))?;
    say(&format!(
        "good: {} messages of {} instances, in {} closed hours and {} rows\nchains end at {}\n",
        found.messages, found.instances, found.chunks, found.rows, found.heads
    ));
    Ok(())
}

fn query(which: &Which, by: By) -> Result<Query, Failure> {
    let Which { from, to, instance } = which;
    let query = Query::parse(from.as_deref(), to.as_deref(), None, instance.as_deref());
    let query = query.map_err(|error: QueryError| Failure::Usage(format!("--{error}")))?;
    Ok(Query { by, ..query })
}

fn reader(config: Option<&Path>) -> Result<Reader, Failure> {
    Ok(Reader::new(&data_dir(config)?))
}

/// Writes to standard output; a reader that has gone away is no failure.
fn write(
    what: impl FnOnce(&mut BufWriter<io::StdoutLock<'static>>) -> Result<(), ReadError>,
) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    match what(&mut out).and_then(|()| Ok(out.flush()?)) {
        Err(ReadError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
