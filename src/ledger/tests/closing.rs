use super::*;

fn chunks(rig: &Rig) -> Vec<(String, u64, u64, u64)> {
    let connection = Connection::open(rig.path()).unwrap();
    let mut statement = connection
        .prepare("SELECT instance, hour, count, adjusted FROM chunk ORDER BY hour, instance")
        .unwrap();
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn exported(rig: &Rig) -> String {
    let span = Span::parse(None, None).unwrap();
    let mut text = vec![];
    rig.reader().export(span, None, "weir", &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn an_hour_closes_when_it_has_ended_and_not_before() {
    let mut rig = Rig::new();
    rig.commit(0, &[("a", 10), ("b", HOUR - 1), ("a", HOUR)]);
    assert_eq!(rig.close(HOUR - 1), 0);
    assert_eq!(rig.close(HOUR), 1);
    assert_eq!(chunks(&rig), [("a".into(), 0, 1, 0), ("b".into(), 0, 1, 0)]);
    rig.reader().verify().unwrap();
}

#[test]
fn hours_close_oldest_first_and_empty_ones_leave_no_chunk() {
    let mut rig = Rig::new();
    rig.commit(0, &[("a", 7 * HOUR), ("a", 0), ("b", 3 * HOUR)]);
    assert_eq!(rig.close(10 * HOUR), 3);
    let hours: Vec<_> = chunks(&rig).into_iter().map(|chunk| chunk.1).collect();
    assert_eq!(hours, [0, 3, 7]);
    rig.reader().verify().unwrap();
}

#[test]
fn what_is_late_is_an_adjustment_of_the_open_hour_and_changes_no_closed_one() {
    let mut rig = Rig::new();
    rig.commit(0, &[("a", 10), ("a", HOUR + 1)]);
    rig.close(HOUR);
    let before = (chunks(&rig), exported(&rig));
    let booked = rig.commit(HOUR, &[("a", 20), ("a", 30), ("a", HOUR + 2)]);
    assert_eq!(booked, Booked { late: 2 });
    assert_eq!((chunks(&rig), exported(&rig)), before);
    // Three came in the second of the late ones: one on time, and two late.
    assert_eq!(rig.by("hour"), [("a".into(), 0, 1, 1), ("a".into(), 60, 4, 3)]);
    // The minute they were admitted in is kept for who asks.
    let minute: u64 = Connection::open(rig.path())
        .unwrap()
        .query_row("SELECT minute FROM adjustment", [], |row| row.get(0))
        .unwrap();
    assert_eq!(minute, 0);
    rig.close(2 * HOUR);
    assert_eq!(chunks(&rig)[1], ("a".into(), 1, 4, 2));
    assert_eq!(rig.by("hour"), [("a".into(), 0, 1, 1), ("a".into(), 60, 4, 3)]);
    rig.reader().verify().unwrap();
}

#[test]
fn after_a_clock_went_far_back_nothing_is_lost_and_all_of_it_goes_to_the_open_hour() {
    let mut rig = Rig::new();
    rig.commit(100 * HOUR, &[("a", 100 * HOUR)]);
    rig.close(101 * HOUR);
    // The clock says hour 2, which is closed: the first open hour is 101.
    rig.commit(2 * HOUR, &[("a", 2 * HOUR), ("b", 2 * HOUR + 5)]);
    assert_eq!(
        rig.by("hour"),
        [("a".into(), 6_000, 1, 1), ("a".into(), 6_060, 1, 1), ("b".into(), 6_060, 1, 1)]
    );
    assert_eq!(rig.close(50 * HOUR), 0);
    assert_eq!(rig.close(102 * HOUR), 1);
    assert_eq!(rig.reader().verify().unwrap().messages, 3);
}

#[test]
fn a_clock_that_ran_ahead_closes_no_hour_nobody_sent_in() {
    let mut rig = Rig::new();
    rig.commit(0, &[("a", 10)]);
    assert_eq!(rig.close(1_000 * HOUR), 1);
    // Back at the right time: hour 1 is open, and its messages are its own.
    assert_eq!(rig.commit(HOUR, &[("a", HOUR + 1)]), Booked { late: 0 });
    assert_eq!(rig.by("hour"), [("a".into(), 0, 1, 1), ("a".into(), 60, 1, 1)]);
}

#[test]
fn a_closed_hour_is_closed_after_a_reopen() {
    let mut rig = Rig::new();
    rig.commit(0, &[("a", 10)]);
    rig.close(HOUR);
    rig.ledger = Ledger::open(&rig.path()).unwrap();
    assert_eq!(rig.commit(HOUR, &[("a", 20)]), Booked { late: 1 });
    rig.close(2 * HOUR);
    rig.reader().verify().unwrap();
}

#[test]
fn purged_minutes_leave_their_hours_their_chain_and_their_totals() {
    let mut rig = used();
    let hours = rig.by("hour");
    let exported_before = exported(&rig);
    let verified = rig.reader().verify().unwrap();
    // Hour 2 is open: nothing of it is purged, however far the clock is.
    assert_eq!(rig.purge(1_000 * HOUR), Purged { rows: 6, hours: 4 });
    assert_eq!(rig.by("hour"), hours);
    assert_eq!(exported(&rig), exported_before);
    let after = rig.reader().verify().unwrap();
    assert_eq!((after.messages, after.chunks), (verified.messages, verified.chunks));
    assert_eq!((after.rows, after.heads), (verified.rows - 6, verified.heads));
    // By the minute, a purged hour stands at its first one.
    let minutes = rig.by("minute");
    assert_eq!(minutes[0], ("a".into(), 0, 3, 2));
    assert_eq!(minutes.iter().map(|row| row.2).sum::<u64>(), verified.messages);
}

#[test]
fn a_purge_goes_in_small_steps_and_takes_only_what_is_old() {
    let mut rig = Rig::new();
    let entries: Vec<_> = (0..120).map(|hour| ("a", hour * HOUR)).collect();
    rig.commit(0, &entries);
    rig.close(120 * HOUR);
    let first = rig.ledger.purge_some(UnixMillis(100 * HOUR)).unwrap();
    assert_eq!(first, Purged { rows: 50, hours: 50 });
    assert_eq!(rig.purge(100 * HOUR), Purged { rows: 50, hours: 50 });
    assert_eq!(rows(&rig.path()).len(), 20);
    rig.reader().verify().unwrap();
}

#[test]
fn an_export_is_the_same_bytes_twice_and_holds_closed_hours_only() {
    let mut rig = used();
    let first = exported(&rig);
    assert_eq!(first, exported(&rig));
    assert_eq!(first.lines().count(), 4);
    let ids: Vec<String> = first
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|event| format!("{} {}", event["id"], event["data"]["count"]))
        .collect();
    let expected = [
        "\"a/1970-01-01T00:00:00Z\" 3",
        "\"a/1970-01-01T01:00:00Z\" 2",
        "\"b/1970-01-01T00:00:00Z\" 1",
        "\"b/1970-01-01T01:00:00Z\" 1",
    ];
    assert_eq!(ids, expected);
    // A later export begins with the same bytes for each instance.
    rig.close(3 * HOUR);
    let later = exported(&rig);
    assert!(first.lines().all(|line| later.contains(line)));
    assert_eq!(later.lines().count(), 6);
}
