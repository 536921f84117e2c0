//! What is to be reconciled, in which order, and what has to wait.
//!
//! A key is in the queue at most once and is worked on by one worker at a time; what happens to it meanwhile has it come
//! again. What a user changed comes before what is new, since that may come by the thousand, new before what a child's change asks
//! for, and that before what is only looked at again; so that nothing starves, every eighth turn goes to whoever waits longest. Workers
//! that take nothing but users' changes need not wait for those that are at something longer. A turn that waits outside has no worker,
//! and one namespace has some at most ([`super::share`]).

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::backoff::Backoff;
use super::key::Key;
use super::lanes::Lanes;
use super::metrics::QueueMetrics;
use super::share::{Desk, Limits, Shares};

/// Every so many turns the longest waiting comes first.
const FAIR_TURN: u64 = 8;
/// Who looks again sooner than this has something under way; later, it is only to make sure.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// Why an object is to be reconciled: the later in this list, the sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Nothing happened that we know of.
    Resync,
    /// Something that belongs to it, or that it refers to, changed; or it failed before.
    Child,
    /// Somebody made the object.
    New,
    /// Somebody changed the object.
    Edit,
}

/// How a reconciliation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is as wanted.
    Done,
    /// All is as wanted for now; look again.
    Again(Duration),
    /// Something failed; try again, later each time.
    Failed,
    /// Something failed beside what goes on: try that again, later each time, and look at what goes on after this.
    FailedInPart(Duration),
    /// The object is no more.
    Gone,
}

/// A key that a worker took; it says [`Queue::done`] when it is through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which object.
    pub key: Key,
    /// Why.
    pub priority: Priority,
    /// How long it waited.
    pub waited: Duration,
}

#[derive(Debug, Default)]
struct Inner {
    /// Ready to be taken.
    waiting: Lanes,
    /// Not before a time.
    delayed: BTreeSet<(Instant, Key)>,
    due: HashMap<Key, (Instant, Priority)>,
    /// Being worked on.
    running: HashMap<Key, Running>,
    shares: Shares,
    failures: HashMap<Key, u32>,
    turns: u64,
    is_closed: bool,
}

/// A turn.
#[derive(Debug)]
struct Running {
    desk: Desk,
    is_outside: bool,
    /// The priority with which it is to come again.
    again: Option<Priority>,
}

/// The queue of all kinds.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
    /// Wakes those that take nothing but edits.
    wake_for_edit: Notify,
    backoff: Backoff,
    metrics: QueueMetrics,
}

impl Queue {
    /// An empty queue.
    pub fn new(backoff: Backoff, metrics: QueueMetrics) -> Self {
        Self { inner: Mutex::default(), wake: Notify::new(), wake_for_edit: Notify::new(), backoff, metrics }
    }

    /// From now on so many turns run at a time.
    pub(super) fn limit(&self, limits: Limits) {
        self.inner.lock().shares.limits = limits;
    }

    /// Asks for a reconciliation as soon as it is its turn.
    pub fn add(&self, key: Key, priority: Priority) {
        let mut inner = self.inner.lock();
        self.metrics.added(key.kind);
        inner.add(key, priority, Instant::now());
        self.changed(&inner);
    }

