//! Reserve, push, take, settle, and the receipt's way back: the waist without a journal behind it.

use criterion::{BatchSize, Criterion};
use weir::message::MessageId;
use weir::metering::{QueueMetrics, Registry};
use weir::queue::{Config, Durable, Queue};

use crate::support;

struct Proof(MessageId);

impl Durable for Proof {
    fn message_id(&self) -> MessageId {
        self.0
    }
}

pub(crate) fn round_trip(criterion: &mut Criterion) {
    let admission = support::admission();
    let metrics = QueueMetrics::new(&Registry::new(), 1).unwrap();
    let (queue, intakes) = Queue::new(Config { slots: 8_192, shards: 1 }, &metrics);
    let intake = &intakes[0];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut nonce = 0;
    criterion.bench_function("queue/round trip", |bencher| {
        let setup = || {
            nonce += 1;
            support::examined(&admission, nonce)
        };
        let round_trip = |examined| {
            let slot = queue.reserve(&examined).unwrap();
            let receipt = slot.push(admission.charge(examined).unwrap().0);
            let pending = intake.take().unwrap();
            let id = pending.admitted.message().id;
            pending.ticket.settle(&Proof(id));
            runtime.block_on(receipt).unwrap()
        };
        bencher.iter_batched(setup, round_trip, BatchSize::SmallInput);
    });
}
