//! The bounds of `rateLimit`.

use super::findings::Findings;
use crate::policy::rate_limit::{RateLimit, RateLimitKey};

const MAX_OVERRIDES: usize = 16;
const MAX_IDENTITY: usize = 512;

pub(super) fn check(found: &mut Findings, path: &str, limit: &RateLimit) {
    let rates = 1..=RateLimit::MAX;
    found.within(
        &format!("{path}.requestsPerSecond"),
        limit.requests_per_second,
        rates.clone(),
    );
    if let Some(burst) = limit.burst {
        let path = format!("{path}.burst");
        found.within(&path, burst, rates.clone());
        if burst < limit.requests_per_second {
            found.add(
                path,
                "burst cannot be below requestsPerSecond",
                format!("use at least {}", limit.requests_per_second),
            );
        }
    }
    if (limit.key == RateLimitKey::Header) != limit.header.is_some() {
        found.add(
            format!("{path}.header"),
            "header is required exactly when key is Header",
            "",
        );
    }
    if let Some(header) = &limit.header {
        found.token(&format!("{path}.header"), header);
    }
    let Some(overrides) = &limit.overrides else {
        return;
    };
    let path = format!("{path}.overrides");
    if limit.key != RateLimitKey::ClientIdentity {
        found.add(&path, "overrides need key ClientIdentity", "");
    }
    found.at_most(&path, overrides.len(), MAX_OVERRIDES);
    found.distinct(
        &path,
        overrides.iter().map(|known| &known.identity),
        "map key (identity)",
    );
    for (at, known) in overrides.iter().enumerate() {
        let path = format!("{path}[{at}]");
        if known.identity.is_empty() || known.identity.chars().count() > MAX_IDENTITY {
            found.add(
                format!("{path}.identity"),
                format!("empty or longer than {MAX_IDENTITY} characters"),
                "write the whole SPIFFE id",
            );
        }
        found.within(
            &format!("{path}.requestsPerSecond"),
            known.requests_per_second,
            rates.clone(),
        );
    }
}
