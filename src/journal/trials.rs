//! What the journal promises, tried on a cruel disk.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cruel::Call;
use super::mailbox::MAILBOX_BATCHES_MAX;
use super::segment::SEGMENT_HEADER_BYTES;
use super::testing::*;
use super::*;

const FIRST_SEGMENT: &str = "data/journal/g000001-001/shard-000/0000000001.seg";

fn append(opened: &mut Opened, ids: std::ops::Range<u64>) -> Arc<Batch> {
    let writer = &mut opened.writers[0];
    let batch = writer.append(admitted(ids, 50)).unwrap_or_else(|error| panic!("{error}"));
    writer.hand_on(&batch);
    batch
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "seg")
}

fn turn_offsets(rig: &Rig, file: &str, turns: usize) -> Vec<usize> {
    let bytes = rig.disk.content(Path::new(file));
    let mut offsets = vec![SEGMENT_HEADER_BYTES];
    for turn in 0..turns {
        let at = offsets[turn] + 16;
        let body = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        offsets.push(offsets[turn] + 32 + body.next_multiple_of(8));
    }
    offsets
}

#[test]
fn what_append_returned_survives_a_crash_right_after_it() {
    for seed in 0..60 {
        let mut rig = Rig::new(seed, 1);
        let (mut opened, _) = rig.open();
        for id in 0..40 {
            let batch = append(&mut opened, id * 3..id * 3 + 3);
            assert_eq!(batch.first(), Sequence(id * 3 + 1));
            if id % 7 == 3 {
                drop(opened);
                rig.crash();
                let reopened = rig.open();
                assert_eq!(reopened.1.ids(stream(1, 0)), (0..id * 3 + 3).collect::<Vec<_>>());
                opened = reopened.0;
            }
        }
        let segments = rig.disk.paths().into_iter().filter(|path| is_segment(path)).count();
        assert!(segments > 3, "only {segments} segments: nothing rolled");
    }
}

#[test]
fn a_torn_tail_is_cut_at_every_byte_and_nothing_acknowledged_is_lost() {
    let rig = Rig::new(1, 1);
    let (mut opened, _) = rig.open();
    append(&mut opened, 0..2);
    append(&mut opened, 2..5);
    drop(opened);
    let path = Path::new(FIRST_SEGMENT);
    let [_, last, end] = turn_offsets(&rig, FIRST_SEGMENT, 2)[..] else { panic!("two turns") };
    let whole = rig.disk.content(path)[last..end].to_vec();
    let filled = whole.iter().rposition(|&byte| byte != 0).unwrap();
    for cut in 0..=filled {
        let torn = Rig { disk: rig.disk.copy(), ..Rig::new(2, 1) };
        torn.disk.overwrite(path, last + cut, &vec![0; whole.len() - cut]);
        let (mut reopened, seen) = torn.open();
        assert_eq!(seen.ids(stream(1, 0)), [0, 1], "cut at {cut}");
        let found: Vec<_> = reopened.recovered.torn.iter().map(|torn| torn.offset).collect();
        let expected: &[u64] = if cut == 0 { &[] } else { &[last as u64] };
        assert_eq!(found, expected, "cut at {cut}");
        assert_eq!(append(&mut reopened, 9..10).first(), Sequence(3));
        drop(reopened);
        let (again, seen) = torn.open();
        assert_eq!(seen.ids(stream(1, 0)), [0, 1, 9]);
        assert_eq!(again.recovered.torn, [], "cut at {cut}");
    }
}

#[test]
fn every_bit_flipped_in_an_earlier_turn_is_damage_with_file_and_offset() {
    let rig = Rig::new(1, 1);
    let (mut opened, _) = rig.open();
    append(&mut opened, 0..1);
    append(&mut opened, 1..2);
    append(&mut opened, 2..3);
    drop(opened);
    let offsets = turn_offsets(&rig, FIRST_SEGMENT, 2);
    for bit in offsets[0] * 8..offsets[2] * 8 {
        let flipped = Rig { disk: rig.disk.copy(), ..Rig::new(2, 1) };
        flipped.disk.flip(Path::new(FIRST_SEGMENT), bit);
        let turn = offsets.iter().rposition(|offset| offset * 8 <= bit).unwrap();
        match flipped.try_open().unwrap_err() {
            JournalError::Damaged { file, offset, damage: Damage::Lost } => {
                assert_eq!(file, Path::new(FIRST_SEGMENT));
                assert_eq!(offset, offsets[turn] as u64, "bit {bit}");
            }
            other => panic!("bit {bit}: {other}"),
        }
    }
}

