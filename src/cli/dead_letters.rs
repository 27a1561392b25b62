use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write};
use std::ops::{ControlFlow, RangeInclusive};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde_json::{Value, json};

use crate::admission::format_timestamp;
use crate::clock::{Clock, SystemClock, UnixMillis};
use crate::delivery::{Counted, Letter, Place, Requeue, Shelf};
use crate::message::{InstanceId, MessageId};

use super::{Failure, printable, say};

const DAY: Duration = Duration::from_secs(24 * 3_600);

pub(super) const LONG_ABOUT: &str = "\
List dead letters, or requeue them. A dead letter is a message that was acknowledged and billed, and
that delivery has given up: it waited longer than delivery.retention, or the broker refused it for
good. Each is kept for delivery.dead_letters_kept in dead-letters/ of the data directory, a file a
day of UTC, an object a line.

The list is read beside a weir that runs or not, and changes nothing. Oldest first; letters that are
requeued are left out, and counted below the table.";

pub(super) const AFTER_HELP: &str = "\
--since and --until take a date, or a moment in RFC 3339 such as 2026-11-23T14:05:00Z, and look at
when a letter was given up; --until itself is left out. Filters add up: a letter is shown if it
passes all of them.

Examples:
  weir journal dead-letters --day 2026-11-23
  weir journal dead-letters --instance post-cn-a --reason 0x87
  weir journal dead-letters --format json --payload | jq -r '.[].payload_base64' | base64 -d
  weir journal dead-letters requeue --msg-id 0A1B2C3D4E5F60718293A4B5C6D7E8F9
  weir journal dead-letters requeue --all --instance post-cn-a --since 2026-11-20

Exit codes:
  0   done; a list may be empty
  1   failed: a file cannot be read
  2   usage: an unknown option, or a value that is none
  78  bad configuration";

pub(super) const REQUEUE_ABOUT: &str = "\
Take dead letters back for delivery: those with the MsgIds given, or all that pass the filters.

With weir running they are published within about a second, with weir stopped after its next start,
in the order in which they were given up, one at a time and beside new messages. They are not billed
again. Each has the whole of delivery.retention anew from now on. One that the broker refuses again,
or that waits too long again, becomes a dead letter again.

A letter is requeued once this command has said so, or not at all: a crash of either side loses
none. A crash of weir may deliver up to 64 of them twice, or list them twice.

Run it as the user weir runs as, or as root, which becomes that user for it: weir has to be able to
remove what this writes.";

pub(super) const REQUEUE_AFTER_HELP: &str = "\
weir_dead_letters_requeued_total counts what became of them, by outcome: delivered, or dead again.

Examples:
  weir journal dead-letters requeue --msg-id 0A1B2C3D4E5F60718293A4B5C6D7E8F9
  weir journal dead-letters requeue --all --instance post-cn-a --since 2026-11-20

Exit codes:
  0   all of them are requeued; with --all there may be none
  1   failed: a MsgId is no dead letter (then none is requeued), another requeue runs, or the disk
      is full (what is requeued by then stays so)
  2   usage
  78  bad configuration";

/// What `weir journal dead-letters` takes.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    which: Which,
    /// With each payload, as Base64
    #[arg(long)]
    payload: bool,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Take dead letters back for delivery
    #[command(long_about = REQUEUE_ABOUT, after_help = REQUEUE_AFTER_HELP)]
    Requeue(Chosen),
}

#[derive(clap::Args)]
struct Which {
    /// Only of this instance, configured or not
    #[arg(long, value_name = "ID", value_parser = instance)]
    instance: Option<InstanceId>,
    /// Only those given up on this day of UTC
    #[arg(long, value_name = "DATE", value_parser = date, conflicts_with_all = ["since", "until"])]
    day: Option<Date>,
    /// Only those given up from here on
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<UnixMillis>,
    /// Only those given up before
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<UnixMillis>,
    /// Only those whose reason holds this text
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("chosen").required(true))]
struct Chosen {
    /// The letters with these MsgIds: 32 hexadecimal digits each
    #[arg(long, value_name = "MSGID", num_args = 1.., value_parser = super::journal::message_id,
        group = "chosen")]
    msg_id: Vec<MessageId>,
    /// All letters that pass the filters
    #[arg(long, group = "chosen")]
    all: bool,
    #[command(flatten)]
    which: Which,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// An array of objects
    Json,
}

