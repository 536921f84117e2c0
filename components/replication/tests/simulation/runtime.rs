//! One thread, a virtual clock, seeded chance: a runtime on which the same seed gives the same
//! run. Tasks belong to a node; a crash drops all of a node's tasks between two steps.

use crate::watched::Watched;
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use replication::AsyncRuntime;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::sync::oneshot;

/// Whose a task is; 0 belongs to nobody and never crashes.
pub type Owner = u64;
type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

struct World {
    now: Duration,
    timers: BTreeMap<(Duration, u64), Waker>,
    tasks: BTreeMap<u64, (Owner, Option<Task>, Arc<Ready>)>,
    ready: Arc<Mutex<VecDeque<u64>>>,
    next: u64,
    owner: Owner,
    rng: StdRng,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn world<T>(look: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with(|world| look(world.borrow_mut().as_mut().expect("inside of a simulation")))
}

struct Ready {
    id: u64,
    queued: AtomicBool,
    queue: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            self.queue.lock().push_back(self.id);
        }
    }
}

/// Draws a number.
pub fn draw(range: std::ops::Range<u64>) -> u64 {
    world(|world| world.rng.random_range(range))
}

/// The time in the simulation.
pub fn now() -> Duration {
    world(|world| world.now)
}

/// Starts a task of `owner`.
pub fn spawn_for(owner: Owner, task: impl Future<Output = ()> + Send + 'static) {
    world(|world| {
        world.next += 1;
        let id = world.next;
        let ready = Arc::new(Ready { id, queued: AtomicBool::new(false), queue: Arc::clone(&world.ready) });
        world.tasks.insert(id, (owner, Some(Box::pin(task)), Arc::clone(&ready)));
        ready.wake();
    });
}

/// Drops every task of `owner`, which must not be running.
pub fn crash(owner: Owner) {
    let dropped: Vec<Option<Task>> = world(|world| {
        let dead: Vec<u64> =
            world.tasks.iter().filter(|(_, task)| task.0 == owner).map(|(id, _)| *id).collect();
        dead.into_iter().filter_map(|id| world.tasks.remove(&id)).map(|(_, task, _)| task).collect()
    });
    // Outside of the borrow: what is dropped may wake others.
    drop(dropped);
}

/// Runs `story` to its end under `seed`.
pub fn simulate<T: Send + 'static>(seed: u64, story: impl Future<Output = T> + Send + 'static) -> T {
    let ready = Arc::new(Mutex::new(VecDeque::new()));
    let fresh = World {
        now: Duration::from_secs(1_000),
        timers: BTreeMap::new(),
        tasks: BTreeMap::new(),
        ready: Arc::clone(&ready),
        next: 0,
        owner: 0,
        rng: StdRng::seed_from_u64(seed),
    };
    WORLD.with(|world| *world.borrow_mut() = Some(fresh));
    let (end, mut ended) = oneshot::channel();
    spawn_for(0, async move {
        assert!(end.send(story.await).is_ok(), "the simulation waits for its end");
    });
    let outcome = loop {
        if let Ok(outcome) = ended.try_recv() {
            break outcome;
        }
        let next = ready.lock().pop_front();
        match next {
            Some(id) => step(id),
            None => assert!(advance(), "nothing will ever happen again, and the story has not ended"),
        }
    };
    let left = WORLD.with(|world| world.borrow_mut().as_mut().map(|world| std::mem::take(&mut world.tasks)));
    drop(left);
    WORLD.with(|world| *world.borrow_mut() = None);
    outcome
}

fn step(id: u64) {
    let taken = world(|world| {
        let (owner, task, ready) = world.tasks.get_mut(&id)?;
        world.owner = *owner;
        ready.queued.store(false, Ordering::SeqCst);
        Some((task.take()?, Arc::clone(ready)))
    });
    let Some((mut task, ready)) = taken else { return };
    let waker = Waker::from(ready);
    let done = task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
    let rest = world(|world| {
        if done {
            world.tasks.remove(&id);
            return Some(task);
        }
        match world.tasks.get_mut(&id) {
            Some(slot) => {
                slot.1 = Some(task);
                None
            }
            None => Some(task),
        }
    });
    drop(rest);
}

