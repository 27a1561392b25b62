//! A fold of 250 ms at 100,000 messages a second, and a month of 100 instances by the day.

use criterion::{Criterion, Throughput};
use weir::clock::UnixMillis;
use weir::journal::{Sequence, StreamId};
use weir::ledger::{FILE, Fold, Ledger, Query, Reader};
use weir::message::InstanceId;

const STREAM: StreamId = StreamId { generation: 1, shard: 0 };
const INSTANCES: u64 = 100;
const MESSAGES: usize = 25_000;
const HOURS: u64 = 30 * 24;

fn instances() -> Vec<InstanceId> {
    (0..INSTANCES).map(|n| InstanceId::parse(&format!("post-cn-bench{n:06}")).unwrap()).collect()
}

pub(crate) fn fold(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(&folder.path().join(FILE)).unwrap();
    let instances = instances();
    let (mut sequence, mut now) = (1, 0);
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    group.bench_function("fold and commit 25,000 messages of 100 instances", |bencher| {
        bencher.iter(|| {
            let mut fold = Fold::default();
            for instance in instances.iter().cycle().take(MESSAGES) {
                fold.add(STREAM, Sequence(sequence), instance, UnixMillis(now));
                sequence += 1;
            }
            ledger.commit(&fold, UnixMillis(now)).unwrap();
            now += 250;
        });
    });
    group.finish();
}

pub(crate) fn month(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    fill(&path);
    let reader = Reader::new(folder.path());
    let mut group = criterion.benchmark_group("ledger");
    group.sample_size(10);
    for by in ["day", "hour", "minute"] {
        let query = Query::parse(None, None, Some(by), None).unwrap();
        group.bench_function(format!("a month of 100 instances by {by}"), |bencher| {
            bencher.iter(|| reader.usage(&query).unwrap());
        });
    }
    group.bench_function("verify a month of 100 instances", |bencher| {
        bencher.iter(|| reader.verify().unwrap());
    });
    group.finish();
}

/// 4.3 million minute rows, folded and closed by the ledger itself.
fn fill(path: &std::path::Path) {
    let mut ledger = Ledger::open(path).unwrap();
    let instances = instances();
    let mut sequence = 1;
    for hour in 0..HOURS {
        let mut fold = Fold::default();
        for minute in 0..60 {
            for instance in &instances {
                let at = UnixMillis((hour * 60 + minute) * 60_000);
                fold.add(STREAM, Sequence(sequence), instance, at);
                sequence += 1;
            }
        }
        ledger.commit(&fold, UnixMillis(hour * 3_600_000)).unwrap();
        assert!(ledger.close_one(UnixMillis((hour + 1) * 3_600_000)).unwrap());
    }
}
