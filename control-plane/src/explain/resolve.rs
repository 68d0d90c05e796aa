//! Stanzas with the values that they leave to be understood.

use crate::policy::{RateLimit, Rule, Split, Sticky, StickyType};

/// Every backend with its port, a cookie with its name.
pub(super) fn split(split: &Split, addressed: u16) -> Split {
    let mut split = split.clone();
    for backend in &mut split.backends {
        backend.port.get_or_insert(addressed);
    }
    if let Some(mirror) = &mut split.mirror {
        mirror.port.get_or_insert(addressed);
    }
    if let Some(sticky) = &mut split.sticky
        && sticky.kind == StickyType::Cookie
    {
        let name = || Sticky::DEFAULT_COOKIE.to_owned();
        sticky.name.get_or_insert_with(name);
    }
    split
}

/// With its burst.
pub(super) fn rate_limit(limit: &RateLimit) -> RateLimit {
    RateLimit {
        burst: Some(limit.burst()),
        ..limit.clone()
    }
}

/// With all of its stanzas resolved.
pub(super) fn rule(rule: &Rule, addressed: u16) -> Rule {
    Rule {
        split: rule.split.as_ref().map(|it| split(it, addressed)),
        rate_limit: rule.rate_limit.as_ref().map(rate_limit),
        ..rule.clone()
    }
}
