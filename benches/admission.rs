//! What it costs to admit one call, by signature version: examine, charge, and forget again.

use std::hint::black_box;

use criterion::{BatchSize, Criterion};
use http::HeaderMap;

use crate::support;

pub(crate) fn admit(criterion: &mut Criterion) {
    let admission = support::admission();
    let mut nonce = 0_u64;
    let mut group = criterion.benchmark_group("admission");
    group.bench_function("v1", |bencher| {
        let headers = HeaderMap::new();
        let setup = || {
            nonce += 1;
            support::v1(nonce)
        };
        let admit = |query| {
            let examined = admission.examine(&support::call(query, &headers)).unwrap();
            black_box(admission.charge(examined).unwrap());
        };
        bencher.iter_batched(setup, admit, BatchSize::SmallInput);
    });
    group.bench_function("v3", |bencher| {
        let setup = || {
            nonce += 1;
            (support::v3(nonce, "127.0.0.1:8080"), support::fields())
        };
        let admit = |(headers, query): (HeaderMap, _)| {
            let examined = admission.examine(&support::call(query, &headers)).unwrap();
            black_box(admission.charge(examined).unwrap());
        };
        bencher.iter_batched(setup, admit, BatchSize::SmallInput);
    });
    group.finish();
}
