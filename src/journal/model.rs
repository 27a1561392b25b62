//! Random runs against a model: a list of what was acknowledged and one of what may be there.

use std::io::ErrorKind;

use super::cruel::{Call, Dice};
use super::testing::*;
use super::*;

const SEEDS: u64 = 300;
const STEPS: usize = 60;

/// What must be and what may be in one stream.
#[derive(Debug, Default)]
struct Model {
    acknowledged: Vec<u64>,
    /// A batch whose append failed in a way that leaves its fate open.
    unknown: Vec<u64>,
    refused: Vec<u64>,
    /// Records before this one were let go.
    trimmed: u64,
}

impl Model {
    fn compare(&mut self, seed: u64, step: usize, records: &[(u64, u64)]) {
        let place = || format!("seed {seed} step {step}");
        let first = records.first().map_or(1, |(sequence, _)| *sequence);
        assert!(first <= self.trimmed.max(1), "{}: {first} > {}", place(), self.trimmed);
        for (&(sequence, id), expected) in records.iter().zip(first..) {
            assert_eq!(sequence, expected, "{}", place());
            assert!(!self.refused.contains(&id), "{}: refused {id} is there", place());
        }
        let found: Vec<_> = records.iter().map(|(_, id)| *id).collect();
        let from = usize::try_from(first - 1).unwrap();
        let known = &self.acknowledged[from.min(self.acknowledged.len())..];
        assert!(found.starts_with(known), "{}: {found:?} lacks {known:?}", place());
        let more = &found[known.len()..];
        assert!(more.is_empty() || more == self.unknown, "{}: {more:?}", place());
        self.acknowledged.extend_from_slice(more);
        self.unknown.clear();
    }
}

fn run(seed: u64) -> (u64, u64) {
    let mut dice = Dice::new(seed);
    let mut rig = Rig::new(seed, 1);
    let mut model = Model::default();
    let (mut opened, _) = rig.open();
    let mut follower = opened.writers[0].stream().follow(Sequence::FIRST);
    let mut next_id = 0;
    for step in 0..STEPS {
        match dice.below(10) {
            0..6 => {
                let batch: Vec<_> = (next_id..next_id + 1 + dice.roll() % 8).collect();
                next_id += batch.len() as u64;
                if dice.one_in(6) {
                    let call = [Call::Write, Call::Sync, Call::SyncDir, Call::Create];
                    let kind =
                        if dice.one_in(2) { ErrorKind::StorageFull } else { ErrorKind::Other };
                    rig.disk.fail(Some(call[dice.below(call.len())]), dice.below(3), kind);
                }
                let payload_bytes = dice.below(200);
                match opened.writers[0].append(admitted(batch.iter().copied(), payload_bytes)) {
                    Ok(journaled) => {
                        assert_eq!(ids(&journaled), batch, "seed {seed} step {step}");
                        assert_eq!(journaled.first().0, model.acknowledged.len() as u64 + 1);
                        model.acknowledged.extend(&batch);
                        opened.writers[0].hand_on(&journaled);
                    }
                    Err(AppendError::Poisoned { .. }) if model.unknown.is_empty() => {
                        model.unknown = batch;
                    }
                    Err(_) => model.refused.extend(&batch),
                }
                rig.disk.heal();
            }
            6 => {
                let before = 1 + dice.below(model.acknowledged.len() + 1) as u64;
                model.trimmed = model.trimmed.max(before);
                if dice.one_in(4) {
                    rig.disk.fail(None, dice.below(8), ErrorKind::Other);
                }
                opened.writers[0].stream().trim(Sequence(before));
                rig.disk.heal();
            }
            7 => opened.journal.work(),
            8 => {
                let position = follower.position();
                if !follower.caught_up() && position >= opened.writers[0].stream().first() {
                    let batch = follower.next_blocking().unwrap().unwrap();
                    let at = usize::try_from(position.0 - 1).unwrap();
                    assert!(model.acknowledged[at..].starts_with(&ids(&batch)), "seed {seed}");
                }
            }
            _ => {
                drop(opened);
                if dice.one_in(3) {
                    rig.config.segment_bytes = SEGMENT_BYTES + 8 * dice.below(512) as u64;
                }
                if dice.one_in(2) {
                    rig.crash();
                }
                let (reopened, seen) = rig.open();
                opened = reopened;
                model.compare(seed, step, seen.records.get(&stream(1, 0)).map_or(&[], |r| r));
                follower = opened.writers[0].stream().follow(opened.writers[0].stream().first());
            }
        }
    }
    rig.disk.trace()
}

#[test]
fn a_journal_holds_what_was_acknowledged_and_never_what_was_refused() {
    for seed in 0..SEEDS {
        run(seed);
    }
}

#[test]
fn one_seed_repeats_a_run_call_by_call() {
    for seed in [1, 42, 77] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
