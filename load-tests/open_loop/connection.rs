//! The connections: each takes the next call that is due, sends it, and reads its answer.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use weir::clock::{Clock, SystemClock};

use super::plan::Plan;
use super::signed::{Calls, bar};

/// How long an endpoint may take to accept a connection, or to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A call that leaves this much after its moment is late.
const LATE: Duration = Duration::from_millis(5);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// After a connection that could not be made, before the next.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
const STACK_BYTES: usize = 256 * 1024;
const BAR_PAUSE: Duration = Duration::from_millis(200);
/// Three digits, up to ten minutes in microseconds.
const LATENCY_MICROS_MAX: u64 = 600_000_000;

/// What a run sends, and over what.
pub(crate) struct Load {
    pub(crate) plan: Plan,
    pub(crate) calls: Calls,
    pub(crate) endpoints: Vec<(String, SocketAddr)>,
    pub(crate) connections: u32,
}

/// What became of the calls.
pub(crate) struct Tally {
    /// By code; `OK` for a 200.
    pub(crate) answers: BTreeMap<String, u64>,
    /// What went wrong without an answer, and how often.
    pub(crate) lost: BTreeMap<String, u64>,
    /// From the planned moment, in microseconds, of calls after the ramp.
    pub(crate) admitted: Histogram<u64>,
    pub(crate) refused: Histogram<u64>,
    /// From the moment a call really left.
    pub(crate) service: Histogram<u64>,
    pub(crate) late: u64,
    /// Admitted calls by the second in which they were due.
    pub(crate) admitted_by_second: Vec<u64>,
}

impl Tally {
    fn new() -> Result<Self, String> {
        let histogram = || {
            Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).map_err(|error| error.to_string())
        };
        Ok(Self {
            answers: BTreeMap::new(),
            lost: BTreeMap::new(),
            admitted: histogram()?,
            refused: histogram()?,
            service: histogram()?,
            late: 0,
            admitted_by_second: vec![],
        })
    }

    fn add(&mut self, other: Self) -> Result<(), String> {
        for (code, times) in other.answers {
            *self.answers.entry(code).or_default() += times;
        }
        for (why, times) in other.lost {
            *self.lost.entry(why).or_default() += times;
        }
        let added = self.admitted.add(other.admitted);
        let added = added.and_then(|()| self.refused.add(other.refused));
        added
            .and_then(|()| self.service.add(other.service))
            .map_err(|error| format!("{error:?}"))?;
        self.late += other.late;
        let seconds = self.admitted_by_second.len().max(other.admitted_by_second.len());
        self.admitted_by_second.resize(seconds, 0);
        for (second, times) in other.admitted_by_second.into_iter().enumerate() {
            self.admitted_by_second[second] += times;
        }
        Ok(())
    }

    fn lose(&mut self, error: &std::io::Error) {
        *self.lost.entry(error.to_string()).or_default() += 1;
    }
}

