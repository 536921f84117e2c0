//! A few threads that share loops, without a barrier anyone can be stuck in.
//!
//! The caller publishes a loop, takes iterations from a shared counter like everyone else, and waits only for iterations that
//! another thread has already begun. A worker that the kernel has not scheduled (a busy machine, a CPU-limited pod) therefore
//! costs nothing: its share is done by who is there. Idle workers look for work for some microseconds and then park.
#![allow(unsafe_code)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, spawn};

/// Looks at the job counter before parking: some ten microseconds.
const SPINS: u32 = 400;

/// The loop body, its lifetime erased; it outlives every use because `Pool::run` returns only after all have left.
#[derive(Clone, Copy)]
struct Body(&'static (dyn Fn(usize) + Sync));

struct Job {
    body: Body,
    tasks: usize,
    next: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    job: Option<Job>,
    /// Workers inside the job.
    active: usize,
    /// Workers parked on `work`.
    parked: usize,
    stop: bool,
    panic: Option<Box<dyn Any + Send>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
    /// Counts jobs, so that a spinning worker sees a new one without the lock.
    epoch: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads. Dropping it joins them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One loop at a time; other callers queue here.
    turn: Mutex<()>,
}

impl Pool {
    /// A pool in which `threads` threads compute, the caller of [`Self::run`] being one of them.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let workers = (1..threads)
            .map(|_| {
                let shared = Arc::clone(&shared);
                spawn(move || work(&shared))
            })
            .collect();
        Self { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads that compute, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `body(0)` … `body(tasks - 1)`, each once, in any order, and returns when all are done.
    ///
    /// A panic of the body reaches the caller after the others have left.
    pub fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(body);
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(AtomicUsize::new(0));
        // SAFETY: only the lifetime changes; `leave` below waits until no worker can use the reference any more.
        let erased = Body(unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(body)
        });
        {
            let mut state = self.shared.lock();
            state.job = Some(Job { body: erased, tasks, next: Arc::clone(&next) });
            self.shared.epoch.fetch_add(1, Ordering::Release);
            if state.parked > 0 {
                self.shared.work.notify_all();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| claim(&next, tasks, body)));
        if own.is_err() {
            next.store(tasks, Ordering::Relaxed);
        }
        let theirs = self.leave();
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        if let Some(panic) = theirs {
            resume_unwind(panic);
        }
    }

    /// Withdraws the job, so that no worker enters any more, and waits for those inside.
    fn leave(&self) -> Option<Box<dyn Any + Send>> {
        for _ in 0..SPINS {
            let mut state = self.shared.lock();
            state.job = None;
            if state.active == 0 {
                return state.panic.take();
            }
            drop(state);
            for _ in 0..16 {
                std::hint::spin_loop();
            }
        }
        let mut state = self.shared.lock();
        while state.active > 0 {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.panic.take()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.epoch.fetch_add(1, Ordering::Release);
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches panics of the body, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

fn claim(next: &AtomicUsize, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
    loop {
        let task = next.fetch_add(1, Ordering::Relaxed);
        if task >= tasks {
            return;
        }
        body(task);
    }
}

fn work(shared: &Shared) {
    let mut seen = 0;
    loop {
        for _ in 0..SPINS {
            if shared.epoch.load(Ordering::Acquire) != seen {
                break;
            }
            for _ in 0..16 {
                std::hint::spin_loop();
            }
        }
        let mut state = shared.lock();
        while shared.epoch.load(Ordering::Acquire) == seen && !state.stop {
            state.parked += 1;
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.parked -= 1;
        }
        if state.stop {
            return;
        }
        seen = shared.epoch.load(Ordering::Acquire);
        let Some(job) = &state.job else { continue };
        let (body, tasks, next) = (job.body, job.tasks, Arc::clone(&job.next));
        state.active += 1;
        drop(state);
        // `active` was raised under the lock while the job was published, so `Pool::run` waits for this thread.
        let result = catch_unwind(AssertUnwindSafe(|| claim(&next, tasks, body.0)));
        let mut state = shared.lock();
        if let Err(panic) = result {
            next.store(tasks, Ordering::Relaxed);
            state.panic = Some(panic);
        }
        state.active -= 1;
        if state.active == 0 {
            shared.done.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_runs_once_whatever_the_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 1000] {
                for _ in 0..20 {
                    let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(tasks, &|i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(
                        counts.iter().all(|c| c.load(Ordering::Relaxed) == 1),
                        "{threads} threads, {tasks} tasks"
                    );
                }
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(64, &|i| assert_ne!(i, 13, "thirteen"));
            }));
            assert!(caught.is_err());
            let count = AtomicUsize::new(0);
            pool.run(64, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.load(Ordering::Relaxed), 64);
        }
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let pool = Pool::new(2);
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.run(9, &|_| {
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 4 * 50 * 9);
    }
}
