//! Letters on their way through crashes, a broker of moods, and a purge.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::broker::{Broker, PublishError, RefusedBy, Unsettled};
use super::super::courier::BACKOFF_MIN;
use super::super::dead_letters::{DEAD_LETTERS, DeadLetters, Reason};
use super::super::letter::Letter;
use super::super::post::Post;
use super::courier::Resender;
use super::shelf::{Counted, Shelf};
use super::spool::{self, Requeue, RequeueError};
use crate::clock::{ManualClock, UnixMillis};
use crate::message::{InstanceId, Message, MessageId, Payload, Topic};
use crate::metering::{DeliveryMetrics, Registry};

/// 2026-11-23T23:30:00Z.
const LATE: UnixMillis = UnixMillis(1_795_476_600_000);
const RETENTION: Duration = Duration::from_secs(3_600);
const ALWAYS: std::ops::RangeInclusive<UnixMillis> = UnixMillis(0)..=UnixMillis(u64::MAX);

type Asked = Box<dyn FnOnce() -> Result<(), Unsettled> + Send>;

/// Takes messages as it is told to; with nothing told, it takes them all.
#[derive(Default)]
struct MoodyBroker {
    moods: Mutex<VecDeque<Result<(), PublishError>>>,
    taken: Mutex<Vec<u128>>,
    /// What happens, one after the other, when it is asked for everything it has taken.
    asked: Mutex<VecDeque<Asked>>,
}

impl Broker for MoodyBroker {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let mood = self.moods.lock().pop_front().unwrap_or(Ok(()));
        if mood.is_ok() {
            self.taken.lock().push(message.id.to_u128());
        }
        mood
    }

    async fn settled(&self) -> Result<(), Unsettled> {
        let asked = self.asked.lock().pop_front();
        asked.map_or(Ok(()), |asked| asked())
    }
}

struct Rig {
    folder: TempDir,
    clock: Arc<ManualClock>,
    post: Arc<Post<MoodyBroker>>,
    stop: watch::Sender<bool>,
}

impl Rig {
    /// A data directory with letters 1 to `letters`, all given up late on a day.
    fn new(letters: u128) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(LATE));
        let dead_letters = DeadLetters::open(&folder.path().join(DEAD_LETTERS)).unwrap();
        let post = Arc::new(Post {
            broker: Arc::new(MoodyBroker::default()),
            dead_letters: Mutex::new(dead_letters),
            retention: RETENTION,
            reconnect_grace: Duration::ZERO,
            clock: Arc::clone(&clock) as Arc<dyn crate::clock::Clock>,
            metrics: DeliveryMetrics::new(&Registry::new()).unwrap(),
        });
        let rig = Self { folder, clock, post, stop: watch::channel(false).0 };
        for id in 1..=letters {
            rig.die(id);
        }
        rig
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join(DEAD_LETTERS)
    }

    fn die(&self, id: u128) {
        let message = Message {
            id: MessageId::from_u128(id),
            instance: InstanceId::parse("post-cn-a").unwrap(),
            topic: Topic::parse("TopicA").unwrap(),
            payload: Payload::new(Bytes::from(id.to_string())).unwrap(),
            admitted_at: UnixMillis(5),
        };
        let reason = Reason::Refused(RefusedBy::ReasonCode(0x87));
        self.post.dead_letters.lock().keep(&[(message, reason)], self.clock_now()).unwrap();
    }

    fn clock_now(&self) -> UnixMillis {
        crate::clock::Clock::unix(&*self.clock)
    }

    /// The letters that are dead now, and how many are on their way.
    fn dead(&self) -> (Vec<u128>, Counted) {
        let mut dead = vec![];
        let counted = Shelf::new(self.folder.path()).visit(&ALWAYS, &mut |_, letter: Letter| {
            dead.push(letter.message().unwrap().id.to_u128());
            Ok(std::ops::ControlFlow::Continue(()))
        });
        (dead, counted.unwrap())
    }

    /// Requeues the dead letters that `which` picks.
    fn requeue(&self, which: impl Fn(u128) -> bool) {
        let mut requeue = Requeue::begin(self.folder.path()).unwrap();
        let now = self.clock_now();
        let shelf = Shelf::new(self.folder.path());
        let visited = shelf.visit(&ALWAYS, &mut |place, letter| {
            if which(letter.message().unwrap().id.to_u128()) {
                requeue.push(place, letter, now)?;
            }
            Ok(std::ops::ControlFlow::Continue(()))
        });
        visited.unwrap();
        requeue.finish().unwrap();
    }

    fn resender(&self) -> Resender<MoodyBroker> {
        Resender::new(Arc::clone(&self.post), self.folder.path(), self.stop.subscribe())
    }

    /// Delivers until nothing is on its way.
    async fn settle(&self) {
        let mut resender = self.resender();
        while resender.step().await.unwrap() {}
    }

    fn expect(&self, moods: impl IntoIterator<Item = Result<(), PublishError>>) {
        self.post.broker.moods.lock().extend(moods);
    }

    fn expect_to_be_asked(&self, asked: impl IntoIterator<Item = Asked>) {
        self.post.broker.asked.lock().extend(asked);
    }

    fn taken(&self) -> Vec<u128> {
        self.post.broker.taken.lock().clone()
    }
}

