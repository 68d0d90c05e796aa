//! Decides about a manifest as a Kubernetes API server does with the same schema, in the same order:
//! unknown fields, defaults, shapes and bounds, duplicates in lists, and then rules in CEL.
//!
//! A field that is `null` is a field that is left out, because nothing in the schema is nullable. As in
//! a cluster, no rule is asked about an object that has a wrong shape: one mistake is one finding.
//! Nothing panics, whatever the manifest is.

mod defaults;
mod definition;
mod mends;
mod rules;
mod shape;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex_lite::Regex;
use serde_json::Value;

use super::schema;
use super::validate::Violation;
pub use definition::{Definition, Evaluation};
use rules::{Programs, Rule};

/// The schema of a whole manifest, made ready once.
pub(super) static MANIFEST: LazyLock<Schema> = LazyLock::new(|| {
    let mut programs = Programs::default();
    Schema::new(&schema::manifest(), &mut programs)
        .expect("patterns and rules of the schema are good")
});

/// What a value must be.
#[derive(Debug, Default)]
pub(super) struct Schema {
    kind: Kind,
    default: Option<Value>,
    words: Vec<String>,
    pattern: Option<(String, Regex)>,
    /// Characters, entries or fields.
    size: (Option<usize>, Option<usize>),
    range: (Option<i64>, Option<i64>),
    /// Whether `null` is a value, and not what is left out.
    nullable: bool,
    properties: BTreeMap<String, Schema>,
    required: Vec<String>,
    /// Of every field that is not named.
    others: Option<Box<Schema>>,
    /// Whether anything goes inside.
    open: bool,
    items: Option<Box<Schema>>,
    list: List,
    rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    /// `x-kubernetes-int-or-string`.
    IntegerOrString,
    Anything,
}

/// What entries of a list must not have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum List {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

impl Schema {
    /// Reads a structural schema. What it does not know is left out, above all `oneOf` and its like.
    ///
    /// # Errors
    /// A pattern or a rule that is none.
    fn new(schema: &Value, programs: &mut Programs) -> Result<Self, String> {
        let text = |key: &str| schema[key].as_str().map(str::to_owned);
        let texts = |key: &str| {
            let texts = schema[key].as_array().into_iter().flatten();
            let texts = texts.filter_map(Value::as_str).map(str::to_owned);
            texts.collect::<Vec<_>>()
        };
        let count = |key: &str| schema[key].as_u64().and_then(|count| count.try_into().ok());
        let open = schema["x-kubernetes-preserve-unknown-fields"] == true
            || schema["additionalProperties"] == true;
        let kind = match schema["type"].as_str() {
            Some("array") => Kind::Array,
            Some("string") => Kind::String,
            Some("integer") => Kind::Integer,
            Some("number") => Kind::Number,
            Some("boolean") => Kind::Boolean,
            _ if schema["x-kubernetes-int-or-string"] == true => Kind::IntegerOrString,
            None if open => Kind::Anything,
            _ => Kind::Object,
        };
        let size = match kind {
            Kind::Array => ["minItems", "maxItems"],
            Kind::Object => ["minProperties", "maxProperties"],
            _ => ["minLength", "maxLength"],
        };
        let mut inner = |key: &str| {
            let inner = schema.get(key).filter(|inner| inner.is_object());
            let inner = inner.map(|inner| Self::new(inner, programs).map(Box::new));
            inner.transpose()
        };
        let (items, others) = (inner("items")?, inner("additionalProperties")?);
        let properties = schema["properties"].as_object().into_iter().flatten();
        let properties = properties
            .map(|(name, property)| Ok((name.clone(), Self::new(property, programs)?)))
            .collect::<Result<_, String>>()?;
        let pattern = text("pattern").map(|pattern| match Regex::new(&pattern) {
            Ok(regex) => Ok((pattern, regex)),
            Err(error) => Err(format!("the pattern {pattern:?}: {error}")),
        });
        let rules = schema["x-kubernetes-validations"].as_array();
        Ok(Self {
            kind,
            default: schema.get("default").cloned(),
            words: texts("enum"),
            pattern: pattern.transpose()?,
            size: (count(size[0]), count(size[1])),
            range: (bound(&schema["minimum"]), bound(&schema["maximum"])),
            nullable: schema["nullable"] == true,
            properties,
            required: texts("required"),
            others,
            open,
            items,
            list: match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => List::Set,
                Some("map") => List::Map(texts("x-kubernetes-list-map-keys")),
                _ => List::Atomic,
            },
            rules: rules
                .into_iter()
                .flatten()
                .map(|rule| Rule::new(rule, programs))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Fills in defaults, and says everything that is wrong with a value.
    pub(super) fn evaluate(&self, value: &mut Value) -> Vec<Violation> {
        let mut found = Vec::new();
        defaults::fill(self, value, "", &mut found);
        shape::check(self, value, "", &mut found);
        rules::check(self, value, None, &mut found);
        found
    }
}

/// A bound, which some write as `1.0`.
fn bound(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|bound| bound as i64))
}

/// A field of what is at a path.
fn field(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// An entry of what is at a path.
fn entry(path: &str, at: usize) -> String {
    format!("{path}[{at}]")
}

/// Whether a path is another one, or inside it.
fn is_within(path: &str, outer: &str) -> bool {
    let Some(rest) = path.strip_prefix(outer) else {
        return false;
    };
    outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '['])
}