    /// The next key in turn; `None` once the queue is closed.
    pub async fn next(&self) -> Option<Taken> {
        loop {
            let notified = self.wake.notified();
            let until = {
                let mut inner = self.inner.lock();
                if inner.is_closed {
                    // Whoever else waits has to hear of it too.
                    self.wake.notify_one();
                    return None;
                }
                if let Some(taken) = inner.take(Instant::now()) {
                    self.metrics.taken(&taken);
                    self.changed(&inner);
                    return Some(taken);
                }
                inner.delayed.first().map(|(due, _)| *due)
            };
            match until {
                Some(due) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(due.into()) => {}
                },
                None => notified.await,
            }
        }
    }

    /// The next key that a user changed; `None` once the queue is closed.
    pub async fn next_edit(&self) -> Option<Taken> {
        loop {
            let notified = self.wake_for_edit.notified();
            {
                let mut inner = self.inner.lock();
                if inner.is_closed {
                    self.wake_for_edit.notify_one();
                    return None;
                }
                if let Some(taken) = inner.take_edit(Instant::now()) {
                    self.metrics.taken(&taken);
                    self.changed(&inner);
                    return Some(taken);
                }
            }
            notified.await;
        }
    }

    /// A turn waits outside: its worker is another's.
    pub(super) fn left(&self, key: &Key) {
        self.moved(key, true);
    }

    /// It waits no more.
    pub(super) fn came_back(&self, key: &Key) {
        self.moved(key, false);
    }

    fn moved(&self, key: &Key, is_outside: bool) {
        let mut inner = self.inner.lock();
        inner.moved(key, is_outside);
        self.metrics.outside(inner.shares.outside());
        if is_outside {
            self.changed(&inner);
        }
    }

    /// Gives a key back.
    pub fn done(&self, key: &Key, outcome: Outcome) {
        let mut inner = self.inner.lock();
        if matches!(outcome, Outcome::Failed | Outcome::FailedInPart(_)) {
            self.metrics.retried(key.kind);
        }
        inner.done(key, outcome, Instant::now(), |failures| self.backoff.wait(failures, rand::random()));
        self.changed(&inner);
    }

    /// Nothing is handed out any more.
    pub fn close(&self) {
        self.inner.lock().is_closed = true;
        self.wake.notify_one();
        self.wake_for_edit.notify_one();
    }

    /// Keys that are ready to be taken.
    pub fn depth(&self) -> usize {
        self.inner.lock().waiting.len()
    }

    /// Turns that wait outside.
    #[cfg(test)]
    pub(super) fn outside(&self) -> usize {
        self.inner.lock().shares.outside()
    }

    /// Whether nothing is ready and nothing runs.
    pub fn is_idle(&self) -> bool {
        let inner = self.inner.lock();
        inner.waiting.is_empty() && inner.running.is_empty()
    }

    fn changed(&self, inner: &Inner) {
        self.metrics.depth(inner.waiting.len());
        if !inner.waiting.is_empty() || !inner.delayed.is_empty() {
            self.wake.notify_one();
        }
        if inner.waiting.highest() == Some(Priority::Edit) {
            self.wake_for_edit.notify_one();
        }
    }
}

impl Inner {
    fn add(&mut self, key: Key, priority: Priority, now: Instant) {
        match self.running.get_mut(&key) {
            Some(running) => running.again = running.again.max(Some(priority)),
            None => self.make_ready(key, priority, now),
        }
    }

    fn done(&mut self, key: &Key, outcome: Outcome, now: Instant, backoff: impl FnOnce(u32) -> Duration) {
        self.moved(key, false);
        let running = self.running.remove(key);
        if let Some(running) = &running {
            self.shares.ended(&key.object.namespace, running.desk);
        }
        let again = running.and_then(|running| running.again);
        let wait = match outcome {
            Outcome::Failed | Outcome::FailedInPart(_) => {
                let failures = self.failures.entry(key.clone()).or_default();
                *failures = failures.saturating_add(1);
                let wait = backoff(*failures);
                let wait = if let Outcome::FailedInPart(most) = outcome { wait.min(most) } else { wait };
                Some((wait, Priority::Child))
            }
            Outcome::Again(wait) => {
                self.failures.remove(key);
                Some((wait, if wait < UNDER_WAY { Priority::Child } else { Priority::Resync }))
            }
            Outcome::Done | Outcome::Gone => {
                self.failures.remove(key);
                None
            }
        };
        match (again, wait) {
            // What was changed by a user is tried at once; what keeps failing while its children change keeps its distance.
            (Some(priority), _) if outcome != Outcome::Failed || priority == Priority::Edit => {
                self.make_ready(key.clone(), priority, now);
            }
            (_, Some((wait, priority))) => self.delay(key.clone(), now + wait, priority),
            (_, None) => {}
        }
    }

