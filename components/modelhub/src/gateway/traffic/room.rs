//! Where requests wait while none of a model's targets answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use aistack_api::traffic::HoldPolicy;
use tokio::sync::Notify;

use super::metrics::RoomMetrics;
use crate::error::ApiError;

/// The waiting room of one model, in this process.
#[derive(Debug)]
pub struct Room {
    held: AtomicU64,
    /// Requests so far.
    requests: AtomicU64,
    /// Those whose reply is not over.
    in_flight: AtomicU64,
    /// When one came or ended last, Unix milliseconds; 0 before the first.
    last_request_ms: AtomicU64,
    metrics: RoomMetrics,
    /// Told when somebody begins to wait.
    entered: Arc<Notify>,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Served,
    Deadline,
    Left,
}

impl Room {
    /// An empty one; `entered` is told when somebody begins to wait.
    pub fn new(metrics: RoomMetrics, entered: Arc<Notify>) -> Self {
        Self {
            held: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            last_request_ms: AtomicU64::new(0),
            metrics,
            entered,
        }
    }

    /// Notes a request, and numbers it; it is in flight until that is dropped, with its reply's last byte.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        self.last_request_ms.fetch_max(crate::now_ms(), Ordering::SeqCst);
        InFlight { number: self.requests.fetch_add(1, Ordering::Relaxed), room: self.clone() }
    }

    /// Requests whose reply is not over, those that wait among them.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Requests that wait.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// When somebody was answered last, Unix milliseconds: now, while a request is in flight.
    pub fn last_request_ms(&self, now_ms: u64) -> Option<u64> {
        // In this order: an end is noted before its request is in flight no more.
        if self.in_flight() > 0 {
            return Some(now_ms);
        }
        Some(self.last_request_ms.load(Ordering::SeqCst)).filter(|at| *at > 0)
    }

    /// Lets a request wait that arrived at a time, if there is room.
    pub fn enter(
        self: &Arc<Self>,
        model: &str,
        policy: HoldPolicy,
        arrived: Instant,
    ) -> Result<Waiting, ApiError> {
        let most = u64::from(policy.max_requests);
        let entered = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| (held < most).then_some(held + 1));
        if entered.is_err() {
            self.metrics.overflow.inc();
            let message =
                format!("model {model} is being started and {most} requests wait for it already; try again");
            return Err(ApiError::unavailable("hold_queue_full", message, again(policy)));
        }
        self.metrics.held.inc();
        self.entered.notify_one();
        let model = model.to_owned();
        Ok(Waiting { room: self.clone(), model, policy, began: arrived, end: End::Left })
    }
}

fn again(policy: HoldPolicy) -> u64 {
    (policy.deadline_ms / 1000).clamp(1, 30)
}

/// A request on its way, from its arrival to the end of its reply, whoever ends it.
#[derive(Debug)]
pub struct InFlight {
    /// Which request of its room this is.
    pub number: u64,
    room: Arc<Room>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.room.last_request_ms.fetch_max(crate::now_ms(), Ordering::SeqCst);
        self.room.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A request that waits; dropping it ends that.
#[derive(Debug)]
pub struct Waiting {
    room: Arc<Room>,
    model: String,
    policy: HoldPolicy,
    began: Instant,
    end: End,
}

impl Waiting {
    /// When it has waited long enough.
    pub fn deadline(&self) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.began + std::time::Duration::from_millis(self.policy.deadline_ms))
    }

    /// Whether it has.
    pub fn is_over(&self) -> bool {
        tokio::time::Instant::now() >= self.deadline()
    }

    /// A target answers.
    pub fn served(mut self) {
        self.end = End::Served;
    }

    /// None did in time.
    pub fn gave_up(mut self) -> ApiError {
        self.end = End::Deadline;
        let message = format!(
            "model {} was at rest and no target of it answered within {} ms; it may be starting still, try again",
            self.model, self.policy.deadline_ms
        );
        ApiError::unavailable("hold_deadline", message, again(self.policy))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let room = &self.room;
        room.held.fetch_sub(1, Ordering::Relaxed);
        room.metrics.held.dec();
        room.metrics.duration.observe(self.began.elapsed().as_secs_f64());
        match self.end {
            End::Served => &room.metrics.served,
            End::Deadline => &room.metrics.deadline,
            End::Left => &room.metrics.left,
        }
        .inc();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::gateway::traffic::metrics::TrafficMetrics;

    #[test]
    fn a_room_is_as_large_as_its_route_says_and_empties_itself() {
        let metrics = TrafficMetrics::register(&mut Registry::default());
        let room = Arc::new(Room::new(metrics.of_room("m"), Arc::default()));
        let policy = HoldPolicy { deadline_ms: 5_000, max_requests: 2 };
        let enter = || room.enter("m", policy, Instant::now());
        let (one, two) = (enter().expect("room"), enter().expect("room"));
        let refused = enter().expect_err("no room");
        assert_eq!(
            (refused.status.as_u16(), refused.code, refused.retry_after),
            (503, "hold_queue_full", Some(5))
        );
        drop(one);
        let three = enter().expect("room again");
        assert_eq!(room.held(), 2);
        two.served();
        assert_eq!(three.gave_up().code, "hold_deadline");
        assert_eq!(room.held(), 0);
    }

    #[test]
    fn a_room_is_busy_from_a_requests_arrival_to_the_end_of_its_reply() {
        let metrics = TrafficMetrics::register(&mut Registry::default());
        let room = Arc::new(Room::new(metrics.of_room("m"), Arc::default()));
        assert_eq!(room.last_request_ms(7), None, "nobody ever asked");
        let before = crate::now_ms();
        let (one, two) = (room.begin(), room.begin());
        assert_eq!((one.number, two.number), (0, 1));
        let much_later = before + 3_600_000;
        drop(one);
        assert_eq!((room.in_flight(), room.last_request_ms(much_later)), (1, Some(much_later)));
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(two);
        let last = room.last_request_ms(much_later).expect("somebody asked");
        assert!(last >= before + 20 && last <= crate::now_ms(), "its end counts, not its arrival");
        assert_eq!(room.in_flight(), 0);
    }
}
