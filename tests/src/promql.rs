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

/// What an expression of PromQL names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Each selector as it is written, with its metric: `("weft_up{a=\"b\"}", "weft_up")`.
    pub selectors: Vec<(String, String)>,
    /// Labels in the matchers of the selector at the same place.
    pub matched: Vec<Vec<String>>,
    /// Labels that series are grouped by or matched on.
    pub grouped: Vec<String>,
}

/// Words that stand before a list of labels.
const GROUPING: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
/// Words between two operands.
const OPERATORS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "atan2"];

/// Reads an expression: a word before a parenthesis is a function or begins a list of labels; every other
/// word is a metric. Enough of the grammar for queries that Prometheus has accepted.
pub fn named(expression: &str) -> Named {
    let mut named = Named::default();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |at| at + 2);
            rest = &rest[end..];
        } else if first == '[' {
            rest = rest.split_once(']').map_or("", |(_, after)| after);
        } else if first.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.');
            rest = &rest[end.unwrap_or(rest.len())..];
        } else if is_word(first) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            rest = read_word(word, after, &mut named);
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    named
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

fn read_word<'a>(word: &str, after: &'a str, named: &mut Named) -> &'a str {
    let open = after.trim_start().strip_prefix('(');
    if GROUPING.contains(&word) {
        let Some((list, behind)) = open.and_then(|inside| inside.split_once(')')) else {
            return after;
        };
        let labels = list.split(',').map(str::trim).filter(|it| !it.is_empty());
        named.grouped.extend(labels.map(str::to_owned));
        return behind;
    }
    if OPERATORS.contains(&word) || open.is_some() {
        return after;
    }
    // An aggregation whose grouping comes first.
    let next = after.trim_start();
    if ["by", "without"].iter().any(|it| {
        next.strip_prefix(it)
            .is_some_and(|rest| rest.trim_start().starts_with('('))
    }) {
        return after;
    }
    let mut matchers = Vec::new();
    let behind = match after.strip_prefix('{') {
        Some(inside) => read_matchers(inside, &mut matchers),
        None => after,
    };
    let written = &after[..after.len() - behind.len()];
    named
        .selectors
        .push((format!("{word}{written}"), word.to_owned()));
    let labels = matchers.into_iter().map(|matcher| matcher.label);
    named.matched.push(labels.collect());
    behind
}
