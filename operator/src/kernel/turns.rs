//! Has turns run: as many at a time as the queue hands out.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use aistack_crds::Kind;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::task::JoinSet;

use super::cluster::Cluster;
use super::queue::{Outcome, Queue, Taken};
use super::reconcile::Reconciler;
use crate::outside;

/// Runs a turn after the other until the queue is closed, and ends with the last of them. Dropped, it leaves none running.
pub(super) async fn run(queue: Arc<Queue>, turn: impl Fn(&Taken) -> BoxFuture<'static, Outcome>) {
    let mut turns = JoinSet::new();
    loop {
        let taken = tokio::select! {
            taken = queue.next() => taken,
            taken = queue.next_edit() => taken,
            Some(_) = turns.join_next() => continue,
        };
        let Some(taken) = taken else { break };
        turns.spawn(one(queue.clone(), turn(&taken), taken));
    }
    while turns.join_next().await.is_some() {}
}

async fn one(queue: Arc<Queue>, turn: BoxFuture<'static, Outcome>, taken: Taken) {
    let (desks, key) = (queue.clone(), taken.key.clone());
    let tell = move |is_outside| if is_outside { desks.left(&key) } else { desks.came_back(&key) };
    let ended = AssertUnwindSafe(outside::turn(tell, turn)).catch_unwind().await;
    let outcome = ended.unwrap_or_else(|_| {
        tracing::error!(object = %taken.key, "a reconciliation panicked");
        Outcome::Failed
    });
    queue.done(&taken.key, outcome);
}

/// A turn of a cluster's.
pub(super) fn of(
    cluster: &Arc<Cluster>,
    controllers: &HashMap<Kind, Arc<dyn Reconciler>>,
    taken: &Taken,
) -> BoxFuture<'static, Outcome> {
    let Some(controller) = controllers.get(&taken.key.kind).cloned() else {
        return std::future::ready(Outcome::Gone).boxed();
    };
    let (cluster, name) = (cluster.clone(), taken.key.object.clone());
    async move { controller.reconcile(&cluster, &name).await }.boxed()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;
    use tokio::sync::watch;

    use super::super::backoff::Backoff;
    use super::super::key::{Key, ObjectName};
    use super::super::metrics::QueueMetrics;
    use super::super::queue::Priority;
    use super::super::share::Limits;
    use super::*;

    /// Turns that run, most that did, and those of namespace `quiet` that ended.
    #[derive(Default)]
    struct Seen {
        running: usize,
        most: usize,
        ended: usize,
    }

    /// Turns of namespace `quiet` ask a server that answers; those of others one that says nothing until `answers`.
    fn turn(
        seen: Arc<Mutex<Seen>>,
        answers: watch::Receiver<bool>,
    ) -> impl Fn(&Taken) -> BoxFuture<'static, Outcome> {
        move |taken| {
            let (seen, mut answers) = (seen.clone(), answers.clone());
            let is_quiet = taken.key.object.namespace == "quiet";
            async move {
                {
                    let mut seen = seen.lock();
                    seen.running += 1;
                    seen.most = seen.most.max(seen.running);
                }
                let asked = async move {
                    if !is_quiet {
                        let _ = answers.wait_for(|answers| *answers).await;
                    }
                };
                let _ = outside::step(outside::call(asked)).await;
                tokio::task::yield_now().await;
                let mut seen = seen.lock();
                seen.running -= 1;
                seen.ended += usize::from(is_quiet);
                Outcome::Done
            }
            .boxed()
        }
    }

    fn queue(limits: Limits) -> Arc<Queue> {
        let queue = Arc::new(Queue::new(Backoff::default(), QueueMetrics::default()));
        queue.limit(limits);
        queue
    }

    fn add(queue: &Queue, namespace: &str, number: usize, priority: Priority) {
        queue.add(Key::new(Kind::KVCluster, ObjectName::new(namespace, number.to_string())), priority);
    }

    async fn until(holds: impl Fn() -> bool) {
        while !holds() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn however_many_namespaces_have_servers_that_never_answer_the_others_begin_at_once() {
        // Of one namespace eight turns run, of all 256; and one each of those that have none.
        for (silent, objects, run_at_once) in [(2, 100, 16), (30, 20, 240), (300, 20, 300)] {
            let queue = queue(Limits::of(8, 2, true));
            let seen = Arc::<Mutex<Seen>>::default();
            let (answer, answers) = watch::channel(false);
            let turns = tokio::spawn(run(queue.clone(), turn(seen.clone(), answers)));
            for number in 0..objects {
                for namespace in 0..silent {
                    add(&queue, &format!("silent-{namespace}"), number, Priority::New);
                }
            }
            until(|| queue.outside() == run_at_once).await;
            assert_eq!(seen.lock().running, run_at_once, "none of {silent} namespaces holds a worker");
            for number in 0..20 {
                add(&queue, "quiet", number, Priority::Resync);
            }
            until(|| seen.lock().ended == 20).await;
            assert_eq!(queue.outside(), run_at_once, "and no server has answered meanwhile");
            assert!(seen.lock().most <= run_at_once + 8, "{silent}: {}", seen.lock().most);
            queue.close();
            answer.send(true).expect("they listen");
            turns.await.expect("those that run end");
            assert_eq!((seen.lock().running, queue.outside()), (0, 0));
        }
    }

    #[tokio::test]
    async fn nobody_begins_while_those_that_came_back_have_the_workers() {
        let queue = queue(Limits::of(2, 1, true));
        let mut taken = Vec::new();
        for namespace in ["a", "b", "c"] {
            add(&queue, namespace, 0, Priority::New);
            let key = queue.next().await.expect("open").key;
            queue.left(&key);
            taken.push(key);
        }
        for key in &taken {
            queue.came_back(key);
        }
        add(&queue, "d", 0, Priority::New);
        assert!(queue.next().now_or_never().is_none(), "three are at two workers");
        queue.done(&taken[0], Outcome::Done);
        assert!(queue.next().now_or_never().is_none(), "two are");
        queue.done(&taken[1], Outcome::Done);
        assert_eq!(queue.next().await.expect("open").key.object.namespace, "d");
    }

    #[tokio::test]
    async fn an_object_has_one_turn_at_a_time_wherever_that_is() {
        let queue = queue(Limits::of(2, 1, true));
        add(&queue, "a", 0, Priority::New);
        let key = queue.next().await.expect("open").key;
        queue.left(&key);
        add(&queue, "a", 0, Priority::Edit);
        assert!(queue.next().now_or_never().is_none() && queue.next_edit().now_or_never().is_none());
        queue.done(&key, Outcome::Again(Duration::from_mins(1)));
        assert_eq!(queue.next_edit().await.expect("open").priority, Priority::Edit, "then it comes again");
    }

    #[tokio::test]
    async fn a_turn_that_panics_or_is_left_outside_gives_back_what_it_had() {
        let queue = queue(Limits::of(1, 1, true));
        let turns = tokio::spawn(run(queue.clone(), |taken| {
            let number = taken.key.object.name.clone();
            async move {
                if number != "0" {
                    return Outcome::Done;
                }
                let asked = async { panic!("as a bug would") };
                outside::call(asked).await.map_or(Outcome::Failed, |()| Outcome::Done)
            }
            .boxed()
        }));
        add(&queue, "a", 0, Priority::New);
        add(&queue, "a", 1, Priority::New);
        until(|| queue.is_idle()).await;
        queue.close();
        turns.await.expect("it drains");
        assert_eq!(queue.outside(), 0);
    }
}