#[test]
fn every_bit_flipped_in_a_full_segment_or_in_a_head_is_refused() {
    let rig = Rig::new(1, 1);
    let (mut opened, _) = rig.open();
    for id in 0..40 {
        append(&mut opened, id..id + 1);
    }
    drop(opened);
    let path = Path::new(FIRST_SEGMENT);
    let bytes = rig.disk.content(path);
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    for bit in 0..used * 8 {
        let flipped = Rig { disk: rig.disk.copy(), ..Rig::new(2, 1) };
        flipped.disk.flip(path, bit);
        assert!(flipped.try_open().is_err(), "bit {bit}");
    }
}

#[test]
fn every_bit_flipped_in_the_last_turn_is_a_torn_tail_unless_a_reader_has_passed_it() {
    let rig = Rig::new(1, 1);
    let (mut opened, _) = rig.open();
    append(&mut opened, 0..2);
    append(&mut opened, 2..4);
    drop(opened);
    let path = Path::new(FIRST_SEGMENT);
    let [_, last, end] = turn_offsets(&rig, FIRST_SEGMENT, 2)[..] else { panic!("two turns") };
    for bit in last * 8..end * 8 {
        let flipped = Rig { disk: rig.disk.copy(), ..Rig::new(2, 1) };
        flipped.disk.flip(path, bit);
        let before = flipped.disk.content(path);
        let error = flipped.open_for(Some(Sequence(4))).unwrap_err();
        let said = error.to_string();
        let offset = last as u64;
        assert!(
            matches!(&error, JournalError::Overtaken { file, offset: at, next: Sequence(4), tail:
                Sequence(3), .. } if file == path && *at == offset),
            "bit {bit}: {error}"
        );
        assert!(said.contains("data/reader") && said.contains("set it to 3"), "{said}");
        assert_eq!(flipped.disk.content(path), before, "bit {bit}: the evidence was touched");
        let (reopened, seen) = flipped.open_for(Some(Sequence(3))).unwrap();
        assert_eq!(seen.ids(stream(1, 0)), [0, 1], "bit {bit}");
        let torn = &reopened.recovered.torn;
        assert_eq!((torn.len(), &*torn[0].file, torn[0].offset), (1, path, offset), "bit {bit}");
        assert!(torn[0].bytes > 0 && torn[0].bytes <= (end - last) as u64, "bit {bit}");
    }
}

#[test]
fn every_truncation_of_a_segment_is_damage_with_file_and_offset() {
    let rig = Rig::new(1, 1);
    let (mut opened, _) = rig.open();
    append(&mut opened, 0..2);
    append(&mut opened, 2..4);
    drop(opened);
    let path = Path::new(FIRST_SEGMENT);
    let whole = usize::try_from(SEGMENT_BYTES).unwrap();
    for bytes in 0..whole {
        let cut = Rig { disk: rig.disk.copy(), ..Rig::new(2, 1) };
        cut.disk.truncate(path, bytes);
        let JournalError::Damaged { file, offset, damage } = cut.try_open().unwrap_err() else {
            panic!("cut at {bytes}")
        };
        assert_eq!(file, path);
        if bytes < SEGMENT_HEADER_BYTES {
            assert_eq!((offset, damage), (0, Damage::Header), "cut at {bytes}");
        } else {
            let short = Damage::Short { made: SEGMENT_BYTES };
            assert_eq!((offset, damage), (bytes as u64, short), "cut at {bytes}");
        }
    }
}

#[test]
fn a_gap_between_a_reader_and_the_first_record_is_an_error_that_names_both_files() {
    let rig = Rig::new(3, 1);
    let (mut opened, _) = rig.open();
    for id in 0..60 {
        append(&mut opened, id..id + 1);
    }
    opened.writers[0].stream().trim(Sequence(61));
    let first = opened.writers[0].stream().first();
    drop(opened);
    assert!(rig.open_for(Some(first)).is_ok());
    let behind = Sequence(first.0 - 1);
    let error = rig.open_for(Some(behind)).unwrap_err();
    assert!(
        matches!(&error, JournalError::Gap { first: found, next, .. } if (*found, *next) ==
            (first, behind)),
        "{error}"
    );
    let said = error.to_string();
    assert!(said.contains("data/reader") && said.contains(".seg"), "{said}");
    rig.disk.paths().iter().filter(|path| is_segment(path)).for_each(|path| {
        rig.disk.remove(path).unwrap();
    });
    let error = rig.open_for(Some(first)).unwrap_err();
    assert!(matches!(error, JournalError::Overtaken { tail: Sequence::FIRST, .. }), "{error}");
}

