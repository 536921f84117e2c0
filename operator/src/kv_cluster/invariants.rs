//! What must hold of a group at every look, whoever did what: one cluster, members that are told apart, pods behind their names, and
//! processes that go forwards. Pure: what is seen now and what was seen last go in, what is broken comes out.
//!
//! Left out is what can be otherwise for a moment and be well: two that call themselves leader, an index of the log that goes back
//! (its end was never agreed upon), and how many voters there are, which people may change by hand.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::planner::Violated;

/// How long the number of a container's restarts may lag behind the container: a kubelet tells it late, and only to who reaches it.
const RESTARTS_ARE_KNOWN: Duration = Duration::from_mins(1);

/// What nobody looked at for so long is no more: at rest a look comes every two minutes.
const FORGOTTEN: Duration = Duration::from_mins(30);

/// A process of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its pod.
    pub pod: String,
    /// How often its container was started again before.
    pub restarts: i32,
}

/// What a member says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub cluster: u64,
    pub member: u64,
    pub applied: u64,
}

/// What one look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// Processes of pods that run and stay, by ordinal: another pod may have the address of one that leaves.
    pub processes: BTreeMap<u16, Process>,
    /// What those said, that did.
    pub answers: BTreeMap<u16, Answered>,
    /// Numbers and names of the members, as the group lists them.
    pub listed: Vec<(u64, String)>,
}

/// One that went back, as far as can be told yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WentBack {
    from: u64,
    to: u64,
    since: Instant,
}

/// What is known of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    process: Process,
    applied: u64,
    went_back: Option<WentBack>,
}

/// What earlier looks found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Before {
    known: BTreeMap<u16, Known>,
    pub violations: Vec<Violation>,
}

/// What is broken, in words that stay the same as long as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub of: Violated,
    pub said: String,
}

/// What was seen of each group last, by the object's uid.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Looks>);

#[derive(Debug, Default)]
struct Looks {
    last: HashMap<String, (Instant, Before)>,
    swept: Option<Instant>,
}

impl Memory {
    /// What is broken, and what of that is new.
    pub(super) fn compare(
        &self,
        uid: &str,
        cluster: &str,
        observed: &Observed,
        now: Instant,
    ) -> (Vec<Violation>, Vec<Violation>) {
        let mut looks = self.0.lock();
        if now.duration_since(*looks.swept.get_or_insert(now)) > FORGOTTEN {
            looks.last.retain(|_, (at, _)| now.duration_since(*at) < FORGOTTEN);
            looks.swept = Some(now);
        }
        let before = looks.last.remove(uid).map(|(_, before)| before).unwrap_or_default();
        let after = before.then(cluster, observed, now);
        let compared = (after.violations.clone(), before.news(&after).cloned().collect());
        looks.last.insert(uid.to_owned(), (now, after));
        compared
    }
}

impl Before {
    /// What is known after this look; `cluster` is the name of the object.
    pub(super) fn then(&self, cluster: &str, observed: &Observed, now: Instant) -> Self {
        let known = self.followed(observed, now);
        let mut violations = Vec::new();
        let mut broken = |of: Violated, said: Option<String>| {
            violations.extend(said.map(|said| Violation { of, said }));
        };
        broken(Violated::ClusterId, of_several_clusters(cluster, observed));
        broken(Violated::MemberId, same_numbers(cluster, observed));
        broken(Violated::MemberName, strange_names(cluster, observed));
        broken(Violated::AppliedIndex, backwards(cluster, &known, now));
        Self { known, violations }
    }

    /// What is broken that was not before.
    pub(super) fn news<'a>(&self, after: &'a Self) -> impl Iterator<Item = &'a Violation> {
        after.violations.iter().filter(|violation| !self.violations.contains(violation))
    }

    fn followed(&self, observed: &Observed, now: Instant) -> BTreeMap<u16, Known> {
        let follow = |(ordinal, process): (&u16, &Process)| {
            let before = self.known.get(ordinal).filter(|known| known.process == *process);
            let Some(applied) = observed.answers.get(ordinal).map(|answer| answer.applied) else {
                return Some((*ordinal, before?.clone()));
            };
            let back = before.filter(|known| applied < known.applied);
            let began = back.map(|known| WentBack { from: known.applied, to: applied, since: now });
            let went_back = before.and_then(|known| known.went_back.clone()).or(began);
            Some((*ordinal, Known { process: process.clone(), applied, went_back }))
        };
        observed.processes.iter().filter_map(follow).collect()
    }
}

