//! A hundred objects of all kinds at once; the figures of a thousand are in docs/benchmarks/operator.md.

use aistack_api::operator::OperatorConfig;
use anyhow::Result;
use e2e::crowd::edits::Edits;
use e2e::{Bed, Census, Crowd, Engines, Running, wait};
use futures::future::{join, try_join_all};

/// A stack has two children of our kinds.
const CHILDREN: usize = 2;

fn config(crowd: &Crowd, engines: &Engines) -> OperatorConfig {
    let mut config = OperatorConfig {
        namespace: Some(crowd.namespaces()[0].clone()),
        addresses: crowd.addresses(engines),
        ..OperatorConfig::default()
    };
    config.lease.enabled = false;
    config.local_endpoints = true;
    config
}

async fn scale_all(edits: &Edits, crowd: &Crowd, replicas: i32) -> Result<()> {
    let services = crowd.services();
    let scaled = services.iter().map(|(namespace, service)| edits.scale(namespace, service, replicas));
    try_join_all(scaled).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_mixed_objects_become_ready_through_edits_and_a_death_and_then_nothing_is_written()
-> Result<()> {
    let Some(bed) = Bed::shared() else { return Ok(()) };
    let (client, engines) = (bed.plane.client(), Engines::start().await?);
    let crowd = Crowd::new("hundred", 1, 100).without_gpus();
    crowd.settle_in(&bed.plane, &bed.hollow).await?;
    let config = config(&crowd, &engines);
    let mut operator = Running::begin(&bed.plane, &config)?;
    let census = Census::begin(&client, Some(&crowd.namespaces()[0]));
    crowd.apply(&client).await?;
    census.until_all_settled(crowd.len() + CHILDREN, wait::PATIENCE).await?;
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
    census.until_all_settled(crowd.len() + CHILDREN, wait::PATIENCE).await?;

    // One that begins now looks at everything; once all of it has come to rest, it finds nothing to write.
    wait::until("an operator that looks at all of them writes nothing", || async {
        let fresh = Running::begin(&bed.plane, &config)?;
        fresh.until_reconciled(census.len() as u64).await?;
        let writes = fresh.writes();
        fresh.stop().await?;
        Ok((writes == 0).then_some(()))
    })
    .await?;
    operator.until_reconciled(0).await?;
    operator.stop().await
}
