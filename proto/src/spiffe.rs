//! SPIFFE ids, as Weft issues and accepts them: `spiffe://<trust-domain>/ns/<ns>/sa/<account>`.
//!
//! Parsing is strict, after the SPIFFE-ID standard (sections 2.1 to 2.4): at most 2048 bytes, a
//! lower-case trust domain, no user, port, query, fragment or percent-encoding, no empty or dot
//! segments. Whatever parses prints back to the very same bytes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest id, in bytes (SPIFFE-ID 2.3).
pub const MAX_LEN: usize = 2048;
const MAX_TRUST_DOMAIN_LEN: usize = 255;
const SCHEME: &str = "spiffe://";

/// The identity of a workload. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain_end: usize,
    namespace_end: usize,
}

/// Why a text is no SPIFFE id of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// A character that the part may not have.
    #[error("a character that is not allowed in a SPIFFE id")]
    BadCharacter,
    /// The path is not `/ns/<namespace>/sa/<account>`.
    #[error("the path is not /ns/<namespace>/sa/<service account>")]
    BadPath,
    /// No or an over-long trust domain.
    #[error("the trust domain is empty or longer than 255 bytes")]
    BadTrustDomain,
    /// The scheme is not `spiffe`.
    #[error("the scheme is not spiffe://")]
    NotSpiffe,
    /// Over [`MAX_LEN`].
    #[error("longer than 2048 bytes")]
    TooLong,
}

impl SpiffeId {
    /// Makes an id from its parts, which are checked as in parsing.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The mesh that vouches for the id.
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.trust_domain_end]
    }

    /// The workload's namespace.
    pub fn namespace(&self) -> &str {
        &self.uri[self.trust_domain_end + "/ns/".len()..self.namespace_end]
    }

    /// The workload's service account.
    pub fn service_account(&self) -> &str {
        &self.uri[self.namespace_end + "/sa/".len()..]
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_LEN {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::NotSpiffe)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(SpiffeIdError::BadPath)?;
        check_trust_domain(trust_domain)?;

        let mut segments = path.split('/');
        let (Some("ns"), Some(namespace), Some("sa"), Some(account), None) = (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        ) else {
            return Err(SpiffeIdError::BadPath);
        };
        check_segment(namespace)?;
        check_segment(account)?;

        let trust_domain_end = SCHEME.len() + trust_domain.len();
        Ok(Self {
            uri: Arc::from(text),
            trust_domain_end,
            namespace_end: trust_domain_end + "/ns/".len() + namespace.len(),
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

fn check_trust_domain(text: &str) -> Result<(), SpiffeIdError> {
    if text.is_empty() || text.len() > MAX_TRUST_DOMAIN_LEN {
        return Err(SpiffeIdError::BadTrustDomain);
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    if text.bytes().all(allowed) {
        Ok(())
    } else {
        Err(SpiffeIdError::BadCharacter)
    }
}

fn check_segment(text: &str) -> Result<(), SpiffeIdError> {
    if text.is_empty() || text == "." || text == ".." {
        return Err(SpiffeIdError::BadPath);
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if text.bytes().all(allowed) {
        Ok(())
    } else {
        Err(SpiffeIdError::BadCharacter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_come_back() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        assert_eq!(
            (id.trust_domain(), id.namespace(), id.service_account()),
            ("cluster.local", "shop", "web")
        );
        assert_eq!(SpiffeId::new("cluster.local", "shop", "web"), Ok(id));
    }

    #[test]
    fn everything_else_is_refused() {
        for (text, why) in [
            ("https://cluster.local/ns/a/sa/b", SpiffeIdError::NotSpiffe),
            ("SPIFFE://cluster.local/ns/a/sa/b", SpiffeIdError::NotSpiffe),
            ("spiffe://", SpiffeIdError::BadPath),
            ("spiffe:///ns/a/sa/b", SpiffeIdError::BadTrustDomain),
            ("spiffe://Cluster/ns/a/sa/b", SpiffeIdError::BadCharacter),
            ("spiffe://a:80/ns/a/sa/b", SpiffeIdError::BadCharacter),
            ("spiffe://u@a/ns/a/sa/b", SpiffeIdError::BadCharacter),
            ("spiffe://a/ns/a/sa/b/", SpiffeIdError::BadPath),
            ("spiffe://a/ns//sa/b", SpiffeIdError::BadPath),
            ("spiffe://a/ns/../sa/b", SpiffeIdError::BadPath),
            ("spiffe://a/ns/a/sa/b?x=1", SpiffeIdError::BadCharacter),
            ("spiffe://a/ns/a/sa/b#x", SpiffeIdError::BadCharacter),
            ("spiffe://a/ns/%61/sa/b", SpiffeIdError::BadCharacter),
            ("spiffe://a/workload", SpiffeIdError::BadPath),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(why), "{text}");
        }
        let long = format!("spiffe://a/ns/{}/sa/b", "x".repeat(MAX_LEN));
        assert_eq!(long.parse::<SpiffeId>(), Err(SpiffeIdError::TooLong));
    }

    proptest! {
        #[test]
        fn what_parses_prints_back(text in "spiffe://[a-z.:@]{0,8}/ns/[a-zA-Z0-9._%-]{0,6}/sa/[a-z/]{0,6}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
                let again = SpiffeId::new(id.trust_domain(), id.namespace(), id.service_account());
                prop_assert_eq!(again, Ok(id));
            }
        }
    }
}