fn several(cluster: &str, ordinals: &[u16]) -> String {
    let names: Vec<String> = ordinals.iter().map(|ordinal| format!("{cluster}-{ordinal}")).collect();
    names.join(" and ")
}

/// Members by what they say.
fn by(observed: &Observed, of: impl Fn(&Answered) -> u64) -> BTreeMap<u64, Vec<u16>> {
    let mut found: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
    for (ordinal, answer) in &observed.answers {
        // 0 is said by who does not know yet.
        if observed.processes.contains_key(ordinal) && of(answer) != 0 {
            found.entry(of(answer)).or_default().push(*ordinal);
        }
    }
    found
}

fn of_several_clusters(cluster: &str, observed: &Observed) -> Option<String> {
    let clusters = by(observed, |answer| answer.cluster);
    let said: Vec<String> = clusters
        .iter()
        .map(|(id, ordinals)| format!("{} of cluster {id:x}", several(cluster, ordinals)))
        .collect();
    (clusters.len() > 1).then(|| {
        format!(
            "the members are of different clusters: {}. Nothing is done to the group until they are of one: take away the volume and the pod \
             of whichever has what is not this cluster's (kubectl delete pvc data-{cluster}-N --wait=false, kubectl delete pod \
             {cluster}-N), and have it replaced",
            said.join(", ")
        )
    })
}

fn same_numbers(cluster: &str, observed: &Observed) -> Option<String> {
    let members = by(observed, |answer| answer.member);
    let said: Vec<String> = members
        .iter()
        .filter(|(_, ordinals)| ordinals.len() > 1)
        .map(|(id, ordinals)| format!("{} are both member {id:x}", several(cluster, ordinals)))
        .collect();
    (!said.is_empty()).then(|| {
        format!(
            "{}: one has a copy of the other's volume, and each could vote for both. Nothing is done to the group until that is \
             mended: take away the copy and its pod (kubectl delete pvc data-{cluster}-N --wait=false, kubectl delete pod {cluster}-N), \
             and have it replaced",
            said.join(", ")
        )
    })
}

fn strange_names(cluster: &str, observed: &Observed) -> Option<String> {
    let is_pod = |name: &str| super::ordinal_of(cluster, name).is_some();
    let is_twice = |name: &str| observed.listed.iter().filter(|(_, other)| other == name).count() > 1;
    let mut said: Vec<String> = observed
        .listed
        .iter()
        .filter(|(_, name)| !is_pod(name) || is_twice(name))
        .map(|(id, name)| format!("{id:x} is {name}"))
        .collect();
    said.sort();
    (!said.is_empty()).then(|| {
        format!(
            "the group has members that are no pods of this StatefulSet, or two of one name: {}. If nobody put them there: etcdctl member \
             remove ID",
            said.join(", ")
        )
    })
}

