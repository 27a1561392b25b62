//! `GET /usage?from=&to=&by=&instance=`: the JSON that `weir usage --format json` prints.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::Full;
use tokio::sync::Semaphore;

use super::{TEXT, text};
use crate::ledger::{Query, QueryError, Reader};

/// Queries that run at once; each takes a thread that may block, and a connection of the port.
const QUERIES_MAX: usize = 2;
/// Rows of an answer, about 100 bytes each: a month by the minute of 20 instances.
const ROWS_MAX: usize = 1_000_000;

const JSON: &str = "application/json";
const BEHIND: &str = "x-weir-ledger-lag-messages";

/// Answers from ledger and journal, off the runtime's threads.
#[derive(Clone)]
pub(super) struct Desk {
    reader: Arc<Reader>,
    places: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader: Arc::new(reader), places: Arc::new(Semaphore::new(QUERIES_MAX)) }
    }

    pub(super) async fn answer(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let query = match parse(query.unwrap_or_default()) {
            Ok(query) => query,
            Err(said) => return text(400, TEXT, format!("{said}\n")),
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return text(503, TEXT, format!("{QUERIES_MAX} queries run: try again\n"));
        };
        let reader = Arc::clone(&self.reader);
        let read = tokio::task::spawn_blocking(move || {
            let answer = read(&reader, &query);
            drop(place);
            answer
        });
        match read.await {
            Ok(answer) => answer,
            Err(error) => text(500, TEXT, format!("{error}\n")),
        }
    }
}

fn read(reader: &Reader, query: &Query) -> Response<Full<Bytes>> {
    let usage = match reader.usage(query) {
        Ok(usage) => usage,
        Err(error) => return text(500, TEXT, format!("{error}\n")),
    };
    let rows = usage.rows.len();
    if rows > ROWS_MAX {
        let said = format!(
            "{rows} rows, and at most {ROWS_MAX} are given: name an instance, a shorter span or \
             larger rows, or run weir usage\n"
        );
        return text(400, TEXT, said);
    }
    let mut body = vec![];
    if let Err(error) = usage.write_json(&mut body) {
        return text(500, TEXT, format!("{error}\n"));
    }
    let mut response = text(200, JSON, body);
    response.headers_mut().insert(BEHIND, HeaderValue::from(usage.behind));
    response
}

fn parse(query: &str) -> Result<Query, String> {
    let [mut from, mut to, mut by, mut instance] = [const { None }; 4];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = match &*name {
            "from" => &mut from,
            "to" => &mut to,
            "by" => &mut by,
            "instance" => &mut instance,
            other => return Err(format!("{other}: there are from, to, by and instance")),
        };
        if place.replace(value.into_owned()).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    Query::parse(from.as_deref(), to.as_deref(), by.as_deref(), instance.as_deref())
        .map_err(|error: QueryError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> String {
        parse(query).map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_query_that_is_none_is_told_why() {
        assert!(parse("").is_ok());
        assert!(parse("from=2026-11-01&to=2026-12-01&by=hour&instance=post-cn-a").is_ok());
        assert!(parse("from=2026-11-01T08%3A00%3A00%2B08%3A00").is_ok());
        assert!(refused("until=2026-11-01").starts_with("until: there are from, to"));
        assert_eq!(refused("by=day&by=hour"), "by is given twice");
        assert!(refused("from=yesterday").contains("from is \"yesterday\""));
    }

    #[tokio::test]
    async fn a_ledger_that_cannot_be_read_is_a_500_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let desk = Desk::new(Reader::new(folder.path()));
        let response = desk.answer(None).await;
        assert_eq!(response.status(), 500);
        assert_eq!(desk.answer(Some("by=week")).await.status(), 400);
        let _both = desk.places.clone().try_acquire_many_owned(2).unwrap();
        assert_eq!(desk.answer(None).await.status(), 503);
    }
}