#[test]
fn an_inspection_shows_every_record_and_every_damage_and_changes_nothing() {
    let rig = Rig::new(5, 1);
    let (mut opened, _) = rig.open();
    for id in 0..60 {
        append(&mut opened, id..id + 1);
    }
    let look = || {
        let mut ids = Vec::new();
        let dir = &rig.config.dir;
        let found = inspect(&rig.disk, dir, &mut |(.., message)| ids.push(id(message)));
        (found.unwrap().into_iter().flat_map(|stream| stream.segments).collect::<Vec<_>>(), ids)
    };
    let (segments, seen) = look();
    assert_eq!(seen, (0..60).collect::<Vec<_>>());
    assert!(segments.iter().all(|segment| matches!(segment.rest, Rest::Free)), "{segments:?}");
    let files = segments.iter().filter(|segment| segment.records.is_some()).count();
    assert!(files > 1, "{segments:?}");
    let offset = turn_offsets(&rig, FIRST_SEGMENT, 2)[1];
    rig.disk.flip(Path::new(FIRST_SEGMENT), offset * 8);
    let before = rig.disk.content(Path::new(FIRST_SEGMENT));
    let (segments, _) = look();
    let Rest::Damaged(error) = &segments[0].rest else { panic!("{segments:?}") };
    assert!(error.to_string().contains(&format!("damaged at byte {offset}")), "{error}");
    assert_eq!(rig.disk.content(Path::new(FIRST_SEGMENT)), before);
}

#[test]
fn a_missing_segment_between_others_is_damage() {
    let rig = Rig::new(1, 1);
    let (mut opened, _) = rig.open();
    for id in 0..80 {
        append(&mut opened, id..id + 1);
    }
    drop(opened);
    let second = PathBuf::from(FIRST_SEGMENT.replace("01.seg", "02.seg"));
    rig.disk.remove(&second).unwrap();
    let error = rig.try_open().unwrap_err();
    assert!(matches!(&error, JournalError::Damaged { file, .. } if *file == second), "{error}");
}

#[test]
fn a_full_disk_is_cut_back_and_appends_resume() {
    for seed in 0..50 {
        let mut rig = Rig::new(seed, 1);
        let (mut opened, _) = rig.open();
        append(&mut opened, 0..2);
        rig.disk.fail(Some(Call::Write), 0, ErrorKind::StorageFull);
        let refused = opened.writers[0].append(admitted(2..4, 50)).unwrap_err();
        assert!(matches!(&refused, AppendError::NoSpace(batch) if batch.len() == 2), "{refused}");
        assert_eq!(rig.metrics.no_space.get(), 1);
        if seed % 2 == 0 {
            drop(opened);
            rig.crash();
            let (reopened, seen) = rig.open();
            assert_eq!(seen.ids(stream(1, 0)), [0, 1]);
            opened = reopened;
        }
        assert_eq!(append(&mut opened, 4..5).first(), Sequence(3));
        drop(opened);
        rig.crash();
        assert_eq!(rig.open().1.ids(stream(1, 0)), [0, 1, 4]);
    }
}

#[test]
fn a_disk_too_full_for_a_segment_refuses_until_space_returns() {
    let rig = Rig::new(3, 1);
    let (mut opened, _) = rig.open();
    append(&mut opened, 0..1);
    rig.disk.fail_all(Call::Create, ErrorKind::StorageFull);
    let mut taken = 1;
    let refused = loop {
        match opened.writers[0].append(admitted(taken..taken + 1, 50)) {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, AppendError::NoSpace(_)), "{refused}");
    assert!(!opened.writers[0].stream().is_poisoned());
    rig.disk.heal();
    opened.journal.work();
    assert_eq!(append(&mut opened, taken..taken + 1).first(), Sequence(taken + 1));
}