fn instance(text: &str) -> Result<InstanceId, String> {
    InstanceId::parse(text).map_err(|error| error.to_string())
}

fn date(text: &str) -> Result<Date, String> {
    text.parse().map_err(|_| "write a date like 2026-11-23".to_owned())
}

fn moment(text: &str) -> Result<UnixMillis, String> {
    let moment = match text.parse::<Date>() {
        Ok(day) if text.len() == "2026-11-23".len() => {
            day.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp())
        }
        _ => text.parse::<Timestamp>(),
    };
    let millis = moment.ok().and_then(|moment| u64::try_from(moment.as_millisecond()).ok());
    let said = "write a date like 2026-11-23 or a moment like 2026-11-23T14:05:00Z";
    millis.map(UnixMillis).ok_or_else(|| said.to_owned())
}

impl Which {
    fn given_up(&self) -> RangeInclusive<UnixMillis> {
        let midnight = |day: Date| moment(&day.to_string()).unwrap_or(UnixMillis(0));
        let (from, to) = match self.day {
            Some(day) => (Some(midnight(day)), Some(midnight(day).plus(DAY))),
            None => (self.since, self.until),
        };
        let before = |to: UnixMillis| UnixMillis(to.0.saturating_sub(1));
        from.unwrap_or(UnixMillis(0))..=to.map_or(UnixMillis(u64::MAX), before)
    }

    fn takes(&self, letter: &Letter) -> bool {
        self.instance.as_ref().is_none_or(|instance| instance.as_str() == letter.instance_id)
            && self.reason.as_ref().is_none_or(|reason| letter.reason.contains(reason.as_str()))
    }
}

