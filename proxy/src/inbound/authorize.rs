//! Who may do what: a pure decision over what policy allows.
//!
//! Several services may lead to one port, each with a list; every list must allow. An entry with
//! methods or paths never matches what is not HTTP. An entry's path must hold whichever way the
//! server reads the request's ([`paths`]); the request itself is forwarded as it came.

mod paths;

use http::Method;
use weft_proto::spiffe::SpiffeId;

use crate::outcome::Outcome;
use crate::policy::{AllowEntry, AllowList, InboundPolicy, MtlsMode, Principal, Probe};

/// What a caller wants.
#[derive(Clone, Copy, Debug)]
pub enum Wish<'a> {
    /// To send bytes.
    Bytes,
    /// To make a request.
    Request {
        /// Its method.
        method: &'a Method,
        /// Its path, without the query; empty or `*` where the request has none.
        path: &'a str,
    },
}

/// How a wish is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A declared probe, which passes without identity.
    Exempt,
    /// Every list allows it.
    Allowed,
    /// Only lists that merely audit would deny it.
    Audited,
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Every list allows it.
    Allow,
    /// Only lists that merely audit would deny it.
    AllowAudited,
    /// A list denies it.
    Deny,
}

/// Decides on `wish` of `caller` by the whole policy of a port: declared probes, `mtls`, and every list.
///
/// # Errors
/// `mtls_required` or `unauthorized`.
pub fn admit(
    policy: &InboundPolicy,
    caller: Option<&SpiffeId>,
    wish: Wish<'_>,
) -> Result<Admission, Outcome> {
    if caller.is_none() {
        if is_probe(policy, wish) {
            return Ok(Admission::Exempt);
        }
        if policy.mtls == MtlsMode::Strict {
            return Err(Outcome::MtlsRequired);
        }
    }
    match authorize(&policy.authorization, caller, wish) {
        Decision::Allow => Ok(Admission::Allowed),
        Decision::AllowAudited => Ok(Admission::Audited),
        Decision::Deny => Err(Outcome::Unauthorized),
    }
}

/// Whether there is anything that `caller` could ask of the port and get.
pub fn admits_anything(policy: &InboundPolicy, caller: Option<&SpiffeId>) -> bool {
    if caller.is_none() {
        if !policy.probes.is_empty() {
            return true;
        }
        if policy.mtls == MtlsMode::Strict {
            return false;
        }
    }
    let knows = |list: &AllowList| {
        let named = |entry: &AllowEntry| caller.is_some_and(|caller| names(entry, caller));
        list.audit || list.entries.iter().any(named)
    };
    policy.authorization.iter().all(knows)
}

/// Decides on `wish` of `caller` (`None`: nobody proved to be anybody).
pub fn authorize(lists: &[AllowList], caller: Option<&SpiffeId>, wish: Wish<'_>) -> Decision {
    let mut decision = Decision::Allow;
    for list in lists {
        let matches = |entry| caller.is_some_and(|caller| entry_matches(entry, caller, wish));
        if list.entries.iter().any(matches) {
            continue;
        }
        if !list.audit {
            return Decision::Deny;
        }
        decision = Decision::AllowAudited;
    }
    decision
}

/// Whether a policy looks into requests, so that bytes that hide them must not pass unseen.
pub fn has_request_rules(lists: &[AllowList]) -> bool {
    let looks = |entry: &AllowEntry| !entry.methods.is_empty() || !entry.paths.is_empty();
    lists.iter().flat_map(|list| &list.entries).any(looks)
}

/// Exactly the method and path of a probe that the workload declares.
pub(super) fn is_probe(policy: &InboundPolicy, wish: Wish<'_>) -> bool {
    let Wish::Request { method, path } = wish else {
        return false;
    };
    let fits = |probe: &Probe| *probe.path == *path && probe.method == *method;
    policy.probes.iter().any(fits)
}

fn entry_matches(entry: &AllowEntry, caller: &SpiffeId, wish: Wish<'_>) -> bool {
    if !names(entry, caller) {
        return false;
    }
    match wish {
        Wish::Bytes => entry.methods.is_empty() && entry.paths.is_empty(),
        Wish::Request { method, path } => {
            let method_fits = entry.methods.is_empty() || entry.methods.contains(method);
            method_fits
                && (entry.paths.is_empty()
                    || entry
                        .paths
                        .iter()
                        .any(|prefix| paths::always_below(prefix, path)))
        }
    }
}

fn names(entry: &AllowEntry, caller: &SpiffeId) -> bool {
    let mut principals = entry.principals.iter();
    principals.any(|principal| principal_matches(principal, caller))
}

fn principal_matches(principal: &Principal, caller: &SpiffeId) -> bool {
    match principal {
        Principal::Exact(id) => **id == *caller.as_str(),
        Principal::Prefix(start) => caller.as_str().starts_with(&**start),
    }
}

#[cfg(test)]
mod tests;
