//! A closed hour of an instance as a `CloudEvents` 1.0 event in JSON
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).
//!
//! Whoever takes it counts an event with a known `source` and `id` once. A closed hour never
//! changes, so neither do its event's bytes.

use std::io::{self, Write};

use serde::Serialize;

use crate::message::InstanceId;

use super::period::moment;

/// What happened, in the words of `CloudEvents`.
const KIND: &str = "weir.usage.hour";

#[derive(Serialize)]
struct Event<'e> {
    specversion: &'static str,
    id: String,
    source: &'e str,
    r#type: &'static str,
    subject: &'e str,
    time: String,
    datacontenttype: &'static str,
    data: Counted,
}

#[derive(Serialize)]
struct Counted {
    count: u64,
    peak_1s: u64,
}

/// Writes one event and a line feed.
pub(super) fn write(
    out: &mut impl Write,
    source: &str,
    instance: &InstanceId,
    hour: u64,
    count: u64,
    peak_1s: u64,
) -> io::Result<()> {
    let time = moment(hour * 60);
    let event = Event {
        specversion: "1.0",
        id: format!("{instance}/{time}"),
        source,
        r#type: KIND,
        subject: instance.as_str(),
        time,
        datacontenttype: "application/json",
        data: Counted { count, peak_1s },
    };
    serde_json::to_writer(&mut *out, &event)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_exactly_these_bytes() {
        let mut line = vec![];
        let instance = InstanceId::parse("post-cn-a").unwrap();
        write(&mut line, "weir", &instance, 483_336, 3, 2).unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"specversion\":\"1.0\",\"id\":\"post-cn-a/2025-02-20T00:00:00Z\",\
             \"source\":\"weir\",\"type\":\"weir.usage.hour\",\"subject\":\"post-cn-a\",\
             \"time\":\"2025-02-20T00:00:00Z\",\"datacontenttype\":\"application/json\",\
             \"data\":{\"count\":3,\"peak_1s\":2}}\n"
        );
    }
}
