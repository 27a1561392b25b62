use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use crate::admission::format_timestamp;
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::delivery::{Cursors, Letter, Shelf};
use crate::journal::{Found, Inspected, InspectedStream, ReadOnly, Rest, StreamId, inspect};
use crate::ledger::Ledger;
use crate::message::{Message, MessageId};

use super::{Failure, data_dir, dead_letters, demo, say};

pub(super) const AFTER_HELP: &str = "\
Examples:
  weir journal inspect
  weir journal inspect --message 0A1B2C3D4E5F60718293A4B5C6D7E8F9

Exit codes:
  0   done
  1   failed: no journal, a damaged segment, or a MsgId that is not found
  78  bad configuration";

const INSPECT_HELP: &str = "\
It takes no lock and changes nothing, so weir may run meanwhile. What is being written at that
moment shows as a torn end of the last segment.

A stream is what one shard of one generation wrote; a change of shard.count begins a generation.
`folded` is the first record that the ledger does not count yet, `delivered` the first one that the
saved cursor has not passed (weir saves it every second).

Examples:
  weir journal inspect
  weir journal inspect --format json | jq '.streams[].folded'
  weir journal inspect --message 0A1B2C3D4E5F60718293A4B5C6D7E8F9 --payload

Exit codes:
  0   done
  1   failed: no journal, a damaged segment, or a MsgId that is not found
  78  bad configuration";

/// What `weir journal` takes.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List segments, records, positions and dead letters, or show one message
    #[command(after_help = INSPECT_HELP)]
    Inspect(Inspect),
    /// List dead letters, or requeue them
    #[command(long_about = dead_letters::LONG_ABOUT, after_help = dead_letters::AFTER_HELP)]
    DeadLetters(dead_letters::Arguments),
}

#[derive(clap::Args)]
struct Inspect {
    /// Show the message with this MsgId instead: 32 hexadecimal digits
    #[arg(long, value_name = "MSGID", value_parser = message_id)]
    message: Option<MessageId>,
    /// With the message's payload, as Base64
    #[arg(long, requires = "message")]
    payload: bool,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// One JSON object
    Json,
}

pub(super) fn message_id(text: &str) -> Result<MessageId, String> {
    MessageId::parse(text).ok_or_else(|| "a MsgId is 32 hexadecimal digits".to_owned())
}

/// Looks at the journal of a configuration, or of the demo.
pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> Result<(), Failure> {
    let inspect = match &arguments.command {
        Command::Inspect(inspect) => inspect,
        Command::DeadLetters(letters) => return dead_letters::run(&data_dir(config)?, letters),
    };
    let config = config.map_or_else(demo::open_config, |path| Ok(Config::load(path)?))?;
    let files = Files { data_dir: config.data_dir, journal: config.journal.dir };
    match inspect.message {
        Some(id) => show_message(&files, id, inspect),
        None => show_journal(&files, inspect.format),
    }
}

/// Where everything lies.
struct Files {
    data_dir: PathBuf,
    journal: PathBuf,
}

