//! What is done with an operator whose crowd is settled.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::crowd::edits::{Edit, Edits, percentile};
use e2e::crowd::ledger::Writes;
use e2e::{Census, Crowd, wait};
use futures::stream::{FuturesUnordered, StreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use nix::sys::signal::Signal;

use super::bed::Bed;
use super::figures::Figures;
use super::subject::{Recipe, Subject};

/// Edits, one after the other, of an operator that has nothing else to do.
const IDLE_EDITS: usize = 100;
/// Between two edits of one that has.
const PAUSE: Duration = Duration::from_millis(300);
/// How long a crowd may take beside edits.
const PATIENCE: Duration = Duration::from_mins(10);
/// Sorts of requests that are told of.
const TOLD: usize = 40;
/// Hand-overs of each sort.
const GRACEFUL: usize = 5;
const KILLED: usize = 3;

/// Writes an object, and which those are.
pub fn tell_writes(figures: &Figures, of: &str, objects: usize, writes: &Writes) {
    let each = writes.total() as f64 / objects as f64;
    figures.tell("L1", &format!("{of}: writes by the API server's audit log"), "writes/object", each);
    figures.tell("L1", &format!("{of}: writes that were refused"), "writes", writes.refused as f64);
    tell_kinds(writes);
}

fn tell_kinds(writes: &Writes) {
    for (kind, count) in &writes.by_kind {
        eprintln!("    {count:>6} {kind}");
    }
}

/// How many requests asked for what, the most frequent first.
pub fn tell_requests(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) {
    let more = |(what, count): (&String, &f64)| {
        let more = count - before.get(what).copied().unwrap_or_default();
        (more as u64, what.trim_end_matches('/').to_owned())
    };
    let mut all: Vec<_> = after.iter().map(more).filter(|(more, _)| *more > 0).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    for (more, what) in all.iter().take(TOLD) {
        eprintln!("    {more:>6} {what}");
    }
}

/// Median and tail of edits.
pub fn tell_edits(figures: &Figures, when: &str, edits: &[Edit]) {
    let times = |of: fn(&Edit) -> Duration| edits.iter().map(of).collect::<Vec<_>>();
    tell_times(figures, &format!("edit to child applied, {when}"), times(|edit| edit.seen));
    tell_times(
        figures,
        &format!("of that, until the edit itself is answered, {when}"),
        times(|edit| edit.answered),
    );
}

/// Median and tail.
pub fn tell_times(figures: &Figures, what: &str, mut times: Vec<Duration>) {
    let count = times.len();
    for (name, hundredths) in [("p50", 50), ("p99", 99), ("max", 100)] {
        let value = percentile(&mut times, hundredths).as_secs_f64() * 1000.0;
        figures.tell("L5", &format!("{what}, {name} of {count}"), "ms", value);
    }
}

/// Scales services up and down, each time from rest.
pub async fn idle_edits(bed: &Bed, crowd: &Crowd, operator: &Subject) -> Result<Vec<Edit>> {
    let edits = Edits::begin(&bed.client);
    let services = crowd.services();
    let mut times = Vec::new();
    for number in 0..IDLE_EDITS {
        let (namespace, service) = &services[number % services.len()];
        let replicas = 2 - i32::try_from(number / services.len() % 2)?;
        times.push(edits.scale(namespace, service, replicas).await?);
        operator.until_idle(0.0).await?;
    }
    Ok(times)
}

/// Applies others, and scales services of the crowd until those are settled.
pub async fn busy_edits(
    bed: &Bed,
    crowd: &Crowd,
    others: &Crowd,
    census: &Census,
    edits: &Edits,
) -> Result<Vec<Edit>> {
    let services = crowd.services();
    let begun = census.len();
    let converged = async {
        others.apply(&bed.client).await?;
        census.until_all_settled(begun + others.len(), PATIENCE).await
    };
    tokio::pin!(converged);
    let (mut times, mut running) = (Vec::new(), FuturesUnordered::new());
    let (mut next, mut number) = (tokio::time::interval(PAUSE), 0);
    loop {
        tokio::select! {
            settled = &mut converged => {
                settled?;
                break;
            }
            Some(time) = running.next() => times.push(time?),
            _ = next.tick() => {
                // Each service is scaled once in a round, and to another number in each.
                let (namespace, service) = services[number % services.len()].clone();
                let replicas = 3 - i32::try_from(number / services.len() % 2)?;
                running.push(async move { edits.scale(&namespace, &service, replicas).await });
                number += 1;
            }
        }
    }
    while let Some(time) = running.next().await {
        times.push(time?);
    }
    Ok(times)
}

/// Watches it while nothing happens.
pub async fn rest(
    bed: &mut Bed,
    operator: &Subject,
    figures: &Figures,
    objects: usize,
    seconds: u64,
) -> Result<()> {
    bed.until_silent(Duration::from_secs(10)).await?;
    let (before, began) = (operator.cpu()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let percent =
        operator.cpu()?.saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let writes = bed.ledger.since_last()?;
    let of = format!("{objects} objects at rest for {seconds} s");
    figures.tell("L3", &format!("{of}: writes"), "writes", writes.total() as f64);
    figures.tell("L3", &format!("{of}: renewals of the Lease"), "writes", writes.leases as f64);
    figures.tell("L3", &format!("{of}: CPU"), "% of a core", percent);
    tell_kinds(&writes);
    Ok(())
}

/// Begins an operator anew whose objects are all there.
pub async fn restart(bed: &mut Bed, recipe: &Recipe, figures: &Figures, objects: usize) -> Result<Subject> {
    bed.ledger.since_last()?;
    let operator = Subject::start(recipe, bed.hollow.folder())?;
    let ready = operator.until_ready().await?;
    let looked = operator.until_idle(objects as f64).await?;
    let writes = bed.until_silent(Duration::from_secs(5)).await?;
    let of = format!("restart with {objects} objects");
    figures.tell("L4", &format!("{of}: ready"), "s", ready.as_secs_f64());
    figures.tell("L4", &format!("{of}: all looked at"), "s", looked.as_secs_f64());
    figures.tell("L4", &format!("{of}: writes"), "writes", writes.total() as f64);
    tell_kinds(&writes);
    let (now, most) = operator.memory()?;
    figures.tell("L2", &format!("{of}: resident"), "MiB", now);
    figures.tell("L2", &format!("{of}: most resident"), "MiB", most);
    Ok(operator)
}

/// One operator leads and another waits; the first goes, one way or the other, and an edit is made at that moment.
pub async fn hand_overs(
    bed: &Bed,
    recipe: &Recipe,
    mut leader: Subject,
    crowd: &Crowd,
    figures: &Figures,
) -> Result<()> {
    let edits = Edits::begin(&bed.client);
    let services = crowd.services();
    let folder = bed.hollow.folder().to_owned();
    for (signal, how, count) in [(Signal::SIGTERM, "SIGTERM", GRACEFUL), (Signal::SIGKILL, "kill -9", KILLED)]
    {
        let (mut taken, mut edited) = (Vec::new(), Vec::new());
        for number in 0..count {
            let second = Subject::start(recipe, &folder)?;
            second.until_ready().await?;
            let (namespace, service) = &services[number % services.len()];
            let replicas = if signal == Signal::SIGTERM { 5 } else { 6 };
            let held = holder(bed).await?;
            let began = Instant::now();
            leader.signal(signal)?;
            let (led, scaled) =
                tokio::join!(until_other(bed, &held, began), edits.scale(namespace, service, replicas));
            taken.push(led?);
            edited.push(scaled?.seen);
            leader = second;
        }
        for (what, times) in
            [("another leads", &mut taken), ("an edit made at that moment is applied", &mut edited)]
        {
            let most = percentile(times, 100).as_secs_f64();
            let middle = percentile(times, 50).as_secs_f64();
            figures.tell("L6", &format!("{how}: {what}, median of {count}"), "s", middle);
            figures.tell("L6", &format!("{how}: {what}, longest of {count}"), "s", most);
        }
    }
    Ok(())
}

async fn holder(bed: &Bed) -> Result<String> {
    let api: Api<Lease> = Api::namespaced(bed.client.clone(), "default");
    wait::until("somebody leads", || async {
        let lease = api.list(&kube::api::ListParams::default()).await?.items.into_iter().next();
        let holder = lease.and_then(|lease| lease.spec?.holder_identity);
        Ok(holder.filter(|holder| !holder.is_empty()))
    })
    .await
    .context("a Lease in the namespace default")
}

async fn until_other(bed: &Bed, held: &str, began: Instant) -> Result<Duration> {
    let api: Api<Lease> = Api::namespaced(bed.client.clone(), "default");
    wait::until("another leads", || async {
        let lease = api.list(&kube::api::ListParams::default()).await?.items.into_iter().next();
        let holder = lease.and_then(|lease| lease.spec?.holder_identity);
        Ok(holder.filter(|holder| !holder.is_empty() && holder != held).map(|_| began.elapsed()))
    })
    .await
}
