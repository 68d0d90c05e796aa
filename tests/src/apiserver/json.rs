//! What the JSON of Kubernetes is made of: texts, lists, times.

use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// The text there, or an empty one.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The entries of a list, or none.
pub(super) fn entries(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The texts of a list.
pub(super) fn texts(list: &Value) -> Vec<String> {
    let texts = entries(list).filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// Whether a list of a rule names a value, or everything.
pub(super) fn covers(list: &Value, value: &str) -> bool {
    entries(list).any(|known| known == "*" || known == value)
}

/// Makes a field what it is to be, where null is nothing.
pub(super) fn set(object: &mut Value, field: &str, value: &Value) {
    if !value.is_null() {
        object[field] = value.clone();
    } else if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

/// Fills in what is left out, at every depth.
pub(super) fn fill(object: &mut Value, defaults: &Value) {
    match (object, defaults) {
        (Value::Object(object), Value::Object(defaults)) => {
            for (name, default) in defaults {
                fill(object.entry(name.clone()).or_insert(Value::Null), default);
            }
        }
        (object @ Value::Null, default) => *object = default.clone(),
        _ => {}
    }
}

/// RFC 3339 in seconds, in UTC.
pub(super) fn written(at: SystemTime) -> String {
    let at = Timestamp::try_from(at).unwrap_or(Timestamp::MAX);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
