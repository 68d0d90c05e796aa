use std::path::Path;

use regex_lite::Regex;
use serde_json::json;

use super::*;
use crate::policy::TrafficPolicy;

fn committed(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).unwrap_or_default()
}

#[test]
fn the_chart_has_the_newest_definition() {
    let path = "charts/weft/templates/crds/trafficpolicies.yaml";
    // In comments, so that the file is YAML for whoever reads it without Helm.
    let (begin, end) = ("# {{- if .Values.crds.install }}", "# {{- end }}");
    assert!(
        committed(path) == format!("{begin}\n{}{end}\n", crd()),
        "{path} is stale: between its first and its last line, {begin:?} and {end:?}, put what \
         `cargo run -p weft-cli -- internal crd` prints"
    );
}

#[test]
fn the_reference_page_is_the_newest() {
    let path = "docs/trafficpolicy.md";
    assert!(
        committed(path) == page(),
        "{path} is stale: run `cargo run -p weft-cli -- internal reference > {path}`"
    );
}

#[test]
fn the_definition_is_yaml_and_no_template() {
    let text = crd();
    assert!(!text.contains("{{"), "Helm would read it as a template");
    assert!(text.len() < 200_000, "it must fit into an annotation");
    for private in [
        words::EXAMPLE,
        words::ENFORCED,
        "mend:",
        "nullable",
        "$ref",
        "anyOf",
        "oneOf",
        "additionalProperties",
    ] {
        assert!(!text.contains(private), "{private}");
    }
    let read: Value = serde_saphyr::from_str(&text).unwrap();
    let version = &read["spec"]["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"]["properties"];
    assert_eq!(
        schema["spec"]["properties"]["retries"]["properties"]["attempts"]["default"],
        2
    );
    assert_eq!(
        schema["status"]["properties"]["conditions"]["items"]["properties"]["status"]["enum"],
        json!(["True", "False", "Unknown"])
    );
    assert_eq!(
        version["additionalPrinterColumns"]
            .as_array()
            .unwrap()
            .len(),
        8
    );
}

/// Every schema below one, with its path.
fn every<'a>(path: &str, schema: &'a Value, all: &mut Vec<(String, &'a Value)>) {
    all.push((path.to_owned(), schema));
    if let Some(items) = schema.get("items") {
        every(&format!("{path}[]"), items, all);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        every(&format!("{path}.{name}"), property, all);
    }
}

fn all() -> Vec<(String, &'static Value)> {
    let mut all = Vec::new();
    every("spec", &SPEC, &mut all);
    every("status", &STATUS, &mut all);
    assert!(all.len() > 200, "{}", all.len());
    all
}

/// What Kubernetes asks of a structural schema, and what rules cost without bounds.
#[test]
fn the_schema_is_structural_and_bounded() {
    for (path, schema) in all() {
        let kind = schema["type"].as_str();
        let kind = kind.unwrap_or_else(|| panic!("{path} has no type"));
        let text = schema["description"].as_str().unwrap_or_default();
        assert!(
            !text.is_empty() || path.ends_with("[]"),
            "{path} is not described"
        );
        assert!(
            !text.contains("[`"),
            "{path} is described for rustdoc: {text}"
        );
        match kind {
            "array" => assert!(schema["maxItems"].is_u64(), "{path}"),
            "integer" => {
                assert!(
                    matches!(schema["format"].as_str(), Some("int32" | "int64")),
                    "{path}"
                );
                let endless = path.ends_with(".observedGeneration");
                assert!(
                    schema["minimum"].is_i64() && (endless || schema["maximum"].is_i64()),
                    "{path}"
                );
            }
            "string" => {
                let bounded = ["maxLength", "enum", "format"]
                    .iter()
                    .any(|key| schema.get(key).is_some());
                assert!(bounded, "{path}");
            }
            "object" => assert!(schema["properties"].is_object(), "{path}"),
            "boolean" => {}
            other => panic!("{path}: {other}"),
        }
        for key in schema["x-kubernetes-list-map-keys"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let items = &schema["items"];
            let given = items["required"]
                .as_array()
                .is_some_and(|known| known.contains(key));
            let key = key.as_str().unwrap();
            assert!(
                given || !items["properties"][key]["default"].is_null(),
                "{path} by {key}"
            );
        }
        for name in schema["properties"]
            .as_object()
            .into_iter()
            .flat_map(|fields| fields.keys())
        {
            assert!(
                !["on", "off", "yes", "no", "y", "n"].contains(&name.as_str()),
                "{path}.{name}"
            );
        }
    }
}

/// `has()` of a field that is not there is simply false: a typing error would switch a rule off.
#[test]
fn rules_speak_of_fields_that_exist() {
    let selected = Regex::new(r"\b(self|b|t)((?:\.[A-Za-z]+)+)(\()?").unwrap();
    let mut seen = 0;
    for (path, schema) in all() {
        for rule in schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let text = rule["rule"].as_str().unwrap();
            for found in selected.captures_iter(text) {
                let mut names: Vec<&str> = found[2].split('.').skip(1).collect();
                if found.get(3).is_some() {
                    names.pop();
                }
                // `b` and `t` are entries of the list that the rule is about.
                let mut at = match &found[1] {
                    "t" if path == "spec" => &schema["properties"]["targetRefs"]["items"],
                    "t" => continue,
                    "b" if schema["type"] == "object" => &schema["properties"]["backends"]["items"],
                    "b" => &schema["items"],
                    _ => schema,
                };
                for name in names {
                    at = &at["properties"][name];
                    assert!(at.is_object(), "{path}: {text}: {name}");
                    seen += 1;
                }
            }
            let field = rule["fieldPath"].as_str().unwrap_or_default();
            let at = field.split('.').skip(1);
            let at = at.fold(schema, |at, name| &at["properties"][name]);
            assert!(at.is_object(), "{path}: {field}");
            assert!(
                rule["message"]
                    .as_str()
                    .is_some_and(|message| !message.is_empty())
            );
        }
    }
    assert!(seen > 80, "{seen}");
}

/// Every stanza has an example, and every example is good.
#[test]
fn examples_are_good() {
    for (name, schema) in SPEC["properties"].as_object().unwrap() {
        let example = schema
            .get(words::EXAMPLE)
            .or_else(|| schema["items"].get(words::EXAMPLE));
        let example = example.and_then(Value::as_str);
        let example = example.unwrap_or_else(|| panic!("{name} has no example"));
        let mut spec: Value = serde_saphyr::from_str(example).unwrap();
        assert!(spec.get(name).is_some(), "{example}");
        if name == "targetRefs" {
            spec["retries"] = json!({});
        } else {
            spec["targetRefs"] = json!([{"name": "checkout"}]);
            assert!(
                schema.get(words::ENFORCED).is_some()
                    || schema["items"].get(words::ENFORCED).is_some(),
                "{name}"
            );
        }
        let mut manifest = json!({
            "apiVersion": names::API_VERSION,
            "kind": names::TRAFFIC_POLICY_KIND,
            "metadata": {"name": "example"},
            "spec": spec,
        });
        let found = crate::policy::evaluate::MANIFEST.evaluate(&mut manifest);
        assert_eq!(found, [], "{example}");
        assert!(
            serde_json::from_value::<TrafficPolicy>(manifest).is_ok(),
            "{example}"
        );
    }
}
