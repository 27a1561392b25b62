//! `GET /usage?from=&to=&during=&by=&instance=`: the JSON that `weir usage --format json` prints.
//!
//! For dashboards, `instance` may be several with commas between them, and `during=month` (or day,
//! hour, minute) is the one of UTC that is under way, in rows of that length unless `by` says so.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::page::plain;
use super::{JSON, TEXT, text};
use crate::clock::{Clock, UnixMillis};
use crate::ledger::{By, Query, QueryError, Reader, Span};
use crate::message::{INSTANCE_ID_BYTES_MAX, InstanceId};

/// Queries that run, or whose answers are being written, at once; each takes a thread that may
/// block, a connection of the port, and the memory of its answer.
const QUERIES_MAX: usize = 2;
/// Queries that run or wait for those; a dashboard asks about eight at once.
const QUERIES_WAITING_MAX: usize = 24;
/// Rows of an answer, about 100 bytes each: a month by the minute of 20 instances.
const ROWS_MAX: usize = 1_000_000;

const BEHIND: &str = "x-weir-ledger-lag-messages";

/// Answers from ledger and journal, off the runtime's threads.
#[derive(Clone)]
pub(super) struct Desk {
    reader: Arc<Reader>,
    line: Arc<Semaphore>,
    places: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
}

/// What is asked for: rows of the ledger, and of which instances if of some only.
#[derive(Debug)]
struct Asked {
    query: Query,
    instances: Vec<InstanceId>,
}

impl Desk {
    pub(super) fn new(reader: Reader, clock: Arc<dyn Clock>) -> Self {
        let line = Arc::new(Semaphore::new(QUERIES_WAITING_MAX));
        let places = Arc::new(Semaphore::new(QUERIES_MAX));
        Self { reader: Arc::new(reader), line, places, clock }
    }

    pub(super) async fn answer(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let asked = match parse(query.unwrap_or_default(), self.clock.unix()) {
            Ok(asked) => asked,
            Err(said) => return text(400, TEXT, format!("{said}\n")),
        };
        let in_line = Arc::clone(&self.line).try_acquire_owned();
        let Ok(in_line) = in_line else {
            return text(503, TEXT, format!("{QUERIES_WAITING_MAX} queries wait: try again\n"));
        };
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            return text(503, TEXT, "weir stops\n");
        };
        let reader = Arc::clone(&self.reader);
        let places = [place, in_line];
        match tokio::task::spawn_blocking(move || read(&reader, &asked, places)).await {
            Ok(answer) => answer,
            Err(error) => text(500, TEXT, format!("{error}\n")),
        }
    }
}

/// An answer's rows. Its places are taken until they are written, or their client is gone.
struct Rows {
    json: Vec<u8>,
    _places: [OwnedSemaphorePermit; 2],
}