const REFUSED: Result<(), PublishError> = Err(PublishError::Refused(RefusedBy::ReasonCode(0x97)));
const AWAY: Result<(), PublishError> = Err(PublishError::Unavailable);

#[tokio::test]
async fn a_requeued_letter_is_no_dead_letter_and_is_delivered_once() {
    let rig = Rig::new(4);
    rig.requeue(|id| id % 2 == 0);
    let (dead, counted) = rig.dead();
    assert_eq!((dead, counted.requeued), (vec![1, 3], 2));
    rig.settle().await;
    assert_eq!(rig.taken(), [2, 4]);
    let (dead, counted) = rig.dead();
    assert_eq!((dead, counted.requeued), (vec![1, 3], 0));
    rig.requeue(|_| true);
    rig.settle().await;
    assert_eq!((rig.taken(), rig.dead().0), (vec![2, 4, 1, 3], vec![]));
    let metrics = &rig.post.metrics;
    assert_eq!((metrics.requeued_delivered.get(), metrics.delivered.get()), (4, 4));
}

#[tokio::test]
async fn letters_of_many_files_are_delivered_in_the_order_in_which_they_died() {
    let rig = Rig::new(2_100);
    rig.requeue(|id| id <= 2_050);
    rig.requeue(|_| true);
    assert_eq!(spool::finished(&rig.dir()).unwrap().len(), 4);
    rig.settle().await;
    assert_eq!(rig.taken(), (1..=2_100).collect::<Vec<_>>());
    assert_eq!(spool::finished(&rig.dir()).unwrap(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_letter_that_is_refused_again_is_a_dead_letter_again() {
    let rig = Rig::new(3);
    rig.requeue(|_| true);
    rig.expect([Ok(()), REFUSED]);
    rig.settle().await;
    assert_eq!((rig.taken(), rig.dead().0), (vec![1, 3], vec![2]));
    let metrics = &rig.post.metrics;
    assert_eq!((metrics.requeued_dead.get(), metrics.dead_letters.get()), (1, 1));
    rig.requeue(|_| true);
    rig.settle().await;
    assert_eq!((rig.taken(), rig.dead().0), (vec![1, 3, 2], vec![]));
}

#[tokio::test]
async fn a_disk_that_a_dead_letter_waits_for_keeps_nobody_else_waiting() {
    let rig = Rig::new(1);
    rig.requeue(|_| true);
    rig.expect([REFUSED]);
    let (post, (held, is_held)) = (Arc::clone(&rig.post), tokio::sync::oneshot::channel());
    let (go_on, told) = crossbeam_channel::bounded(1);
    let disk = std::thread::spawn(move || {
        let _slow = post.dead_letters.lock();
        held.send(()).unwrap();
        told.recv_timeout(BACKOFF_MIN * 100)
    });
    is_held.await.unwrap();
    let mut resender = rig.resender();
    let others = async {
        tokio::time::sleep(BACKOFF_MIN).await;
        go_on.send(()).is_ok()
    };
    let (step, others) = tokio::join!(resender.step(), others);
    assert!(step.unwrap() && others, "the runtime's only thread has waited for the disk");
    assert_eq!((disk.join().unwrap(), rig.dead().0), (Ok(()), vec![1]));
}

#[tokio::test]
async fn a_requeued_letter_has_the_whole_retention_anew_and_no_more() {
    let rig = Rig::new(2);
    rig.clock.advance(RETENTION * 10);
    rig.requeue(|_| true);
    rig.clock.advance(RETENTION);
    rig.expect([Ok(()), AWAY]);
    let clock = Arc::clone(&rig.clock);
    let mut resender = rig.resender();
    let step = resender.step();
    let later = async {
        tokio::time::sleep(BACKOFF_MIN / 5).await;
        clock.advance(Duration::from_millis(1));
    };
    tokio::join!(step, later).0.unwrap();
    assert_eq!((rig.taken(), rig.dead().0), (vec![1], vec![2]));
}

#[tokio::test]
async fn a_stop_while_the_broker_is_away_leaves_the_rest_on_its_way_in_order() {
    let rig = Rig::new(5);
    rig.requeue(|_| true);
    rig.expect([Ok(()), Ok(()), AWAY, AWAY, AWAY, AWAY]);
    let mut resender = rig.resender();
    let stop = async {
        tokio::time::sleep(BACKOFF_MIN / 5).await;
        rig.stop.send_replace(true);
    };
    tokio::join!(resender.step(), stop).0.unwrap();
    assert_eq!((rig.taken(), rig.dead().0), (vec![1, 2], vec![]));
    rig.post.broker.moods.lock().clear();
    rig.stop.send_replace(false);
    rig.settle().await;
    assert_eq!(rig.taken(), [1, 2, 3, 4, 5], "none again, none out of order");
}

#[tokio::test]
async fn a_command_that_dies_half_way_leaves_its_letters_dead() {
    let rig = Rig::new(3);
    let mut requeue = Requeue::begin(rig.folder.path()).unwrap();
    let visited = Shelf::new(rig.folder.path()).visit(&ALWAYS, &mut |place, letter| {
        requeue.push(place, letter, LATE)?;
        Ok(std::ops::ControlFlow::Continue(()))
    });
    visited.unwrap();
    let busy = Requeue::begin(rig.folder.path());
    assert!(matches!(busy.err(), Some(RequeueError::Busy(_))));
    drop(requeue);
    assert_eq!(rig.dead().0, [1, 2, 3]);
    rig.requeue(|id| id == 2);
    rig.settle().await;
    assert_eq!((rig.taken(), rig.dead().0), (vec![2], vec![1, 3]));
}

#[tokio::test]
async fn a_purge_takes_no_letter_that_is_on_its_way() {
    let rig = Rig::new(2);
    rig.requeue(|id| id == 1);
    rig.settle().await;
    rig.requeue(|_| true);
    rig.clock.advance(Duration::from_secs(40 * 24 * 3_600));
    let kept = Duration::from_secs(24 * 3_600);
    let purged = DeadLetters::purge_one(&rig.dir(), rig.clock_now(), kept).unwrap();
    assert_eq!(purged, 1, "what was delivered is no dead letter that is lost");
    let left: Vec<_> = std::fs::read_dir(rig.dir()).unwrap().collect();
    assert_eq!(left.len(), 1, "its notes are gone with it: {left:?}");
    // Its time began when it was requeued, so it has passed by now: it is kept, not lost.
    rig.settle().await;
    assert_eq!((rig.taken(), rig.dead().0), (vec![1], vec![2]));
}

#[tokio::test]
async fn a_letter_the_broker_cannot_answer_for_yet_stays_on_its_way_and_goes_out_once() {
    let rig = Rig::new(3);
    rig.requeue(|_| true);
    rig.expect([Ok(()), REFUSED, Ok(())]);
    let folder = rig.folder.path().to_path_buf();
    let unsettled = move || {
        let counted = Shelf::new(&folder)
            .visit(&ALWAYS, &mut |_, _| Ok(std::ops::ControlFlow::Continue(())))
            .unwrap();
        assert_eq!(counted.requeued, 3);
        Err(Unsettled("a full disk".to_owned()))
    };
    rig.expect_to_be_asked([0; 3].map(|_| Box::new(unsettled.clone()) as Asked));
    assert!(rig.resender().step().await.unwrap());
    assert_eq!((rig.taken(), rig.dead().0, rig.dead().1.requeued), (vec![1, 3], vec![2], 0));
    assert!(!rig.resender().step().await.unwrap());
}

#[tokio::test]
async fn a_letter_that_cannot_be_noted_is_not_published_again_and_no_other_noted_twice() {
    let rig = Rig::new(1);
    rig.clock.advance(Duration::from_secs(3_600));
    rig.die(2);
    rig.requeue(|_| true);
    let notes = ["2026-11-23.requeued", "2026-11-24.requeued"].map(|name| rig.dir().join(name));
    // The second day's notes are no file for a while.
    let unsettled = |error: std::io::Error| panic!("{error}");
    let (wrong, right) = (notes[1].clone(), notes[1].clone());
    rig.expect_to_be_asked([
        Box::new(move || std::fs::create_dir(wrong).map_err(unsettled)) as Asked,
        Box::new(|| Ok(())),
        Box::new(|| Ok(())),
        Box::new(move || std::fs::remove_dir(right).map_err(unsettled)),
    ]);
    assert!(rig.resender().step().await.unwrap());
    assert_eq!((rig.taken(), rig.dead().1.requeued), (vec![1, 2], 0));
    let lines = notes.map(|path| std::fs::read_to_string(path).unwrap().lines().count());
    assert_eq!(lines, [1, 1]);
    assert!(!rig.resender().step().await.unwrap());
}

#[tokio::test]
async fn a_file_of_letters_stays_until_the_notes_a_former_process_left_are_on_disk() {
    let rig = Rig::new(1);
    rig.clock.advance(Duration::from_secs(3_600));
    rig.die(2);
    rig.requeue(|_| true);
    rig.expect([Ok(()), AWAY]);
    let mut resender = rig.resender();
    let stop = async {
        tokio::time::sleep(BACKOFF_MIN / 5).await;
        rig.stop.send_replace(true);
    };
    tokio::join!(resender.step(), stop).0.unwrap();
    rig.stop.send_replace(false);
    // A special file cannot be synced (fsync(2), EINVAL).
    let (notes, aside) = (rig.dir().join("2026-11-23.requeued"), rig.dir().join("aside"));
    let (from, to) = (notes.clone(), aside.clone());
    let exchange = move || {
        std::fs::rename(&from, to).unwrap();
        std::os::unix::fs::symlink("/dev/null", from).unwrap();
        Ok(())
    };
    rig.expect_to_be_asked([Box::new(exchange) as Asked]);
    let unsynced = rig.resender().step().await;
    assert_eq!(unsynced.map_err(|error| error.kind()), Err(std::io::ErrorKind::InvalidInput));
    assert_eq!((rig.taken(), spool::finished(&rig.dir()).unwrap().len()), (vec![1, 2], 1));
    std::fs::rename(aside, notes).unwrap();
    rig.settle().await;
    assert_eq!((rig.taken(), spool::finished(&rig.dir()).unwrap().len()), (vec![1, 2], 0));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_what_cannot_be_noted() {
    let rig = Rig::new(1);
    rig.requeue(|_| true);
    let stop = rig.stop.clone();
    let unsettled = move || {
        stop.send_replace(true);
        Err(Unsettled("a full disk".to_owned()))
    };
    rig.expect_to_be_asked([Box::new(unsettled) as Asked]);
    assert!(rig.resender().step().await.unwrap());
    assert_eq!((rig.dead().0, rig.dead().1.requeued), (vec![], 1));
    rig.stop.send_replace(false);
    rig.settle().await;
    assert_eq!((rig.taken(), rig.dead().1.requeued), (vec![1, 1], 0));
}

#[tokio::test]
async fn a_damaged_line_is_set_aside_and_holds_nobody_up() {
    let rig = Rig::new(3);
    rig.requeue(|_| true);
    let path = spool::finished(&rig.dir()).unwrap().remove(0);
    let text = std::fs::read_to_string(&path).unwrap();
    let damaged: String = text
        .lines()
        .enumerate()
        .map(|(at, line)| match at {
            1 => format!("{}\n", &line[..line.len() / 2]),
            _ => format!("{line}\n"),
        })
        .collect();
    std::fs::write(&path, damaged).unwrap();
    rig.settle().await;
    assert_eq!(rig.taken(), [1, 3]);
    assert!(path.with_extension("damaged").exists());
    assert_eq!(rig.dead().0, [2], "nothing says that it is settled");
}

/// What may happen, in any order.
#[derive(Clone, Debug)]
enum Event {
    Die,
    Requeue(u8),
    /// The broker's moods for a while: taken, refused.
    Deliver(Vec<bool>),
    /// Weir is killed, and up to so many bytes of what it did not sync are gone.
    PowerCut(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => Just(Event::Die),
        2 => any::<u8>().prop_map(Event::Requeue),
        2 => proptest::collection::vec(any::<bool>(), 0..6).prop_map(Event::Deliver),
        1 => (0_usize..400).prop_map(Event::PowerCut),
    ];
    proptest::collection::vec(event, 1..30)
}

/// Delivers with these moods, and is killed when they are used up.
fn deliver(rig: &Rig, moods: &[bool]) {
    rig.expect(moods.iter().map(|taken| if *taken { Ok(()) } else { REFUSED }));
    rig.expect([AWAY; 64]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut resender = rig.resender();
        let killed = tokio::time::timeout(BACKOFF_MIN / 2, async {
            while resender.step().await.unwrap() {}
        });
        let _ = killed.await;
    });
    rig.post.broker.moods.lock().clear();
}

/// Cuts the end off the newest notes: only what stands in a file of `requeue/` is not synced.
fn cut_notes(rig: &Rig, bytes: usize) {
    if spool::finished(&rig.dir()).unwrap().is_empty() {
        return;
    }
    let mut on_their_way = BTreeMap::new();
    spool::visit(&rig.dir(), &mut |spooled| {
        *on_their_way.entry((spooled.from.day, spooled.from.offset)).or_insert(0) += 1;
    })
    .unwrap();
    for entry in std::fs::read_dir(rig.dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "requeued") {
            let text = std::fs::read(&path).unwrap();
            let day = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            // A note of a file that is gone was synced, and so was all before it.
            let mut synced = 0;
            let mut at = 0;
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                at += line.len();
                let note: Option<serde_json::Value> = serde_json::from_slice(line).ok();
                let offset = note.and_then(|note| note["offset"].as_u64());
                if offset.is_some_and(|offset| !on_their_way.contains_key(&(day, offset))) {
                    synced = at;
                }
            }
            let left = text.len().saturating_sub(bytes).max(synced);
            std::fs::write(&path, &text[..left]).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_letter_is_dead_or_on_its_way_or_delivered_whatever_happens(events in events()) {
        let rig = Rig::new(0);
        let mut letters = 0;
        for event in events {
            match event {
                Event::Die => {
                    letters += 1;
                    rig.die(letters);
                }
                Event::Requeue(which) => rig.requeue(|id| u128::from(which) >> (id % 8) & 1 == 1),
                Event::Deliver(moods) => deliver(&rig, &moods),
                Event::PowerCut(bytes) => cut_notes(&rig, bytes),
            }
            let mut seen = rig.dead().0;
            spool::visit(&rig.dir(), &mut |spooled| {
                let id = spooled.letter.message().unwrap().id.to_u128();
                // One that died again is on its way until that is noted.
                seen.push(id);
            }).unwrap();
            seen.extend(rig.taken());
            for id in 1..=letters {
                prop_assert!(seen.contains(&id), "{} is lost", id);
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(rig.settle());
        rig.requeue(|_| true);
        runtime.block_on(rig.settle());
        let (dead, counted) = rig.dead();
        prop_assert_eq!((dead, counted.requeued), (vec![], 0));
        for id in 1..=letters {
            prop_assert!(rig.taken().contains(&id), "{} was never delivered", id);
        }
    }
}