/// Lists or requeues the dead letters of this data directory.
pub(super) fn run(data_dir: &Path, arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.action {
        None => list(&Shelf::new(data_dir), arguments),
        Some(Action::Requeue(chosen)) => requeue(data_dir, chosen),
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

fn list(shelf: &Shelf, arguments: &Arguments) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let Arguments { which, payload, format, .. } = arguments;
    match write(shelf, which, *payload, *format, &mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(failed),
    }
}

fn write(
    shelf: &Shelf,
    which: &Which,
    payload: bool,
    format: Format,
    out: &mut impl Write,
) -> io::Result<()> {
    if format == Format::Table {
        let head = ["given up (UTC)", "MsgId", "instance", "topic", "bytes", "reason"];
        row(out, &head.map(str::to_owned))?;
    } else {
        write!(out, "[")?;
    }
    let mut shown: u64 = 0;
    let counted = shelf.visit(&which.given_up(), &mut |_, letter| {
        if which.takes(&letter) {
            match format {
                Format::Table => table_row(out, &letter, payload)?,
                Format::Json => {
                    write!(out, "{}\n  ", if shown == 0 { "" } else { "," })?;
                    serde_json::to_writer(&mut *out, &object(letter, payload))?;
                }
            }
            shown += 1;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    match format {
        Format::Table => write!(out, "{}", summary(shown, counted)),
        Format::Json => {
            writeln!(out, "\n]")?;
            write!(io::stderr(), "weir: {}", summary(shown, counted))
        }
    }
}

fn row(out: &mut impl Write, columns: &[String; 6]) -> io::Result<()> {
    let [given_up, id, instance, topic, bytes, reason] = columns;
    writeln!(out, "{given_up:20}  {id:32}  {instance:20}  {topic:24}  {bytes:>5}  {reason}")
}

fn table_row(out: &mut impl Write, letter: &Letter, payload: bool) -> io::Result<()> {
    row(
        out,
        &[
            format_timestamp(letter.given_up_at()),
            printable(&letter.msg_id),
            printable(&letter.instance_id),
            printable(&letter.topic),
            letter.payload_bytes().to_string(),
            printable(&letter.reason),
        ],
    )?;
    if payload {
        writeln!(out, "  {}", printable(&letter.payload_base64))?;
    }
    Ok(())
}

fn object(letter: Letter, payload: bool) -> Value {
    let mut object = json!({
        "msg_id": letter.msg_id,
        "instance_id": letter.instance_id,
        "topic": letter.topic,
        "admitted_at": format_timestamp(UnixMillis(letter.admitted_at_ms)),
        "given_up_at": format_timestamp(letter.given_up_at()),
        "reason": letter.reason,
        "payload_bytes": letter.payload_bytes(),
    });
    if payload {
        object["payload_base64"] = letter.payload_base64.into();
    }
    object
}

fn summary(shown: u64, counted: Counted) -> String {
    let mut text = match shown {
        1 => "1 dead letter".to_owned(),
        shown => format!("{shown} dead letters"),
    };
    if counted.requeued > 0 {
        text += &format!("; {} requeued and not delivered yet", counted.requeued);
    }
    if counted.unreadable > 0 {
        text += &format!("; {} lines are no letters (a crash tore them)", counted.unreadable);
    }
    text + "\n"
}

fn requeue(data_dir: &Path, chosen: &Chosen) -> Result<(), Failure> {
    let data_dir = as_owner(data_dir)?;
    let mut requeue = Requeue::begin(&data_dir).map_err(failed)?;
    let shelf = Shelf::new(&data_dir);
    let now = SystemClock.unix();
    let mut requeued: u64 = 0;
    if chosen.all {
        let visited = shelf.visit(&chosen.which.given_up(), &mut |place, letter| {
            if chosen.which.takes(&letter) {
                requeue.push(place, letter, now)?;
                requeued += 1;
            }
            Ok(ControlFlow::Continue(()))
        });
        visited.map_err(failed)?;
    } else {
        for (place, letter) in find(&shelf, chosen)? {
            requeue.push(place, letter, now).map_err(failed)?;
            requeued += 1;
        }
    }
    requeue.finish().map_err(failed)?;
    say(&match requeued {
        0 => "no dead letter to requeue\n".to_owned(),
        1 => "1 letter is requeued: weir delivers it while it runs\n".to_owned(),
        many => format!("{many} letters are requeued: weir delivers them while it runs\n"),
    });
    Ok(())
}

/// The letters with these MsgIds, in the order in which they were given up; all of them or none.
fn find(shelf: &Shelf, chosen: &Chosen) -> Result<Vec<(Place, Letter)>, Failure> {
    let wanted: BTreeSet<String> = chosen.msg_id.iter().map(ToString::to_string).collect();
    let mut missing = wanted.clone();
    let mut found = vec![];
    let visited = shelf.visit(&chosen.which.given_up(), &mut |place, letter| {
        if wanted.contains(&letter.msg_id) && chosen.which.takes(&letter) {
            missing.remove(&letter.msg_id);
            found.push((place, letter));
        }
        Ok(ControlFlow::Continue(()))
    });
    visited.map_err(failed)?;
    match missing.first() {
        None => Ok(found),
        Some(first) => Err(Failure::Failed(format!(
            "{first} is no dead letter{}: nothing is requeued",
            match missing.len() - 1 {
                0 => String::new(),
                more => format!(", nor are {more} more"),
            }
        ))),
    }
}

/// What another user writes here, weir could not remove. So root goes on as the directory's owner,
/// from within it: the way there is closed to that one where it is systemd's `DynamicUser`.
fn as_owner(data_dir: &Path) -> Result<PathBuf, Failure> {
    let because = |error| Failure::because(&data_dir.display().to_string(), error);
    let dir = std::fs::metadata(data_dir).map_err(because)?;
    let user = rustix::process::geteuid();
    if dir.uid() == user.as_raw() {
        return Ok(data_dir.to_owned());
    }
    if !user.is_root() {
        return Err(Failure::Failed(format!(
            "{}: it belongs to user {} and you are {}; run this as weir's user or as root",
            data_dir.display(),
            dir.uid(),
            user.as_raw()
        )));
    }
    std::env::set_current_dir(data_dir).map_err(because)?;
    become_user(dir.uid(), dir.gid()).map_err(because)?;
    Ok(PathBuf::from("."))
}

/// Gives up what this thread may do as root; no other has been started.
fn become_user(user: u32, group: u32) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    Ok(())
}