/// Sends every call and waits for every answer; with it, how long that took.
pub(crate) fn send_all(load: &Arc<Load>) -> Result<(Tally, Duration), String> {
    let (next, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let connected = Arc::new(Barrier::new(load.connections as usize));
    let start = Arc::new(OnceLock::new());
    let mut threads = vec![];
    for index in 0..load.connections {
        let (load, next) = (Arc::clone(load), Arc::clone(&next));
        let (answered, connected) = (Arc::clone(&answered), Arc::clone(&connected));
        let start = Arc::clone(&start);
        let worker = move || {
            let mut tally = Tally::new()?;
            let mut line = Line::new(&load, index);
            connected.wait();
            let began = *start.get_or_init(|| SystemClock.now());
            loop {
                let call = next.fetch_add(1, Ordering::Relaxed);
                if call >= load.plan.calls() {
                    return Ok(tally);
                }
                line.send(call, began, &mut tally);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        };
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(worker);
        threads.push(thread.map_err(|error| format!("--connections: {error}"))?);
    }
    let total = load.plan.calls();
    let bar = bar(total, "sending {bar:32} {human_pos}/{human_len} {per_sec} eta {eta}");
    while threads.iter().any(|thread| !thread.is_finished()) {
        bar.set_position(answered.load(Ordering::Relaxed));
        std::thread::sleep(BAR_PAUSE);
    }
    let ended = SystemClock.now();
    let elapsed = start.get().map_or(Duration::ZERO, |began| ended - *began);
    bar.finish_and_clear();
    let mut tally = Tally::new()?;
    for thread in threads {
        let part: Result<Tally, String> =
            thread.join().map_err(|_| "a connection's thread died")?;
        tally.add(part?)?;
    }
    Ok((tally, elapsed))
}

/// One connection an endpoint, made when it is needed.
struct Line<'l> {
    load: &'l Load,
    open: Vec<Option<TcpStream>>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

struct Answer {
    code: String,
    is_last: bool,
}

impl<'l> Line<'l> {
    fn new(load: &'l Load, index: u32) -> Self {
        let mut open: Vec<Option<TcpStream>> = load.endpoints.iter().map(|_| None).collect();
        // Before the first moment, so that connecting is no part of a latency.
        if let Some(place) = open.get_mut(index as usize % load.endpoints.len()) {
            *place = connect(load.endpoints[index as usize % load.endpoints.len()].1).ok();
        }
        Self { load, open, request: vec![], answer: vec![] }
    }

    fn send(&mut self, call: u64, began: Instant, tally: &mut Tally) {
        let plan = &self.load.plan;
        let endpoint = self.load.calls.endpoint(call);
        self.load.calls.write(call, endpoint, &mut self.request);
        let due = began + plan.due(call);
        std::thread::sleep(due.saturating_duration_since(SystemClock.now()));
        let left = SystemClock.now();
        let answered = self.exchange(endpoint);
        let ended = SystemClock.now();
        let answer = match answered {
            Ok(answer) => answer,
            Err(error) => {
                self.open[endpoint] = None;
                return tally.lose(&error);
            }
        };
        if answer.is_last {
            self.open[endpoint] = None;
        }
        let is_admitted = answer.code == "OK";
        if is_admitted {
            let second = usize::try_from(plan.due(call).as_secs()).unwrap_or(usize::MAX);
            if tally.admitted_by_second.len() <= second {
                tally.admitted_by_second.resize(second + 1, 0);
            }
            tally.admitted_by_second[second] += 1;
        }
        *tally.answers.entry(answer.code).or_default() += 1;
        if plan.is_steady(call) {
            tally.late += u64::from(left.saturating_duration_since(due) > LATE);
            let kind = if is_admitted { &mut tally.admitted } else { &mut tally.refused };
            kind.saturating_record(micros(ended.saturating_duration_since(due)));
            tally.service.saturating_record(micros(ended - left));
        }
    }

    fn exchange(&mut self, endpoint: usize) -> std::io::Result<Answer> {
        let stream = match &mut self.open[endpoint] {
            Some(stream) => stream,
            place => place.insert(connect(self.load.endpoints[endpoint].1)?),
        };
        stream.write_all(&self.request)?;
        self.answer.clear();
        let mut chunk = [0; 4_096];
        loop {
            let bytes = stream.read(&mut chunk)?;
            if bytes == 0 {
                return Err(std::io::Error::new(ErrorKind::UnexpectedEof, "closed by the server"));
            }
            self.answer.extend_from_slice(&chunk[..bytes]);
            if let Some(answer) = parse(&self.answer)? {
                return Ok(answer);
            }
        }
    }
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let connected = TcpStream::connect_timeout(&to, PATIENCE).and_then(|stream| {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    });
    if connected.is_err() {
        std::thread::sleep(RECONNECT_PAUSE);
    }
    connected
}

/// The answer, once all of it is there.
fn parse(bytes: &[u8]) -> std::io::Result<Option<Answer>> {
    let foreign = |why| std::io::Error::new(ErrorKind::InvalidData, why);
    if bytes.len() > ANSWER_BYTES_MAX {
        return Err(foreign("an answer too long to be weir's"));
    }
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let head = str::from_utf8(&bytes[..end]).map_err(|_| foreign("a head that is no text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let header = |wanted: &str| {
        let pairs = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        let mut values = pairs.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        values.next().map(|(_, value)| value.trim())
    };
    let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
    let length = length.ok_or_else(|| foreign("an answer without a length"))?;
    let Some(body) = bytes.get(end + 4..end + 4 + length) else { return Ok(None) };
    let is_last = header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
    if status == "200" {
        return Ok(Some(Answer { code: "OK".to_owned(), is_last }));
    }
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let code = body["Code"].as_str().unwrap_or("no code");
    Ok(Some(Answer { code: format!("{status} {code}"), is_last }))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_all_of_it_has_come() {
        let whole = b"HTTP/1.1 429 x\r\nConnection: close\r\nContent-Length: 26\r\n\r\n\
                      {\"Code\":\"Throttling.User\"}";
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).unwrap().is_none(), "{end}");
        }
        let answer = parse(whole).unwrap().unwrap();
        assert_eq!((answer.code.as_str(), answer.is_last), ("429 Throttling.User", true));
        let good = parse(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap().unwrap();
        assert_eq!((good.code.as_str(), good.is_last), ("OK", false));
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
