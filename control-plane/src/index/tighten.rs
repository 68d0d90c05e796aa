//! Whether one authorization allows nothing that another one denies.
//!
//! The answer errs towards no: an entry is only compared with one other entry at a time.

use crate::policy::{
    AllowEntry, Authorization, AuthorizationMode, ForServices, Principal, ServiceAccountRef,
};

/// Whether everything that `inner` allows is allowed by `outer`, which is of the same namespace, or
/// `outer` is only what holds without it.
pub(super) fn is_within(inner: &Authorization, outer: &Authorization, namespace: &str) -> bool {
    if outer.for_services == Some(ForServices::Default) || outer.mode == AuthorizationMode::Audit {
        return true;
    }
    if inner.mode == AuthorizationMode::Audit {
        return false;
    }
    inner.allow.iter().all(|entry| {
        entry.principals.iter().all(|principal| {
            outer
                .allow
                .iter()
                .any(|wider| covers(wider, entry, principal, namespace))
        })
    })
}

/// Whether `wider` allows all that `entry` allows one of its principals.
fn covers(wider: &AllowEntry, entry: &AllowEntry, principal: &Principal, namespace: &str) -> bool {
    let principal = pattern(principal, namespace);
    let methods = wider.methods.is_empty()
        || !entry.methods.is_empty() && entry.methods.iter().all(|m| wider.methods.contains(m));
    let paths = wider.paths.is_empty()
        || !entry.paths.is_empty()
            && entry
                .paths
                .iter()
                .all(|path| wider.paths.iter().any(|prefix| is_below(path, prefix)));
    methods
        && paths
        && wider
            .principals
            .iter()
            .any(|known| matches_pattern(&pattern(known, namespace), &principal))
}

/// A principal in a form that compares: account references stay apart from ids, since the trust
/// domain is none of this module's business.
fn pattern(principal: &Principal, namespace: &str) -> String {
    match (&principal.service_account, &principal.spiffe_id) {
        (
            Some(ServiceAccountRef {
                namespace: own,
                name,
            }),
            _,
        ) => {
            let namespace = own.as_deref().unwrap_or(namespace);
            format!("account {namespace}/{name}")
        }
        (None, Some(id)) => format!("id {id}"),
        (None, None) => String::new(),
    }
}

fn matches_pattern(wider: &str, narrower: &str) -> bool {
    match wider.strip_suffix('*') {
        Some(prefix) => narrower.starts_with(prefix),
        None => wider == narrower,
    }
}

fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
