//! What is found wrong, and the checks that many fields share.

use std::collections::HashSet;
use std::hash::Hash;
use std::ops::RangeInclusive;

use super::Violation;
use crate::policy::duration::PolicyDuration;

const MAX_HEADER_NAME: usize = 256;
const MAX_PATH: usize = 1024;
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 253;

#[derive(Default)]
pub(super) struct Findings(pub(super) Vec<Violation>);

impl Findings {
    pub(super) fn add(
        &mut self,
        path: impl Into<String>,
        reason: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.0.push(Violation {
            path: path.into(),
            reason: reason.into(),
            mend: mend.into(),
        });
    }

    pub(super) fn not_enforced(&mut self, path: impl Into<String>) {
        self.add(
            path,
            "not enforced by this version",
            "leave it out, or wait for a version that enforces it",
        );
    }

    pub(super) fn at_most(&mut self, path: &str, count: usize, most: usize) {
        if count > most {
            self.add(
                path,
                format!("{count} entries; at most {most} are allowed"),
                "",
            );
        }
    }

    pub(super) fn within(&mut self, path: &str, value: u32, bounds: RangeInclusive<u32>) {
        if !bounds.contains(&value) {
            let (least, most) = bounds.into_inner();
            self.add(
                path,
                format!("{value} is not between {least} and {most}"),
                "",
            );
        }
    }

    pub(super) fn lasting(
        &mut self,
        path: &str,
        value: PolicyDuration,
        least_ms: u64,
        most_ms: u64,
    ) {
        let (least, most) = (
            PolicyDuration::from_millis(least_ms),
            PolicyDuration::from_millis(most_ms),
        );
        if value < least {
            self.add(path, format!("must be at least {least}"), "");
        }
        if value > most {
            self.add(path, format!("must be at most {most}"), "");
        }
    }

    pub(super) fn distinct<T: Hash + Eq>(
        &mut self,
        path: &str,
        items: impl Iterator<Item = T>,
        what: &str,
    ) {
        let mut seen = HashSet::new();
        for item in items {
            if !seen.insert(item) {
                self.add(path, format!("duplicate {what}"), "name each only once");
                return;
            }
        }
    }

    pub(super) fn path(&mut self, path: &str, value: &str) {
        if !value.starts_with('/') {
            self.add(path, "path must start with /", "");
        }
        if value.len() > MAX_PATH {
            self.add(path, format!("longer than {MAX_PATH} bytes"), "");
        }
    }

    pub(super) fn token(&mut self, path: &str, name: &str) {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || name.len() > MAX_HEADER_NAME || !name.bytes().all(allowed) {
            self.add(path, format!("{name:?} is not a header or cookie name"), "");
        }
    }

    pub(super) fn label(&mut self, path: &str, name: &str) {
        if !is_label(name) {
            self.add(
                path,
                format!("{name:?} is not a name"),
                "use up to 63 lower-case letters, digits and inner dashes",
            );
        }
    }

    pub(super) fn name(&mut self, path: &str, name: &str) {
        let good = name.len() <= MAX_NAME && name.split('.').all(is_label);
        if !good {
            self.add(
                path,
                format!("{name:?} is not a name"),
                "use lower-case letters, digits, inner dashes and dots",
            );
        }
    }
}

/// Whether a text is an RFC 1123 label, as namespaces and services are named.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= MAX_LABEL
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
