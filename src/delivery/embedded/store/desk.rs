//! What waits to be written, and what of the written is still needed. No disk and no task in here.
//!
//! A copy that is done before its transaction began was never written: put and taken back here, it
//! costs a connected device nothing but memory for a moment.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::rows::{Body, Copy, Retained, SessionKey, SessionRow, Subscription};

/// What a row that waits to be written costs in memory beside a body, in bytes; to be changed or
/// removed as well.
const ROW_BYTES: usize = 256;

/// A copy's place: its session, and its number in the order of all copies.
pub(super) type Place = (SessionKey, u64);

/// What one transaction writes. Each row is named once, so its parts may come in any order.
#[derive(Default)]
pub(super) struct Batch {
    /// `None` ends a session, and all that is its own.
    pub(super) sessions: BTreeMap<SessionKey, Option<SessionRow>>,
    pub(super) subscriptions: BTreeMap<(SessionKey, String), Option<Subscription>>,
    pub(super) bodies: BTreeMap<u64, Arc<Body>>,
    pub(super) bodies_gone: BTreeSet<u64>,
    pub(super) copies: BTreeMap<Place, (u64, Copy)>,
    pub(super) copies_gone: BTreeSet<Place>,
    /// Packet ids of copies that were written before.
    pub(super) packets: BTreeMap<Place, u16>,
    pub(super) retained: BTreeMap<(String, String), Option<Retained>>,
    /// Writes down that weir was here.
    pub(super) seen: bool,
    /// Of the bodies, those of retained messages among them.
    body_bytes: usize,
}

impl Batch {
    /// Nothing to write, or nothing but what may be written later.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
            && self.subscriptions.is_empty()
            && self.bodies_gone.is_empty()
            && self.copies.is_empty()
            && self.copies_gone.is_empty()
            && self.packets.is_empty()
            && self.retained.is_empty()
            && !self.seen
    }

    /// What it takes in memory, nearly.
    pub(super) fn bytes(&self) -> usize {
        let rows = self.sessions.len()
            + self.subscriptions.len()
            + self.bodies.len()
            + self.bodies_gone.len()
            + self.copies.len()
            + self.copies_gone.len()
            + self.packets.len()
            + self.retained.len();
        self.body_bytes + rows * ROW_BYTES
    }

    fn forget(&mut self, session: SessionKey) {
        let copies = (session, 0)..=(session, u64::MAX);
        self.copies.extract_if(copies.clone(), |_, _| true).for_each(drop);
        self.copies_gone.extract_if(copies.clone(), |_| true).for_each(drop);
        self.packets.extract_if(copies, |_, _| true).for_each(drop);
        let filters = (session, String::new())..(SessionKey(session.0 + 1), String::new());
        self.subscriptions.extract_if(filters, |_, _| true).for_each(drop);
    }
}

/// The open batch, and an index of everything that is stored or about to be.
pub(super) struct Desk {
    open: Batch,
    next: u64,
    sessions: HashMap<SessionKey, BTreeMap<u64, u64>>,
    /// How many copies need a body.
    bodies: HashMap<u64, usize>,
}

impl Desk {
    /// An empty one; `next` is greater than every number in the file.
    pub(super) fn new(next: u64) -> Self {
        Self { open: Batch::default(), next, sessions: HashMap::new(), bodies: HashMap::new() }
    }

    pub(super) const fn open(&self) -> &Batch {
        &self.open
    }

    /// What is to be written next; a new batch begins.
    pub(super) fn take(&mut self) -> Batch {
        std::mem::take(&mut self.open)
    }

    pub(super) fn has_sessions(&self) -> bool {
        !self.sessions.is_empty()
    }

