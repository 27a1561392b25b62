use crate::message::Message;

/// Longest template, in bytes: with the longest instance and topic in every place it stays far
/// below the 65,535 bytes of an MQTT topic (MQTT 5.0, 1.5.4).
const TEMPLATE_BYTES_MAX: usize = 512;
const INSTANCE: &str = "{instance}";
const TOPIC: &str = "{topic}";

/// The topic a message is published to, with places for its instance and its own topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Instance,
    Topic,
}

impl Template {
    /// Parses a template: text, `{instance}` and `{topic}`, the latter at least once.
    ///
    /// # Errors
    /// A line that says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(format!("has {} bytes; {TEMPLATE_BYTES_MAX} are allowed", text.len()));
        }
        if text.contains(['+', '#']) || text.chars().any(char::is_control) {
            return Err("holds '+', '#' or a control character, which no publish may".into());
        }
        if text.starts_with('$') {
            return Err("begins with '$', which is the broker's own".into());
        }
        let mut parts = vec![];
        let mut rest = text;
        while !rest.is_empty() {
            let (part, length) = match rest.find(['{', '}']) {
                Some(0) if rest.starts_with(INSTANCE) => (Part::Instance, INSTANCE.len()),
                Some(0) if rest.starts_with(TOPIC) => (Part::Topic, TOPIC.len()),
                Some(0) => {
                    return Err(format!("knows only {INSTANCE} and {TOPIC} in braces"));
                }
                Some(plain) => (Part::Text(rest[..plain].to_owned()), plain),
                None => (Part::Text(rest.to_owned()), rest.len()),
            };
            parts.push(part);
            rest = &rest[length..];
        }
        if !parts.contains(&Part::Topic) {
            return Err(format!("lacks {TOPIC}: all topics would become one"));
        }
        Ok(Self(parts))
    }

    /// The topic of one message.
    #[must_use]
    pub fn topic(&self, message: &Message) -> String {
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Instance => message.instance.as_str(),
            Part::Topic => message.topic.as_str(),
        });
        parts.collect()
    }
}

impl Default for Template {
    /// `{instance}/{topic}`.
    fn default() -> Self {
        Self(vec![Part::Instance, Part::Text("/".to_owned()), Part::Topic])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::message;
    use super::*;

    #[test]
    fn a_topic_is_filled_in_wherever_the_template_says() {
        let made =
            |template: &str| Template::parse(template).unwrap().topic(&message("TopicA/x", b""));
        assert_eq!(made("{instance}/{topic}"), "post-cn-a/TopicA/x");
        assert_eq!(made("{topic}"), "TopicA/x");
        assert_eq!(made("site/é/{topic}/{instance}"), "site/é/TopicA/x/post-cn-a");
        assert_eq!(Template::parse("{instance}/{topic}").unwrap(), Template::default());
    }

    #[test]
    fn a_p2p_topic_is_published_as_it_stands() {
        let topic = Template::default().topic(&message("TopicA/p2p/GID_a@@@b", b""));
        assert_eq!(topic, "post-cn-a/TopicA/p2p/GID_a@@@b");
    }

    #[test]
    fn a_bad_template_is_refused_with_the_rule_it_breaks() {
        let cases = [
            ("", "lacks {topic}"),
            ("{instance}", "lacks {topic}"),
            ("{topic}/{device}", "knows only"),
            ("{topic}}", "knows only"),
            ("{topic", "knows only"),
            ("{topic}/#", "'#'"),
            ("+/{topic}", "'+'"),
            ("$SYS/{topic}", "'$'"),
            ("a\0{topic}", "control"),
            (&format!("{}{{topic}}", "x".repeat(512)), "519 bytes"),
        ];
        for (template, said) in cases {
            let error = Template::parse(template).unwrap_err();
            assert!(error.contains(said), "{template}: {error}");
        }
    }
}