/// Moves the clock to the next timer.
fn advance() -> bool {
    let waker = world(|world| {
        let ((deadline, _), waker) = world.timers.pop_first()?;
        world.now = world.now.max(deadline);
        Some(waker)
    });
    waker.map(Waker::wake).is_some()
}

/// A point of virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, other: Duration) -> Self {
        Self(self.0 + other)
    }
}
impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, other: Duration) {
        self.0 += other;
    }
}
impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, other: Duration) -> Self {
        Self(self.0.saturating_sub(other))
    }
}
impl Sub for Instant {
    type Output = Duration;
    fn sub(self, other: Self) -> Duration {
        self.0.saturating_sub(other.0)
    }
}
impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, other: Duration) {
        self.0 = self.0.saturating_sub(other);
    }
}
impl openraft::Instant for Instant {
    fn now() -> Self {
        Self(now())
    }
}

/// Ends at a point of virtual time.
pub struct Sleep {
    deadline: Duration,
    key: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let key = self.key;
        let new = world(|world| {
            if let Some(key) = key {
                world.timers.remove(&key);
            }
            if world.now >= deadline {
                return None;
            }
            world.next += 1;
            let key = (deadline, world.next);
            world.timers.insert(key, context.waker().clone());
            Some(key)
        });
        self.key = new;
        if new.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        // After a failed test the world may be gone already.
        let waker = WORLD.try_with(|world| {
            world.try_borrow_mut().ok().and_then(|mut world| world.as_mut()?.timers.remove(&key))
        });
        drop(waker);
    }
}

pub fn sleep(duration: Duration) -> Sleep {
    Sleep { deadline: now() + duration, key: None }
}

/// Waits for a future, up to a point of virtual time.
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Sleep,
}

/// The time was up.
#[derive(Debug)]
pub struct Late;

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time is up")
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Late>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut self.sleep).poll(context).map(|()| Err(Late))
    }
}

pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    Timeout { future: Box::pin(future), sleep: sleep(limit) }
}

/// The task was dropped by a crash.
#[derive(Debug)]
pub struct Crashed;

impl fmt::Display for Crashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its node crashed")
    }
}

pub struct JoinHandle<T>(oneshot::Receiver<T>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Crashed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|_| Crashed)
    }
}

/// The runtime that groups run on in a simulation.
#[derive(Debug)]
pub struct Simulated;

impl AsyncRuntime for Simulated {
    type JoinError = Crashed;
    type JoinHandle<T: Send + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = Late;
    type Timeout<R, T: Future<Output = R> + Send> = Timeout<T>;
    type ThreadLocalRng = StdRng;
    type Mpsc = TokioMpsc;
    type Watch = Watched;
    type Oneshot = TokioOneshot;
    type Mutex<T: Send + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        spawn_for(world(|world| world.owner), async move {
            let output = future.await;
            // Nobody may wait for it.
            let _ = sender.send(output);
        });
        JoinHandle(receiver)
    }

    fn sleep(duration: Duration) -> Sleep {
        sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        Sleep { deadline: deadline.0, key: None }
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Timeout<F> {
        timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Instant, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), sleep: Sleep { deadline: deadline.0, key: None } }
    }

    fn is_panic(_error: &Crashed) -> bool {
        false
    }

    fn thread_rng() -> StdRng {
        world(|world| StdRng::seed_from_u64(world.rng.random()))
    }

    fn new(_threads: usize) -> Self {
        Self
    }

    /// Polls outside of a simulation; what needs its clock does not belong here.
    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        futures::executor::block_on(future)
    }

    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, std::io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        std::future::ready(Ok(work()))
    }
}
