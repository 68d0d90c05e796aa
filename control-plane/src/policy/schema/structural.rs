//! What `schemars` makes of the types, as a structural schema.
//!
//! Optional fields become plain ones (`null` is never a value), enumerations one list of words whose
//! meanings go into the description, and formats those that Kubernetes knows.

use serde_json::{Map, Value};

/// Rewrites a schema and all that is in it.
pub(super) fn rewrite(schema: &mut Value) {
    let Value::Object(object) = schema else {
        return;
    };
    unwrap_optional(object);
    unwrap_words(object);
    for key in ["$schema", "title", "additionalProperties"] {
        object.remove(key);
    }
    if let Some(Value::Array(types)) = object.get("type")
        && let Some(known) = types.iter().find(|known| *known != "null").cloned()
    {
        object.insert("type".to_owned(), known);
    }
    if let Some(Value::Array(words)) = object.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    if object.get("default").is_some_and(Value::is_null) {
        object.remove("default");
    }
    if let Some(format) = object.get("format").and_then(Value::as_str) {
        let known = match format {
            "uint8" | "uint16" | "uint32" => "int32",
            "uint64" => "int64",
            known => known,
        };
        let known = known.to_owned();
        object.insert("format".to_owned(), known.into());
    }
    if let Some(description) = object.get("description").and_then(Value::as_str) {
        let flowing = reflow(description);
        object.insert("description".to_owned(), flowing.into());
    }
    if let Some(items) = object.get_mut("items") {
        rewrite(items);
        if let Some(meanings) = take_meanings(items) {
            let own = object.get("description").and_then(Value::as_str);
            let description = format!("{}\n\n{meanings}", own.unwrap_or_default());
            object.insert("description".to_owned(), description.into());
        }
    }
    let properties = object.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(Map::values_mut) {
        rewrite(property);
    }
}

/// `anyOf: [X, {type: null}]` becomes X; what stands beside it adds to X, or overrides it.
fn unwrap_optional(object: &mut Map<String, Value>) {
    let Some(Value::Array(ways)) = object.remove("anyOf") else {
        return;
    };
    let way = ways.into_iter().find(|way| way["type"] != "null");
    let Some(Value::Object(mut inner)) = way else {
        return;
    };
    for (key, value) in std::mem::take(object) {
        match (inner.get_mut(&key), value) {
            (Some(Value::Array(known)), Value::Array(more)) => known.extend(more),
            (_, value) => {
                inner.insert(key, value);
            }
        }
    }
    *object = inner;
}

/// `oneOf` of words becomes a list of words, and their meanings a part of the description.
fn unwrap_words(object: &mut Map<String, Value>) {
    let Some(Value::Array(ways)) = object.remove("oneOf") else {
        return;
    };
    let mut words = Vec::new();
    let mut meanings = Vec::new();
    for way in ways {
        let word = &way["const"];
        if let (Some(word), Some(meaning)) = (word.as_str(), way["description"].as_str()) {
            meanings.push(format!("{word}: {}", reflow(meaning)));
        }
        match (word, &way["enum"]) {
            (_, Value::Array(several)) => words.extend(several.iter().cloned()),
            (word, _) => words.push(word.clone()),
        }
    }
    object.insert("type".to_owned(), "string".into());
    object.insert("enum".to_owned(), words.into());
    let own = object.get("description").and_then(Value::as_str);
    let mut parts: Vec<String> = own.map(str::to_owned).into_iter().collect();
    parts.extend(meanings);
    object.insert("description".to_owned(), parts.join("\n\n").into());
}

/// What the words of a list mean is said of the list: nobody is shown what is said of its entries.
fn take_meanings(items: &mut Value) -> Option<String> {
    items.get("enum")?;
    let (own, meanings) = items["description"].as_str()?.split_once("\n\n")?;
    let (own, meanings) = (own.to_owned(), meanings.to_owned());
    items["description"] = own.into();
    Some(meanings)
}

/// Paragraphs on one line each.
fn reflow(text: &str) -> String {
    let paragraphs: Vec<String> = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    paragraphs.join("\n\n")
}
