//! What each stage costs on this machine. `cargo bench -- admission` runs one of them.

#![expect(clippy::unwrap_used, reason = "a bench that cannot run should stop")]

mod admission;
mod end_to_end;
mod journal;
mod ledger;
mod queue;
mod support;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    benches,
    admission::admit,
    queue::round_trip,
    journal::turn,
    ledger::fold,
    ledger::month,
    journal::recover,
    end_to_end::end_to_end
);
criterion_main!(benches);
