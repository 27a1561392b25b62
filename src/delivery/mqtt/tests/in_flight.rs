use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{CONDEMNED_MESSAGES_MAX, InFlight, NARROWED_TO, Rewound, STRIKES_MAX};

fn table(items: u32) -> InFlight<u32> {
    let mut table = InFlight::new();
    (0..items).for_each(|item| table.push(item));
    table
}

/// Sends all that may be sent, and says what and under which ids.
fn send_all(table: &mut InFlight<u32>, limit: usize) -> Vec<(u16, u32)> {
    let mut sent = vec![];
    while let Some(item) = table.next(limit).copied() {
        sent.push((table.send().unwrap(), item));
    }
    sent
}

fn items(sent: &[(u16, u32)]) -> Vec<u32> {
    sent.iter().map(|(_, item)| *item).collect()
}

#[test]
fn at_most_the_limit_is_on_its_way() {
    let mut table = table(5);
    let sent = send_all(&mut table, 3);
    assert_eq!(items(&sent), [0, 1, 2]);
    assert_eq!(table.acknowledge(sent[1].0), Some(1));
    assert_eq!(items(&send_all(&mut table, 3)), [3]);
    assert_eq!(table.acknowledge(sent[1].0), None);
}

#[test]
fn what_was_not_acknowledged_goes_out_again_in_its_order_before_anything_newer() {
    let mut table = table(4);
    let sent = send_all(&mut table, 3);
    table.acknowledge(sent[1].0);
    table.push(4);
    let Rewound { again, poison } = table.rewind(false);
    assert_eq!((again, poison), (2, None));
    assert_eq!(items(&send_all(&mut table, 9)), [0, 2, 3, 4]);
}

#[test]
fn an_id_is_not_used_while_it_is_on_its_way() {
    let mut table = table(1);
    let (stays, _) = send_all(&mut table, 1)[0];
    for item in 1..=u32::from(u16::MAX) + 5 {
        table.push(item);
        let (id, sent) = send_all(&mut table, 2)[0];
        assert!(id != stays && id > 0 && sent == item);
        assert_eq!(table.acknowledge(id), Some(item));
    }
    assert_eq!(table.acknowledge(stays), Some(0));
}

#[test]
fn a_postponed_message_goes_out_alone_and_in_its_place() {
    let mut table = table(6);
    let sent = send_all(&mut table, 4);
    assert!(table.postpone(sent[2].0) && table.postpone(sent[1].0));
    assert!(!table.postpone(sent[1].0));
    assert_eq!(items(&send_all(&mut table, 4)), [] as [u32; 0]);
    table.acknowledge(sent[0].0);
    table.acknowledge(sent[3].0);
    let mut order = vec![];
    for _ in 0..2 {
        let alone = send_all(&mut table, 4);
        assert_eq!(alone.len(), 1, "{order:?}");
        order.push(table.acknowledge(alone[0].0).unwrap());
    }
    assert_eq!(order, [1, 2]);
    assert_eq!(items(&send_all(&mut table, 4)), [4, 5]);
}

/// A broker that hangs up on `poison`, and says nothing of what came with it.
fn find_poison(poison: u32, messages: u32, limit: usize) -> (u32, Vec<u32>) {
    let mut table = table(messages);
    let (mut lost, mut through) = (0, vec![]);
    loop {
        let sent = send_all(&mut table, limit);
        if sent.is_empty() {
            return (lost, through);
        }
        if items(&sent).contains(&poison) {
            lost += 1;
            if let Some(found) = table.rewind(true).poison {
                assert_eq!(found, poison);
            }
        } else {
            through.extend(sent.iter().map(|(id, _)| table.acknowledge(*id).unwrap()));
        }
    }
}

#[test]
fn a_message_the_broker_hangs_up_on_is_found_and_no_other_is_given_up() {
    for (poison, messages, limit) in
        [(0, 1, 1), (0, 3_000, 1_000), (999, 3_000, 1_000), (17, 20, 7)]
    {
        let (lost, through) = find_poison(poison, messages, limit);
        let expected: Vec<u32> = (0..messages).filter(|item| *item != poison).collect();
        assert_eq!(through, expected);
        assert!((STRIKES_MAX..=STRIKES_MAX + 4).contains(&lost), "{lost} connections lost");
    }
}

/// Loses so many connections, each on all that may be sent, and says what was given up.
fn hang_up_on_everything(table: &mut InFlight<u32>, connections: u32) -> Vec<u32> {
    let lose = |_| {
        send_all(table, 100);
        table.rewind(true).poison
    };
    (0..connections).filter_map(lose).collect()
}

#[test]
fn a_broker_that_hangs_up_on_everything_makes_few_messages_guilty_and_none_after_those() {
    let mut table = table(300);
    let given_up = hang_up_on_everything(&mut table, STRIKES_MAX * 100);
    assert_eq!(given_up.len(), CONDEMNED_MESSAGES_MAX as usize, "{given_up:?}");
    // It has come back to its senses: what it hangs up on now is to blame again.
    let mut through = vec![];
    while let [(id, item)] = send_all(&mut table, 100)[..] {
        assert_eq!(table.acknowledge(id), Some(item));
        through.push(item);
    }
    assert!(!through.is_empty() && through.is_sorted());
    table.rewind(false);
    let given_up = hang_up_on_everything(&mut table, STRIKES_MAX * 100);
    assert_eq!(given_up.len(), CONDEMNED_MESSAGES_MAX as usize, "{given_up:?}");
}

