//! The crowd of all kinds, looked after by `aistack-operator`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::crowd::edits::Edits;
use e2e::{Census, Crowd};
use serde_json::json;

use super::Cli;
use super::bed::Bed;
use super::figures::{Figures, OURS};
use super::phases;
use super::subject::{Recipe, Subject};

/// Objects of a namespace: one round of the mix.
const EACH: usize = 20;
/// How long a crowd may take: by far longer than what is asked for.
const PATIENCE: Duration = Duration::from_mins(40);

fn recipe(cli: &Cli, bed: &Bed, crowds: &[&Crowd]) -> Result<Recipe> {
    let mut addresses = serde_json::Map::new();
    for (server, url) in crowds.iter().flat_map(|crowd| crowd.addresses(&bed.engines)) {
        addresses.insert(server, json!(url));
    }
    let path = bed.hollow.folder().join("operator.yaml");
    std::fs::write(&path, json!({"addresses": addresses}).to_string())?;
    let program = std::fs::canonicalize(&cli.operator).context("the program aistack-operator")?;
    let kubeconfig = bed.plane.audited_kubeconfig().display().to_string();
    let args = ["--config", &path.display().to_string(), "--set", "server.admin_listen=127.0.0.1:{probe}"];
    Ok(Recipe {
        name: "aistack-operator".to_owned(),
        program,
        args: args.map(str::to_owned).to_vec(),
        env: vec![("KUBECONFIG".to_owned(), kubeconfig)],
        ready: "/readyz",
        metrics: "/metrics",
    })
}

/// All figures.
pub async fn measure(cli: &Cli) -> Result<()> {
    ensure!(cli.objects.is_multiple_of(EACH), "--objects is no multiple of {EACH}");
    let figures = Figures::of(cli, OURS);
    let mut bed = Bed::start().await?;
    let crowd = Crowd::new("crowd", cli.objects / EACH, EACH);
    let others = Crowd::new("others", cli.objects / EACH, EACH);
    let both: &[&Crowd] = if cli.wants("L5") { &[&crowd, &others] } else { &[&crowd] };
    for crowd in both {
        crowd.settle_in(&bed.plane, &bed.hollow).await?;
    }
    let recipe = recipe(cli, &bed, both)?;
    let folder = bed.hollow.folder().to_owned();
    let mut operator = Subject::start(&recipe, &folder)?;
    operator.until_ready().await?;
    let census = bed.census();
    bed.until_silent(Duration::from_secs(2)).await?;
    converge(&mut bed, &operator, &crowd, &census, &figures).await?;
    if cli.wants("L3") {
        phases::rest(&mut bed, &operator, &figures, census.len(), cli.rest_seconds).await?;
    }
    if cli.wants("L4") {
        operator.stop().await?;
        operator = phases::restart(&mut bed, &recipe, &figures, census.len()).await?;
    }
    if cli.wants("L5") {
        let times = phases::idle_edits(&bed, &crowd, &operator).await?;
        phases::tell_edits(&figures, "idle", &times);
        let edits = Edits::begin(&bed.client);
        let times = phases::busy_edits(&bed, &crowd, &others, &census, &edits).await?;
        phases::tell_edits(&figures, &format!("while {} others converge", others.len()), &times);
    }
    if cli.wants("L6") {
        phases::hand_overs(&bed, &recipe, operator, &crowd, &figures).await?;
    }
    Ok(())
}

/// From nothing to a settled crowd.
async fn converge(
    bed: &mut Bed,
    operator: &Subject,
    crowd: &Crowd,
    census: &Census,
    figures: &Figures,
) -> Result<()> {
    let of = format!("{} mixed objects", crowd.len());
    let asked = bed.requests().await?;
    let (before, began) = (bed.cpu(operator)?, Instant::now());
    crowd.apply(&bed.client).await?;
    let applied = began.elapsed();
    census.until_all_settled(crowd.len(), PATIENCE).await?;
    let ready = began.elapsed();
    let after = bed.cpu(operator)?;
    figures.tell("L1", &format!("{of} applied, kubectl's own time"), "s", applied.as_secs_f64());
    figures.tell("L1", &format!("{of} from apply to all Ready"), "s", ready.as_secs_f64());
    for (name, spent) in after {
        let took = spent.saturating_sub(before[&name]).as_secs_f64();
        figures.tell("L1", &format!("{of}: CPU of {name}"), "s", took);
    }
    let writes = bed.until_silent(Duration::from_secs(5)).await?;
    phases::tell_writes(figures, &of, crowd.len(), &writes);
    let requests = bed.requests().await?;
    let each = (requests.values().sum::<f64>() - asked.values().sum::<f64>()) / crowd.len() as f64;
    figures.tell("L1", &format!("{of}: requests of all programs to the API server"), "requests/object", each);
    phases::tell_requests(&asked, &requests);
    eprintln!(
        "  {} objects with the children of stacks; {} reconciliations; requests by its own count: {}",
        census.len(),
        operator.figure("controller_runtime_reconcile_total").await?,
        operator.figure("rest_client_requests_total").await?,
    );
    let (now, most) = operator.memory()?;
    figures.tell("L2", &format!("{of}: resident"), "MiB", now);
    figures.tell("L2", &format!("{of}: most resident"), "MiB", most);
    Ok(())
}
