//! TrafficPolicies, read by the same rules as those of files.

use std::sync::Arc;

use kube::core::DynamicObject;
use serde_json::{Map, Value, json};
use weft_proto::names::{API_VERSION, TRAFFIC_POLICY_KIND};

use super::event::{Trimmed, name_of};
use crate::index::{BrokenPolicy, Name};
use crate::policy::TrafficPolicy;
use crate::source::closed::Closed;

/// What is kept of a policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Policy {
    /// Another one of the same name inherits nothing.
    uid: String,
    /// The version that is in force.
    pub(super) good: Option<Arc<TrafficPolicy>>,
    /// What is wrong with the newest version, where that is not in force.
    pub(super) bad: Option<Bad>,
}

/// Why a version is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    /// Each with what to do about it.
    pub(super) problems: Vec<(String, String)>,
    /// What holds where there is no good version.
    pub(super) instead: Option<BrokenPolicy>,
    /// Whether it means to close something and does not say what.
    pub(super) aimless: bool,
}

impl Policy {
    pub(super) fn trim(mut object: DynamicObject) -> (Name, Option<Self>) {
        let name = name_of(&object.metadata);
        let created = object.metadata.creation_timestamp;
        let mut manifest = Map::new();
        manifest.insert("apiVersion".to_owned(), API_VERSION.into());
        manifest.insert("kind".to_owned(), TRAFFIC_POLICY_KIND.into());
        let metadata = json!({
            "name": name.name,
            "namespace": name.namespace,
            "creationTimestamp": created.map(|created| created.0.to_string()),
            "generation": object.metadata.generation,
        });
        manifest.insert("metadata".to_owned(), metadata);
        if let Some(spec) = object.data.get_mut("spec") {
            manifest.insert("spec".to_owned(), spec.take());
        }
        let manifest = Value::Object(manifest);
        let closed = Closed::of(&manifest);
        let (good, bad) = match TrafficPolicy::read(manifest) {
            Ok(policy) => (Some(Arc::new(policy)), None),
            Err(violations) => {
                let problems = violations.into_iter();
                let bad = Bad {
                    problems: problems
                        .map(|violation| (violation.to_string(), violation.mend))
                        .collect(),
                    aimless: closed.is_aimless(),
                    instead: closed.into_policy(Some(&name)),
                };
                (None, Some(bad))
            }
        };
        let uid = object.metadata.uid.unwrap_or_default();
        (name, Some(Self { uid, good, bad }))
    }
}

impl Trimmed for Policy {
    fn inherit(&mut self, before: &Self) {
        if self.bad.is_some() && self.uid == before.uid {
            self.good.clone_from(&before.good);
        }
    }
}
