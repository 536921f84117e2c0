//! Routes that an earlier spec left behind in ModelHub, of a model of another name or where none is needed any more: looked for once in
//! each generation, and until ModelHub has answered. The condition is the memory of it, so that a restart of the operator forgets nothing.

use std::time::Duration;

use aistack_crds::InferenceService;

use super::{ValidatedInferenceService, route};
use crate::hub::{Hub, HubError};
use crate::kernel::cluster::Cluster;
use crate::kernel::conditions::{Because, Extra, Report};

/// The condition.
const ROUTED: &str = "Routed";
/// When it is tried again.
const SOON: Duration = Duration::from_secs(5);

/// What an earlier spec left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Left {
    /// There is nobody to ask, or there was never a route.
    #[default]
    NotAsked,
    /// It was looked at for this generation, and nothing is left.
    Settled,
    /// Nobody answered.
    Away(String),
    /// Routes of these models.
    Models(Vec<String>),
}

/// Whether nobody has looked for this generation. Of a turn that could not see how the object fares the condition is the one before.
fn is_due(object: &InferenceService) -> bool {
    let mut conditions = object.status.iter().flat_map(|status| &status.conditions);
    !conditions.any(|it| {
        it.type_ == ROUTED && it.observed_generation == object.metadata.generation && it.reason != "RouteLeft"
    })
}

/// Looks for routes of the object in ModelHub beside the one that it is to have.
pub async fn look(
    cluster: &Cluster,
    hub: &Hub,
    object: &InferenceService,
    service: &ValidatedInferenceService,
) -> Left {
    if !is_due(object) {
        return Left::Settled;
    }
    let owner = route::owner(&service.owner.namespace, &service.name);
    match hub.models_of(cluster, &owner).await {
        Ok(mut models) => {
            models.retain(|model| !service.needs_route() || *model != service.model);
            if models.is_empty() { Left::Settled } else { Left::Models(models) }
        }
        Err(error) => Left::Away(error.to_string()),
    }
}

/// Takes them away.
pub async fn sweep(cluster: &Cluster, hub: &Hub, left: &Left) -> Result<(), HubError> {
    let Left::Models(models) = left else { return Ok(()) };
    for model in models {
        hub.remove(cluster, model).await?;
    }
    Ok(())
}

/// Says what is left, or that nothing is where no route is asked for.
pub fn tell(report: &mut Report, service: &ValidatedInferenceService, left: &Left) {
    let (is_so, because) = match left {
        Left::NotAsked => return,
        Left::Settled if service.needs_route() => return,
        Left::Settled => {
            (true, Because::new("NoRoute", "the spec asks for no route in ModelHub, and there is none"))
        }
        Left::Away(why) => {
            let said =
                format!("routes of an earlier spec may be left, and are taken away once they can be: {why}");
            (false, Because::new("RouteLeft", said))
        }
        Left::Models(models) if service.needs_route() => {
            if report.scaled.ready_replicas > 0 {
                report.serves = Some(true);
            }
            let models = models.join(", ");
            let said = format!("requests for {models} are led here until those for {} are", service.model);
            (false, Because::new("RouteLeft", said))
        }
        Left::Models(models) => {
            let said = format!("routes of an earlier spec are being taken away: {}", models.join(", "));
            (false, Because::new("RouteLeft", said))
        }
    };
    if !is_so {
        report.look_again = Some(report.look_again.map_or(SOON, |wait| wait.min(SOON)));
    }
    report.extra.retain(|extra| extra.kind != ROUTED);
    report.extra.push(Extra { kind: ROUTED, is_so: Some(is_so), because });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::validate;
    use super::*;

    fn object(spec: &Value, routed: Option<(i64, &str)>) -> InferenceService {
        let conditions: Vec<Value> = routed
            .iter()
            .map(|(generation, reason)| {
                json!({"type": "Routed", "status": "False", "reason": reason, "message": "",
                    "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        let object = json!({"apiVersion": "platform.dev/v1", "kind": "InferenceService",
            "metadata": {"name": "chat", "namespace": "team", "generation": 2}, "spec": spec,
            "status": {"observedGeneration": 2, "conditions": conditions}});
        serde_json::from_value(object).expect("an InferenceService")
    }

    #[test]
    fn routes_of_an_earlier_spec_are_looked_for_until_modelhub_has_answered() {
        let spec = json!({"model": {"name": "b"}, "stackRef": {"name": "prod"}});
        let table = [
            ("edited", Some((1, "Routed")), true),
            ("ModelHub was away in the first turn", Some((2, "RouteLeft")), true),
            ("nobody could see how it fares", Some((1, "GatewayAway")), true),
            ("it waited for its stack", None, true),
            ("looked at", Some((2, "Routed")), false),
            ("ModelHub went away later", Some((2, "GatewayAway")), false),
            ("looked at, and none is needed", Some((2, "NoRoute")), false),
        ];
        for (what, routed, expected) in table {
            assert_eq!(is_due(&object(&spec, routed)), expected, "{what}");
        }
    }

    #[test]
    fn a_route_that_may_be_left_behind_is_told_and_looked_for_soon() {
        let because = || Because::new("GatewayAway", "ModelHub does not answer: refused");
        let joined = json!({"model": {"name": "b"}, "stackRef": {"name": "prod"}});
        let (joined, alone) = (object(&joined, None), object(&json!({"model": {"name": "b"}}), None));
        let away = || Left::Away("ModelHub does not answer: refused".to_owned());
        let table = [
            (&joined, away(), "False RouteLeft", Some(SOON)),
            (&alone, away(), "False RouteLeft", Some(SOON)),
            (&joined, Left::Models(vec!["a".to_owned()]), "False RouteLeft", Some(SOON)),
            (&joined, Left::Settled, "False GatewayAway", None),
            (&alone, Left::Settled, "True NoRoute", None),
            (&alone, Left::NotAsked, "", None),
        ];
        for (object, left, expected, look_again) in table {
            let service = validate(object, "").expect("valid");
            let mut report = Report::ready("", Because::new("Ready", ""));
            if service.needs_route() {
                report.extra.push(Extra { kind: ROUTED, is_so: Some(false), because: because() });
            }
            tell(&mut report, &service, &left);
            let said = report.extra.iter().map(|extra| {
                let word = if extra.is_so == Some(true) { "True" } else { "False" };
                format!("{word} {}", extra.because.reason)
            });
            assert_eq!(said.collect::<Vec<_>>().join(" "), expected, "{left:?}");
            assert_eq!(report.look_again, look_again, "{left:?}");
        }
    }
}