impl Files {
    fn walk(&self, visit: &mut dyn FnMut(Found<'_>)) -> Result<Vec<InspectedStream>, Failure> {
        if !self.journal.is_dir() {
            let dir = self.journal.display();
            return Err(Failure::Failed(format!("{dir}: no journal; has weir run with this?")));
        }
        inspect(&ReadOnly, &self.journal, visit).map_err(|error| Failure::Failed(error.to_string()))
    }

    /// Counts the dead letters of all days, and finds the one with this MsgId if there is one.
    fn dead_letters(&self, id: Option<MessageId>) -> Result<(u64, Option<Letter>), Failure> {
        let wanted = id.map(|id| id.to_string());
        let mut found = None;
        let always = UnixMillis(0)..=UnixMillis(u64::MAX);
        let visited = Shelf::new(&self.data_dir).visit(&always, &mut |_, letter| {
            if wanted.as_ref().is_some_and(|wanted| *wanted == letter.msg_id) {
                found = Some(letter);
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        });
        let counted = visited.map_err(|error| Failure::Failed(error.to_string()))?;
        Ok((counted.dead, found))
    }
}

/// One segment as it is printed.
#[derive(Serialize)]
struct Segment {
    file: String,
    bytes: u64,
    used_bytes: u64,
    first: Option<u64>,
    last: Option<u64>,
    state: String,
}

/// One stream as it is printed.
#[derive(Serialize)]
struct Stream {
    generation: u32,
    shard: u16,
    next: u64,
    folded: u64,
    delivered: Option<u64>,
    segments: Vec<Segment>,
}

fn show_journal(files: &Files, format: Format) -> Result<(), Failure> {
    let ledger = Ledger::open_to_read(&files.data_dir.join("ledger.sqlite"));
    let ledger = ledger.map_err(|error| Failure::Failed(error.to_string()))?;
    let cursors = Cursors::open(Arc::new(ReadOnly), files.data_dir.join("delivery.cursors"));
    let cursors = cursors.map_err(|error| Failure::Failed(error.to_string()))?;
    let mut streams = vec![];
    let mut damaged = 0;
    for found in files.walk(&mut |_| {})? {
        let is_damaged = |one: &&Inspected| matches!(one.rest, Rest::Damaged(_));
        damaged += found.segments.iter().filter(is_damaged).count();
        let folded = ledger.watermark(found.id);
        let folded = folded.map_err(|error| Failure::Failed(error.to_string()))?.0;
        let delivered = cursors.get(found.id).map(|next| next.0);
        streams.push(stream(&found, folded, delivered));
    }
    let (letters, _) = files.dead_letters(None)?;
    match format {
        Format::Table => say(&table(&streams, letters)),
        Format::Json => {
            say(&format!("{}\n", json!({ "streams": streams, "dead_letters": letters })));
        }
    }
    if damaged > 0 {
        return Err(Failure::Failed(format!("{damaged} segments are damaged: see above")));
    }
    Ok(())
}

fn stream(found: &InspectedStream, folded: u64, delivered: Option<u64>) -> Stream {
    let StreamId { generation, shard } = found.id;
    let last = found.segments.iter().rev().find_map(|one| one.records);
    let next = last.map_or(folded, |(_, last)| last.0 + 1);
    let segments = found.segments.iter().map(segment).collect();
    Stream { generation, shard, next, folded, delivered, segments }
}

fn segment(one: &Inspected) -> Segment {
    let state = match &one.rest {
        Rest::Free if one.records.is_none() => "spare".to_owned(),
        Rest::Free => "good".to_owned(),
        Rest::Torn { bytes } => format!("{bytes} bytes torn, or being written, at {}", one.end),
        Rest::Damaged(error) => error.to_string(),
    };
    Segment {
        file: one.file.display().to_string(),
        bytes: one.size,
        used_bytes: one.end,
        first: one.records.map(|(first, _)| first.0),
        last: one.records.map(|(_, last)| last.0),
        state,
    }
}

fn table(streams: &[Stream], dead_letters: u64) -> String {
    let mut text = String::new();
    for stream in streams {
        let Stream { generation, shard, next, folded, delivered, segments } = stream;
        let delivered = delivered.map_or_else(|| "none saved".to_owned(), |at| at.to_string());
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "generation {generation} shard {shard}: next {next}, folded {folded}, delivered \
             {delivered}"
        );
        for one in segments {
            let records = match (one.first, one.last) {
                (Some(first), Some(last)) => format!("{first}-{last}"),
                _ => "-".to_owned(),
            };
            let Segment { file, bytes, used_bytes, state, .. } = one;
            let used = format!("{used_bytes}/{bytes}");
            let _ = writeln!(text, "  {file}  {records:>21}  {used:>23}  {state}");
        }
    }
    let _ = writeln!(text, "dead letters: {dead_letters}");
    text
}

/// The first record with this MsgId wins; a dead letter is named as well.
fn show_message(files: &Files, id: MessageId, inspect: &Inspect) -> Result<(), Failure> {
    let mut fields: BTreeMap<&str, Value> = BTreeMap::new();
    files.walk(&mut |(stream, sequence, file, offset, message)| {
        if message.id == id {
            fields = described(message, inspect.payload);
            fields.insert("stream", stream.to_string().into());
            fields.insert("sequence", sequence.0.into());
            fields.insert("file", file.display().to_string().into());
            fields.insert("turn_offset", offset.into());
        }
    })?;
    if let (_, Some(letter)) = files.dead_letters(Some(id))? {
        fields.insert("dead_letter", letter.reason.into());
        fields.entry("instance").or_insert_with(|| letter.instance_id.into());
        fields.entry("topic").or_insert_with(|| letter.topic.into());
        if inspect.payload {
            fields.entry("payload").or_insert_with(|| letter.payload_base64.into());
        }
    }
    if fields.is_empty() {
        return Err(Failure::Failed(format!(
            "{id} is not here: it was never acknowledged, or delivered, billed and trimmed since"
        )));
    }
    fields.insert("msg_id", id.to_string().into());
    match inspect.format {
        Format::Json => say(&format!("{}\n", json!(fields))),
        Format::Table => {
            let line = |(name, value): (&&str, &Value)| {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                format!("{name:<13} {value}\n")
            };
            say(&fields.iter().map(line).collect::<String>());
        }
    }
    Ok(())
}

fn described(message: &Message, with_payload: bool) -> BTreeMap<&'static str, Value> {
    let UnixMillis(millis) = message.admitted_at;
    let mut fields = BTreeMap::from([
        ("instance", Value::from(message.instance.as_str())),
        ("topic", message.topic.as_str().into()),
        ("admitted_at", format_timestamp(message.admitted_at).into()),
        ("admitted_ms", millis.into()),
        ("payload_bytes", message.payload.bytes().len().into()),
    ]);
    if with_payload {
        fields.insert("payload", STANDARD.encode(message.payload.bytes()).into());
    }
    fields
}
