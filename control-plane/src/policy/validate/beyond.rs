//! Beyond the schema: what neither bounds nor CEL can say. In a cluster it goes to the status.
//!
//! These are regular expressions that nobody can match by.

use weft_proto::pattern::Pattern;

use super::findings::Findings;
use crate::policy::spec::TrafficPolicySpec;
use crate::policy::traffic::{
    HeaderMatch, HeaderMatchType, PathMatch, PathMatchType, RuleMatch, Split,
};

pub(super) fn check(found: &mut Findings, spec: &TrafficPolicySpec) {
    if let Some(split) = &spec.split {
        check_split(found, "spec.split", split);
    }
    if let Some(fault) = &spec.fault_injection {
        check_headers(found, "spec.faultInjection", &fault.headers);
    }
    for (at, rule) in spec.rules.iter().flatten().enumerate() {
        let path = format!("spec.rules[{at}]");
        for (at, entry) in rule.matches.iter().enumerate() {
            check_match(found, &format!("{path}.matches[{at}]"), entry);
        }
        if let Some(split) = &rule.split {
            check_split(found, &format!("{path}.split"), split);
        }
        if let Some(fault) = &rule.fault_injection {
            check_headers(found, &format!("{path}.faultInjection"), &fault.headers);
        }
    }
}

fn check_split(found: &mut Findings, path: &str, split: &Split) {
    for (at, backend) in split.backends.iter().enumerate() {
        for (nth, entry) in backend.matches.iter().enumerate() {
            let path = format!("{path}.backends[{at}].matches[{nth}]");
            check_headers(found, &path, &entry.headers);
        }
    }
}

fn check_match(found: &mut Findings, path: &str, entry: &RuleMatch) {
    if let Some(PathMatch { kind, value }) = &entry.path
        && *kind == PathMatchType::RegularExpression
    {
        check_pattern(found, format!("{path}.path.value"), value);
    }
    check_headers(found, path, &entry.headers);
}

fn check_headers(found: &mut Findings, path: &str, headers: &[HeaderMatch]) {
    for (at, header) in headers.iter().enumerate() {
        if let Some(value) = &header.value
            && header.kind == HeaderMatchType::RegularExpression
        {
            check_pattern(found, format!("{path}.headers[{at}].value"), value);
        }
    }
}

fn check_pattern(found: &mut Findings, path: String, value: &str) {
    if value.is_empty() {
        found.add(
            path,
            "not a regular expression: empty",
            "use type Present for any value, or Exact for an empty one",
        );
    } else if let Err(why) = Pattern::new(value) {
        found.add(
            path,
            why.to_string(),
            "it must match in linear time: no look-around, no back-references",
        );
    }
}