#[test]
fn a_turn_that_cannot_be_cut_back_poisons() {
    let rig = Rig::new(3, 1);
    let (mut opened, _) = rig.open();
    append(&mut opened, 0..1);
    rig.disk.fail(Some(Call::Write), 0, ErrorKind::StorageFull);
    rig.disk.fail(Some(Call::Write), 0, ErrorKind::Other);
    let refused = opened.writers[0].append(admitted(1..2, 50)).unwrap_err();
    let cut_back = matches!(&refused, AppendError::Poisoned { cause: PoisonCause::CutBack(_), .. });
    assert!(cut_back, "{refused}");
}

#[test]
fn a_failed_sync_poisons_for_good_and_is_never_retried() {
    for seed in 0..50 {
        let mut rig = Rig::new(seed, 1);
        let (mut opened, _) = rig.open();
        append(&mut opened, 0..1);
        rig.disk.fail(Some(Call::Sync), 0, ErrorKind::Other);
        let refused = opened.writers[0].append(admitted(1..2, 50)).unwrap_err();
        assert!(matches!(
            &refused,
            AppendError::Poisoned { batch, cause: PoisonCause::Sync(_) } if batch.len() == 1
        ));
        let (_, calls) = rig.disk.trace();
        let again = opened.writers[0].append(admitted(2..3, 50)).unwrap_err();
        assert!(matches!(again, AppendError::Poisoned { .. }));
        assert_eq!(rig.disk.trace().1, calls, "a poisoned writer touched the disk");
        assert!(opened.writers[0].stream().is_poisoned());
        drop(opened);
        // The process restarts, shows readers what the cache holds, and only then power goes.
        let (reopened, shown) = rig.open();
        drop(reopened);
        rig.crash();
        assert_eq!(rig.open().1.records, shown.records, "a shown record was lost");
    }
}

#[test]
fn a_batch_larger_than_a_segment_comes_back_untouched() {
    let rig = Rig::new(3, 1);
    let (mut opened, _) = rig.open();
    let refused = opened.writers[0].append(admitted(0..2, 4000)).unwrap_err();
    assert!(matches!(&refused, AppendError::TooLarge { batch, .. } if batch.len() == 2));
    assert_eq!(append(&mut opened, 0..1).first(), Sequence::FIRST);
}

#[test]
fn a_follower_sees_every_record_once_in_order_though_its_mailbox_overflowed() {
    let rig = Rig::new(3, 1);
    let (mut opened, _) = rig.open();
    append(&mut opened, 0..2);
    let mut follower = opened.writers[0].stream().follow(Sequence(2));
    let batches = MAILBOX_BATCHES_MAX as u64 * 3;
    for id in 1..batches {
        append(&mut opened, id * 2..id * 2 + 2);
    }
    let mut seen = Vec::new();
    while !follower.caught_up() {
        let batch = follower.next_blocking().unwrap().unwrap();
        assert_eq!(batch.journaled()[0].sequence(), batch.first());
        seen.extend(ids(&batch));
    }
    assert_eq!(seen, (1..batches * 2).collect::<Vec<_>>());
    append(&mut opened, 7000..7001);
    assert_eq!(ids(&follower.next_blocking().unwrap().unwrap()), [7000]);
    opened.writers.clear();
    assert!(follower.next_blocking().unwrap().is_none());
}

#[test]
fn a_follower_of_a_stream_without_further_traffic_finds_the_tail() {
    let rig = Rig::new(3, 1);
    let (mut opened, _) = rig.open();
    let stream = Arc::clone(opened.writers[0].stream());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let mut seen_by = Vec::new();
    for blocking in [true, false] {
        let mut follower = stream.follow(Sequence::FIRST);
        let mut seen = Vec::new();
        seen_by.push(runtime.spawn(async move {
            if blocking {
                let read = move || {
                    while let Some(batch) = follower.next_blocking().unwrap() {
                        seen.extend(ids(&batch));
                    }
                    seen
                };
                return tokio::task::spawn_blocking(read).await.unwrap();
            }
            while let Some(batch) = follower.next().await.unwrap() {
                seen.extend(ids(&batch));
            }
            seen
        }));
    }
    for id in 0..3000 {
        append(&mut opened, id..id + 1);
    }
    opened.writers.clear();
    for seen in seen_by {
        assert_eq!(runtime.block_on(seen).unwrap(), (0..3000).collect::<Vec<_>>());
    }
}

