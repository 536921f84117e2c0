//! Pods that know one another by their addresses, and keep these with their data: what must not change between two starts.

use aistack_operator::workload::MEMBERS_PORT;

use super::plan::{LocalPlan, PodPlan};

/// The loopback port that a pod with data had for a container port.
pub fn port(before: &LocalPlan, pod: &str, container: u16) -> Option<u16> {
    let pod = before.pods.iter().find(|plan| plan.name == pod).filter(|pod| has_data(pod))?;
    pod.ports.iter().find(|port| port.container == container).map(|port| port.local)
}

/// Refuses another number of members than those that have data: the cluster that they are would not know of it.
pub fn kept(before: &LocalPlan, now: &LocalPlan) -> Result<(), String> {
    let of = |plan: &'_ LocalPlan, owner: &str| -> usize {
        plan.pods.iter().filter(|pod| pod.owner == owner && is_member(pod)).count()
    };
    for pod in before.pods.iter().filter(|pod| is_member(pod) && has_data(pod)) {
        let owner = &pod.owner;
        let (had, has) = (of(before, owner), of(now, owner));
        if has != 0 && has != had {
            let stack = &now.stack;
            return Err(format!(
                "{owner} of stack {stack} was founded with {}, and the manifest says replicas: {has}\n  write replicas: {had} \
                 again; take its keys along as docs/tinykv.md says (More members, or fewer); or begin anew without the data of the \
                 whole stack: aistack down --purge --stack {stack}",
                if had == 1 { "1 member".to_owned() } else { format!("{had} members") },
            ));
        }
    }
    Ok(())
}

fn is_member(pod: &PodPlan) -> bool {
    pod.port(MEMBERS_PORT).is_some()
}

/// Whether a pod ever began: its volume is created before it.
fn has_data(pod: &PodPlan) -> bool {
    pod.volumes().any(|volume| volume.exists())
}
