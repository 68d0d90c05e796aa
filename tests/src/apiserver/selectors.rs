//! Label selectors, as texts and as objects, and field selectors.

use serde_json::Value;

use super::failure::Failure;
use super::json::{entries, text, texts};

/// What stands before values. Two of them exclude those.
const OPERATORS: [&str; 5] = [" notin ", " in ", "!=", "==", "="];

/// What an object must be like to be meant: all of this.
#[derive(Clone, Debug)]
pub(super) struct Selector(Vec<Requirement>);

/// That the text at a path in an object is among values, or is there at all where none are given; or the
/// opposite, where the last is true.
#[derive(Clone, Debug)]
struct Requirement(Vec<String>, Option<Vec<String>>, bool);

impl Selector {
    /// From the query of a request.
    pub(super) fn of_query(labels: &str, fields: &str) -> Result<Self, Failure> {
        let labels = split_outside_brackets(labels).map(Requirement::of_label);
        let fields = split_outside_brackets(fields).map(Requirement::of_field);
        Ok(Self(labels.chain(fields).collect::<Result<_, _>>()?))
    }

    /// From a `LabelSelector`; one that is left out means everything.
    pub(super) fn of_object(selector: &Value) -> Self {
        let equal = selector["matchLabels"].as_object().into_iter().flatten();
        let equal = equal.map(|(key, value)| (key, vec![text(value).to_owned()]));
        let equal = equal.map(|(key, value)| Requirement::label(key, Some(value), false));
        let terms = entries(&selector["matchExpressions"]).map(|term| {
            let operator = text(&term["operator"]);
            let values = operator.ends_with("In").then(|| texts(&term["values"]));
            let is_negated = ["NotIn", "DoesNotExist"].contains(&operator);
            Requirement::label(text(&term["key"]), values, is_negated)
        });
        Self(equal.chain(terms).collect())
    }

    pub(super) fn selects(&self, object: &Value) -> bool {
        self.0.iter().all(|requirement| requirement.fits(object))
    }
}

impl Requirement {
    fn label(key: &str, values: Option<Vec<String>>, is_negated: bool) -> Self {
        let path = ["metadata", "labels", key].map(str::to_owned);
        Self(path.into(), values, is_negated)
    }

    fn of_label(term: &str) -> Result<Self, Failure> {
        let (key, values, is_negated) = split(term);
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(Failure::bad(format!("no requirement: {term:?}")));
        }
        Ok(Self::label(key, values, is_negated))
    }

    fn of_field(term: &str) -> Result<Self, Failure> {
        let (path, values, is_negated) = split(term);
        let parts = ["metadata", "spec", "status", "involvedObject"];
        if values.is_none() || !parts.iter().any(|part| path.starts_with(part)) {
            return Err(Failure::bad(format!("field label not supported: {term}")));
        }
        let path = path.split('.').map(str::to_owned).collect();
        Ok(Self(path, values, is_negated))
    }

    fn fits(&self, object: &Value) -> bool {
        let Self(path, values, is_negated) = self;
        let found = path.iter().fold(object, |object, field| &object[field]);
        let is_among = |values: &Vec<String>| values.iter().any(|value| found == value);
        let is_meant = found.is_string() && values.as_ref().is_none_or(is_among);
        is_meant != *is_negated
    }
}

/// What is meant, the values that it may have, and whether it may not have them.
fn split(term: &str) -> (&str, Option<Vec<String>>, bool) {
    for operator in OPERATORS {
        if let Some((key, list)) = term.split_once(operator) {
            let values = list.trim_matches(['(', ')', ' ']).split(',');
            let values = values.map(|value| value.trim().to_owned()).collect();
            return (
                key.trim(),
                Some(values),
                [" notin ", "!="].contains(&operator),
            );
        }
    }
    (term.trim_start_matches('!'), None, term.starts_with('!'))
}

fn split_outside_brackets(list: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    let parts = list.split(move |letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}
