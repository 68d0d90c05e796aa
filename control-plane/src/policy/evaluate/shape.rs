//! Types, bounds, words, patterns, and duplicates in lists.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{Kind, List, Schema, entry, field, mends};
use crate::policy::validate::Violation;

/// Of a text that is wrong, so much is repeated.
const QUOTED: usize = 64;

pub(super) fn check(schema: &Schema, value: &Value, path: &str, found: &mut Vec<Violation>) {
    let mut add = |reason: String, mend: String| {
        found.push(Violation {
            path: path.to_owned(),
            reason,
            mend,
        });
    };
    match (schema.kind, value) {
        (Kind::String | Kind::IntegerOrString, Value::String(text)) => {
            check_text(schema, text, &mut add);
        }
        (Kind::Integer, Value::Number(number)) if !number.is_f64() => {
            // Beyond what fits: as far as the bounds go, and further.
            let number = number.as_i64().unwrap_or(i64::MAX);
            if let Some(reason) = out_of_range(schema.range, number) {
                add(reason, mends::range(schema.range));
            }
        }
        (_, Value::Null) if schema.nullable => {}
        (Kind::Number, Value::Number(number)) => {
            let number = number.as_f64().unwrap_or(f64::INFINITY);
            let (least, most) = schema.range;
            let low = least.is_some_and(|least| number < least as f64);
            if low || most.is_some_and(|most| number > most as f64) {
                add(
                    format!("{number} is out of bounds"),
                    mends::range(schema.range),
                );
            }
        }
        (Kind::IntegerOrString, Value::Number(number)) if !number.is_f64() => {}
        (Kind::Array, Value::Array(entries)) => {
            check_size(schema.size, entries.len(), "entry", "entries", &mut add);
            check_entries(schema, entries, path, found);
        }
        (Kind::Object | Kind::Anything, Value::Object(fields)) => {
            check_fields(schema, fields, path, found);
        }
        (Kind::Anything, _) | (Kind::Boolean, Value::Bool(_)) => {}
        (kind, value) => add(
            format!("must be {}, not {}", noun(kind), described(value)),
            mends::kind(schema, value),
        ),
    }
}

fn check_text(schema: &Schema, text: &str, add: &mut impl FnMut(String, String)) {
    let length = text.chars().count();
    check_size(schema.size, length, "character", "characters", add);
    if !schema.words.is_empty() && !schema.words.iter().any(|word| word == text) {
        add(
            format!("{} is not one of {}", quoted(text), schema.words.join(", ")),
            mends::word(&schema.words, text),
        );
    }
    // What is empty and may not be has been said already.
    let empty = text.is_empty() && schema.size.0 > Some(0);
    if let Some((pattern, regex)) = &schema.pattern
        && !empty
        && !regex.is_match(text)
    {
        add(
            format!("{} does not match {pattern}", quoted(text)),
            mends::pattern(pattern).to_owned(),
        );
    }
}

fn check_size(
    (least, most): (Option<usize>, Option<usize>),
    size: usize,
    one: &str,
    many: &str,
    add: &mut impl FnMut(String, String),
) {
    if let Some(least) = least.filter(|least| size < *least) {
        let reason = match least {
            1 => format!("at least one {one} is required"),
            least => format!("{size} {many}; at least {least} are required"),
        };
        add(reason, format!("add at least one {one}"));
    }
    if let Some(most) = most.filter(|most| size > *most) {
        let reason = format!("{size} {many}; at most {most} are allowed");
        add(reason, format!("leave {} out", size - most));
    }
}

fn check_entries(schema: &Schema, entries: &[Value], path: &str, found: &mut Vec<Violation>) {
    let Some(items) = &schema.items else {
        return;
    };
    let mut seen = HashSet::new();
    for (at, value) in entries.iter().enumerate() {
        let path = entry(path, at);
        let (key, what) = match &schema.list {
            List::Atomic => (None, String::new()),
            List::Set => (Some(value.to_string()), "entry".to_owned()),
            List::Map(keys) => {
                let key: Vec<&Value> = keys.iter().map(|key| &value[key]).collect();
                let key = serde_json::to_string(&key).ok();
                (key, format!("map key ({})", keys.join(", ")))
            }
        };
        if let Some(key) = key
            && !seen.insert(key)
        {
            found.push(Violation {
                path: path.clone(),
                reason: format!("duplicate {what}"),
                mend: "name each only once".to_owned(),
            });
        }
        check(items, value, &path, found);
    }
}

fn check_fields(
    schema: &Schema,
    fields: &Map<String, Value>,
    path: &str,
    found: &mut Vec<Violation>,
) {
    let names = || {
        let names: Vec<_> = schema.properties.keys().map(String::as_str).collect();
        names.join(", ")
    };
    let mut add = |path: String, reason: String, mend: String| {
        found.push(Violation { path, reason, mend });
    };
    for name in &schema.required {
        if !fields.contains_key(name) {
            add(
                field(path, name),
                "is required".to_owned(),
                format!("add {name}"),
            );
        }
    }
    let (least, most) = schema.size;
    if least.is_some_and(|least| fields.len() < least) {
        add(
            path.to_owned(),
            format!("at least one of {} is required", names()),
            "add one, or leave the whole out".to_owned(),
        );
    }
    if most.is_some_and(|most| fields.len() > most) {
        add(
            path.to_owned(),
            format!("exactly one of {} is required", names()),
            "keep one".to_owned(),
        );
    }
    for (name, value) in fields {
        let schema = schema.properties.get(name).or(schema.others.as_deref());
        if let Some(schema) = schema {
            check(schema, value, &field(path, name), found);
        }
    }
}

fn out_of_range(range: (Option<i64>, Option<i64>), number: i64) -> Option<String> {
    let (least, most) = range;
    let out = least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most);
    let reason = match range {
        (Some(least), Some(most)) => format!("{number} is not between {least} and {most}"),
        (Some(least), None) => format!("{number} is less than {least}"),
        (_, Some(most)) => format!("{number} is more than {most}"),
        (None, None) => String::new(),
    };
    out.then_some(reason)
}

fn noun(kind: Kind) -> &'static str {
    match kind {
        Kind::Object => "an object",
        Kind::Array => "a list",
        Kind::String => "a text",
        Kind::Integer => "an integer",
        Kind::Number => "a number",
        Kind::IntegerOrString => "an integer or a text",
        Kind::Anything => "anything",
        Kind::Boolean => "true or false",
    }
}

fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {}", quoted(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn quoted(text: &str) -> String {
    let mut start: String = text.chars().take(QUOTED).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{start:?}")
}