#[test]
fn a_changed_shard_count_keeps_former_generations_until_they_are_trimmed() {
    let mut rig = Rig::new(3, 1);
    let (mut opened, _) = rig.open();
    for id in 0..60 {
        append(&mut opened, id..id + 1);
    }
    drop(opened);
    rig.config.shards = 2;
    let (mut opened, seen) = rig.open();
    assert_eq!(seen.ids(stream(1, 0)), (0..60).collect::<Vec<_>>());
    let order: Vec<_> = opened.journal.streams().iter().map(|stream| stream.id()).collect();
    assert_eq!(order, [stream(1, 0), stream(2, 0), stream(2, 1)]);
    assert_eq!(append(&mut opened, 100..101).stream(), stream(2, 0));
    let former = Arc::clone(&opened.journal.streams()[0]);
    let mut follower = former.follow(Sequence::FIRST);
    let mut read = Vec::new();
    while let Some(batch) = follower.next_blocking().unwrap() {
        read.extend(ids(&batch));
    }
    assert_eq!(read, (0..60).collect::<Vec<_>>());
    drop(opened);
    let (opened, _) = rig.open();
    opened.journal.streams()[0].trim(Sequence(61));
    assert!(opened.journal.streams()[0].check_position(Sequence(61)).is_ok());
    rig.clock.advance(NONCE_LIFE);
    opened.journal.work();
    assert!(!rig.disk.dirs().contains(&PathBuf::from("data/journal/g000001-001")));
    drop(opened);
    assert_eq!(rig.open().0.journal.streams()[0].id(), stream(2, 0));
}

#[test]
fn trimming_saves_the_nonces_that_are_still_valid() {
    let mut rig = Rig::new(3, 1);
    let (mut opened, _) = rig.open();
    for id in 0..60 {
        append(&mut opened, id..id + 1);
    }
    let before = rig.metrics.bytes.get();
    opened.writers[0].stream().trim(Sequence(61));
    assert!(rig.metrics.bytes.get() < before);
    let first = opened.writers[0].stream().first();
    assert!(first > Sequence(30) && first < Sequence(61), "{first}");
    drop(opened);
    rig.crash();
    let (opened, seen) = rig.open();
    assert_eq!(seen.nonces, (0..first.0 - 1).collect::<Vec<_>>());
    assert_eq!(seen.ids(stream(1, 0)), (first.0 - 1..60).collect::<Vec<_>>());
    let stream = opened.writers[0].stream();
    assert!(matches!(stream.check_position(Sequence(1)), Err(JournalError::Trimmed { .. })));
    assert!(matches!(stream.check_position(Sequence(62)), Err(JournalError::BeyondTail { .. })));
    assert!(stream.check_position(Sequence(61)).is_ok());
    rig.clock.advance(NONCE_LIFE);
    opened.journal.work();
    let nonces = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "nonces");
    assert!(!rig.disk.paths().iter().any(nonces));
}

#[test]
fn a_crash_after_a_trim_never_leaves_a_gap() {
    for seed in 0..50 {
        let mut rig = Rig::new(seed, 1);
        let (mut opened, _) = rig.open();
        for id in 0..80 {
            append(&mut opened, id..id + 1);
        }
        rig.clock.advance(NONCE_LIFE);
        opened.writers[0].stream().trim(Sequence(81));
        drop(opened);
        rig.crash();
        let (mut opened, seen) = rig.open();
        assert_eq!(seen.ids(stream(1, 0)).last(), Some(&79));
        assert_eq!(append(&mut opened, 80..81).first(), Sequence(81));
    }
}

#[test]
fn the_real_disk_with_its_keeper_thread_keeps_what_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(3, 2);
    let config =
        Config { segment_bytes: 8 * 1024 * 1024, ..Config::new(dir.path().join("journal"), 2) };
    let environment =
        Environment { storage: Arc::new(Disk), salts: system_salts(), ..rig.environment() };
    let mut opened = Journal::open(&config, &environment, &mut Seen::default()).unwrap();
    for id in 0..100 {
        opened.writers[1].append(admitted(id * 4..id * 4 + 4, 60_000)).unwrap();
    }
    opened.writers[1].stream().trim(Sequence(300));
    drop(opened);
    let mut seen = Seen::default();
    let opened = Journal::open(&config, &environment, &mut seen).unwrap();
    assert_eq!(seen.ids(stream(1, 1)).last(), Some(&399));
    assert_eq!(opened.writers[1].stream().tail(), Sequence(401));
    assert_eq!(opened.recovered.torn, []);
    assert!(seen.progress.0 > 0 && seen.progress.0 == seen.progress.1);
}
