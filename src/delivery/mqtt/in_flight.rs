use std::collections::{HashSet, VecDeque};

/// Connections a broker may close on one message, sent alone, before it is given up.
pub(super) const STRIKES_MAX: u32 = 5;
/// Messages that are given up without one acknowledged in between: a broker that closes on more of
/// them closes on everything, and then it is the broker that ails.
pub(super) const CONDEMNED_MESSAGES_MAX: u32 = 2;
/// After a connection is lost on many messages, this share of them is sent at a time, until all of
/// them are settled: the one the broker cannot stand is soon alone.
const NARROWED_TO: usize = 8;

/// What the broker has not acknowledged: what is to be sent, in order, and what is on its way.
///
/// Never: sends a message before an older one that has to be sent again.
pub(super) struct InFlight<T> {
    waiting: VecDeque<Held<T>>,
    sent: VecDeque<Sent<T>>,
    taken_ids: HashSet<u16>,
    last_id: u16,
    next_order: u64,
    narrowed: Option<Narrowed>,
    /// Messages given up since the broker acknowledged one.
    condemned: u32,
}

struct Held<T> {
    order: u64,
    strikes: u32,
    item: T,
}

struct Sent<T> {
    id: u16,
    held: Held<T>,
}

/// Fewer at a time, while `left` messages are not settled.
#[derive(Clone, Copy)]
struct Narrowed {
    limit: usize,
    left: usize,
}

/// What a lost connection means for what was on its way.
pub(super) struct Rewound<T> {
    /// Messages that were on their way; the broker may have them.
    pub(super) again: usize,
    /// The message the broker closed the connection on, too often.
    pub(super) poison: Option<T>,
}

impl<T> InFlight<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            taken_ids: HashSet::new(),
            last_id: 0,
            next_order: 0,
            narrowed: None,
            condemned: 0,
        }
    }

    /// Messages in the table.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.sent.len()
    }

    /// The packet id of the oldest message on its way.
    pub(super) fn oldest_sent(&self) -> Option<u16> {
        self.sent.front().map(|sent| sent.id)
    }

    /// Takes a message in, newer than all others.
    pub(super) fn push(&mut self, item: T) {
        let order = self.next_order;
        self.next_order += 1;
        self.waiting.push_back(Held { order, strikes: 0, item });
    }

    /// The message to be sent next, if one may be while at most `limit` are on their way.
    pub(super) fn next(&self, limit: usize) -> Option<&T> {
        let limit = self.narrowed.map_or(limit, |narrowed| narrowed.limit.min(limit));
        if self.sent.len() >= limit {
            return None;
        }
        self.waiting.front().map(|held| &held.item)
    }

    /// The message [`Self::next`] gave goes out under this packet id.
    pub(super) fn send(&mut self) -> Option<u16> {
        let held = self.waiting.pop_front()?;
        let id = self.free_id();
        self.sent.push_back(Sent { id, held });
        Some(id)
    }

    /// The message [`Self::next`] gave is not to be sent at all.
    pub(super) fn discard(&mut self) -> Option<T> {
        let held = self.waiting.pop_front()?;
        self.widen();
        Some(held.item)
    }

    /// Lets go of messages that are not to be sent at all, wherever they wait.
    pub(super) fn retain(&mut self, wanted: impl Fn(&T) -> bool) {
        // Those to be careful about are the oldest.
        let careful = self.narrowed.map_or(0, |narrowed| narrowed.left);
        let mut careful = careful.saturating_sub(self.sent.len());
        let mut gone = 0;
        self.waiting.retain(|held| {
            let stays = wanted(&held.item);
            gone += usize::from(!stays && careful > 0);
            careful = careful.saturating_sub(1);
            stays
        });
        (0..gone).for_each(|_| self.widen());
    }

    /// The broker has answered for this packet id; none if it was not asked.
    pub(super) fn acknowledge(&mut self, id: u16) -> Option<T> {
        let item = self.take_back(id)?;
        self.condemned = 0;
        Some(item)
    }

    /// The message [`Self::send`] gave this packet id cannot be sent at all.
    pub(super) fn take_back(&mut self, id: u16) -> Option<T> {
        let held = self.take(id)?;
        self.widen();
        Some(held.item)
    }

    /// The broker wants this packet id later: it goes out next, and until it is through nothing
    /// else does. False if the id is not on its way.
    pub(super) fn postpone(&mut self, id: u16) -> bool {
        let Some(held) = self.take(id) else { return false };
        let at = self.waiting.partition_point(|other| other.order < held.order);
        self.waiting.insert(at, held);
        self.narrow(1, self.sent.len() + 1);
        true
    }

    /// The connection is gone. What was on its way goes out again, in the order it came; `blamed`
    /// says that the broker closed it right after a message was sent.
    pub(super) fn rewind(&mut self, blamed: bool) -> Rewound<T> {
        let again = self.sent.len();
        let mut poison = None;
        let mut sent: Vec<_> = self.sent.drain(..).map(|sent| sent.held).collect();
        self.taken_ids.clear();
        match &mut sent[..] {
            // It was closed on nothing at all: that clears the oldest of suspicion.
            [] => self.waiting.front_mut().into_iter().for_each(|held| held.strikes = 0),
            [alone] if blamed => {
                alone.strikes = alone.strikes.saturating_add(1);
                let is_guilty = self.condemned < CONDEMNED_MESSAGES_MAX;
                if is_guilty && alone.strikes >= STRIKES_MAX {
                    self.condemned += 1;
                    poison = sent.pop().map(|held| held.item);
                }
                self.narrow(1, 1);
            }
            [alone] => alone.strikes = 0,
            many if blamed => {
                let limit = self.narrowed.map_or(many.len(), |narrowed| narrowed.limit);
                let left = many.len();
                self.narrow(limit.min(left) / NARROWED_TO, left);
            }
            _ => {}
        }
        self.waiting.extend(sent);
        self.waiting.make_contiguous().sort_unstable_by_key(|held| held.order);
        if poison.is_some() {
            self.widen();
        }
        Rewound { again, poison }
    }

    fn narrow(&mut self, limit: usize, left: usize) {
        let before = self.narrowed.map_or(0, |narrowed| narrowed.left);
        self.narrowed = Some(Narrowed { limit: limit.max(1), left: left.max(before) });
    }

    /// One message less to be careful about.
    fn widen(&mut self) {
        let less = |narrowed: Narrowed| Narrowed { left: narrowed.left - 1, ..narrowed };
        self.narrowed = self.narrowed.map(less).filter(|narrowed| narrowed.left > 0);
    }

    fn take(&mut self, id: u16) -> Option<Held<T>> {
        // A broker acknowledges in order (MQTT 5.0, 4.6): this finds it at the front.
        let at = self.sent.iter().position(|sent| sent.id == id)?;
        self.taken_ids.remove(&id);
        self.sent.remove(at).map(|sent| sent.held)
    }

    /// Ids are used in turn, so that a late acknowledgement does not meet the next message.
    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.taken_ids.insert(self.last_id) {
                return self.last_id;
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/in_flight.rs"]
mod tests;
