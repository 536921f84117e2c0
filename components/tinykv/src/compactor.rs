//! Compacting without being asked, by etcd's rules. When to compact and to where is decided without a clock; the member
//! tells the time.

use crate::mvcc::{Origin, Refusal};
use crate::node::{Node, NodeError};
use aistack_api::tinykv::Retention;
use std::collections::VecDeque;
use std::sync::Weak;
use std::time::{Duration, Instant};

/// The longest time between two compactions by time.
const LONGEST: Duration = Duration::from_hours(1);
/// Looks within it, and within a shorter retention.
const LOOKS: u32 = 10;
/// Time between two compactions by revision.
const BY_REVISION: Duration = Duration::from_mins(5);

/// Decides when to compact. Times count from any beginning.
#[derive(Debug)]
pub struct Compactor {
    rule: Rule,
    /// To where it compacted last.
    last: i64,
}

#[derive(Debug)]
enum Rule {
    Time {
        retention: Duration,
        /// The revisions at the last looks; once they span the retention, the first is the one to compact to.
        seen: VecDeque<i64>,
        /// When it compacted last, or began.
        at: Duration,
        /// How long it waits from then on.
        wait: Duration,
    },
    Revisions {
        retention: i64,
    },
}

impl Compactor {
    /// Begins at time 0.
    pub fn new(retention: Retention) -> Self {
        let rule = match retention {
            Retention::Time(retention) => {
                Rule::Time { retention, seen: VecDeque::new(), at: Duration::ZERO, wait: retention }
            }
            Retention::Revisions(retention) => Rule::Revisions { retention },
        };
        Self { rule, last: 0 }
    }

    /// How long to wait between a look and the decision after it.
    pub fn pause(&self) -> Duration {
        match &self.rule {
            Rule::Time { retention, .. } => (*retention).min(LONGEST) / LOOKS,
            Rule::Revisions { .. } => BY_REVISION,
        }
    }

    /// Notes where the store is.
    pub fn look(&mut self, revision: i64) {
        let pause = self.pause();
        if let Rule::Time { retention, seen, .. } = &mut self.rule {
            seen.push_back(revision);
            let most = retention.as_nanos() / pause.as_nanos().max(1) + 1;
            if seen.len() as u128 > most {
                seen.pop_front();
            }
        }
    }

    /// The revision to compact to at time `now`, when the store is at `latest`, if it is time. Only a leader asks; who
    /// begins to lead has looked before.
    pub fn due(&mut self, now: Duration, latest: i64) -> Option<i64> {
        let revision = match &mut self.rule {
            Rule::Time { retention, seen, at, wait } => {
                let revision = *seen.front()?;
                if now.saturating_sub(*at) < *wait || revision == self.last {
                    return None;
                }
                // Only the first compaction waits for the whole retention.
                *wait = (*retention).min(LONGEST);
                revision
            }
            Rule::Revisions { retention } => latest - *retention,
        };
        (revision > 0 && revision != self.last).then_some(revision)
    }

    /// Everything before `revision` is compacted.
    pub fn done(&mut self, revision: i64, now: Duration) {
        self.last = revision;
        if let Rule::Time { at, .. } = &mut self.rule {
            *at = now;
        }
    }
}

/// Compacts for as long as the member lives.
pub async fn run(node: Weak<Node>, retention: Retention) {
    let mut compactor = Compactor::new(retention);
    let began = Instant::now();
    loop {
        if let Some(node) = node.upgrade() {
            compactor.look(node.revision());
        }
        tokio::time::sleep(compactor.pause()).await;
        let Some(node) = node.upgrade() else { continue };
        if node.leader() != Some(node.identity.member_id) {
            continue;
        }
        let Some(revision) = compactor.due(began.elapsed(), node.revision()) else { continue };
        match node.compact(&Origin::Member, revision, false).await {
            Ok(_) => {
                tracing::info!(revision, "compacted, as the retention says");
                compactor.done(revision, began.elapsed());
            }
            Err(NodeError::Refused(Refusal::Compacted)) => compactor.done(revision, began.elapsed()),
            Err(error) => tracing::warn!(revision, %error, "could not compact; it is tried again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A day of a store that goes on by a revision a second; answers when it was compacted, in seconds, and to where.
    fn day(retention: Retention, leads: impl Fn(u64) -> bool) -> Vec<(u64, i64)> {
        let mut compactor = Compactor::new(retention);
        let mut now = Duration::ZERO;
        let mut compactions = Vec::new();
        while now < Duration::from_hours(24) {
            compactor.look(now.as_secs() as i64 + 1);
            now += compactor.pause();
            if leads(now.as_secs())
                && let Some(revision) = compactor.due(now, now.as_secs() as i64 + 1)
            {
                compactor.done(revision, now);
                compactions.push((now.as_secs(), revision));
            }
        }
        compactions
    }

    #[test]
    fn by_time_what_is_younger_than_the_retention_stays() {
        let ten_minutes = day(Retention::Time(Duration::from_mins(10)), |_| true);
        assert_eq!(ten_minutes[..3], [(600, 1), (1_200, 541), (1_800, 1_141)]);
        let two_hours = day(Retention::Time(Duration::from_hours(2)), |_| true);
        assert_eq!(
            two_hours[..3],
            [(7_200, 1), (10_800, 3_241), (14_400, 6_841)],
            "every hour once it began"
        );
        for (at, revision) in ten_minutes {
            assert!(at as i64 - revision >= 599, "at {at}: {revision}");
        }
    }

    #[test]
    fn by_revision_so_many_stay() {
        let compactions = day(Retention::Revisions(1_000), |_| true);
        assert_eq!(compactions[..2], [(1_200, 201), (1_500, 501)]);
        assert_eq!(compactions.len(), 24 * 12 - 3, "every five minutes, once there are as many");
    }

    #[test]
    fn who_begins_to_lead_knows_where_the_store_was() {
        let half = day(Retention::Time(Duration::from_mins(10)), |second| second > 3_600);
        assert_eq!(half[0], (3_660, 3_001));
    }

    #[test]
    fn a_store_that_rests_is_compacted_once() {
        let mut compactor = Compactor::new(Retention::Time(Duration::from_mins(10)));
        let mut times = 0;
        for minute in 1..600 {
            compactor.look(77);
            let now = Duration::from_mins(minute);
            if let Some(revision) = compactor.due(now, 77) {
                compactor.done(revision, now);
                times += 1;
            }
        }
        assert_eq!(times, 1);
    }
}
