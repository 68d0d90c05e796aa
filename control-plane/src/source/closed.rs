//! What a bad policy closes where no good version of it is known: the same in files and in clusters.

use serde::Deserialize;
use serde_json::Value;

use crate::index::{BrokenPolicy, Name};
use crate::policy::{DEFAULT_NAMESPACE, TargetKind, TargetRef};

/// What a refusal says where the object's last good version is known.
pub(super) const LAST_GOOD_STAYS: &str = "; its last good version stays in force";

/// What a bad policy still says: that somebody meant to close something, and what.
#[derive(Clone, Debug, Default)]
pub(super) struct Closed {
    /// `None` where it cannot be read: the policy then reaches nothing.
    namespace: Option<String>,
    targets: Vec<TargetRef>,
    deny: bool,
    strict: bool,
}

impl Closed {
    /// Of a manifest, whatever else is wrong with it.
    pub(super) fn of(value: &Value) -> Self {
        let Some(spec) = value.get("spec") else {
            return Self::default();
        };
        let targets = match spec.get("targetRefs") {
            Some(Value::Array(targets)) => targets.as_slice(),
            // One that was written without its list.
            Some(target) => std::slice::from_ref(target),
            None => &[],
        };
        Self {
            namespace: value.get("metadata").and_then(namespace_of),
            targets: targets.iter().flat_map(targets_of).collect(),
            deny: spec.get("authorization").is_some(),
            strict: spec.get("mtls").is_some(),
        }
    }

    /// Whether it means to close something and does not say what.
    pub(super) fn is_aimless(&self) -> bool {
        (self.deny || self.strict) && (self.namespace.is_none() || self.targets.is_empty())
    }

    /// `None` where it closes nothing.
    pub(super) fn into_policy(self, name: Option<&Name>) -> Option<BrokenPolicy> {
        let closes = (self.deny || self.strict) && !self.targets.is_empty();
        let namespace = self.namespace.filter(|_| closes)?;
        Some(BrokenPolicy {
            name: Name::new(namespace, name.map_or("", |name| &name.name)),
            targets: self.targets,
            deny: self.deny,
            strict: self.strict,
        })
    }
}

/// A target as far as it can be read: the whole service where its port cannot, and whatever has the
/// name where its kind cannot.
fn targets_of(value: &Value) -> Vec<TargetRef> {
    if let Ok(target) = TargetRef::deserialize(value) {
        return vec![target];
    }
    let Some(name) = value.get("name").and_then(Value::as_str) else {
        return Vec::new();
    };
    let kinds: &[TargetKind] = match value.get("kind").map(Value::as_str) {
        None | Some(Some("Service")) => &[TargetKind::Service],
        Some(Some("Namespace")) => &[TargetKind::Namespace],
        Some(_) => &[TargetKind::Service, TargetKind::Namespace],
    };
    let kinds = kinds.iter();
    kinds
        .map(|kind| TargetRef {
            group: String::new(),
            kind: *kind,
            name: name.to_owned(),
            section_name: None,
        })
        .collect()
}

/// What it means that there is no last good version, for people: what holds `instead`, or that
/// something which was meant to be closed is not.
pub(super) fn consequence(instead: Option<&BrokenPolicy>, aimless: bool) -> String {
    let what = match instead {
        Some(broken) => match (broken.deny, broken.strict) {
            (true, true) => "its target is denied and mTLS is Strict",
            (true, false) => "its target is denied",
            (false, _) => "mTLS is Strict",
        },
        None if aimless => {
            return "; what it is for cannot be read, so it closes nothing".to_owned();
        }
        None => return String::new(),
    };
    format!("; {what} until this is mended")
}

/// The namespace that an object's metadata names.
pub(super) fn namespace_of(value: &Value) -> Option<String> {
    match value.get("namespace") {
        None => value.is_object().then(|| DEFAULT_NAMESPACE.to_owned()),
        Some(namespace) => namespace.as_str().map(str::to_owned),
    }
}
