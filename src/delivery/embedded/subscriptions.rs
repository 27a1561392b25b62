use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use rmqtt::types::{ClientId, Id, Publish, QoS, SubscriptionOptions};

use super::filters::Filter;

/// One tenant's subscriptions, as a tree of filter levels.
///
/// rmqtt's own tree gives a client one QoS too few where its filters overlap, knows a client's
/// plain and shared subscription to one filter as one, refuses topics with a `$` behind the first
/// level, and descends as deep as a device asks it to.
#[derive(Default)]
pub(super) struct Subscriptions {
    root: RwLock<Node>,
}

#[derive(Default)]
struct Node {
    /// By level; `+` and `#` stand for themselves, as no topic holds them.
    below: HashMap<String, Node>,
    plain: HashMap<ClientId, (Id, SubscriptionOptions)>,
    groups: HashMap<String, Group>,
}

#[derive(Default)]
struct Group {
    members: Vec<(Id, SubscriptionOptions)>,
    turn: Arc<AtomicUsize>,
}

/// What a client gets of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recipient {
    pub(super) client_id: ClientId,
    /// The highest QoS of its subscriptions that match (MQTT 5.0, 3.3.4).
    pub(super) qos: QoS,
    /// Whether the retain flag stays as the publisher set it.
    pub(super) retain_as_published: bool,
    /// The identifiers of its subscriptions that match.
    pub(super) subscription_ids: Vec<NonZeroU32>,
    /// The others of its group, where any of them that has room will do.
    pub(super) instead: Vec<Self>,
}

/// The members of a group, from the one whose turn it is. One of them gets the message.
pub(super) struct Candidates {
    pub(super) members: Vec<Recipient>,
    turn: Arc<AtomicUsize>,
}

/// Who gets a message.
#[derive(Default)]
pub(super) struct Recipients {
    /// Each client once, however many of its filters match.
    pub(super) each: Vec<Recipient>,
    /// One of each group.
    pub(super) one_of: Vec<Candidates>,
}

impl Recipient {
    /// The target of a P2P message, which needs no subscription.
    pub(super) const fn addressed(client_id: ClientId, qos: QoS) -> Self {
        Self {
            client_id,
            qos,
            retain_as_published: false,
            subscription_ids: Vec::new(),
            instead: Vec::new(),
        }
    }

    /// The message as this client gets it.
    pub(super) fn copy_of(&self, publish: &Publish) -> Publish {
        let mut copy = publish.clone();
        copy.dup = false;
        copy.retain = publish.retain && self.retain_as_published;
        copy.packet_id = None;
        copy.qos = copy.qos.less_value(self.qos);
        if !self.subscription_ids.is_empty() {
            let properties = copy.properties.get_or_insert_default();
            properties.subscription_ids.clone_from(&self.subscription_ids);
        }
        copy
    }

    pub(super) fn new(client_id: &ClientId, options: &SubscriptionOptions) -> Self {
        Self {
            client_id: client_id.clone(),
            qos: options.qos(),
            retain_as_published: options.retain_as_published().unwrap_or(false),
            subscription_ids: options.subscription_identifier().into_iter().collect(),
            instead: Vec::new(),
        }
    }
}

impl Candidates {
    /// The member at `place` takes the message; the turn goes to the one behind it.
    pub(super) fn take(mut self, place: usize) -> Recipient {
        self.turn.fetch_add(place + 1, Ordering::Relaxed);
        self.members.swap_remove(place)
    }
}

impl Subscriptions {
    /// Enters a subscription, or changes its options. The filter was checked before.
    pub(super) fn add(&self, filter: &str, id: Id, options: SubscriptionOptions) {
        let filter = Filter::of(filter);
        let mut root = self.root.write();
        let mut node = &mut *root;
        for level in filter.topics.split('/') {
            node = node.below.entry(level.to_owned()).or_default();
        }
        match filter.group {
            Some(group) => node.groups.entry(group.to_owned()).or_default().add(id, options),
            None => {
                node.plain.insert(id.client_id.clone(), (id, options));
            }
        }
    }

    /// Removes a subscription, unless a newer connection of the client has renewed it.
    pub(super) fn remove(&self, filter: &str, id: &Id) -> bool {
        let filter = Filter::of(filter);
        let levels: Vec<&str> = filter.topics.split('/').collect();
        self.root.write().remove(&levels, filter.group, id)
    }