fn backwards(cluster: &str, known: &BTreeMap<u16, Known>, now: Instant) -> Option<String> {
    let surely = |(ordinal, known): (&u16, &Known)| {
        let back = known.went_back.as_ref()?;
        (now.duration_since(back.since) >= RESTARTS_ARE_KNOWN).then(|| {
            format!(
                "{cluster}-{ordinal} had applied entry {}, and then {} without having started anew",
                back.from, back.to
            )
        })
    };
    let said: Vec<String> = known.iter().filter_map(surely).collect();
    (!said.is_empty()).then(|| {
        format!(
            "{}: it forgot what it had told. Have it replaced: kubectl annotate kv {cluster} platform.dev/replace-member={cluster}-N",
            said.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(ordinal: u16, restarts: i32) -> (u16, Process) {
        (ordinal, Process { pod: format!("uid-{ordinal}"), restarts })
    }

    fn well() -> Observed {
        let answer = |member: u64| Answered { cluster: 7, member, applied: 100 };
        Observed {
            processes: (0..3).map(|ordinal| process(ordinal, 0)).collect(),
            answers: (0..3).map(|ordinal| (ordinal, answer(u64::from(ordinal) + 1))).collect(),
            listed: (1..=3).map(|id| (id, format!("kv-{}", id - 1))).collect(),
        }
    }

    fn said(before: &Before) -> Vec<&'static str> {
        before.violations.iter().map(|violation| violation.of.name()).collect()
    }

    #[test]
    fn what_must_hold_is_told_when_it_does_not() {
        type Case = (&'static str, fn(&mut Observed), &'static [&'static str]);
        let table: [Case; 14] = [
            ("all is well", |_| {}, &[]),
            ("nobody answers", |o| o.answers.clear(), &[]),
            ("another cluster's", |o| o.answers.get_mut(&2).expect("2").cluster = 8, &["cluster_id"]),
            (
                "one that is about to go, and whose address another may have",
                |o| {
                    o.answers.get_mut(&2).expect("2").cluster = 8;
                    o.processes.remove(&2);
                },
                &[],
            ),
            ("one that does not know yet", |o| o.answers.get_mut(&2).expect("2").cluster = 0, &[]),
            ("a copy of a volume", |o| o.answers.get_mut(&2).expect("2").member = 1, &["member_id"]),
            ("two that do not know yet", |o| o.answers.values_mut().for_each(|it| it.member = 0), &[]),
            ("a stranger", |o| o.listed.push((9, "etcd-0".to_owned())), &["member_name"]),
            ("one that is called nearly so", |o| o.listed[2].1 = "kv-02".to_owned(), &["member_name"]),
            ("one that no pod is ever called", |o| o.listed.push((9, "kv-300".to_owned())), &["member_name"]),
            ("the last that there may be", |o| o.listed.push((9, "kv-6".to_owned())), &[]),
            ("two of a name", |o| o.listed[2].1 = "kv-1".to_owned(), &["member_name"]),
            ("a member whose pod is not there yet", |o| o.listed.push((4, "kv-3".to_owned())), &[]),
            (
                "all of it",
                |o| {
                    *o.answers.get_mut(&2).expect("2") = Answered { cluster: 8, member: 1, applied: 0 };
                    o.listed.push((9, String::new()));
                },
                &["cluster_id", "member_id", "member_name"],
            ),
        ];
        for (name, change, expected) in table {
            let mut observed = well();
            change(&mut observed);
            let now = Instant::now();
            let after = Before::default().then("kv", &observed, now);
            assert_eq!(said(&after), expected, "{name}");
            let later = after.then("kv", &observed, now + RESTARTS_ARE_KNOWN);
            assert_eq!(after.news(&later).count(), 0, "{name}: it is told once");
        }
    }

    #[test]
    fn groups_are_told_apart_and_those_that_are_gone_are_forgotten() {
        let (memory, began) = (Memory::default(), Instant::now());
        let mut broken = well();
        broken.answers.get_mut(&2).expect("2").cluster = 8;
        let counts = |uid: &str, observed: &Observed, minutes: u64| {
            let (all, news) = memory.compare(uid, "kv", observed, began + Duration::from_mins(minutes));
            (all.len(), news.len())
        };
        assert_eq!(counts("a", &broken, 0), (1, 1));
        assert_eq!(counts("b", &well(), 1), (0, 0));
        assert_eq!(counts("a", &broken, 2), (1, 0));
        assert_eq!(counts("b", &broken, 3), (1, 1));
        assert_eq!(counts("a", &broken, 60), (1, 1), "and told again by then");
        assert_eq!(memory.0.lock().last.len(), 1, "b is forgotten");
    }

    #[test]
    fn a_process_goes_forwards_and_one_that_starts_anew_may_begin_before() {
        type Case = (&'static str, &'static [(u64, i32, u64)], &'static [&'static str]);
        // Seconds, restarts of the container as they are known then, and the entry applied.
        let table: [Case; 6] = [
            ("forwards", &[(0, 0, 100), (60, 0, 100), (120, 0, 500)], &[]),
            ("started anew", &[(0, 0, 100), (60, 1, 90), (200, 1, 120)], &[]),
            ("started anew, and told later", &[(0, 0, 100), (10, 0, 90), (15, 1, 95), (300, 1, 99)], &[]),
            ("not told for sure yet", &[(0, 0, 100), (10, 0, 90), (60, 0, 95)], &[]),
            ("backwards", &[(0, 0, 100), (10, 0, 90), (70, 0, 300)], &["applied_index"]),
            ("and that was mended", &[(0, 0, 100), (10, 0, 90), (70, 0, 300), (90, 1, 300)], &[]),
        ];
        for (name, looks, expected) in table {
            let began = Instant::now();
            let mut before = Before::default();
            for (seconds, restarts, applied) in looks {
                let mut observed = well();
                observed.processes.extend([process(1, *restarts)]);
                observed.answers.get_mut(&1).expect("1").applied = *applied;
                before = before.then("kv", &observed, began + Duration::from_secs(*seconds));
            }
            assert_eq!(said(&before), expected, "{name}");
        }
    }
}
