//! Weights in a file, changed where they stand: everything else of it stays as it was written, comments and
//! layout too.
//!
//! What was changed is read again and compared: where anything but the wanted weights is different, nothing
//! is written.

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;
use weft_control_plane::source::files::documents;

/// A document of which only the weights' places matter.
#[derive(Debug, Deserialize)]
struct Places {
    spec: PlacesOfSpec,
}

#[derive(Debug, Deserialize)]
struct PlacesOfSpec {
    split: PlacesOfSplit,
}

#[derive(Debug, Deserialize)]
struct PlacesOfSplit {
    backends: Vec<PlaceOfSide>,
}

#[derive(Debug, Deserialize)]
struct PlaceOfSide {
    name: String,
    weight: Option<Spanned<u32>>,
}

/// A file's text with other weights in the `document`th of its documents, in the order of the backends; or
/// why that cannot be.
pub(super) fn with_weights(text: &str, document: usize, weights: &[u32]) -> Result<String, String> {
    let own = documents(text).nth(document);
    let own = own.ok_or("the file has fewer documents than a moment ago")?;
    let places: Places = serde_saphyr::from_str(&own).map_err(|error| error.to_string())?;
    let sides = places.spec.split.backends;
    if sides.len() != weights.len() {
        return Err("the policy has other backends than a moment ago".to_owned());
    }
    let mut changes = Vec::new();
    for (side, weight) in sides.iter().zip(weights) {
        let name = &side.name;
        match &side.weight {
            Some(written) if written.value == *weight => {}
            Some(written) => {
                let at = written.referenced;
                let begin = position(text, at.line(), at.column());
                let old = written.value.to_string();
                let begin = begin.filter(|begin| is_number(text, *begin, &old));
                let begin = begin.ok_or_else(|| {
                    format!(
                        "the weight of {name} in line {} is not written as the number {old}: write it so \
                         once",
                        at.line()
                    )
                })?;
                changes.push((begin, old.len(), weight.to_string()));
            }
            None if *weight == 1 => {}
            None => {
                return Err(format!(
                    "the weight of {name} is not written in the file, which means 1: write `weight: 1` there \
                     once"
                ));
            }
        }
    }
    // From the end, so that places before stay where they are.
    changes.sort_by_key(|(begin, ..)| std::cmp::Reverse(*begin));
    let mut changed = text.to_owned();
    for (begin, length, weight) in changes {
        changed.replace_range(begin..begin + length, &weight);
    }
    verify(text, &changed, document, weights)?;
    Ok(changed)
}

/// Where a line and a column are, both from 1 and in letters, as bytes from the beginning.
fn position(text: &str, line: u64, column: u64) -> Option<usize> {
    let (line, column) = (usize::try_from(line).ok()?, usize::try_from(column).ok()?);
    let mut begin = 0;
    for _ in 1..line {
        begin += text[begin..].find('\n')? + 1;
    }
    let end = text[begin..]
        .find('\n')
        .map_or(text.len(), |end| begin + end);
    let (at, _) = text[begin..end]
        .char_indices()
        .nth(column.checked_sub(1)?)?;
    Some(begin + at)
}

/// Whether exactly this number stands there.
fn is_number(text: &str, begin: usize, number: &str) -> bool {
    let Some(rest) = text[begin..].strip_prefix(number) else {
        return false;
    };
    let next = rest.chars().next();
    next.is_none_or(|next| next.is_whitespace() || matches!(next, ',' | '}' | ']'))
}

/// Whether nothing is different but these weights.
fn verify(before: &str, after: &str, document: usize, weights: &[u32]) -> Result<(), String> {
    let read = |text: &str| -> Result<Vec<Value>, String> {
        let all = documents(text).map(|text| serde_saphyr::from_str::<Value>(&text));
        all.collect::<Result<_, _>>()
            .map_err(|error| format!("the file cannot be read whole: {error}"))
    };
    let (mut wanted, found) = (read(before)?, read(after)?);
    let sides = wanted
        .get_mut(document)
        .and_then(|it| it.pointer_mut("/spec/split/backends"))
        .and_then(Value::as_array_mut);
    for (side, weight) in sides.into_iter().flatten().zip(weights) {
        if !side["weight"].is_null() || *weight != 1 {
            side["weight"] = (*weight).into();
        }
    }
    if wanted == found {
        return Ok(());
    }
    Err(
        "the file is written in a way in which more than the weights would change: change it by hand"
            .to_owned(),
    )
}