    fn moved(&mut self, key: &Key, is_outside: bool) {
        let Some(running) = self.running.get_mut(key).filter(|running| running.is_outside != is_outside)
        else {
            return;
        };
        running.is_outside = is_outside;
        let namespace = &key.object.namespace;
        if is_outside {
            self.shares.left(namespace, running.desk);
        } else {
            self.shares.came_back(namespace, running.desk);
        }
    }

    fn make_ready(&mut self, key: Key, priority: Priority, now: Instant) {
        if let Some((due, _)) = self.due.remove(&key) {
            self.delayed.remove(&(due, key.clone()));
        }
        self.waiting.add(key, priority, now);
    }

    fn delay(&mut self, key: Key, due: Instant, priority: Priority) {
        if self.waiting.contain(&key) {
            return;
        }
        if let Some((before, _)) = self.due.get(&key).copied() {
            if before <= due {
                return;
            }
            self.delayed.remove(&(before, key.clone()));
        }
        self.due.insert(key.clone(), (due, priority));
        self.delayed.insert((due, key));
    }

    fn wake_due(&mut self, now: Instant) {
        while let Some((due, key)) = self.delayed.first().cloned() {
            if due > now {
                break;
            }
            let priority = self.due.get(&key).map_or(Priority::Child, |(_, priority)| *priority);
            self.make_ready(key, priority, now);
        }
    }

    fn take(&mut self, now: Instant) -> Option<Taken> {
        self.wake_due(now);
        if !self.shares.has_worker(Desk::All) {
            return None;
        }
        self.turns += 1;
        let has_room = |namespace: &str| self.shares.have_room(namespace, Desk::All);
        let key = if self.turns.is_multiple_of(FAIR_TURN) {
            self.waiting.oldest(has_room)
        } else {
            self.waiting.most_urgent(Priority::Resync, has_room)
        };
        let key = key.cloned()?;
        self.hand_out(key, Desk::All, now)
    }

    fn take_edit(&mut self, now: Instant) -> Option<Taken> {
        self.wake_due(now);
        if !self.shares.has_worker(Desk::Edits) {
            return None;
        }
        let has_room = |namespace: &str| self.shares.have_room(namespace, Desk::Edits);
        let key = self.waiting.most_urgent(Priority::Edit, has_room).cloned()?;
        self.hand_out(key, Desk::Edits, now)
    }

    fn hand_out(&mut self, key: Key, desk: Desk, now: Instant) -> Option<Taken> {
        let waiting = self.waiting.remove(&key)?;
        self.running.insert(key.clone(), Running { desk, is_outside: false, again: None });
        self.shares.began(&key.object.namespace, desk);
        Some(Taken { key, priority: waiting.priority, waited: now.saturating_duration_since(waiting.since) })
    }
}

#[cfg(test)]
mod tests {
    use aistack_crds::Kind;

    use super::super::key::ObjectName;
    use super::*;

    /// A queue whose time the test tells.
    struct Story {
        inner: Inner,
        now: Instant,
    }

    impl Story {
        fn new() -> Self {
            Self { inner: Inner::default(), now: Instant::now() }
        }

        fn add(&mut self, name: &str, priority: Priority) {
            self.inner.add(key(name), priority, self.now);
        }

        fn take(&mut self) -> Option<String> {
            self.inner.take(self.now).map(|taken| taken.key.object.name)
        }

        fn done(&mut self, name: &str, outcome: Outcome) {
            let backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_mins(1) };
            self.inner.done(&key(name), outcome, self.now, |failures| backoff.wait(failures, 0.5));
        }

