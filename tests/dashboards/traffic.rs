//! Traffic of which everything is known: every answer is counted as it comes.

use std::collections::BTreeMap;
use std::time::Duration;

use weir::clock::{Clock, SystemClock};

use crate::support::caller::{Answer, Caller};
use crate::support::{Device, INSTANCE, Subscriber, TOPIC, Weir};

/// The second instance, whose bucket is soon empty.
pub(crate) const SMALL: &str = "post-cn-small000001";

/// Its configuration, and nonces for fewer calls than are made: the last are SystemOverFlow.
pub(crate) const SETTINGS: &str = r#"
    [limits]
    nonces_max = 200
    [[instances]]
    id = "post-cn-small000001"
    account = "1000000000000001"
    topics = ["TopicA"]
    qps = 2
    burst = 5
"#;

/// Rounds of traffic, and calls in each.
const ROUNDS: usize = 12;
const CALLS: usize = 20;
const CALLS_OF_SMALL: usize = 15;
/// Between two rounds: a scrape sees each of them.
const PAUSE: Duration = Duration::from_millis(400);
const HOUR_SECONDS: u64 = 3_600;
/// Longer than the traffic and all questions about it take.
const BEFORE_THE_HOUR_SECONDS: u64 = 60;

/// What the answers said.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// 200s by instance.
    pub(crate) billed: BTreeMap<String, u64>,
    /// Answers that are no 200, by code.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Messages a device received.
    pub(crate) received: usize,
}

impl Truth {
    /// All 200s.
    pub(crate) fn all_billed(&self) -> u64 {
        self.billed.values().sum()
    }

    /// All answers.
    pub(crate) fn all_answered(&self) -> u64 {
        self.all_billed() + self.refused.values().sum::<u64>()
    }

    /// Answers with this code.
    pub(crate) fn answered(&self, code: &str) -> u64 {
        self.refused.get(code).copied().unwrap_or_default()
    }

    fn note(&mut self, instance: &str, answer: &Answer) {
        match answer.status {
            200 => *self.billed.entry(instance.to_owned()).or_default() += 1,
            _ => {
                let code = answer.body["Code"].as_str().expect("a refusal has a code");
                *self.refused.entry(code.to_owned()).or_default() += 1;
            }
        }
    }
}

/// Sends to both instances, is throttled, refused for several reasons and failed, and receives. The
/// device that does is connected as long as the caller keeps it.
pub(crate) fn run(weir: &Weir) -> (Truth, Subscriber) {
    stay_within_the_hour();
    let mut truth = Truth::default();
    let away = Device { persistent: true, ..Device::new("away", &format!("{TOPIC}/#")) };
    drop(Subscriber::start(weir, &away));
    let device = Subscriber::start(weir, &Device::new("here", &format!("{TOPIC}/#")));
    let mut caller = Caller::connect(weir.http());
    for round in 0..ROUNDS {
        for _ in 0..CALLS {
            truth.note(INSTANCE, &caller.send(TOPIC, b"hello"));
        }
        for _ in 0..CALLS_OF_SMALL {
            truth.note(SMALL, &caller.send_to(SMALL, TOPIC, b"hello"));
        }
        let too_large = vec![b'x'; 65_537];
        truth.note(INSTANCE, &caller.send("Unknown", b"hello"));
        truth.note(INSTANCE, &caller.send(TOPIC, &too_large));
        truth.note("post-cn-of-another", &caller.send_to("post-cn-of-another", TOPIC, b"hello"));
        // A nonce may be used once.
        let signed = caller.sign(TOPIC, &round.to_le_bytes());
        for _ in 0..2 {
            let answer = caller.try_send_signed(&signed).expect("an answer");
            truth.note(INSTANCE, &answer);
        }
        std::thread::sleep(PAUSE);
    }
    let billed = usize::try_from(truth.billed[INSTANCE]).expect("few");
    truth.received = device.received(billed).len();
    (truth, device)
}

/// "This hour" has to be the same hour from the first call to the last question.
fn stay_within_the_hour() {
    let left = HOUR_SECONDS - SystemClock.unix().seconds() % HOUR_SECONDS;
    if left < BEFORE_THE_HOUR_SECONDS {
        std::thread::sleep(Duration::from_secs(left));
    }
}
