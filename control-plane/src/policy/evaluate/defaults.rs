//! Unknown fields out, defaults in.

use serde_json::Value;

use super::{Kind, Schema, entry, field, mends};
use crate::policy::validate::Violation;

/// Integers up to this are exact as floating point numbers.
const EXACT: f64 = 9_007_199_254_740_992.0;

pub(super) fn fill(schema: &Schema, value: &mut Value, path: &str, found: &mut Vec<Violation>) {
    match value {
        Value::Object(fields) if matches!(schema.kind, Kind::Object | Kind::Anything) => {
            fields.retain(|name, value| match schema.properties.get(name) {
                Some(property) => property.nullable || !value.is_null(),
                None if schema.open => true,
                None if schema.others.is_some() => !value.is_null(),
                None => {
                    found.push(Violation {
                        path: field(path, name),
                        reason: format!(
                            "unknown field {name:?}: Additional properties are not allowed"
                        ),
                        mend: mends::unknown_field(schema, name),
                    });
                    false
                }
            });
            for (name, property) in &schema.properties {
                if let Some(default) = &property.default
                    && !fields.contains_key(name)
                {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in fields {
                let schema = schema.properties.get(name).or(schema.others.as_deref());
                if let Some(schema) = schema {
                    fill(schema, value, &field(path, name), found);
                }
            }
        }
        Value::Array(entries) => {
            let Some(items) = &schema.items else {
                return;
            };
            for (at, value) in entries.iter_mut().enumerate() {
                fill(items, value, &entry(path, at), found);
            }
        }
        // 2.0 is as good as 2 (JSON Schema, 6.1.1), but not to serde.
        Value::Number(number) if schema.kind == Kind::Integer => {
            if let Some(exact) = number.as_f64()
                && number.is_f64()
                && exact.fract() == 0.0
                && exact.abs() < EXACT
            {
                *value = (exact as i64).into();
            }
        }
        _ => {}
    }
}