        fn passes(&mut self, millis: u64) -> &mut Self {
            self.now += Duration::from_millis(millis);
            self
        }
    }

    fn key(name: &str) -> Key {
        Key::new(Kind::KVCluster, ObjectName::new("n", name))
    }

    #[test]
    fn a_users_edit_comes_before_children_and_these_before_a_resync() {
        let mut story = Story::new();
        story.add("resync", Priority::Resync);
        story.add("child", Priority::Child);
        story.add("edit", Priority::Edit);
        story.add("raised", Priority::Resync);
        story.add("raised", Priority::Edit);
        let order: Vec<_> = std::iter::from_fn(|| story.take()).collect();
        assert_eq!(order, ["edit", "raised", "child", "resync"]);
    }

    #[test]
    fn those_who_wait_for_edits_take_nothing_else() {
        let mut story = Story::new();
        story.add("new", Priority::New);
        story.add("child", Priority::Child);
        assert_eq!(story.inner.take_edit(story.now), None);
        story.add("edit", Priority::Edit);
        let taken = story.inner.take_edit(story.now).map(|taken| taken.key.object.name);
        assert_eq!(taken.as_deref(), Some("edit"));
        assert_eq!((story.take().as_deref(), story.take().as_deref()), (Some("new"), Some("child")));
    }

    #[test]
    fn edits_without_end_starve_nobody() {
        let mut story = Story::new();
        story.add("patient", Priority::Resync);
        let mut order = Vec::new();
        for turn in 0..2 * FAIR_TURN {
            story.add(&format!("edit-{turn}"), Priority::Edit);
            order.extend(story.take());
        }
        assert!(order.contains(&"patient".to_owned()), "{order:?}");
    }

    #[test]
    fn a_key_is_worked_on_once_at_a_time_and_comes_again_when_it_changed_meanwhile() {
        let mut story = Story::new();
        story.add("a", Priority::Child);
        story.add("a", Priority::Child);
        assert_eq!(story.take().as_deref(), Some("a"));
        story.add("a", Priority::Child);
        assert_eq!(story.take(), None, "it runs");
        story.done("a", Outcome::Done);
        assert_eq!(story.take().as_deref(), Some("a"));
        story.done("a", Outcome::Done);
        assert_eq!(story.take(), None);
    }

    #[test]
    fn what_fails_waits_longer_each_time_and_an_edit_ends_the_wait() {
        let mut story = Story::new();
        story.add("a", Priority::Child);
        for nominal in [0, 1000, 2000, 4000] {
            if nominal > 0 {
                assert_eq!(story.passes(nominal - 1).take(), None, "{nominal}");
                story.passes(1);
            }
            assert_eq!(story.take().as_deref(), Some("a"), "{nominal}");
            story.done("a", Outcome::Failed);
        }
        story.add("a", Priority::Edit);
        assert_eq!(story.take().as_deref(), Some("a"), "no time passed");
        story.done("a", Outcome::Done);
        story.add("a", Priority::Child);
        story.take();
        story.done("a", Outcome::Failed);
        assert_eq!(story.passes(1000).take().as_deref(), Some("a"), "what succeeded once begins anew");
    }

    #[test]
    fn what_fails_in_part_keeps_no_distance_from_what_goes_on() {
        let mut story = Story::new();
        for _ in 0..10 {
            story.add("a", Priority::Child);
            assert_eq!(story.take().as_deref(), Some("a"), "a child hurries it");
            story.done("a", Outcome::FailedInPart(Duration::from_secs(3)));
        }
        assert_eq!(story.passes(2_999).take(), None);
        assert_eq!(story.passes(1).take().as_deref(), Some("a"), "not after a minute");
    }

    #[test]
    fn children_that_change_do_not_hurry_what_keeps_failing_and_users_do() {
        for (priority, comes) in [(Priority::Child, None), (Priority::Edit, Some("a"))] {
            let mut story = Story::new();
            story.add("a", Priority::Child);
            story.take();
            story.add("a", priority);
            story.done("a", Outcome::Failed);
            assert_eq!(story.take().as_deref(), comes, "{priority:?}");
        }
    }

    #[test]
    fn it_looks_again_when_it_was_asked_to_and_not_twice() {
        let mut story = Story::new();
        story.add("a", Priority::Edit);
        story.take();
        story.done("a", Outcome::Again(Duration::from_secs(10)));
        assert_eq!(story.passes(9_999).take(), None);
        story.add("a", Priority::Child);
        assert_eq!(story.take().as_deref(), Some("a"));
        story.done("a", Outcome::Again(Duration::from_secs(10)));
        assert_eq!(story.passes(1).take(), None, "the earlier time was replaced");
    }

    #[test]
    fn one_namespace_does_not_have_all_the_workers() {
        let mut story = Story::new();
        story.inner.shares.limits.at_work_of_one = Some(2);
        let of = |namespace: &str, name: &str| Key::new(Kind::KVCluster, ObjectName::new(namespace, name));
        for name in ["a", "b", "c", "d"] {
            story.inner.add(of("flood", name), Priority::Edit, story.now);
        }
        story.inner.add(of("quiet", "x"), Priority::Resync, story.now);
        assert_eq!((story.take().as_deref(), story.take().as_deref()), (Some("a"), Some("b")));
        assert_eq!(story.take().as_deref(), Some("x"), "two of one namespace run, and another waits");
        assert_eq!(story.take(), None);
        let edit = story.inner.take_edit(story.now).map(|taken| taken.key.object.name);
        assert_eq!(edit.as_deref(), Some("c"), "a worker that is kept for edits is one more");
        assert_eq!(story.inner.take_edit(story.now), None, "and the other is kept for others");
        story.inner.add(of("quiet", "y"), Priority::Edit, story.now);
        let edit = story.inner.take_edit(story.now).map(|taken| taken.key.object.name);
        assert_eq!(edit.as_deref(), Some("y"));
        for name in ["a", "b"] {
            story.inner.done(&of("flood", name), Outcome::Done, story.now, |_| Duration::ZERO);
        }
        assert_eq!(story.take().as_deref(), Some("d"), "one that ends makes room");
    }

    #[test]
    fn a_flood_costs_the_others_one_look() {
        let mut story = Story::new();
        story.inner.shares.limits.at_work_of_one = Some(2);
        let of = |namespace: &str, name: &str| Key::new(Kind::KVCluster, ObjectName::new(namespace, name));
        for number in 0..1000 {
            story.inner.add(of("flood", &number.to_string()), Priority::Edit, story.now);
        }
        story.inner.add(of("quiet", "x"), Priority::Resync, story.now);
        assert_eq!((story.take().as_deref(), story.take().as_deref()), (Some("0"), Some("1")));
        let looks = std::cell::Cell::new(0);
        let has_room = |namespace: &str| {
            looks.set(looks.get() + 1);
            story.inner.shares.have_room(namespace, Desk::All)
        };
        assert_eq!(story.inner.waiting.most_urgent(Priority::Resync, has_room), Some(&of("quiet", "x")));
        assert_eq!(story.inner.waiting.oldest(has_room), Some(&of("quiet", "x")));
        assert_eq!(looks.get(), 4, "two each: a lane, whatever its length, and the next");
    }

    #[tokio::test]
    async fn many_workers_share_and_all_hear_that_it_closes() {
        let queue = std::sync::Arc::new(Queue::new(Backoff::default(), QueueMetrics::default()));
        let all = std::sync::Arc::new(tokio::sync::Barrier::new(2));
        let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(100));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (queue, all, left) = (queue.clone(), all.clone(), left.clone());
                tokio::spawn(async move {
                    while let Some(taken) = queue.next().await {
                        tokio::task::yield_now().await;
                        queue.done(&taken.key, Outcome::Done);
                        if left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1 {
                            all.wait().await;
                        }
                    }
                })
            })
            .collect();
        for number in 0..100 {
            queue.add(key(&number.to_string()), Priority::Edit);
        }
        all.wait().await;
        assert!(queue.is_idle());
        queue.close();
        for worker in workers {
            worker.await.expect("no worker panics");
        }
    }
}
