//! Who of a tenant's devices gets a message.

use std::sync::Arc;

use rmqtt::shared::Shared;
use rmqtt::types::{From, Publish};

use super::subscriptions::{Candidates, Recipient};
use super::tenants::Tenant;

/// How good a member of a group is for a message: the least comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Connected, and with room.
    Ready,
    /// Its stored session has room (MQTT 5.0, 4.8.2: a server may choose one that is away).
    Away,
    /// Connected, and full.
    Full,
    /// Away, and its session is full.
    FullAndAway,
}

impl Tenant {
    /// Everyone with a matching subscription, and one of each group that shares one.
    pub(super) async fn recipients(&self, from: &From, publish: &Publish) -> Vec<Recipient> {
        if let Some(target) = &publish.target_clientid {
            return vec![Recipient::addressed(target.clone(), publish.qos)];
        }
        let publisher = Some(&from.id.client_id).filter(|_| !from.is_system());
        let matching = self.subscriptions.matches(&publish.topic, publisher);
        let mut recipients = matching.each;
        for group in matching.one_of {
            recipients.extend(self.choose(group).await);
        }
        recipients
    }

    /// The best member, from the one whose turn it is; if all that are connected are full, any of
    /// them that makes room will do.
    async fn choose(&self, group: Candidates) -> Option<Recipient> {
        let mut best: Option<(Standing, usize)> = None;
        let mut full = Vec::new();
        for (place, member) in group.members.iter().enumerate() {
            let Some(standing) = self.standing(member).await else { continue };
            if standing == Standing::Full {
                full.push(place);
            }
            best = Some(best.map_or((standing, place), |best| best.min((standing, place))));
            if standing == Standing::Ready {
                break;
            }
        }
        let (standing, place) = best?;
        let others = full.iter().filter(|other| standing == Standing::Full && **other != place);
        let instead = others.map(|other| group.members[*other].clone()).collect();
        Some(Recipient { instead, ..group.take(place) })
    }

    /// `None` without a session.
    async fn standing(&self, member: &Recipient) -> Option<Standing> {
        let backlog = self.backlogs.get(&member.client_id).map(|found| Arc::clone(&found));
        let is_arriving = backlog.as_ref().is_some_and(|known| known.arriving().is_some());
        if !is_arriving && !self.sessions.exist(&member.client_id) {
            return None;
        }
        let is_full = backlog.is_some_and(|known| known.is_full() || known.is_cut_off());
        Some(match (is_full, self.is_connected(&member.client_id).await) {
            (false, true) => Standing::Ready,
            (false, false) => Standing::Away,
            (true, true) => Standing::Full,
            (true, false) => Standing::FullAndAway,
        })
    }
}
