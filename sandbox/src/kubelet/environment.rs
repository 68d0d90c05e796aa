//! A container's environment variables: as they are written, from fields of its pod, and with
//! references to those before.

use std::collections::BTreeMap;

use anyhow::Context as _;
use k8s_openapi::api::core::v1 as core;

/// What a pod knows of itself only when it runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) addresses: Vec<String>,
    pub(super) host: String,
    pub(super) node: String,
}

/// All variables of a container, after those that every container has.
pub(super) fn resolve(
    common: &[(String, String)],
    container: &core::Container,
    pod: &core::Pod,
    place: &Place,
) -> anyhow::Result<Vec<(String, String)>> {
    let mut all: BTreeMap<String, String> = common.iter().cloned().collect();
    for variable in container.env.iter().flatten() {
        let value = value(variable, pod, place, &all);
        let value = value.with_context(|| format!("variable {}", variable.name))?;
        all.insert(variable.name.clone(), value);
    }
    Ok(all.into_iter().collect())
}

/// A command or arguments with references to variables replaced.
pub(super) fn expand_all(words: Option<&[String]>, variables: &[(String, String)]) -> Vec<String> {
    let known = variables.iter().cloned().collect();
    let words = words.unwrap_or_default().iter();
    words.map(|word| expand(word, &known)).collect()
}

/// What a field of a pod says, as the downward API has it.
pub(super) fn field(path: &str, pod: &core::Pod, place: &Place) -> anyhow::Result<String> {
    let (metadata, spec) = (&pod.metadata, pod.spec.as_ref());
    let of_map = |map: &Option<BTreeMap<String, String>>, key: &str| {
        let key = key.trim_end_matches("']");
        map.as_ref().and_then(|map| map.get(key)).cloned()
    };
    let found = match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "spec.nodeName" => Some(place.node.clone()),
        "status.podIP" => place.addresses.first().cloned(),
        "status.podIPs" => Some(place.addresses.join(",")),
        "status.hostIP" | "status.hostIPs" => Some(place.host.clone()),
        _ => match path.split_once("['") {
            Some(("metadata.labels", key)) => of_map(&metadata.labels, key),
            Some(("metadata.annotations", key)) => of_map(&metadata.annotations, key),
            _ => anyhow::bail!("no field {path} here"),
        },
    };
    Ok(found.unwrap_or_default())
}

fn value(
    variable: &core::EnvVar,
    pod: &core::Pod,
    place: &Place,
    known: &BTreeMap<String, String>,
) -> anyhow::Result<String> {
    let Some(from) = &variable.value_from else {
        let text = variable.value.as_deref().unwrap_or_default();
        return Ok(expand(text, known));
    };
    let reference = from
        .field_ref
        .as_ref()
        .context("only values and fieldRef here")?;
    field(&reference.field_path, pod, place)
}

/// Replaces `$(NAME)` by what is known; what is not stays, and `$$` is a dollar.
fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let named = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        match named.map(|(name, after)| (known.get(name), after)) {
            Some((Some(value), after)) => {
                expanded.push_str(value);
                rest = after;
            }
            _ => expanded.push('$'),
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variables_are_what_a_kubelet_makes_of_them() {
        let pod = json!({
            "metadata": {"name": "web", "namespace": "shop", "labels": {"app/x": "a"}},
            "spec": {"serviceAccountName": "front", "containers": []},
        });
        let field =
            |path: &str| json!({"name": path, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let container = json!({"name": "app", "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(HOME)-$(C)-$$(A)-$"},
            {"name": "C", "value": "3"}, {"name": "A", "value": "again"}, {"name": "NONE"},
            field("metadata.name"), field("status.podIPs"), field("metadata.labels['app/x']"),
            field("spec.serviceAccountName"),
        ]});
        let place = Place {
            addresses: vec!["10.0.0.2".to_owned(), "fd::2".to_owned()],
            ..Place::default()
        };
        let common = [("HOME".to_owned(), "/".to_owned())];
        let (container, pod) = (
            serde_json::from_value(container).unwrap(),
            serde_json::from_value(pod).unwrap(),
        );
        let all = resolve(&common, &container, &pod, &place).unwrap();
        let get = |name: &str| {
            all.iter()
                .find(|(known, _)| known == name)
                .unwrap()
                .1
                .as_str()
        };
        assert_eq!(get("B"), "1-/-$(C)-$(A)-$");
        assert_eq!((get("A"), get("NONE")), ("again", ""));
        assert_eq!(
            (get("metadata.name"), get("status.podIPs")),
            ("web", "10.0.0.2,fd::2")
        );
        assert_eq!(get("metadata.labels['app/x']"), "a");
        assert_eq!(get("spec.serviceAccountName"), "front");
        let words = ["--name".to_owned(), "$(metadata.name)".to_owned()];
        assert_eq!(expand_all(Some(&words), &all), ["--name", "web"]);
    }

    #[test]
    fn what_is_not_known_is_named() {
        let container = json!({"name": "app", "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}},
        ]});
        let container = serde_json::from_value(container).unwrap();
        let error = resolve(&[], &container, &core::Pod::default(), &Place::default());
        assert!(format!("{:#}", error.unwrap_err()).contains("variable A"));
    }
}
