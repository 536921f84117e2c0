//! Kinds of others that a cluster may lack: they are not watched for until there is a reason to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::core::Status;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::child::ChildKind;

/// When a kind that nobody made an object of is looked for again.
const LATER: Duration = Duration::from_mins(10);

/// Kinds that there are not.
#[derive(Debug, Default)]
pub(super) struct Absent {
    awaited: Mutex<HashMap<ChildKind, Arc<Notify>>>,
}

impl Absent {
    /// Completes when an object of that kind was made, or it is time to look again.
    pub(super) async fn until_it_may_have_come(&self, kind: ChildKind) {
        let come = self.awaited.lock().entry(kind).or_default().clone();
        let _ = tokio::time::timeout(LATER, come.notified()).await;
        self.awaited.lock().remove(&kind);
    }

    /// An object of that kind was made.
    pub(super) fn has_come(&self, kind: ChildKind) {
        if let Some(come) = self.awaited.lock().get(&kind) {
            come.notify_one();
        }
    }
}

/// Whether the API server knows no such kind. Of an object, or a namespace, that is not there it says the name.
pub(super) fn is_unknown(status: &Status) -> bool {
    status.code == 404 && status.details.as_ref().is_none_or(|details| details.name.is_empty())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_that_is_not_there_is_no_kind_that_is_not_there() {
        let table = [
            (json!({"code": 404, "message": "404 page not found"}), true),
            (json!({"code": 404, "details": {"group": "cert-manager.io", "kind": "certificates"}}), true),
            (json!({"code": 404, "details": {"name": "gone", "kind": "namespaces"}}), false),
            (json!({"code": 403}), false),
        ];
        for (status, expected) in table {
            let read: Status = serde_json::from_value(status.clone()).expect("a status");
            assert_eq!(is_unknown(&read), expected, "{status}");
        }
    }

    #[tokio::test]
    async fn it_is_looked_for_when_one_was_made() {
        let absent = Absent::default();
        let looked = absent.until_it_may_have_come(ChildKind::Certificate);
        tokio::pin!(looked);
        assert!(looked.as_mut().now_or_never().is_none());
        absent.has_come(ChildKind::Job);
        assert!(looked.as_mut().now_or_never().is_none());
        absent.has_come(ChildKind::Certificate);
        looked.await;
    }
}
