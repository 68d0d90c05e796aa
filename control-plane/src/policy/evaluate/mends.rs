//! What to do about what is wrong.

use serde_json::Value;

use super::{Kind, Schema};
use crate::policy::duration;
use crate::policy::schema::words;

/// By what a text does not match.
const PATTERNS: [(&str, &str); 13] = [
    (duration::PATTERN, "write it as 250ms, 3s or 1h30m"),
    (
        words::LABEL,
        "use lower-case letters, digits and inner dashes",
    ),
    (
        words::SUBDOMAIN,
        "use lower-case letters, digits, inner dashes and dots",
    ),
    (words::GROUP, "leave it out"),
    (
        words::LABEL_VALUE,
        "use letters, digits and inner dashes, underscores and dots, in quotes where it is a number",
    ),
    (
        words::SERVICE_ACCOUNT,
        "write a service account's name, or * for all of the namespace",
    ),
    (words::TOKEN, "use letters, digits and !#$%&'*+-.^_`|~ only"),
    (
        words::HEADER_VALUE,
        "leave out control characters, which no header can carry",
    ),
    (words::PATH, "begin it with /"),
    (
        words::PLAIN_PATH,
        "write it as servers resolve it: /a/b, without //, dot segments, backslashes, ;, ? and #",
    ),
    (
        words::SPIFFE_ID,
        "write spiffe://TRUST-DOMAIN/PATH, where the path may end in /*",
    ),
    (words::GRPC_SERVICE, "write package.Service"),
    (words::GRPC_METHOD, "write the method's name alone"),
];

pub(super) fn pattern(pattern: &str) -> &'static str {
    let known = PATTERNS.iter().find(|(known, _)| *known == pattern);
    known.map_or("", |(_, mend)| mend)
}

pub(super) fn range(range: (Option<i64>, Option<i64>)) -> String {
    match range {
        (Some(least), Some(most)) => format!("use a number from {least} to {most}"),
        (Some(least), None) => format!("use at least {least}"),
        (_, Some(most)) => format!("use at most {most}"),
        (None, None) => String::new(),
    }
}

pub(super) fn word(words: &[String], text: &str) -> String {
    match nearest(words.iter().map(String::as_str), text) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("use {}", words.join(", ")),
    }
}

pub(super) fn unknown_field(schema: &Schema, name: &str) -> String {
    if let Some(near) = nearest(schema.properties.keys().map(String::as_str), name) {
        return format!("did you mean {near}?");
    }
    let owners = schema.properties.iter();
    let mut owners = owners.filter(|(_, inner)| inner.properties.contains_key(name));
    match (owners.next(), owners.next()) {
        (Some((owner, _)), None) => format!("move it into {owner}"),
        _ => "leave it out, or look its place up in the reference".to_owned(),
    }
}

pub(super) fn kind(schema: &Schema, value: &Value) -> String {
    if let Some((known, _)) = &schema.pattern
        && !pattern(known).is_empty()
    {
        return pattern(known).to_owned();
    }
    match (schema.kind, value) {
        (Kind::String, Value::Bool(_)) => {
            "put it in quotes: in YAML, y, n, yes, no, on and off are true and false".to_owned()
        }
        (Kind::String, Value::Number(_)) => format!("put it in quotes: \"{value}\""),
        (Kind::Integer, Value::String(text)) if text.parse::<i64>().is_ok() => {
            format!("write {text} without quotes")
        }
        (Kind::Array, _) => "write a list, as [a, b]".to_owned(),
        (Kind::Object, _) => "write fields, as {name: value}".to_owned(),
        (Kind::Boolean, _) => "write true or false".to_owned(),
        (Kind::Integer, _) => "write a whole number".to_owned(),
        (Kind::Number, _) => "write a number".to_owned(),
        (Kind::IntegerOrString, _) => "write a whole number or a text".to_owned(),
        (Kind::Anything, _) => String::new(),
        (Kind::String, _) => "write a text".to_owned(),
    }
}

/// The word that somebody may have meant.
fn nearest<'a>(words: impl Iterator<Item = &'a str>, text: &str) -> Option<&'a str> {
    let text = text.to_lowercase();
    let most = (text.chars().count() / 3).max(1);
    words
        .map(|word| (distance(&word.to_lowercase(), &text), word))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, word)| word)
}

/// Letters to insert, leave out or replace to come from one text to the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    // Nobody means a field by a text that is that long.
    const LONG: usize = 64;
    let other: Vec<char> = other.chars().take(LONG).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, known) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(*known != letter);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_may_be_meant() {
        let words = ["timeouts", "retries", "PeakEWMA", "perTry"];
        for (text, meant) in [
            ("timeout", Some("timeouts")),
            ("retry", None),
            ("retrys", Some("retries")),
            ("peakEwma", Some("PeakEWMA")),
            ("pertry", Some("perTry")),
            ("", None),
            ("xyz", None),
        ] {
            assert_eq!(nearest(words.into_iter(), text), meant, "{text}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn every_pattern_of_the_schema_has_a_mend() {
        fn walk(schema: &Schema, seen: &mut usize) {
            if let Some((known, _)) = &schema.pattern {
                *seen += 1;
                assert_ne!(pattern(known), "", "{known}");
            }
            let inner = [&schema.items, &schema.others];
            let inner = inner.into_iter().flatten().map(|inner| &**inner);
            for inner in inner.chain(schema.properties.values()) {
                walk(inner, seen);
            }
        }
        let mut seen = 0;
        walk(&super::super::MANIFEST, &mut seen);
        assert!(seen > 40, "{seen}");
    }
}
