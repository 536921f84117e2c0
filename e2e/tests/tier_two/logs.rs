//! `kubectl aistack logs`, of pods that print.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use e2e::Story;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::day_two::founded;
use super::hub::binary;

fn logs(story: &Story, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary("aistack")?);
    command.env("KUBECONFIG", story.plane.kubeconfig()).env("NO_COLOR", "1").kill_on_drop(true);
    command.args(["-k", "-n", &story.namespace, "logs"]).args(args);
    Ok(command)
}

async fn said(story: &Story, args: &[&str]) -> Result<Vec<String>> {
    let output = logs(story, args)?.output().await.context("run aistack")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && errors.is_empty(), "{args:?}: {}, {errors}", output.status);
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

fn followed(story: &Story) -> Result<(Child, Lines<BufReader<ChildStdout>>)> {
    let mut child = logs(story, &["kv", "-f", "--tail", "1"])?.stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    Ok((child, lines))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_reads_what_pods_print_and_follows_it_to_the_end() -> Result<()> {
    let Some((_, story)) = founded("logs", 3).await? else { return Ok(()) };
    // Of each member as many lines as were asked for, and its name before each.
    let lines = said(&story, &["kv", "--tail", "2"]).await?;
    for member in ["kv-0", "kv-1", "kv-2"] {
        let own: Vec<&String> =
            lines.iter().filter(|line| line.starts_with(&format!("{member}  "))).collect();
        assert_eq!(own.len(), 2, "{member} in {lines:#?}");
    }
    assert_eq!(lines.len(), 6, "{lines:#?}");
    let all = said(&story, &["kv/kv"]).await?;
    assert!(all.len() > 6 && lines.iter().all(|line| all.contains(line)), "{all:#?}");

    let (mut child, mut printed) = followed(&story)?;
    for _ in 0..3 {
        printed.next_line().await?.context("the last line of each")?;
    }
    story.api::<Pod>().delete("kv-2", &DeleteParams::default()).await?;
    let mut last = String::new();
    while let Some(line) = printed.next_line().await? {
        last = line;
        if last.starts_with("kv-2  ") && last.contains("stop") {
            break;
        }
    }
    assert!(last.starts_with("kv-2  "), "what it says when it ends: {last}");
    child.kill().await?;
    story.operator.stop().await
}
