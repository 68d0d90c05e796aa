//! Objects with a manifest of their own: policies, routes and grants, read by the same rules as those of
//! files.

use std::sync::Arc;

use kube::core::DynamicObject;
use serde_json::{Value, json};
use weft_proto::names::{API_VERSION, TRAFFIC_POLICY_KIND};

use super::event::{Trimmed, name_of};
use super::observed::{Reading, Refused};
use crate::index::{BrokenPolicy, Name};
use crate::policy::{TrafficPolicy, Violation};
use crate::route::{ReferenceGrant, Route, RouteKind};
use crate::source::closed::Closed;

/// The API version of routes, and what grants are read as.
const ROUTES: &str = "gateway.networking.k8s.io/v1";

/// What is kept of an object: a version that is in force, and the newest one where that is not.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Held<T> {
    /// Another one of the same name inherits nothing.
    uid: String,
    /// Of the newest version.
    generation: i64,
    /// The version that is in force.
    pub(super) good: Option<Arc<T>>,
    /// What is wrong with the newest version, where that is not in force.
    pub(super) bad: Option<Bad>,
}

/// Why a version is not in force.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bad {
    pub(super) refused: Arc<Refused>,
    /// What holds where there is no good version.
    pub(super) instead: Option<BrokenPolicy>,
    /// Whether it means to close something and does not say what.
    pub(super) aimless: bool,
}

pub(super) type Policy = Held<TrafficPolicy>;
pub(super) type HeldRoute = Held<Route>;
pub(super) type Grant = Held<ReferenceGrant>;

impl Policy {
    pub(super) fn trim(mut object: DynamicObject) -> (Name, Option<Self>) {
        let manifest = manifest(API_VERSION, TRAFFIC_POLICY_KIND, &mut object);
        let closed = Closed::of(&manifest);
        let (name, mut held) = Self::of(&object, manifest, TrafficPolicy::read);
        if let Some(bad) = &mut held.bad {
            bad.aimless = closed.is_aimless();
            bad.instead = closed.into_policy(Some(&name));
        }
        (name, Some(held))
    }
}

impl HeldRoute {
    pub(super) fn trim_http(object: DynamicObject) -> (Name, Option<Self>) {
        Self::trim(object, RouteKind::Http)
    }

    pub(super) fn trim_grpc(object: DynamicObject) -> (Name, Option<Self>) {
        Self::trim(object, RouteKind::Grpc)
    }

    fn trim(mut object: DynamicObject, kind: RouteKind) -> (Name, Option<Self>) {
        let manifest = manifest(ROUTES, kind.as_str(), &mut object);
        let (name, held) = Self::of(&object, manifest, |it| Route::read(kind, &it));
        (name, Some(held))
    }
}

impl Grant {
    pub(super) fn trim(mut object: DynamicObject) -> (Name, Option<Self>) {
        // It reads the same in every version.
        let manifest = manifest(ROUTES, ReferenceGrant::KIND, &mut object);
        let (name, held) = Self::of(&object, manifest, |it| ReferenceGrant::read(&it));
        (name, Some(held))
    }
}

impl<T> Held<T> {
    fn of(
        object: &DynamicObject,
        manifest: Value,
        read: impl FnOnce(Value) -> Result<T, Vec<Violation>>,
    ) -> (Name, Self) {
        let mut stub = json!({ "metadata": manifest["metadata"] });
        if let Some(parents) = manifest.pointer("/spec/parentRefs") {
            stub["spec"] = json!({ "parentRefs": parents });
        }
        let (good, bad) = match read(manifest) {
            Ok(object) => (Some(Arc::new(object)), None),
            Err(violations) => {
                let refused = Refused {
                    violations,
                    manifest: stub,
                };
                let bad = Bad {
                    refused: Arc::new(refused),
                    instead: None,
                    aimless: false,
                };
                (None, Some(bad))
            }
        };
        let held = Self {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            good,
            bad,
        };
        (name_of(&object.metadata), held)
    }

    pub(super) fn reading(&self) -> Reading {
        let refused = self.bad.as_ref().map(|bad| Arc::clone(&bad.refused));
        Reading {
            uid: self.uid.clone(),
            generation: self.generation,
            last_good_stays: refused.is_some() && self.good.is_some(),
            refused,
        }
    }
}

impl<T: PartialEq> Trimmed for Held<T> {
    fn inherit(&mut self, before: &Self) {
        if self.bad.is_some() && self.uid == before.uid {
            self.good.clone_from(&before.good);
        }
    }
}

/// As much of the object as it is read by; its spec is taken out of it.
fn manifest(api_version: &str, kind: &str, object: &mut DynamicObject) -> Value {
    let metadata = &object.metadata;
    let name = name_of(metadata);
    let created = metadata.creation_timestamp.as_ref();
    let mut manifest = json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name.name,
            "namespace": name.namespace,
            "creationTimestamp": created.map(|created| created.0.to_string()),
            "generation": metadata.generation,
        },
    });
    if let Some(spec) = object.data.get_mut("spec") {
        manifest["spec"] = spec.take();
    }
    manifest
}