impl AsRef<[u8]> for Rows {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

fn read(
    reader: &Reader,
    asked: &Asked,
    places: [OwnedSemaphorePermit; 2],
) -> Response<Full<Bytes>> {
    let mut usage = match reader.usage(&asked.query) {
        Ok(usage) => usage,
        Err(error) => return text(500, TEXT, format!("{error}\n")),
    };
    if !asked.instances.is_empty() {
        usage.rows.retain(|row| asked.instances.contains(&row.instance));
    }
    let rows = usage.rows.len();
    if rows > ROWS_MAX {
        let said = format!(
            "{rows} rows, and at most {ROWS_MAX} are given: name an instance, a shorter span or \
             larger rows, or run weir usage\n"
        );
        return text(400, TEXT, said);
    }
    let mut json = vec![];
    if let Err(error) = usage.write_json(&mut json) {
        return text(500, TEXT, format!("{error}\n"));
    }
    let mut response = text(200, JSON, Bytes::from_owner(Rows { json, _places: places }));
    response.headers_mut().insert(BEHIND, HeaderValue::from(usage.behind));
    response
}

fn parse(query: &str, now: UnixMillis) -> Result<Asked, String> {
    let [mut from, mut to, mut during, mut by, mut instance] = [const { None }; 5];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = match &*name {
            "from" => &mut from,
            "to" => &mut to,
            "during" => &mut during,
            "by" => &mut by,
            "instance" => &mut instance,
            other => return Err(format!("{other}: there are from, to, during, by and instance")),
        };
        if place.replace(value.into_owned()).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    if during.is_some() && (from.is_some() || to.is_some()) {
        return Err("during is a span of its own: leave out from and to".to_owned());
    }
    let said = |error: QueryError| error.to_string();
    let by = by.as_deref().or(during.as_deref());
    let mut query = Query::parse(from.as_deref(), to.as_deref(), by, None).map_err(said)?;
    if let Some(during) = during {
        let length = By::parse(&during)
            .map_err(|_| format!("during is \"{during}\": it is minute, hour, day or month"))?;
        query.span = Span::current(length, now);
    }
    let parse = |text: &str| Query::parse(None, None, None, Some(text)).map_err(said);
    let each = instance.iter().flat_map(|names| names.split(',')).map(parse);
    let each: Vec<Query> = each.collect::<Result<_, _>>()?;
    let mut instances: Vec<InstanceId> = each.into_iter().filter_map(|one| one.instance).collect();
    if instances.len() == 1 {
        query.instance = instances.pop();
    }
    Ok(Asked { query, instances })
}

/// What the query may hold, as OpenAPI has it.
pub(super) fn parameters() -> Vec<Value> {
    let time = json!({
        "anyOf": [
            { "type": "string", "format": "date" },
            { "type": "string", "format": "date-time" },
            { "type": "string", "pattern": "^[0-9]+$", "description": "Milliseconds since 1970." },
        ],
        "examples": ["2026-11-01", "2026-11-23T14:05:00Z"],
    });
    let length = json!({ "enum": ["minute", "hour", "day", "month"] });
    let instance = format!("[A-Za-z0-9-]{{1,{INSTANCE_ID_BYTES_MAX}}}");
    let instances = json!({ "type": "string", "pattern": format!("^{instance}(,{instance})*$") });
    let parameters = [
        ("from", &time, "Where it begins."),
        ("to", &time, "Where it ends, itself left out; later than from."),
        ("during", &length, "The one of UTC that is under way, in place of from and to."),
        ("by", &length, "The length of a row, in UTC; as during, or a day."),
        ("instance", &instances, "Only these instances, configured or not."),
    ];
    let described = parameters.map(|(name, schema, description)| {
        json!({ "in": "query", "name": name, "schema": schema, "description": description })
    });
    described.into()
}

/// What is answered, as OpenAPI has it.
pub(super) fn responses() -> Value {
    let count = json!({ "type": "integer", "minimum": 1 });
    let row = json!({
        "type": "object",
        "required": ["instance_id", "start", "count", "peak_1s"],
        "properties": {
            "instance_id": { "type": "string" },
            "start": { "type": "string", "format": "date-time" },
            "count": count,
            "peak_1s": count,
        },
        "additionalProperties": false,
    });
    let behind = "Messages that are counted, and journaled but not in the ledger yet.";
    let rows = json!({
        "description": "Rows by instance, then by time; those without a message are left out.",
        "headers": { BEHIND: {
            "required": true, "schema": { "type": "integer" }, "description": behind,
        } },
        "content": { JSON: { "schema": { "type": "array", "items": row } } },
    });
    json!({
        "200": rows,
        "400": plain(&format!("Not a query, or more than {ROWS_MAX} rows; the text says which.")),
        "500": plain("The ledger or the journal cannot be read; the text names the file."),
        "503": plain(&format!("{QUERIES_WAITING_MAX} queries wait: come again.")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::ledger::{FILE, Ledger};

    const NOW: UnixMillis = UnixMillis(1_795_413_630_000); // 2026-11-23T06:00:30Z

    fn refused(query: &str) -> String {
        parse(query, NOW).map(|_| ()).unwrap_err()
    }

    fn asked(query: &str) -> Asked {
        parse(query, NOW).unwrap()
    }

    #[test]
    fn a_query_that_is_none_is_told_why() {
        asked("");
        asked("from=2026-11-01&to=2026-12-01&by=hour&instance=post-cn-a");
        asked("from=2026-11-01T08%3A00%3A00%2B08%3A00");
        assert!(refused("until=2026-11-01").starts_with("until: there are from, to"));
        assert_eq!(refused("by=day&by=hour"), "by is given twice");
        assert!(refused("from=yesterday").contains("from is \"yesterday\""));
        assert!(refused("during=day&to=2026-12-01").starts_with("during is a span of its own"));
        assert!(refused("during=week&by=day").starts_with("during is \"week\": it is minute"));
        assert!(refused("instance=post-cn-a,a/b").contains("\"a/b\""));
    }

    #[test]
    fn what_is_under_way_comes_as_one_row_an_instance_unless_rows_are_asked_for() {
        let month = asked("during=month").query;
        assert_eq!((month.by, month.span), (By::Month, Span::current(By::Month, NOW)));
        let days = asked("during=month&by=day").query;
        assert_eq!((days.by, days.span), (By::Day, Span::current(By::Month, NOW)));
    }

    #[test]
    fn several_instances_are_asked_for_with_commas() {
        let one = asked("instance=post-cn-a");
        assert_eq!(one.query.instance, InstanceId::parse("post-cn-a").ok());
        assert_eq!(one.instances, []);
        let two = asked("instance=post-cn-a,post-cn-b");
        assert_eq!(two.query.instance, None);
        let names: Vec<_> = two.instances.iter().map(InstanceId::as_str).collect();
        assert_eq!(names, ["post-cn-a", "post-cn-b"]);
    }

    #[tokio::test]
    async fn a_ledger_that_cannot_be_read_is_a_500_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let desk = Desk::new(Reader::new(folder.path()), Arc::new(ManualClock::at(NOW)));
        let response = desk.answer(None).await;
        assert_eq!(response.status(), 500);
        assert_eq!(desk.answer(Some("by=week")).await.status(), 400);
        let busy = desk.places.clone().try_acquire_many_owned(2).unwrap();
        let mut waiting = std::pin::pin!(desk.answer(None));
        assert!(futures_util::poll!(&mut waiting).is_pending(), "it waits for its turn");
        let all = u32::try_from(QUERIES_WAITING_MAX).unwrap() - 1;
        let _all = desk.line.clone().try_acquire_many_owned(all).unwrap();
        assert_eq!(desk.answer(None).await.status(), 503);
        drop(busy);
        assert_eq!(waiting.await.status(), 500);
    }

    #[tokio::test]
    async fn a_query_has_its_place_until_its_answer_is_written() {
        let folder = tempfile::tempdir().unwrap();
        Ledger::open(&folder.path().join(FILE)).unwrap();
        let desk = Desk::new(Reader::new(folder.path()), Arc::new(ManualClock::at(NOW)));
        let unread = [desk.answer(None).await, desk.answer(None).await];
        assert_eq!(unread.each_ref().map(|answer| answer.status().as_u16()), [200, 200]);
        assert_eq!(desk.places.available_permits(), 0);
        drop(unread);
        assert_eq!(desk.places.available_permits(), QUERIES_MAX);
        assert_eq!(desk.line.available_permits(), QUERIES_WAITING_MAX);
    }
}
