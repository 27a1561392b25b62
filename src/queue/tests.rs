use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::admission::NonceMark;
use crate::clock::UnixMillis;
use crate::message::{Message, MessageId, Payload};
use crate::metering::Registry;

const SOON: Duration = Duration::from_millis(1);

fn queue(slots: usize) -> (Queue, Intake) {
    let metrics = QueueMetrics::new(&Registry::new(), 1).unwrap();
    let (queue, mut intakes) = Queue::new(Config { slots, shards: 1 }, &metrics);
    (queue, intakes.pop().unwrap())
}

fn admitted(id: u128) -> Admitted {
    let message = Message {
        id: MessageId::from_u128(id),
        instance: InstanceId::parse("post-cn-1").unwrap(),
        topic: Topic::parse("TopicA").unwrap(),
        payload: Payload::new(Bytes::new()).unwrap(),
        admitted_at: UnixMillis(0),
    };
    let nonce = NonceMark { access_key: 0, fingerprint: 0, expires_at: UnixMillis(0) };
    Admitted::untested(message, nonce)
}

struct Proof(u128);

impl Durable for Proof {
    fn message_id(&self) -> MessageId {
        MessageId::from_u128(self.0)
    }
}

fn settled(receipt: Receipt) -> Result<u128, Unstored> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(receipt).map(|stored| stored.message_id().to_u128())
}

#[test]
fn messages_come_out_in_order_and_receipts_know_their_own() {
    let (queue, intake) = queue(8);
    let receipts: Vec<_> =
        (0..8).map(|id| queue.reserve_in(0).unwrap().push(admitted(id))).collect();
    for id in 0..8 {
        let pending = intake.take().unwrap();
        assert_eq!(pending.admitted.message().id.to_u128(), id);
        pending.ticket.settle(&Proof(id));
    }
    for (id, receipt) in (0..).zip(receipts) {
        assert_eq!(settled(receipt), Ok(id));
    }
}

#[test]
fn a_slot_is_given_back_when_it_is_dropped_or_its_message_taken() {
    let (queue, intake) = queue(2);
    let held = queue.reserve_in(0).unwrap();
    let _receipt = queue.reserve_in(0).unwrap().push(admitted(1));
    assert_eq!(queue.reserve_in(0).err(), Some(Full::Slots));
    drop(held);
    assert!(queue.reserve_in(0).is_ok());
    let again = queue.reserve_in(0).unwrap();
    assert_eq!(queue.reserve_in(0).err(), Some(Full::Slots));
    assert!(intake.take().is_some());
    assert!(queue.reserve_in(0).is_ok());
    drop(again);
}

#[test]
fn a_closed_queue_refuses_and_ends_only_when_what_it_holds_was_taken() {
    let (queue, intake) = queue(4);
    let reserved = queue.reserve_in(0).unwrap();
    queue.close();
    assert_eq!(queue.reserve_in(0).err(), Some(Full::Closed));
    assert!(matches!(intake.wait(SOON), Ok(None)), "a reserved message may still come");
    let _receipt = reserved.push(admitted(1));
    assert!(matches!(intake.wait(SOON), Ok(Some(_))));
    assert_eq!(intake.wait(SOON).err(), Some(Gone), "though the queue itself still lives");
}

#[test]
fn a_full_backlog_refuses_until_it_is_not() {
    let (queue, _intake) = queue(4);
    queue.backlog_gate().set_full(true);
    assert_eq!(queue.reserve_in(0).err(), Some(Full::Backlog));
    queue.backlog_gate().set_full(false);
    assert!(queue.reserve_in(0).is_ok());
}

#[test]
fn a_ticket_dropped_unsettled_says_that_nobody_knows() {
    let (queue, intake) = queue(4);
    let receipt = queue.reserve_in(0).unwrap().push(admitted(1));
    drop(intake.take());
    assert_eq!(settled(receipt), Err(Unstored::Unknown));
    drop(intake);
    let late = queue.reserve_in(0).unwrap().push(admitted(2));
    assert_eq!(settled(late), Err(Unstored::Poisoned), "a shard that is gone stores nothing");
}

#[test]
fn a_topic_keeps_its_shard_for_good() {
    let instance = InstanceId::parse("post-cn-0pp12gl0001").unwrap();
    let shard = |topic: &str, shards| shard_of(&instance, &Topic::parse(topic).unwrap(), shards);
    // Pinned: a topic that moved between restarts would lose its order.
    let pinned: Vec<_> = (0..8).map(|n| shard(&format!("TopicA/{n}"), 4)).collect();
    assert_eq!(pinned, PINNED);
    assert!((0..100).all(|n| shard(&format!("TopicA/{n}"), 1) == 0));
}

const PINNED: [usize; 8] = [0, 2, 1, 3, 2, 0, 3, 3];
