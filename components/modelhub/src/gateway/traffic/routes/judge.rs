//! The judging of canaries: every gateway looks at what it saw, and whoever is sure first writes what becomes of them.

use std::sync::Arc;
use std::time::Duration;

use aistack_api::traffic::{CanaryPhase, CanaryState};

use super::{Traffic, key};
use crate::gateway::traffic::canary::Next;
use crate::gateway::traffic::known::Record;
use crate::kv::KvError;
use crate::now_ms;

/// How often canaries are looked at when nothing calls.
const JUDGED: Duration = Duration::from_millis(500);

impl Traffic {
    /// Looks at the canaries for ever: at once when one must go back.
    pub async fn judge_regularly(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.alarm.notified() => {}
                () = tokio::time::sleep(JUDGED) => {}
            }
            let due = self.due();
            for (model, plan_of, from, to) in due {
                let target =
                    plan_of.route.canary.as_ref().map(|plan| plan.target.clone()).unwrap_or_default();
                let outcome = match (to.phase, to.step) {
                    (CanaryPhase::RolledBack, _) => "rolled_back",
                    (CanaryPhase::Succeeded, _) => "succeeded",
                    (CanaryPhase::Running, _) => "advanced",
                };
                // Another gateway may have been faster; then its word counts.
                let decide = |present: Option<Record>| {
                    let here = present.filter(|present| {
                        present.route.canary == plan_of.route.canary && present.canary.as_ref() == Some(&from)
                    });
                    Ok::<_, KvError>(here.map(|here| Record { canary: Some(to.clone()), ..here }))
                };
                match self.kv.update(&key(&model), decide).await {
                    Ok(Some(_)) => {
                        tracing::info!(model, target, outcome, reason = to.reason, "canary");
                        self.metrics.decided(&model, &target, outcome);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, model, outcome, "a canary's course cannot be written; it is tried again");
                        continue;
                    }
                }
                if let Err(error) = self.reload().await {
                    tracing::warn!(%error, "routes are read again later");
                }
            }
        }
    }

    /// What must become of canaries. One that must go back gets nothing from here on, whatever the store says.
    fn due(&self) -> Vec<(String, Record, CanaryState, CanaryState)> {
        let mut due = Vec::new();
        let now = now_ms();
        let mut known = self.known.lock();
        let mut is_changed = false;
        for (model, known) in known.iter_mut() {
            let (Some(state), Some(Next::Become(next))) = (known.record.canary.clone(), known.next(now))
            else {
                continue;
            };
            if next.phase == CanaryPhase::RolledBack && known.condemned.is_none() {
                known.condemned = Some(next.reason.clone());
                known.share();
                is_changed = true;
            }
            due.push((model.clone(), known.record.clone(), state, next));
        }
        if is_changed {
            self.engines.manage(known.values().map(|known| known.split.clone()).collect());
        }
        due
    }
}