    pub(super) const fn see(&mut self) {
        self.open.seen = true;
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    pub(super) fn create(&mut self, row: SessionRow) -> SessionKey {
        let key = SessionKey(self.number());
        self.sessions.insert(key, BTreeMap::new());
        self.write_session(key, Some(row));
        key
    }

    /// A session that the file holds already.
    pub(super) fn adopt_session(&mut self, key: SessionKey) {
        self.sessions.insert(key, BTreeMap::new());
    }

    /// A copy that the file holds already.
    pub(super) fn adopt_copy(&mut self, (session, number): Place, body: u64) {
        self.sessions.entry(session).or_default().insert(number, body);
        *self.bodies.entry(body).or_default() += 1;
    }

    /// False if the session has ended.
    pub(super) fn update(&mut self, key: SessionKey, row: SessionRow) -> bool {
        let lives = self.sessions.contains_key(&key);
        if lives {
            self.write_session(key, Some(row));
        }
        lives
    }

    fn write_session(&mut self, key: SessionKey, row: Option<SessionRow>) {
        self.open.sessions.insert(key, row);
    }

    /// Ends a session; how many copies went with it.
    pub(super) fn end(&mut self, key: SessionKey) -> usize {
        let Some(copies) = self.sessions.remove(&key) else { return 0 };
        self.open.forget(key);
        for body in copies.values() {
            self.release(*body);
        }
        self.write_session(key, None);
        copies.len()
    }

    pub(super) fn subscribe(&mut self, key: SessionKey, filter: &str, to: Option<Subscription>) {
        if self.sessions.contains_key(&key) {
            self.open.subscriptions.insert((key, filter.to_owned()), to);
        }
    }

    /// Stores a copy of a body that has this number already, if it is still needed; else of a new
    /// one. Returns the copy's number and the body's; `None` if the session has ended.
    pub(super) fn keep(
        &mut self,
        key: SessionKey,
        number: Option<u64>,
        body: &Arc<Body>,
        copy: Copy,
    ) -> Option<(u64, u64)> {
        let place = self.number();
        let copies = self.sessions.get_mut(&key)?;
        let body_number = number.filter(|number| self.bodies.contains_key(number)).unwrap_or(place);
        copies.insert(place, body_number);
        *self.bodies.entry(body_number).or_insert_with(|| {
            self.open.bodies.insert(body_number, Arc::clone(body));
            self.open.body_bytes += body.bytes();
            0
        }) += 1;
        self.open.copies.insert((key, place), (body_number, copy));
        Some((place, body_number))
    }

    /// The number that ends in these 32 bits: far fewer are given in the life of a session.
    fn place(&self, key: SessionKey, tag: u32) -> Place {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is compared")]
        let ago = (self.next as u32).wrapping_sub(tag);
        (key, self.next.saturating_sub(u64::from(ago)))
    }

    pub(super) fn holds(&self, key: SessionKey, tag: u32) -> bool {
        let (_, number) = self.place(key, tag);
        self.sessions.get(&key).is_some_and(|copies| copies.contains_key(&number))
    }

    /// A copy is not needed any more: acknowledged, or dropped. False if it is not here.
    pub(super) fn done(&mut self, key: SessionKey, tag: u32) -> bool {
        let place = self.place(key, tag);
        let Some(copies) = self.sessions.get_mut(&key) else { return false };
        let Some(body) = copies.remove(&place.1) else { return false };
        if self.open.copies.remove(&place).is_none() {
            self.open.packets.remove(&place);
            self.open.copies_gone.insert(place);
        }
        self.release(body);
        true
    }

    /// Writes down with which packet id a copy is sent.
    pub(super) fn sent(&mut self, key: SessionKey, tag: u32, packet: u16) {
        let place = self.place(key, tag);
        if let Some((_, copy)) = self.open.copies.get_mut(&place) {
            copy.packet = packet;
        } else if self.sessions.get(&key).is_some_and(|copies| copies.contains_key(&place.1)) {
            self.open.packets.insert(place, packet);
        }
    }

    fn release(&mut self, number: u64) {
        let Some(copies) = self.bodies.get_mut(&number) else { return };
        *copies -= 1;
        if *copies > 0 {
            return;
        }
        self.bodies.remove(&number);
        if let Some(body) = self.open.bodies.remove(&number) {
            self.open.body_bytes -= body.bytes();
        } else {
            self.open.bodies_gone.insert(number);
        }
    }

    pub(super) fn retain(&mut self, instance: &str, topic: &str, message: Option<Retained>) {
        let bytes = |row: &Option<Retained>| row.as_ref().map_or(0, |row| row.body.bytes());
        self.open.body_bytes += bytes(&message);
        let row = (instance.to_owned(), topic.to_owned());
        if let Some(former) = self.open.retained.insert(row, message) {
            self.open.body_bytes -= bytes(&former);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use rmqtt::types::QoS;

    use super::*;
    use crate::clock::UnixMillis;

    fn row() -> SessionRow {
        SessionRow {
            instance: "post-cn-a".into(),
            client: "c".into(),
            is_v5: false,
            expiry: std::time::Duration::from_secs(60),
            created: UnixMillis(1),
            away: None,
            sent_before: 0,
        }
    }

    fn body() -> Arc<Body> {
        Arc::new(Body {
            topic: "TopicA".into(),
            payload: Bytes::from_static(b"payload"),
            properties: rmqtt::codec::v5::PublishProperties::default(),
            created: 1,
        })
    }

    fn copy() -> Copy {
        Copy { qos: QoS::AtLeastOnce, retain: false, packet: 0, subscription_ids: vec![] }
    }

    fn tag(place: u64) -> u32 {
        u32::try_from(place & u64::from(u32::MAX)).unwrap()
    }

    #[test]
    fn a_copy_that_is_done_before_it_was_written_is_never_written() {
        let mut desk = Desk::new(1);
        let session = desk.create(row());
        desk.take();
        let (place, _) = desk.keep(session, None, &body(), copy()).unwrap();
        assert!(!desk.open().is_empty());
        assert!(desk.done(session, tag(place)));
        assert!(desk.open().is_empty() && desk.open().bodies.is_empty());
        assert_eq!(desk.open().bytes(), 0);
        assert!(!desk.done(session, tag(place)), "only once");
    }

    #[test]
    fn a_copy_that_was_written_is_removed_with_its_body_once_no_other_needs_it() {
        let mut desk = Desk::new(1);
        let (one, two) = (desk.create(row()), desk.create(row()));
        let (first, shared) = desk.keep(one, None, &body(), copy()).unwrap();
        let (second, same) = desk.keep(two, Some(shared), &body(), copy()).unwrap();
        assert_eq!(shared, same);
        assert_eq!(desk.take().bodies.len(), 1);
        desk.done(one, tag(first));
        assert!(desk.open().bodies_gone.is_empty(), "the other needs it");
        desk.done(two, tag(second));
        let batch = desk.take();
        assert_eq!(batch.bodies_gone, BTreeSet::from([shared]));
        assert_eq!(batch.copies_gone, BTreeSet::from([(one, first), (two, second)]));
    }

    #[test]
    fn a_session_that_ends_takes_what_waits_to_be_written_with_it() {
        let mut desk = Desk::new(1);
        let (one, two) = (desk.create(row()), desk.create(row()));
        let [gone, sent] = [(); 2].map(|()| desk.keep(one, None, &body(), copy()).unwrap().0);
        desk.take();
        for session in [one, two, one] {
            desk.keep(session, None, &body(), copy()).unwrap();
        }
        desk.done(one, tag(gone));
        desk.sent(one, tag(sent), 9);
        for session in [one, two] {
            desk.subscribe(session, "a/#", None);
        }
        assert_eq!(desk.end(one), 3);
        let batch = desk.take();
        assert_eq!(batch.sessions, BTreeMap::from([(one, None)]));
        assert_eq!((batch.copies.len(), batch.bodies.len()), (1, 1));
        assert!(batch.copies_gone.is_empty() && batch.packets.is_empty());
        let filters: Vec<_> = batch.subscriptions.into_keys().collect();
        assert_eq!(filters, [(two, "a/#".to_owned())]);
        assert_eq!(desk.keep(one, None, &body(), copy()), None);
        assert_eq!(desk.end(one), 0);
    }

    #[test]
    fn a_tag_finds_its_copy_where_the_numbers_pass_32_bits() {
        let mut desk = Desk::new(u64::from(u32::MAX) - 3);
        let session = desk.create(row());
        let places: Vec<u64> =
            (0..6).map(|_| desk.keep(session, None, &body(), copy()).unwrap().0).collect();
        for place in places {
            assert!(desk.holds(session, tag(place)), "{place}");
            desk.sent(session, tag(place), 9);
            assert_eq!(desk.open().copies[&(session, place)].1.packet, 9);
            assert!(desk.done(session, tag(place)), "{place}");
        }
        assert!(desk.open().copies.is_empty());
    }

    proptest! {
        #[test]
        fn the_bytes_of_a_batch_are_those_of_its_rows(
            steps in prop::collection::vec((0..8u8, 0..3usize), 0..60)
        ) {
            let mut desk = Desk::new(1);
            let sessions = [(); 3].map(|()| desk.create(row()));
            let mut places = vec![];
            for (step, of) in steps {
                let session = sessions[of];
                match step {
                    0 | 1 => {
                        let body_number = places.last().map(|(_, _, body)| *body);
                        let kept = desk.keep(session, body_number, &body(), copy());
                        places.extend(kept.map(|(place, body)| (session, place, body)));
                    }
                    2 => { if let Some((session, place, _)) = places.pop() {
                        desk.done(session, tag(place));
                    } }
                    3 => desk.subscribe(session, "a", None),
                    4 => { desk.end(session); }
                    5 => { if let Some((session, place, _)) = places.last() {
                        desk.sent(*session, tag(*place), 9);
                    } }
                    6 => desk.retain("post-cn-a", "a", (of > 0).then(|| Retained {
                        body: (*body()).clone(),
                        qos: QoS::AtLeastOnce,
                        publisher: "c".into(),
                    })),
                    _ => { desk.take(); }
                }
                let batch = desk.open();
                let rows = batch.sessions.len() + batch.subscriptions.len() + batch.copies.len()
                    + batch.copies_gone.len() + batch.packets.len() + batch.bodies.len()
                    + batch.bodies_gone.len() + batch.retained.len();
                let kept = batch.retained.values().flatten().count();
                let bodies = (batch.bodies.len() + kept) * body().bytes();
                prop_assert_eq!(batch.bytes(), rows * ROW_BYTES + bodies);
            }
        }
    }
}
