//! Label selectors, as texts and as objects, and field selectors.

use serde_json::Value;

use super::failure::Failure;

/// What an object must be like to be meant.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    /// Path, value, whether they are to be equal.
    fields: Vec<(String, String, bool)>,
}

#[derive(Clone, Debug)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// What may be asked about beside the name and the namespace.
const FIELDS: [&str; 10] = [
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "status.phase",
    "type",
    "reason",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.uid",
];

impl Selector {
    /// From the query of a request.
    pub(super) fn of_query(labels: &str, fields: &str) -> Result<Self, Failure> {
        let labels = split_outside_brackets(labels);
        let labels = labels.into_iter().map(Requirement::parse);
        let fields = fields
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let fields = fields.map(|part| {
            let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
                (path, value, false)
            } else {
                let (path, value) = part.split_once('=').ok_or_else(|| {
                    Failure::bad(format!("invalid selector: {part:?}; can't understand it"))
                })?;
                (path, value.trim_start_matches('='), true)
            };
            if FIELDS.contains(&path) {
                Ok((path.to_owned(), value.to_owned(), equal))
            } else {
                Err(Failure::bad(format!("field label not supported: {path}")))
            }
        });
        Ok(Self {
            labels: labels.collect::<Result<_, _>>()?,
            fields: fields.collect::<Result<_, _>>()?,
        })
    }

    /// From a `LabelSelector`; one that is left out means everything.
    pub(super) fn of_object(selector: &Value) -> Self {
        let equal = selector["matchLabels"].as_object().into_iter().flatten();
        let equal = equal.map(|(key, value)| {
            Requirement::In(
                key.clone(),
                vec![value.as_str().unwrap_or_default().to_owned()],
            )
        });
        let terms = selector["matchExpressions"]
            .as_array()
            .into_iter()
            .flatten();
        let terms = terms.map(|term| {
            let key = term["key"].as_str().unwrap_or_default().to_owned();
            let values = texts(&term["values"]);
            match term["operator"].as_str() {
                Some("In") => Requirement::In(key, values),
                Some("NotIn") => Requirement::NotIn(key, values),
                Some("Exists") => Requirement::Exists(key),
                _ => Requirement::Absent(key),
            }
        });
        Self {
            labels: equal.chain(terms).collect(),
            fields: Vec::new(),
        }
    }

    pub(super) fn selects(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let fields = self.fields.iter();
        let mut fields = fields.map(|(path, value, equal)| {
            let found = path.split('.').fold(object, |object, field| &object[field]);
            (found.as_str().unwrap_or_default() == value) == *equal
        });
        fields.all(|fits| fits) && self.labels.iter().all(|term| term.fits(labels))
    }
}

impl Requirement {
    fn parse(term: &str) -> Result<Self, Failure> {
        let unclear = || Failure::bad(format!("unable to parse requirement: {term:?}"));
        let values = |list: &str| {
            let list = list.trim().strip_prefix('(')?.strip_suffix(')')?;
            Some(
                list.split(',')
                    .map(|value| value.trim().to_owned())
                    .collect(),
            )
        };
        let named = |key: &str| key.trim().to_owned();
        if let Some((key, list)) = term.split_once(" notin ") {
            return Ok(Self::NotIn(named(key), values(list).ok_or_else(unclear)?));
        }
        if let Some((key, list)) = term.split_once(" in ") {
            return Ok(Self::In(named(key), values(list).ok_or_else(unclear)?));
        }
        if let Some((key, value)) = term.split_once("!=") {
            return Ok(Self::NotIn(named(key), vec![named(value)]));
        }
        if let Some((key, value)) = term.split_once('=') {
            return Ok(Self::In(
                named(key),
                vec![named(value.trim_start_matches('='))],
            ));
        }
        match term.strip_prefix('!') {
            Some(key) => Ok(Self::Absent(named(key))),
            None if term.contains(char::is_whitespace) => Err(unclear()),
            None => Ok(Self::Exists(term.to_owned())),
        }
    }

    fn fits(&self, labels: &Value) -> bool {
        let label = |key: &String| labels.get(key).and_then(Value::as_str);
        let among = |key, values: &[String]| {
            label(key).is_some_and(|label| values.iter().any(|value| value == label))
        };
        match self {
            Self::In(key, values) => among(key, values),
            Self::NotIn(key, values) => !among(key, values),
            Self::Exists(key) => label(key).is_some(),
            Self::Absent(key) => label(key).is_none(),
        }
    }
}

/// The texts of a list.
pub(super) fn texts(list: &Value) -> Vec<String> {
    let texts = list.as_array().into_iter().flatten();
    texts.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn split_outside_brackets(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let parts = text.split(move |letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    });
    parts
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}
