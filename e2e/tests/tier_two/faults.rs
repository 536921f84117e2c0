//! Seeded schedules of faults and edits, on processes of TinyKV, while 50 clients write: `SCHEDULES=100` for all of them, `SEED=n` to begin
//! elsewhere.

use std::time::{Duration, Instant};

use aistack_crds::KVCluster;
use anyhow::{Context as _, Result};
use e2e::hollow::Live;
use e2e::{Bed, Running, Story};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, EvictParams, Preconditions};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::clients::Writers;
use super::day_two::{founded, lose, told_of};
use super::monitor::{Monitor, told, until_at_rest};

/// Clients that write meanwhile.
const WRITERS: usize = 50;
/// Things that happen in a schedule.
const HAPPENINGS: usize = 6;

struct Schedule {
    bed: &'static Bed,
    story: Story,
    monitor: Monitor,
    random: StdRng,
    voters: usize,
    size: u32,
    happened: Vec<String>,
}

impl Schedule {
    fn any(&mut self) -> Option<Live> {
        let live = self.bed.hollow.live(&self.story.namespace);
        (!live.is_empty()).then(|| live[self.random.random_range(0..live.len())].clone())
    }

    async fn spec(&self, spec: Value) -> Result<()> {
        self.story.edit::<KVCluster>("kv", &json!({"spec": spec})).await
    }

    async fn happen(&mut self) -> Result<()> {
        let kind = self.random.random_range(0..10);
        let Some(live) = self.any() else { return Ok(()) };
        let what = match kind {
            0 | 1 => {
                self.voters = if self.voters == 3 { 5 } else { 3 };
                self.spec(json!({"replicas": self.voters})).await?;
                format!("{} voters", self.voters)
            }
            2 => {
                let stamp: u32 = self.random.random();
                self.spec(json!({"pod": {"annotations": {"rolled": stamp.to_string()}}})).await?;
                "a new template".to_owned()
            }
            3 => {
                self.size += 1;
                self.spec(json!({"storage": format!("{}Gi", self.size)})).await?;
                "larger volumes".to_owned()
            }
            4 | 5 => {
                live.signal(Signal::SIGKILL);
                format!("{} is killed", live.name)
            }
            6 => {
                live.signal(Signal::SIGSTOP);
                let stall = Duration::from_millis(self.random.random_range(200..3_000));
                tokio::time::sleep(stall).await;
                live.signal(Signal::SIGCONT);
                format!("{} stalls for {} ms", live.name, stall.as_millis())
            }
            7 => format!("{} is deleted: {}", live.name, self.take(&live, false).await),
            // As a drain does: the disruption budget has its say.
            8 => format!("{} is evicted: {}", live.name, self.take(&live, true).await),
            _ => {
                // Two at a time would each see a group that the other has not touched yet: that is what the Lease is for.
                self.story.operator.kill().await;
                self.story.operator = Running::start(self.story.plane, &self.story.namespace).await?;
                "the operator dies".to_owned()
            }
        };
        self.happened.push(what);
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..1_500))).await;
        Ok(())
    }

    /// Takes a pod as a person does; whether it went by that. What our hand took just before did not.
    async fn take(&self, live: &Live, by_eviction: bool) -> bool {
        let pods = self.story.api::<Pod>();
        for _ in 0..5 {
            let Ok(pod) = pods.get(&live.name).await else { return false };
            if pod.metadata.deletion_timestamp.is_some() || pod.uid().as_ref() != Some(&live.uid) {
                return false;
            }
            let only_this = Preconditions { uid: pod.uid(), resource_version: pod.resource_version() };
            let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
            let taken = if by_eviction {
                let params = EvictParams { delete_options: Some(params), ..EvictParams::default() };
                pods.evict(&live.name, &params).await.map(drop)
            } else {
                pods.delete(&live.name, &params).await.map(drop)
            };
            match taken {
                Ok(()) => {
                    self.monitor.fault(&live.uid);
                    return true;
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(_) => return false,
            }
        }
        false
    }

    /// Now and then, at the end, a volume is lost and given up.
    async fn lose_one(&mut self) -> Result<()> {
        if self.random.random_bool(0.7) {
            return Ok(());
        }
        let Some(live) = self.any() else { return Ok(()) };
        self.monitor.fault(&live.uid);
        lose(self.bed, &self.story, &live.name).await?;
        let asked = json!({"metadata": {"annotations": {"platform.dev/replace-member": live.name}}});
        self.story.edit::<KVCluster>("kv", &asked).await?;
        self.happened.push(format!("{} lost its volume", live.name));
        e2e::wait::until("it is replaced", || async {
            Ok((told(&self.story, "kv", "VolumeDiscarded").await? > 0).then_some(()))
        })
        .await?;
        until_at_rest(&self.story, "kv", self.voters).await.map(drop)
    }
}

async fn schedule(seed: u64) -> Result<bool> {
    let namespace = format!("faults-{seed}");
    let Some((bed, story)) = founded(&namespace, 3).await? else { return Ok(false) };
    let began = Instant::now();
    let writers = Writers::begin_beside_faults(bed, &namespace, WRITERS);
    let monitor = Monitor::over(bed, &story, "kv");
    let random = StdRng::seed_from_u64(seed);
    let mut schedule = Schedule { bed, story, monitor, random, voters: 3, size: 1, happened: Vec::new() };
    for _ in 0..HAPPENINGS {
        schedule.happen().await.with_context(|| format!("{:?}", schedule.happened))?;
    }
    let ended = async {
        until_at_rest(&schedule.story, "kv", schedule.voters).await?;
        schedule.lose_one().await
    };
    let ended = ended.await;
    let happened = schedule.happened.join("; ");
    ended.with_context(|| happened.clone())?;
    let Schedule { story, monitor, .. } = schedule;
    let taken = match monitor.end() {
        Ok(taken) => taken,
        Err(error) => return Err(error.context(told_of(&story).await).context(happened)),
    };
    let moved = told(&story, "kv", "LeaderMoved").await?;
    let seen = writers.end(bed, &namespace).await.with_context(|| happened.clone())?;
    println!(
        "seed {seed}: {:.0} s, {} operations, {} at the second try, {} later for an election, {} later for another fault, the longest {:.1} s, {taken} pods by our hand, {moved} planned elections: {happened}",
        began.elapsed().as_secs_f64(),
        seen.done,
        seen.retried,
        seen.forgiven,
        seen.met_again,
        seen.longest.as_secs_f64(),
    );
    story.api::<KVCluster>().delete("kv", &DeleteParams::default()).await?;
    story.operator.stop().await?;
    Ok(true)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_schedule_of_faults_has_us_take_two_voters_or_fail_an_operation() -> Result<()> {
    let (first, count) = (number("SEED", 1), number("SCHEDULES", 2));
    for seed in first..first + count {
        if !schedule(seed).await.with_context(|| format!("seed {seed}"))? {
            return Ok(());
        }
    }
    Ok(())
}
