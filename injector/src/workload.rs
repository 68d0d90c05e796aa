//! Where in an object its pods are.

use serde_json::Value;

use crate::json;

/// How deep lists may be in lists.
const MAX_DEPTH: usize = 4;

/// A pod, or what pods are made from, in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Pointer of the pod in the whole; empty where it is the pod.
    pub pointer: String,
    /// Namespace that its object names; empty where it names none.
    pub namespace: String,
    /// Its object for people, as `Deployment shop/web`.
    pub label: String,
}

/// The pods of a Pod, Deployment, `StatefulSet`, `DaemonSet`, `ReplicaSet`, Job or `CronJob`, and of a
/// List of such; none of any other object. An object counts as one of these by its API group, too.
pub fn pods(object: &Value) -> Vec<Place> {
    let mut places = Vec::new();
    collect(object, String::new(), 0, &mut places);
    places
}

fn collect(object: &Value, pointer: String, depth: usize, places: &mut Vec<Place>) {
    let kind = json::text(object, "/kind").unwrap_or_default();
    let group = json::text(object, "/apiVersion")
        .and_then(|version| version.split_once('/'))
        .map_or("", |(group, _)| group);
    let pod = match (group, kind) {
        ("", "List") if depth < MAX_DEPTH => {
            for (at, item) in json::list(object, "/items").iter().enumerate() {
                collect(item, format!("{pointer}/items/{at}"), depth + 1, places);
            }
            return;
        }
        ("", "Pod") => "",
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") | ("batch", "Job") => {
            "/spec/template"
        }
        ("batch", "CronJob") => "/spec/jobTemplate/spec/template",
        _ => return,
    };
    let name = json::text(object, "/metadata/name")
        .or_else(|| json::text(object, "/metadata/generateName"))
        .unwrap_or("without a name");
    let namespace = json::text(object, "/metadata/namespace").unwrap_or_default();
    let label = match namespace {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    };
    places.push(Place {
        pointer: pointer + pod,
        namespace: namespace.to_owned(),
        label,
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pointers(object: &Value) -> Vec<String> {
        pods(object)
            .into_iter()
            .map(|place| place.pointer)
            .collect()
    }

    #[test]
    fn pods_are_found_in_all_that_makes_them() {
        for (version, kind, pointer) in [
            ("v1", "Pod", ""),
            ("apps/v1", "Deployment", "/spec/template"),
            ("apps/v1", "StatefulSet", "/spec/template"),
            ("apps/v1", "DaemonSet", "/spec/template"),
            ("apps/v1", "ReplicaSet", "/spec/template"),
            ("batch/v1", "Job", "/spec/template"),
            ("batch/v1", "CronJob", "/spec/jobTemplate/spec/template"),
        ] {
            let object = json!({"apiVersion": version, "kind": kind});
            assert_eq!(pointers(&object), [pointer], "{kind}");
        }
        for (version, kind) in [
            ("v1", "Service"),
            ("example.org/v1", "Deployment"),
            ("v1", "Job"),
        ] {
            let object = json!({"apiVersion": version, "kind": kind});
            assert!(pods(&object).is_empty(), "{kind}");
        }
        assert!(pods(&Value::Null).is_empty());
    }

    #[test]
    fn lists_are_looked_into() {
        let job = json!({"apiVersion": "batch/v1", "kind": "Job",
                         "metadata": {"name": "j", "namespace": "n"}});
        let list = json!({"apiVersion": "v1", "kind": "List",
                          "items": [{"apiVersion": "v1", "kind": "Service"}, job]});
        let places = pods(&list);
        assert_eq!(places[0].pointer, "/items/1/spec/template");
        assert_eq!(places[0].label, "Job n/j");
        assert_eq!(places.len(), 1);
    }
}
