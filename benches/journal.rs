//! One turn of the journal on the real disk: encode, write, sync, by messages in the batch.

use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use weir::admission::NonceMark;
use weir::clock::SystemClock;
use weir::journal::{
    Config, Disk, Environment, Journal, Position, Sequence, StreamId, Visitor, system_salts,
};
use weir::message::Message;
use weir::metering::{JournalMetrics, Registry};

use crate::support;

struct Nobody;

impl Visitor for Nobody {
    fn record(&mut self, _: StreamId, _: Sequence, _: &Message, _: NonceMark) {}
    fn nonce(&mut self, _: NonceMark) {}
    fn positions(&mut self, _: StreamId) -> Vec<Position> {
        Vec::new()
    }
    fn progress(&mut self, _: u64, _: u64) {}
}

pub(crate) fn turn(criterion: &mut Criterion) {
    let admission = support::admission();
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in("target").unwrap();
    let environment = environment();
    let config = Config::new(folder.path().join("journal"), 1);
    let mut opened = Journal::open(&config, &environment, &mut Nobody).unwrap();
    let mut writer = opened.writers.remove(0);
    let mut nonce = 0;
    let mut group = criterion.benchmark_group("journal/turn");
    for batch in [1_u64, 16, 64, 256] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
            let setup = || {
                nonce += batch;
                (nonce..nonce + batch).map(|n| support::admitted(&admission, n)).collect()
            };
            let append = |messages| {
                let batch = writer.append(messages).unwrap();
                writer.stream().trim(batch.first());
                batch
            };
            bencher.iter_batched(setup, append, BatchSize::LargeInput);
        });
    }
    group.finish();
}

/// A start over 64 MiB of records of about 200 bytes, 256 a turn.
pub(crate) fn recover(criterion: &mut Criterion) {
    const BYTES: u64 = 64 * 1024 * 1024;
    let admission = support::admission();
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in("target").unwrap();
    let environment = environment();
    let config = Config::new(folder.path().join("journal"), 1);
    let mut opened = Journal::open(&config, &environment, &mut Nobody).unwrap();
    let mut nonce = 1 << 40;
    let mut written = 0;
    while written < BYTES {
        nonce += 256;
        let batch = (nonce - 256..nonce).map(|n| support::admitted(&admission, n)).collect();
        written += opened.writers[0].append(batch).unwrap().bytes() as u64;
    }
    drop(opened);
    let mut group = criterion.benchmark_group("journal/recover");
    group.throughput(Throughput::Bytes(written)).sample_size(10);
    group.bench_function("64 MiB", |bencher| {
        bencher.iter(|| {
            let opened = Journal::open(&config, &environment, &mut Nobody).unwrap();
            assert_eq!(opened.recovered.torn, []);
            opened.recovered.records
        });
    });
    group.finish();
}

fn environment() -> Environment {
    Environment {
        storage: Arc::new(Disk),
        clock: Arc::new(SystemClock),
        metrics: JournalMetrics::new(&Registry::new()).unwrap(),
        salts: system_salts(),
    }
}