    /// Who gets a message to `topic`; `publisher` hears itself unless it asked not to.
    pub(super) fn matches(&self, topic: &str, publisher: Option<&ClientId>) -> Recipients {
        let levels: Vec<&str> = topic.split('/').collect();
        let mut matching = Vec::new();
        self.root.read().collect(&levels, topic.starts_with('$'), &mut |node: &Node| {
            matching.push(node.recipients(publisher));
        });
        merged(matching)
    }
}

impl Group {
    fn add(&mut self, id: Id, options: SubscriptionOptions) {
        let known = self.members.iter_mut().find(|(member, _)| member.client_id == id.client_id);
        match known {
            Some(member) => *member = (id, options),
            None => self.members.push((id, options)),
        }
    }

    fn candidates(&self) -> Candidates {
        let mut members: Vec<Recipient> = self
            .members
            .iter()
            .map(|(id, options)| Recipient::new(&id.client_id, options))
            .collect();
        let first = self.turn.load(Ordering::Relaxed) % members.len().max(1);
        members.rotate_left(first);
        Candidates { members, turn: Arc::clone(&self.turn) }
    }
}

impl Node {
    fn recipients(&self, publisher: Option<&ClientId>) -> Recipients {
        let hears = |client_id: &ClientId, options: &SubscriptionOptions| {
            publisher != Some(client_id) || !options.no_local().unwrap_or(false)
        };
        let plain = self.plain.iter().filter(|(client_id, (_, options))| hears(client_id, options));
        Recipients {
            each: plain.map(|(id, (_, options))| Recipient::new(id, options)).collect(),
            one_of: self.groups.values().map(Group::candidates).collect(),
        }
    }

    /// As deep as a topic has levels: at most [`super::filters::FILTER_CHARS_MAX`].
    fn collect(&self, levels: &[&str], is_hidden: bool, found: &mut impl FnMut(&Self)) {
        if let Some(all) = self.below.get("#").filter(|_| !is_hidden) {
            found(all);
        }
        let Some((level, rest)) = levels.split_first() else {
            return found(self);
        };
        if let Some(any) = self.below.get("+").filter(|_| !is_hidden) {
            any.collect(rest, false, found);
        }
        if let Some(node) = self.below.get(*level) {
            node.collect(rest, false, found);
        }
    }

    fn remove(&mut self, levels: &[&str], group: Option<&str>, id: &Id) -> bool {
        let Some((level, rest)) = levels.split_first() else {
            return self.remove_here(group, id);
        };
        let Some(node) = self.below.get_mut(*level) else {
            return false;
        };
        let removed = node.remove(rest, group, id);
        if node.is_empty() {
            self.below.remove(*level);
        }
        removed
    }

    fn remove_here(&mut self, group: Option<&str>, id: &Id) -> bool {
        let Some(name) = group else {
            let known = self.plain.get(&id.client_id).is_some_and(|(known, _)| known == id);
            return known && self.plain.remove(&id.client_id).is_some();
        };
        let Entry::Occupied(mut group) = self.groups.entry(name.to_owned()) else {
            return false;
        };
        let members = &mut group.get_mut().members;
        let before = members.len();
        members.retain(|(member, _)| member != id);
        let removed = members.len() < before;
        if members.is_empty() {
            group.remove();
        }
        removed
    }

    fn is_empty(&self) -> bool {
        self.below.is_empty() && self.plain.is_empty() && self.groups.is_empty()
    }
}

/// Every client once: at its highest QoS, with all its identifiers.
fn merged(matching: Vec<Recipients>) -> Recipients {
    let mut all = Recipients::default();
    let mut places: HashMap<ClientId, usize> = HashMap::new();
    for found in matching {
        for recipient in found.each {
            match places.entry(recipient.client_id.clone()) {
                Entry::Vacant(place) => {
                    place.insert(all.each.len());
                    all.each.push(recipient);
                }
                Entry::Occupied(place) => {
                    let known = &mut all.each[*place.get()];
                    known.qos = known.qos.max(recipient.qos);
                    known.retain_as_published |= recipient.retain_as_published;
                    known.subscription_ids.extend(recipient.subscription_ids);
                }
            }
        }
        all.one_of.extend(found.one_of);
    }
    all
}
