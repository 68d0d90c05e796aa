//! Any structural schema of a custom resource, as a server evaluates objects by it.

use serde_json::{Map, Value, json};

use super::rules::{self, Programs};
use super::{Schema, defaults, shape};
use crate::policy::validate::Violation;

/// What an `openAPIV3Schema` asks of objects. `oneOf` and its like, and functions that Kubernetes adds to
/// CEL beyond `duration` and `matches`, are not known: a rule that calls others is broken by every object.
#[derive(Debug)]
pub struct Definition(Schema);

/// What is to be said about an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// Fields that the schema does not have, which were taken out.
    pub unknown: Vec<Violation>,
    /// What keeps the object from being stored.
    pub wrong: Vec<Violation>,
}

impl Definition {
    /// Makes a schema ready. `apiVersion`, `kind` and `metadata` are the server's to look at, whatever
    /// the schema says of them.
    ///
    /// # Errors
    /// A pattern or a rule that is none, in words.
    pub fn new(schema: &Value) -> Result<Self, String> {
        let mut schema = schema.clone();
        let envelope = json!({
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        });
        let schema_fields = schema.as_object_mut().ok_or("the schema is no object")?;
        let properties = schema_fields
            .entry("properties")
            .or_insert_with(|| Map::new().into());
        let properties = properties
            .as_object_mut()
            .ok_or("properties are no object")?;
        properties.extend(envelope.as_object().cloned().unwrap_or_default());
        Schema::new(&schema, &mut Programs::default()).map(Self)
    }

    /// Takes unknown fields out, fills defaults in, and says everything that is wrong. Rules that compare
    /// with what there was are asked about `old`, and not without one.
    pub fn evaluate(&self, value: &mut Value, old: Option<&Value>) -> Evaluation {
        let (mut unknown, mut wrong) = (Vec::new(), Vec::new());
        defaults::fill(&self.0, value, "", &mut unknown);
        shape::check(&self.0, value, "", &mut wrong);
        rules::check(&self.0, value, old, &mut wrong);
        Evaluation { unknown, wrong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(found: &[Violation]) -> Vec<String> {
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_unknown_goes_and_what_is_wrong_is_told() {
        let definition = Definition::new(&json!({
            "type": "object",
            "properties": {
                "spec": {
                    "type": "object",
                    "properties": {
                        "port": {"x-kubernetes-int-or-string": true},
                        "share": {"type": "number", "minimum": 0.0, "maximum": 1.0},
                        "unset": {"type": "string", "nullable": true},
                        "mode": {"type": "string", "default": "On"},
                        "free": {"x-kubernetes-preserve-unknown-fields": true},
                    },
                    "x-kubernetes-validations": [
                        {"rule": "self.mode == oldSelf.mode", "message": "mode stays"},
                        {"rule": "self.mode != 'Off'", "messageExpression": "'not ' + self.mode"},
                    ],
                },
            },
        }));
        let definition = definition.unwrap();
        let mut good = json!({
            "metadata": {"name": "a", "labels": {"b": "c"}},
            "spec": {"port": "http", "share": 0.5, "unset": null, "free": [1, {"a": null}], "x": 1},
        });
        let said = definition.evaluate(&mut good, None);
        assert_eq!(said.wrong, []);
        assert_eq!(said.unknown.len(), 1);
        assert_eq!(
            good,
            json!({
                "metadata": {"name": "a", "labels": {"b": "c"}},
                "spec": {
                    "port": "http", "share": 0.5, "unset": null, "free": [1, {"a": null}], "mode": "On",
                },
            })
        );
        let mut bad = json!({"spec": {"mode": "Off"}});
        let said = definition.evaluate(&mut bad, Some(&good));
        assert_eq!(told(&said.wrong), ["spec: mode stays", "spec: not Off"]);
        let mut bad = json!({"spec": {"port": true, "share": 1.5}});
        let said = definition.evaluate(&mut bad, None);
        assert_eq!(
            told(&said.wrong),
            [
                "spec.port: must be an integer or a text, not true",
                "spec.share: 1.5 is out of bounds",
            ]
        );
    }

    /// Forms of rules that other definitions use and our own does not.
    #[test]
    fn other_peoples_rules_are_understood() {
        for (rule, good, bad) in [
            (
                "self.all(a, self.exists_one(b, a.name == b.name && (!has(a.__namespace__) && \
                 !has(b.__namespace__) || has(a.__namespace__) && has(b.__namespace__) && \
                 a.__namespace__ == b.__namespace__)))",
                json!([{"name": "a", "namespace": "x"}, {"name": "a"}]),
                json!([{"name": "a", "namespace": "x"}, {"name": "a", "namespace": "x"}]),
            ),
            (
                "self.all(a, a.name in ['x','y'] ? a.value.startsWith('/') && !a.value.contains('//') && !a.value.endsWith('/..') : true)",
                json!([{"name": "x", "value": "/a"}]),
                json!([{"name": "x", "value": "/a//b"}]),
            ),
            (
                r#"self.all(a, a.value.matches(r"""^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$"""))"#,
                json!([{"name": "x", "value": "/a"}]),
                json!([{"name": "x", "value": "/a{}"}]),
            ),
            (
                "self.filter(a, a.name == 'x').size() <= 1 && self.size() > 0 && self.map(a, a.name).exists(n, n == 'x')",
                json!([{"name": "x"}]),
                json!([{"name": "x"}, {"name": "x"}]),
            ),
            (
                "self.all(a, duration(a.value) != duration('0s') && duration(a.value) <= duration('1m'))",
                json!([{"name": "x", "value": "1s"}]),
                json!([{"name": "x", "value": "1h"}]),
            ),
        ] {
            let text = json!({"type": "string"});
            let definition = Definition::new(&json!({
                "type": "object",
                "properties": {"spec": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"name": text, "namespace": text, "value": text},
                    },
                    "x-kubernetes-validations": [{"rule": rule, "message": "no"}],
                }},
            }));
            let definition = definition.unwrap_or_else(|error| panic!("{rule}: {error}"));
            let said = definition.evaluate(&mut json!({"spec": good}), None);
            assert_eq!(said, Evaluation::default(), "{rule}");
            let said = definition.evaluate(&mut json!({"spec": bad}), None);
            assert_eq!(told(&said.wrong), ["spec: no"], "{rule}");
        }
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for schema in [
            json!([]),
            json!({"properties": {"spec": {"type": "string", "pattern": "("}}}),
            json!({"x-kubernetes-validations": [{"rule": "self."}]}),
        ] {
            assert!(Definition::new(&schema).is_err(), "{schema}");
        }
    }
}
