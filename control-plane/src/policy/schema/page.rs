//! The reference page: every field of `spec` with its type, bounds, default and meaning.

use std::fmt::Write as _;

use serde_json::Value;

use super::SPEC;
use super::words::{
    ENFORCED, EXAMPLE, GROUP, GRPC_METHOD, GRPC_SERVICE, HEADER_VALUE, LABEL, PATH, PLAIN_PATH,
    SERVICE_ACCOUNT, SPIFFE_ID, SUBDOMAIN, TOKEN,
};
use crate::policy::duration;

const HEAD: &str = "\
<!-- Made from the types in control-plane/src/policy by `weft internal reference`; not edited by hand. -->

# TrafficPolicy

`apiVersion: weft.dev/v1alpha1`, `kind: TrafficPolicy`, short name `tp`. In a cluster it is a resource of
the namespace that its targets are in; without one, a YAML document beside `mesh.yaml`
([file mode](file-mode.md)). `weft check -f FILE` says what is wrong with one, as a cluster would.

";

const WORDS: &str = "\
A field that is left out has its default, or does nothing; so has one that is `null`. Unknown fields are
refused. In the tables:

- *duration* is a text of up to four numbers with units, without signs and fractions: `250ms`, `3s`,
  `1h30m`. Units are `h`, `m`, `s` and `ms`.
- *label* is up to 63 lower-case letters, digits and inner dashes; *name* is labels joined by dots.
- *token* is what headers and cookies are named by: letters, digits and ``!#$%&'*+-.^_`|~``.
- *set* is a list without duplicates; *by* says which fields no two entries of a list have in common.

";

/// The order that the page explains stanzas in; what is not named follows.
const ORDER: [&str; 13] = [
    "targetRefs",
    "mtls",
    "authorization",
    "timeouts",
    "retries",
    "circuitBreaker",
    "loadBalancer",
    "split",
    "rateLimit",
    "faultInjection",
    "fallback",
    "accessLog",
    "rules",
];

/// The reference page as Markdown.
pub fn page() -> String {
    let spec = &*SPEC;
    let mut page = HEAD.to_owned();
    let _ = write!(page, "{}\n\n{WORDS}", description(spec));
    rules(&mut page, "spec", spec, false);
    for stanza in stanzas() {
        let schema = &spec["properties"][stanza];
        // An entry speaks for its list.
        let known = |key| schema.get(key).or_else(|| schema["items"].get(key));
        let text = |key| known(key).and_then(Value::as_str);
        let _ = write!(page, "## {stanza}\n\n{}\n\n", description(schema));
        if let Some(who) = text(ENFORCED) {
            let _ = write!(page, "Enforced by {who}.\n\n");
        }
        if let Some(example) = text(EXAMPLE) {
            let _ = write!(page, "```yaml\n{example}\n```\n\n");
        }
        page.push_str("| Field | Type | Default | Meaning |\n|---|---|---|---|\n");
        if schema["type"] == "array" {
            let default = if is_required(spec, stanza) {
                "required"
            } else {
                ""
            };
            let kind = cell(&kind(schema));
            let _ = writeln!(
                page,
                "| `{stanza}` | {kind} | {default} | The list itself. |"
            );
            rows(&mut page, &format!("{stanza}[]"), inner(schema));
        } else {
            rows(&mut page, stanza, schema);
        }
        page.push('\n');
        rules(&mut page, stanza, schema, true);
    }
    // One line break at the end.
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

fn stanzas() -> Vec<&'static str> {
    let all: Vec<_> = properties(&SPEC).map(|(name, _)| name).collect();
    let known = ORDER.into_iter().filter(|name| all.contains(name));
    let others = all.iter().copied().filter(|name| !ORDER.contains(name));
    known.chain(others).collect()
}

fn rows(page: &mut String, path: &str, schema: &Value) {
    for (name, property) in properties(schema) {
        let field = format!("{path}.{name}");
        let default = match property.get("default") {
            _ if is_required(schema, name) => "required".to_owned(),
            Some(default) => format!("`{default}`"),
            None => String::new(),
        };
        let same = is_stanza_of_rule(path, name);
        let meaning = if same {
            format!("As [{name}](#{}).", name.to_lowercase())
        } else {
            description(property).replace("\n\n", "<br>")
        };
        let _ = writeln!(
            page,
            "| `{field}` | {} | {} | {} |",
            cell(&kind(property)),
            cell(&default),
            cell(&meaning)
        );
        if !same {
            let field = match property["type"].as_str() {
                Some("array") => format!("{field}[]"),
                _ => field,
            };
            rows(page, &field, inner(property));
        }
    }
}

