//! The series that PromQL asks for, as far as a test needs it: every name of a metric with the labels that
//! stand in braces behind it. Functions, operators and times are skipped; nothing is evaluated.

/// Every metric of ours begins so.
const PREFIX: &str = "weft_";

/// One selector, as `weft_requests_total{direction="outbound"}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The series' name, which for a histogram ends with `_bucket`, `_sum` or `_count`.
    pub name: String,
    /// In the order that they are written.
    pub matchers: Vec<Matcher>,
}

/// One condition of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher {
    /// The label.
    pub label: String,
    /// `=`, `!=`, `=~` or `!~`.
    pub operator: String,
    /// The text between the quotes; placeholders of templates are left as they are.
    pub value: String,
}

/// Every selector of one of our metrics in a text, which may be more than PromQL. A name alone is a
/// selector without matchers.
pub fn selectors(text: &str) -> Vec<Selector> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(PREFIX) {
        let is_inside = rest[..at].chars().next_back().is_some_and(is_part);
        let from = &rest[at..];
        let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
        let (name, after) = from.split_at(end);
        rest = after;
        if is_inside {
            continue;
        }
        let mut matchers = Vec::new();
        if let Some(inside) = after.strip_prefix('{') {
            rest = read_matchers(inside, &mut matchers);
        }
        found.push(Selector {
            name: name.to_owned(),
            matchers,
        });
    }
    found
}

/// Reads up to the closing brace; what follows is the answer. What is no matcher ends it.
fn read_matchers<'a>(text: &'a str, matchers: &mut Vec<Matcher>) -> &'a str {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
        if let Some(after) = rest.strip_prefix('}') {
            return after;
        }
        let Some((label, quoted)) = rest.split_once('"') else {
            return rest;
        };
        let Some((value, after)) = quoted.split_once('"') else {
            return rest;
        };
        let name = label.trim_end_matches(['=', '!', '~', ' ']);
        matchers.push(Matcher {
            label: name.to_owned(),
            operator: label[name.len()..].trim().to_owned(),
            value: value.to_owned(),
        });
        rest = after;
    }
}
