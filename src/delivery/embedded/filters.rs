//! Topic filters as a device may write them (MQTT 5.0, 4.7 and 4.8.2).

use crate::message::{CLIENT_ID_CHARS_MAX, TOPIC_CHARS_MAX};

/// Longest filter, in characters and without `$share/{group}/`: the longest topic is a P2P topic,
/// and `/#` may follow. What is longer matches nothing, and would be as many levels deep.
pub(super) const FILTER_CHARS_MAX: usize =
    TOPIC_CHARS_MAX + "/p2p/".len() + CLIENT_ID_CHARS_MAX + "/#".len();
/// Longest name of a group that shares a subscription, in characters.
pub(super) const GROUP_CHARS_MAX: usize = 64;

const SHARE: &str = "$share/";

/// A filter, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filter<'a> {
    /// The group of a shared subscription.
    pub(super) group: Option<&'a str>,
    /// What topics are held against.
    pub(super) topics: &'a str,
}

/// Why a device may not subscribe to a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FilterRefused {
    /// Not a filter: a wildcard out of place, an empty level of `$share`, or too long.
    Invalid,
    /// It names what is addressed to another device.
    NotAuthorized,
}

impl<'a> Filter<'a> {
    /// Takes a filter apart that need not be valid.
    pub(super) fn of(text: &'a str) -> Self {
        let shared = text.strip_prefix(SHARE).and_then(|rest| rest.split_once('/'));
        match shared {
            Some((group, topics)) => Self { group: Some(group), topics },
            None => Self { group: None, topics: text },
        }
    }

    /// The filter as a device writes it.
    pub(super) fn named(group: &str, topics: &str) -> String {
        format!("{SHARE}{group}/{topics}")
    }

    /// Whether a device may subscribe to it.
    pub(super) fn check(self, client_id: &str) -> Result<(), FilterRefused> {
        if self.group.is_some_and(|group| !is_group(group)) || !is_filter(self.topics) {
            return Err(FilterRefused::Invalid);
        }
        match p2p_target(self.topics) {
            Some(target) if target != client_id => Err(FilterRefused::NotAuthorized),
            _ => Ok(()),
        }
    }
}

fn is_group(name: &str) -> bool {
    (1..=GROUP_CHARS_MAX).contains(&name.chars().count()) && !name.contains(['+', '#', '\0'])
}

fn is_filter(topics: &str) -> bool {
    // Left over where no group and filter follow: no topic begins with it.
    let bare_share = topics == "$share" || topics.starts_with(SHARE);
    if bare_share || !(1..=FILTER_CHARS_MAX).contains(&topics.chars().count()) {
        return false;
    }
    let mut levels = topics.split('/').rev();
    let last = levels.next().unwrap_or_default();
    let plain = |level: &str| level == "+" || !level.contains(['+', '#', '\0']);
    (last == "#" || plain(last)) && levels.all(plain)
}

/// The client id of `{parent}/p2p/{client id}`.
pub(super) fn p2p_target(topic: &str) -> Option<&str> {
    let (parent, client_id) = topic.split_once("/p2p/")?;
    (!parent.contains('/')).then_some(client_id)
}

/// Whether a filter covers a topic. A wildcard at its beginning covers no topic that begins with
/// `$` (MQTT 5.0, 4.7.2).
pub(super) fn covers(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filter: &str, client_id: &str) -> Result<(), FilterRefused> {
        Filter::of(filter).check(client_id)
    }

    #[test]
    fn a_device_subscribes_to_its_own_p2p_topic_and_to_no_other() {
        for filter in ["TopicA/p2p/me", "$share/g/TopicA/p2p/me", "TopicA/x/p2p/you"] {
            assert_eq!(check(filter, "me"), Ok(()), "{filter}");
        }
        for filter in ["TopicA/p2p/you", "+/p2p/#", "TopicA/p2p/+", "TopicA/p2p/me/#"] {
            let refused = Err(FilterRefused::NotAuthorized);
            assert_eq!(check(filter, "me"), refused, "{filter}");
            assert_eq!(check(&format!("$share/g/{filter}"), "me"), refused, "{filter}");
        }
    }

    #[test]
    fn a_filter_has_its_wildcards_alone_and_at_the_end() {
        let longest = "f".repeat(FILTER_CHARS_MAX);
        for good in ["#", "+", "/", "a/+/#", "/a//", "$SYS/#", "$share/g/#", &longest] {
            assert_eq!(check(good, "me"), Ok(()), "{good}");
        }
        let long = format!("{longest}f");
        let group = format!("$share/{}/x", "g".repeat(GROUP_CHARS_MAX + 1));
        for bad in [
            "",
            "a#",
            "#/a",
            "a+",
            "a/#/b",
            "a\0",
            "$share",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//x",
            "$share/+/x",
            "$share/g/a#",
            "$share/g/$share/h/x",
            &long,
            &group,
        ] {
            assert_eq!(check(bad, "me"), Err(FilterRefused::Invalid), "{bad}");
        }
    }

    #[test]
    fn a_shared_filter_comes_apart_and_together_again() {
        let filter = Filter::of("$share/g/a/+");
        assert_eq!((filter.group, filter.topics), (Some("g"), "a/+"));
        assert_eq!(Filter::named("g", "a/+"), "$share/g/a/+");
    }

    #[test]
    fn a_filter_covers_what_mqtt_says_it_covers() {
        for (filter, topic) in [
            ("#", "a"),
            ("#", "/a/b"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("+", "a"),
            ("+/+", "/a"),
            ("/+", "/a"),
            ("a/+/c", "a//c"),
            ("a/$x", "a/$x"),
            ("a/#", "a/$x"),
            ("$SYS/#", "$SYS"),
        ] {
            assert!(covers(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("+", "/a"),
            ("a", "a/b"),
            ("a/b", "a"),
            ("a/+", "a"),
            ("A", "a"),
            ("#", "$SYS/x"),
            ("+/x", "$SYS/x"),
            ("a/#", "ab"),
            ("", "a"),
        ] {
            assert!(!covers(filter, topic), "{filter} {topic}");
        }
    }
}
