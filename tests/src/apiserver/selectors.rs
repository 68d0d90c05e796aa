//! Label selectors, as texts and as objects, and field selectors.

use serde_json::Value;

use super::failure::Failure;
use super::json::{entries, text, texts};

/// What an object must be like to be meant.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    /// Path, value, whether they are to differ.
    fields: Vec<(String, String, bool)>,
}

/// That a label is among values, or has any where none are given; or the opposite.
#[derive(Clone, Debug)]
struct Requirement {
    key: String,
    values: Option<Vec<String>>,
    is_negated: bool,
}

impl Selector {
    /// From the query of a request.
    pub(super) fn of_query(labels: &str, fields: &str) -> Result<Self, Failure> {
        let labels = split_outside_brackets(labels).into_iter();
        let fields = fields.split(',').filter(|part| !part.trim().is_empty());
        let fields = fields.map(|part| {
            let (path, value, is_negated) = comparison(part)
                .ok_or_else(|| Failure::bad(format!("invalid field selector: {part:?}")))?;
            // Of others, a server says that they are not supported.
            let parts = ["metadata", "spec", "status", "involvedObject"];
            if !parts.contains(&path.split('.').next().unwrap_or_default()) {
                return Err(Failure::bad(format!("field label not supported: {path}")));
            }
            Ok((path.to_owned(), value.to_owned(), is_negated))
        });
        Ok(Self {
            labels: labels.map(Requirement::parse).collect::<Result<_, _>>()?,
            fields: fields.collect::<Result<_, _>>()?,
        })
    }

    /// From a `LabelSelector`; one that is left out means everything.
    pub(super) fn of_object(selector: &Value) -> Self {
        let equal = selector["matchLabels"].as_object().into_iter().flatten();
        let equal = equal.map(|(key, value)| Requirement {
            key: key.clone(),
            values: Some(vec![text(value).to_owned()]),
            is_negated: false,
        });
        let terms = entries(&selector["matchExpressions"]).map(|term| {
            let operator = text(&term["operator"]);
            Requirement {
                key: text(&term["key"]).to_owned(),
                values: operator.ends_with("In").then(|| texts(&term["values"])),
                is_negated: ["NotIn", "DoesNotExist"].contains(&operator),
            }
        });
        let labels = equal.chain(terms).collect();
        let fields = Vec::new();
        Self { labels, fields }
    }

    pub(super) fn selects(&self, object: &Value) -> bool {
        let mut fields = self.fields.iter().map(|(path, value, is_negated)| {
            let found = path.split('.').fold(object, |object, field| &object[field]);
            (text(found) == value) != *is_negated
        });
        let labels = &object["metadata"]["labels"];
        fields.all(|fits| fits) && self.labels.iter().all(|term| term.fits(labels))
    }
}

impl Requirement {
    fn parse(term: &str) -> Result<Self, Failure> {
        let (key, values, is_negated) = if let Some((key, list)) = term.split_once(" notin ") {
            (key, Some(list), true)
        } else if let Some((key, list)) = term.split_once(" in ") {
            (key, Some(list), false)
        } else if let Some((key, value, is_negated)) = comparison(term) {
            (key, Some(value), is_negated)
        } else {
            (term.trim_start_matches('!'), None, term.starts_with('!'))
        };
        let key = key.trim().to_owned();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(Failure::bad(format!(
                "unable to parse requirement: {term:?}"
            )));
        }
        let split = |list: &str| {
            let list = list.trim().trim_start_matches('(').trim_end_matches(')');
            let values = list.split(',').map(|value| value.trim().to_owned());
            values.collect()
        };
        let values = values.map(split);
        Ok(Self {
            key,
            values,
            is_negated,
        })
    }

    fn fits(&self, labels: &Value) -> bool {
        let label = labels[&self.key].as_str();
        let is_meant = label.is_some_and(|label| {
            let values = self.values.as_ref();
            values.is_none_or(|values| values.iter().any(|value| value == label))
        });
        is_meant != self.is_negated
    }
}

/// `a=b`, `a==b` and `a!=b`, with whether they are to differ.
fn comparison(term: &str) -> Option<(&str, &str, bool)> {
    let (left, right) = term.split_once('=')?;
    let value = right.trim_start_matches('=').trim();
    Some(match left.strip_suffix('!') {
        Some(left) => (left.trim(), value, true),
        None => (left.trim(), value, false),
    })
}

fn split_outside_brackets(list: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let parts = list.split(move |letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    });
    let parts = parts.map(str::trim).filter(|part| !part.is_empty());
    parts.collect()
}
