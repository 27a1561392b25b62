//! The whole back of weir, from the queue to the broker, on a cruel disk: random sends, turns,
//! folds, deliveries, saves, trims, restarts and power cuts, with faults at every call and flipped
//! bits, compared with a reference after each start.
//!
//! `WEIR_MODEL_SEEDS` sets how many seeds are run; `WEIR_MODEL_SEED` runs one.

mod reference;
mod world;

use world::{Ran, World};

const SEEDS: u64 = 1_000;
const STEPS: usize = 100;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable} is {text}: {error}")))
}

/// Runs one seed.
fn run(seed: u64) -> Ran {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.finish()
}

fn run_named(seed: u64) -> Ran {
    std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|why| {
        let text = why.downcast_ref::<String>().map_or("see above", String::as_str);
        panic!("WEIR_MODEL_SEED={seed}: {text}")
    })
}

fn add(a: Ran, b: Ran) -> Ran {
    Ran {
        trace: a.trace ^ b.trace,
        calls: a.calls + b.calls,
        acknowledged: a.acknowledged + b.acknowledged,
        adopted: a.adopted + b.adopted,
        trimmed: a.trimmed + b.trimmed,
    }
}

#[test]
fn whatever_happens_a_start_finds_what_was_acknowledged_billed_once_and_delivered() {
    if let Some(seed) = number("WEIR_MODEL_SEED") {
        println!("seed {seed}: {:?}", run(seed));
        return;
    }
    let seeds = number("WEIR_MODEL_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let all = std::thread::scope(|scope| {
        let part = |thread| {
            let mine = (thread..seeds).step_by(threads);
            scope.spawn(|| mine.map(run_named).fold(Ran::default(), add))
        };
        let parts: Vec<_> = (0..threads as u64).map(part).collect();
        let ended = parts.into_iter().map(|part| part.join());
        ended
            .map(|ran| ran.unwrap_or_else(|why| std::panic::resume_unwind(why)))
            .fold(Ran::default(), add)
    });
    println!("{seeds} seeds: {all:?}");
    let does_enough = all.acknowledged > seeds * 20 && all.adopted > seeds / 100;
    assert!(does_enough && all.trimmed > seeds / 10, "the model does too little: {all:?}");
}

#[test]
fn one_seed_repeats_a_run_of_the_whole_call_by_call() {
    for seed in [3, 42, 617] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(3).trace, run(42).trace, "seeds differ");
}
