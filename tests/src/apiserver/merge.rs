//! Patches that know which lists are maps: server-side apply without ownership, which takes nothing away
//! that a manifest no longer has, and strategic merge patch as far as `kubectl` uses it. They are one and
//! the same here: a merge that finds entries of lists by their keys.

use serde_json::Value;

use super::failure::Failure;
use super::json::texts;

/// Lists of built-in kinds whose entries have names.
const NAMED: &str = "containers initContainers ephemeralContainers containerStatuses \
                     initContainerStatuses env volumes imagePullSecrets webhooks secrets";

/// Where in an object a merge is, which tells how entries of a list are told from each other.
/// By the schema of a custom resource; else, where it is null, by the two innermost fields on the way here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape<'a>(&'a Value, [&'a str; 2]);

impl<'a> Shape<'a> {
    pub(super) fn new(schema: &'a Value) -> Self {
        Self(schema, ["", ""])
    }

    fn field(self, name: &'a str) -> Self {
        let schema = match &self.0["properties"][name] {
            Value::Null => &self.0["additionalProperties"],
            property => property,
        };
        Self(schema, [self.1[1], name])
    }

    fn items(self) -> Self {
        Self(&self.0["items"], self.1)
    }

    /// The fields that make an entry, none for a set. None for a list that is one value.
    fn keys(self) -> Option<Vec<String>> {
        if !self.0.is_null() {
            return match self.0["x-kubernetes-list-type"].as_str() {
                Some("set") => Some(Vec::new()),
                Some("map") => Some(texts(&self.0["x-kubernetes-list-map-keys"])),
                _ => None,
            };
        }
        let keys: &[&str] = match self.1 {
            ["metadata", "finalizers"] => &[],
            ["metadata", "ownerReferences"] => &["uid"],
            ["spec", "ports"] => &["port", "protocol"],
            ["containers" | "initContainers", "ports"] => &["containerPort", "protocol"],
            ["status", "podIPs" | "hostIPs"] | [_, "hostAliases"] => &["ip"],
            ["status", "conditions"] => &["type"],
            [_, "volumeMounts"] => &["mountPath"],
            [_, field] if NAMED.split(' ').any(|named| named == field) => &["name"],
            _ => return None,
        };
        Some(keys.iter().map(|key| (*key).to_owned()).collect())
    }

    /// What a key is that an entry leaves out.
    fn default(self, key: &str) -> Value {
        match &self.0["items"]["properties"][key]["default"] {
            Value::Null if key == "protocol" => "TCP".into(),
            default => default.clone(),
        }
    }
}

/// Merges a patch into what there is. Null takes away, and so does an entry with `$patch: delete`; other
/// directives only tell an order, and mean nothing here.
pub(super) fn merge(shape: Shape<'_>, target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(patch) => {
            if !target.is_object() {
                *target = Value::Object(serde_json::Map::new());
            }
            for (name, value) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
                if value.is_null() {
                    super::json::set(target, name, value);
                } else {
                    merge(shape.field(name), &mut target[name], value);
                }
            }
        }
        Value::Array(patch) => match shape.keys() {
            Some(keys) => merge_lists(shape, &keys, target, patch),
            None => *target = patch.as_slice().into(),
        },
        scalar => *target = scalar.clone(),
    }
}

fn merge_lists(shape: Shape<'_>, keys: &[String], target: &mut Value, patch: &[Value]) {
    let mut merged = target.as_array().cloned().unwrap_or_default();
    for entry in patch {
        let same = |known: &Value| match keys {
            [] => known == entry,
            keys => keys.iter().all(|key| {
                let of = |entry: &Value| entry.get(key).cloned();
                let default = || shape.default(key);
                of(known).unwrap_or_else(default) == of(entry).unwrap_or_else(default)
            }),
        };
        let at = merged.iter().position(same).unwrap_or(merged.len());
        if entry["$patch"] == "delete" {
            merged = [&merged[..at], merged.get(at + 1..).unwrap_or_default()].concat();
            continue;
        }
        merged.resize(merged.len().max(at + 1), Value::Null);
        merge(shape.items(), &mut merged[at], entry);
    }
    *target = merged.into();
}

/// RFC 6902.
pub(super) fn json_patch(target: &mut Value, patch: &Value) -> Result<(), Failure> {
    let patch: Result<json_patch::Patch, _> = serde_json::from_value(patch.clone());
    let patch = patch.map_err(|error| Failure::bad(error.to_string()))?;
    json_patch::patch(target, &patch).map_err(|error| Failure::new(422, error.to_string()))
}
