//! A hundred objects of all kinds at once, or as many as `OBJECTS` says; the figures of a thousand are in docs/benchmarks/operator.md.

use std::time::Duration;

use aistack_api::operator::{LeaseConfig, OperatorConfig};
use anyhow::Result;
use e2e::crowd::edits::Edits;
use e2e::{Bed, Census, Crowd, Engines, Running, wait};
use futures::future::{join, try_join_all};

/// For how long nothing is written where all is as wanted.
const REST: Duration = Duration::from_secs(4);
/// A namespace has one stack, and that has two children of our kinds.
const CHILDREN: usize = 2;

fn config(crowd: &Crowd, engines: &Engines) -> OperatorConfig {
    let namespace = crowd.namespaces()[0].clone();
    // One that dies is followed soon.
    let lease = LeaseConfig {
        namespace: Some(namespace.clone()),
        duration_seconds: 6,
        deadline_seconds: 4,
        renew_seconds: 2,
        ..LeaseConfig::default()
    };
    OperatorConfig {
        namespace: Some(namespace),
        addresses: crowd.addresses(engines),
        lease,
        local_endpoints: true,
        ..OperatorConfig::default()
    }
}

/// The same for one that acts at once, whoever leads.
fn without_lease(config: &OperatorConfig) -> OperatorConfig {
    let mut config = config.clone();
    config.lease.enabled = false;
    config
}

async fn scale_all(edits: &Edits, crowd: &Crowd, replicas: i32) -> Result<()> {
    let services = crowd.services();
    let scaled = services.iter().map(|(namespace, service)| edits.scale(namespace, service, replicas));
    try_join_all(scaled).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_objects_become_ready_through_edits_a_death_and_a_hand_over_and_then_nothing_is_written()
-> Result<()> {
    let Some(bed) = Bed::shared() else { return Ok(()) };
    let objects = std::env::var("OBJECTS").map_or(Ok(100), |text| text.parse::<usize>())?;
    let patience = wait::PATIENCE * u32::try_from(objects.div_ceil(100))?;
    let (client, engines) = (bed.plane.client(), Engines::start().await?);
    let crowd = Crowd::new("crowd", 1, objects).without_gpus();
    crowd.settle_in(&bed.plane, &bed.hollow).await?;
    let config = config(&crowd, &engines);
    let mut operator = Running::begin(&bed.plane, &config)?;
    let census = Census::begin(&client, Some(&crowd.namespaces()[0]));
    crowd.apply(&client).await?;
    census.until_all_settled(crowd.len() + CHILDREN, patience).await?;
    println!("{} writes of the operator until all are ready", operator.writes());

    let edits = Edits::begin(&client);
    scale_all(&edits, &crowd, 2).await?;
    // It dies in the middle of the next ones.
    let begun = operator.reconciled();
    let died = async {
        operator.until_reconciled(begun + 1).await?;
        operator.kill().await;
        Running::begin(&bed.plane, &config)
    };
    let (scaled, second) = join(scale_all(&edits, &crowd, 1), died).await;
    scaled?;
    let operator = second?;
    wait::until("the second one leads", || async { Ok(operator.leads().then_some(())) }).await?;
    census.until_all_settled(crowd.len() + CHILDREN, patience).await?;

    // The next one waits, leads when this one goes, and carries on.
    let next = Running::begin(&bed.plane, &config)?;
    wait::until("the next one is ready", || async { Ok(next.health.is_ready().then_some(())) }).await?;
    assert!(operator.leads() && !next.leads(), "one leads");
    let (scaled, stopped) = join(scale_all(&edits, &crowd, 2), operator.stop()).await;
    scaled?;
    stopped?;
    wait::until("the next one leads", || async { Ok(next.leads().then_some(())) }).await?;
    let operator = next;
    census.until_all_settled(crowd.len() + CHILDREN, patience).await?;

    // Once all of it has come to rest, one that begins now looks at everything and finds nothing to write.
    wait::until("nothing is written for a while", || async {
        let writes = operator.writes();
        tokio::time::sleep(REST).await;
        Ok((operator.writes() == writes).then_some(()))
    })
    .await?;
    let fresh = Running::begin(&bed.plane, &without_lease(&config))?;
    fresh.until_reconciled(census.len() as u64).await?;
    assert_eq!(fresh.writes(), 0, "one that begins writes nothing");
    fresh.stop().await?;
    operator.until_reconciled(0).await?;
    operator.stop().await
}
