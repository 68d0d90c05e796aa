//! SPIFFE ids as text.

use weft_proto::spiffe::{MAX_LEN, SpiffeId};

/// What parses prints back, is what its parts make, and has no character that another reader could take
/// for a delimiter.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let id: SpiffeId = match text.parse() {
        Ok(id) => id,
        Err(error) => {
            let error: weft_proto::spiffe::SpiffeIdError = error;
            assert!(!error.to_string().is_empty());
            assert!(!is_plainly_one(text), "{text} is an id");
            return;
        }
    };
    assert!(text.len() <= MAX_LEN);
    assert_eq!(id.to_string(), text);
    let parts = (id.trust_domain(), id.namespace(), id.service_account());
    let made = SpiffeId::new(parts.0, parts.1, parts.2);
    assert_eq!(made.as_ref(), Ok(&id));
    for part in [parts.0, parts.1, parts.2] {
        assert!(!part.is_empty());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        assert!(part.bytes().all(plain), "{part:?}");
    }
    assert_eq!(text.matches('/').count(), 6);
}

/// Whether this is an id beyond doubt: labels of lower-case letters.
fn is_plainly_one(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let [scheme, "", domain, "ns", namespace, "sa", account] = parts[..] else {
        return false;
    };
    let plain = |part: &str| {
        (1..=63).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_lowercase())
    };
    scheme == "spiffe:" && [domain, namespace, account].into_iter().all(plain)
}
