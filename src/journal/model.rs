//! Random runs against a model: a list of what was acknowledged and one of what may be there.

use std::io::ErrorKind;

use super::cruel::Call;
use super::dice::Dice;
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

struct Run {
    seed: u64,
    step: usize,
    dice: Dice,
    rig: Rig,
    model: Model,
    opened: Opened,
    follower: Follower,
    next_id: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let rig = Rig::new(seed, 1);
        let (opened, _) = rig.open();
        let follower = opened.writers[0].stream().follow(Sequence::FIRST);
        let (dice, model) = (Dice::new(seed), Model::default());
        Self { seed, step: 0, dice, rig, model, opened, follower, next_id: 0 }
    }

    fn run(mut self) -> (u64, u64) {
        for step in 0..STEPS {
            self.step = step;
            match self.dice.below(10) {
                0..6 => self.append(),
                6 => self.trim(),
                7 => self.opened.journal.work(),
                8 => self.follow(),
                _ => self = self.reopen(),
            }
        }
        self.rig.disk.trace()
    }

    fn append(&mut self) {
        let batch: Vec<_> = (self.next_id..=self.next_id + self.dice.roll() % 8).collect();
        self.next_id += batch.len() as u64;
        if self.dice.one_in(6) {
            let calls = [Call::Write, Call::Sync, Call::SyncDir, Call::Create];
            let kinds = [ErrorKind::StorageFull, ErrorKind::Other];
            let (call, kind) = (calls[self.dice.below(4)], kinds[self.dice.below(2)]);
            self.rig.disk.fail(Some(call), self.dice.below(3), kind);
        }
        let writer = &mut self.opened.writers[0];
        let was_poisoned = writer.stream().is_poisoned();
        match writer.append(admitted(batch.iter().copied(), self.dice.below(200))) {
            Ok(journaled) => {
                assert!(!was_poisoned, "seed {} step {}", self.seed, self.step);
                assert_eq!(ids(&journaled), batch, "seed {} step {}", self.seed, self.step);
                assert_eq!(journaled.first().0, self.model.acknowledged.len() as u64 + 1);
                self.model.acknowledged.extend(&batch);
                writer.hand_on(&journaled);
            }
            Err(AppendError::Poisoned { .. }) if !was_poisoned => self.model.unknown = batch,
            Err(_) => self.model.refused.extend(&batch),
        }
        self.rig.disk.heal();
    }

    fn trim(&mut self) {
        let before = 1 + self.dice.below(self.model.acknowledged.len() + 1) as u64;
        self.model.trimmed = self.model.trimmed.max(before);
        if self.dice.one_in(4) {
            self.rig.disk.fail(None, self.dice.below(8), ErrorKind::Other);
        }
        self.opened.writers[0].stream().trim(Sequence(before));
        self.rig.disk.heal();
    }

    fn follow(&mut self) {
        let position = self.follower.position();
        if !self.follower.caught_up() && position >= self.opened.writers[0].stream().first() {
            let batch = self.follower.next_blocking().unwrap().unwrap();
            let at = usize::try_from(position.0 - 1).unwrap();
            let expected = &self.model.acknowledged[at..];
            assert!(expected.starts_with(&ids(&batch)), "seed {} step {}", self.seed, self.step);
        }
    }

    /// The process ends; then perhaps power goes, perhaps segments have another size from now on.
    fn reopen(self) -> Self {
        let Self { seed, step, mut dice, mut rig, mut model, opened, next_id, .. } = self;
        drop(opened);
        if dice.one_in(3) {
            rig.config.segment_bytes = SEGMENT_BYTES + 8 * dice.below(512) as u64;
        }
        if dice.one_in(2) {
            rig.crash();
        }
        let (opened, seen) = rig.open();
        model.compare(seed, step, seen.records.get(&stream(1, 0)).map_or(&[], Vec::as_slice));
        let follower = opened.writers[0].stream();
        let follower = follower.follow(follower.first());
        Self { seed, step, dice, rig, model, opened, follower, next_id }
    }
}

fn run(seed: u64) -> (u64, u64) {
    Run::new(seed).run()
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