#[test]
fn a_message_that_cannot_be_sent_says_nothing_about_the_broker() {
    let mut table = table(3);
    let mut given_up = hang_up_on_everything(&mut table, STRIKES_MAX * 10);
    let (id, left) = send_all(&mut table, 100)[0];
    assert_eq!(table.take_back(id), Some(left));
    table.push(3);
    given_up.extend(hang_up_on_everything(&mut table, STRIKES_MAX * 10));
    assert_eq!(given_up, [0, 1]);
}

#[test]
fn a_broker_that_falls_over_by_itself_makes_no_message_guilty() {
    let mut table = table(1);
    for _ in 0..3 {
        for _ in 1..STRIKES_MAX {
            send_all(&mut table, 9);
            assert_eq!(table.rewind(true).poison, None);
        }
        // It falls over with nothing on its way, or in silence.
        assert_eq!(table.rewind(true).again, 0);
        for _ in 1..STRIKES_MAX {
            send_all(&mut table, 9);
            assert_eq!(table.rewind(true).poison, None);
        }
        send_all(&mut table, 9);
        assert_eq!(table.rewind(false).poison, None);
    }
}

#[test]
fn a_lost_connection_narrows_what_goes_out_until_it_is_all_settled() {
    let mut table = table(200);
    send_all(&mut table, 80);
    table.rewind(true);
    let mut settled = 0;
    while settled < 80 {
        let sent = send_all(&mut table, 80);
        assert!(sent.len() <= 80 / NARROWED_TO, "{} after {settled}", sent.len());
        for (id, item) in &sent {
            assert_eq!(table.acknowledge(*id), Some(*item));
        }
        settled += sent.len();
    }
    assert_eq!(send_all(&mut table, 80).len(), 80);
}

#[test]
fn what_is_let_go_of_narrows_nothing_and_nothing_else_is_sent_at_once_for_it() {
    let mut table = table(200);
    send_all(&mut table, 80);
    table.rewind(true);
    table.retain(|item| !(20..150).contains(item));
    let mut settled = vec![];
    while settled.len() < 20 {
        let sent = send_all(&mut table, 80);
        assert!(sent.len() <= 80 / NARROWED_TO, "{} after {settled:?}", sent.len());
        settled.extend(sent.iter().filter_map(|(id, _)| table.acknowledge(*id)));
    }
    let sent = send_all(&mut table, 80);
    assert_eq!((settled.len() + sent.len(), table.len()), (70, sent.len()));
    settled.extend(items(&sent));
    assert_eq!(settled, (0..20).chain(150..200).collect::<Vec<_>>());
}

#[derive(Clone, Debug)]
enum Act {
    Push,
    Send,
    Acknowledge(prop::sample::Index),
    Postpone(prop::sample::Index),
    Discard,
    Withdraw(prop::sample::Index),
    Rewind(bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Push),
        4 => Just(Act::Send),
        3 => any::<prop::sample::Index>().prop_map(Act::Acknowledge),
        1 => any::<prop::sample::Index>().prop_map(Act::Postpone),
        1 => Just(Act::Discard),
        1 => any::<prop::sample::Index>().prop_map(Act::Withdraw),
        1 => any::<bool>().prop_map(Act::Rewind),
    ]
}

proptest! {
    #[test]
    fn no_message_is_lost_settled_twice_or_overtaken(
        limit in 1_usize..6,
        acts in prop::collection::vec(act(), 0..300),
    ) {
        let mut table = InFlight::new();
        let mut pushed = 0_u32;
        let mut open: Vec<(u16, u32)> = vec![];
        let mut left = BTreeSet::new();
        let mut waits = BTreeSet::new();
        for act in acts {
            match act {
                Act::Push => {
                    table.push(pushed);
                    left.insert(pushed);
                    waits.insert(pushed);
                    pushed += 1;
                }
                Act::Send => for (id, item) in send_all(&mut table, limit) {
                    prop_assert_eq!(waits.pop_first(), Some(item), "the oldest goes first");
                    prop_assert!(open.iter().all(|(other, _)| *other != id));
                    open.push((id, item));
                    prop_assert!(open.len() <= limit);
                },
                Act::Acknowledge(which) if !open.is_empty() => {
                    let (id, item) = open.swap_remove(which.index(open.len()));
                    prop_assert_eq!(table.acknowledge(id), Some(item));
                    prop_assert!(left.remove(&item));
                }
                Act::Postpone(which) if !open.is_empty() => {
                    let (id, item) = open.swap_remove(which.index(open.len()));
                    prop_assert!(table.postpone(id));
                    waits.insert(item);
                }
                Act::Discard if table.next(limit).is_some() => {
                    let item = table.discard().unwrap();
                    prop_assert!(waits.remove(&item) && left.remove(&item));
                }
                Act::Withdraw(which) if pushed > 0 => {
                    let item = u32::try_from(which.index(pushed as usize)).unwrap();
                    table.retain(|other| *other != item);
                    if waits.remove(&item) {
                        left.remove(&item);
                    }
                }
                Act::Rewind(blamed) => {
                    let Rewound { again, poison } = table.rewind(blamed);
                    prop_assert_eq!(again, open.len());
                    waits.extend(open.drain(..).map(|(_, item)| item));
                    if let Some(item) = poison {
                        prop_assert!(waits.remove(&item) && left.remove(&item));
                    }
                }
                Act::Acknowledge(_) | Act::Postpone(_) | Act::Discard | Act::Withdraw(_) => {}
            }
            prop_assert_eq!(table.len(), left.len());
        }
        table.rewind(false);
        let mut rest = vec![];
        while let Some((id, item)) = send_all(&mut table, 1).first().copied() {
            table.acknowledge(id);
            rest.push(item);
        }
        prop_assert_eq!(rest, left.into_iter().collect::<Vec<_>>());
    }
}
