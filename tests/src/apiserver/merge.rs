//! Changes of objects: JSON patch, strategic merge patch, and server-side apply without ownership, which
//! takes nothing away that a manifest no longer has.

use serde_json::{Map, Value};

use super::failure::Failure;
use super::selectors::texts;

/// What tells which lists are maps: a custom resource's schema, or the table of what is built in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape<'a> {
    Schema(&'a Value),
    BuiltIn {
        kind: &'a str,
        /// The two innermost fields on the way here.
        path: [&'a str; 2],
    },
}

/// How entries of a list are told from each other.
enum Entries {
    Atomic,
    Set,
    /// Fields, with what each is when it is left out.
    Map(Vec<(String, Value)>),
}

impl<'a> Shape<'a> {
    fn field(self, name: &'a str) -> Self {
        match self {
            Self::Schema(schema) => match &schema["properties"][name] {
                Value::Null => Self::Schema(&schema["additionalProperties"]),
                property => Self::Schema(property),
            },
            Self::BuiltIn { kind, path } => Self::BuiltIn {
                kind,
                path: [path[1], name],
            },
        }
    }

    fn items(self) -> Self {
        match self {
            Self::Schema(schema) => Self::Schema(&schema["items"]),
            built_in @ Self::BuiltIn { .. } => built_in,
        }
    }

    fn entries(self) -> Entries {
        let by = |names: &[&str]| {
            let names = names.iter().map(|name| {
                let default = if *name == "protocol" {
                    "TCP".into()
                } else {
                    Value::Null
                };
                ((*name).to_owned(), default)
            });
            Entries::Map(names.collect())
        };
        match self {
            Self::Schema(schema) => match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => Entries::Set,
                Some("map") => {
                    let keys = texts(&schema["x-kubernetes-list-map-keys"]).into_iter();
                    let keys = keys.map(|key| {
                        let default = schema["items"]["properties"][&key]["default"].clone();
                        (key, default)
                    });
                    Entries::Map(keys.collect())
                }
                _ => Entries::Atomic,
            },
            Self::BuiltIn { kind, path } => match (kind, path) {
                (_, ["metadata", "ownerReferences"]) => by(&["uid"]),
                (_, ["metadata", "finalizers"]) => Entries::Set,
                ("Service", ["spec", "ports"]) => by(&["port", "protocol"]),
                (_, ["containers" | "initContainers", "ports"]) => {
                    by(&["containerPort", "protocol"])
                }
                (_, ["status", "podIPs" | "hostIPs"] | [_, "hostAliases"]) => by(&["ip"]),
                (_, ["status", "conditions"]) => by(&["type"]),
                (_, [_, "volumeMounts"]) => by(&["mountPath"]),
                (
                    _,
                    [
                        _,
                        "containers"
                        | "initContainers"
                        | "ephemeralContainers"
                        | "env"
                        | "volumes"
                        | "imagePullSecrets"
                        | "webhooks"
                        | "containerStatuses"
                        | "initContainerStatuses"
                        | "secrets",
                    ],
                ) => by(&["name"]),
                _ => Entries::Atomic,
            },
        }
    }
}

/// Server-side apply.
pub(super) fn apply(shape: Shape<'_>, target: &mut Value, manifest: &Value) {
    combine(shape, target, manifest, false);
}

/// Strategic merge patch.
pub(super) fn strategic(shape: Shape<'_>, target: &mut Value, patch: &Value) {
    combine(shape, target, patch, true);
}

fn combine(shape: Shape<'_>, target: &mut Value, patch: &Value, strategic: bool) {
    match patch {
        Value::Object(patch) => combine_objects(shape, target, patch, strategic),
        Value::Array(patch) => combine_lists(shape, target, patch, strategic),
        scalar => *target = scalar.clone(),
    }
}

fn combine_objects(
    shape: Shape<'_>,
    target: &mut Value,
    patch: &Map<String, Value>,
    strategic: bool,
) {
    if strategic && patch.get("$patch").is_some_and(|what| what == "replace") {
        let fields = patch.iter().filter(|(name, _)| *name != "$patch");
        let fields = fields.map(|(name, value)| (name.clone(), value.clone()));
        *target = Value::Object(fields.collect());
        return;
    }
    let target = as_object(target);
    if let Some(kept) = patch.get("$retainKeys").filter(|_| strategic) {
        let kept = texts(kept);
        target.retain(|name, _| kept.contains(name));
    }
    for (name, value) in patch {
        if strategic && name.starts_with('$') {
            if let Some(name) = name.strip_prefix("$deleteFromPrimitiveList/")
                && let (Some(list), Some(gone)) = (
                    target.get_mut(name).and_then(Value::as_array_mut),
                    value.as_array(),
                )
            {
                list.retain(|entry| !gone.contains(entry));
            }
        } else if value.is_null() {
            target.remove(name);
        } else {
            let target = target.entry(name.clone()).or_insert(Value::Null);
            combine(shape.field(name), target, value, strategic);
        }
    }
}

fn combine_lists(shape: Shape<'_>, target: &mut Value, patch: &[Value], strategic: bool) {
    let keys = match shape.entries() {
        Entries::Atomic => {
            *target = patch.into();
            return;
        }
        Entries::Set => Vec::new(),
        // A strategic patch knows one key only.
        Entries::Map(keys) if strategic => keys.into_iter().take(1).collect(),
        Entries::Map(keys) => keys,
    };
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Value::Array(target) = target else {
        return;
    };
    for entry in patch {
        if keys.is_empty() {
            if !target.contains(entry) {
                target.push(entry.clone());
            }
            continue;
        }
        let key = |entry: &Value| -> Vec<Value> {
            let keys = keys.iter();
            let keys = keys.map(|(key, default)| entry.get(key).unwrap_or(default).clone());
            keys.collect()
        };
        let wanted = key(entry);
        let at = target.iter().position(|known| key(known) == wanted);
        match (at, entry["$patch"].as_str().filter(|_| strategic)) {
            (Some(at), Some("delete")) => {
                target.remove(at);
            }
            (None, Some("delete")) => {}
            (Some(at), _) => combine(shape.items(), &mut target[at], entry, strategic),
            (None, _) => {
                let mut new = Value::Null;
                combine(shape.items(), &mut new, entry, strategic);
                target.push(new);
            }
        }
    }
}

fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made one")
}

/// RFC 6902.
pub(super) fn json_patch(target: &mut Value, patch: &Value) -> Result<(), Failure> {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| Failure::bad(format!("no JSON patch: {error}")))?;
    json_patch::patch(target, &patch).map_err(|error| {
        let why =
            format!("the server rejected our request due to an error in our request: {error}");
        Failure::new(422, why)
    })
}