/// The type of a field with its bounds.
fn kind(schema: &Value) -> String {
    let bounds = |least: &str, most: &str| match (schema[least].as_u64(), schema[most].as_u64()) {
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("at least {least}"),
        (None, Some(most)) => format!("up to {most}"),
        (None, None) => String::new(),
    };
    if let Some(words) = schema["enum"].as_array() {
        let words = words.iter().filter_map(Value::as_str);
        return words
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let mut parts = match schema["type"].as_str() {
        Some("array") => {
            let mut parts = vec![format!("list of {}", bounds("minItems", "maxItems"))];
            match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => parts.push("set".to_owned()),
                Some("map") => {
                    let keys = schema["x-kubernetes-list-map-keys"].as_array();
                    let keys = keys.into_iter().flatten().filter_map(Value::as_str);
                    parts.push(format!("by {}", keys.collect::<Vec<_>>().join(", ")));
                }
                _ => {}
            }
            let items = &schema["items"];
            if items["type"] != "object" {
                parts.push(format!("each {}", kind(items)));
            }
            parts
        }
        Some("integer") => vec!["integer".to_owned(), bounds("minimum", "maximum")],
        Some("string") => text_kind(schema, &bounds("minLength", "maxLength")),
        Some(other) => vec![other.to_owned()],
        None => Vec::new(),
    };
    if schema["type"] != "object" {
        let rules = schema["x-kubernetes-validations"].as_array();
        let messages = rules.into_iter().flatten();
        let messages = messages.filter_map(|rule| rule["message"].as_str());
        parts.extend(
            messages
                .filter_map(|message| message.strip_prefix("must be "))
                .map(str::to_owned),
        );
    }
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

fn text_kind(schema: &Value, length: &str) -> Vec<String> {
    let length = format!("{length} characters");
    let known = match schema["pattern"].as_str() {
        Some(duration::PATTERN) => return vec!["duration".to_owned()],
        Some(LABEL) => return vec!["label".to_owned()],
        Some(SUBDOMAIN) => return vec!["name".to_owned()],
        Some(GROUP) => "name or empty",
        Some(SERVICE_ACCOUNT) => "name or `*`",
        Some(TOKEN) => "token",
        Some(HEADER_VALUE) => "text without control characters",
        Some(PATH) => "text that begins with `/`",
        Some(PLAIN_PATH) => "path without empty segments, segments of dots, `\\`, `;`, `?` and `#`",
        Some(SPIFFE_ID) => "SPIFFE id",
        Some(GRPC_SERVICE) => "letters, digits, `_` and `.`",
        Some(GRPC_METHOD) => "letters, digits and `_`",
        _ => "text",
    };
    vec![known.to_owned(), length]
}

/// What fields ask of each other, as a list.
fn rules(page: &mut String, path: &str, schema: &Value, deep: bool) {
    let before = page.len();
    list_rules(page, path, schema, deep);
    if page.len() > before {
        page.insert_str(before, "What fields ask of each other:\n\n");
        page.push('\n');
    }
}

fn list_rules(page: &mut String, path: &str, schema: &Value, deep: bool) {
    let is_compound = matches!(schema["type"].as_str(), Some("object" | "array"));
    let known = schema["x-kubernetes-validations"].as_array();
    for rule in known.into_iter().flatten().filter(|_| is_compound) {
        let message = rule["message"].as_str().unwrap_or_default();
        let _ = writeln!(page, "- `{path}`: {message}.");
    }
    if !deep {
        return;
    }
    if let Some(items) = schema.get("items") {
        list_rules(page, &format!("{path}[]"), items, deep);
    }
    for (name, property) in properties(schema) {
        if !is_stanza_of_rule(path, name) {
            list_rules(page, &format!("{path}.{name}"), property, deep);
        }
    }
}

/// Whether a field of a rule is a stanza that is explained by itself.
fn is_stanza_of_rule(path: &str, name: &str) -> bool {
    path == "rules[]" && SPEC["properties"].get(name).is_some()
}

fn is_required(schema: &Value, name: &str) -> bool {
    let required = schema["required"].as_array();
    required.is_some_and(|required| required.iter().any(|known| known == name))
}

/// What has the fields: an object, or a list's entries.
fn inner(schema: &Value) -> &Value {
    schema.get("items").unwrap_or(schema)
}

fn properties(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let fields = schema["properties"].as_object().into_iter().flatten();
    fields.map(|(name, property)| (name.as_str(), property))
}

fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

/// A text in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
