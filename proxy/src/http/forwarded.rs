//! `x-forwarded-for`: what an application is told of its clients' addresses.
//!
//! The peer of the application's connections is its own sidecar, so an application that wants to know
//! who dialled has to be told in a header. Only where that is asked for: the header is otherwise as
//! the client sent it, here as in `forwarded` and `x-forwarded-proto`. Whatever was there stays in
//! front of the address that is added, and nothing in Weft believes any of it.

use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What becomes of `x-forwarded-for` on the way to the application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedFor {
    /// The client's address is added at the end.
    Append,
    /// It goes on as it came.
    #[default]
    Keep,
}

impl ForwardedFor {
    /// What is to be [appended](append) to the requests of a connection from `client`, if anything.
    pub fn of(self, client: Option<IpAddr>) -> Option<HeaderValue> {
        if self == Self::Keep {
            return None;
        }
        // An address that came in IPv4-mapped is the IPv4 address: what the client itself would say.
        HeaderValue::try_from(client?.to_canonical().to_string()).ok()
    }
}

/// Adds an address behind all others, of however many headers; one is left, separated by commas. Its
/// length is bounded by what a head may have.
pub fn append(headers: &mut HeaderMap, client: &HeaderValue) {
    let mut list = Vec::new();
    for value in headers.get_all(&X_FORWARDED_FOR) {
        let value = value.as_bytes().trim_ascii();
        if !value.is_empty() {
            list.extend_from_slice(value);
            list.extend_from_slice(b", ");
        }
    }
    if list.is_empty() {
        headers.insert(X_FORWARDED_FOR, client.clone());
        return;
    }
    list.extend_from_slice(client.as_bytes());
    let list = HeaderValue::from_maybe_shared(bytes::Bytes::from(list));
    headers.insert(
        X_FORWARDED_FOR,
        list.expect("values of headers with commas between them are one"),
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn appended(values: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(value).unwrap());
        }
        append(&mut headers, &HeaderValue::from_static("10.0.0.7"));
        let all = headers.get_all(X_FORWARDED_FOR).iter();
        all.map(|value| value.as_bytes().to_vec()).collect()
    }

    #[test]
    fn the_client_is_the_last_of_one_list() {
        let cases: [(&[&[u8]], &[u8]); 6] = [
            (&[], b"10.0.0.7"),
            (&[b""], b"10.0.0.7"),
            (&[b"1.2.3.4"], b"1.2.3.4, 10.0.0.7"),
            (&[b"1.2.3.4, 5.6.7.8"], b"1.2.3.4, 5.6.7.8, 10.0.0.7"),
            (&[b"1.2.3.4", b"::1 "], b"1.2.3.4, ::1, 10.0.0.7"),
            (&[b"unknown, \xff"], b"unknown, \xff, 10.0.0.7"),
        ];
        for (before, after) in cases {
            assert_eq!(appended(before), [after], "{before:?}");
        }
    }

    #[test]
    fn only_who_asks_is_told() {
        let client = "::ffff:10.0.0.7".parse().ok();
        assert_eq!(ForwardedFor::Keep.of(client), None);
        assert_eq!(ForwardedFor::Append.of(None), None);
        assert_eq!(ForwardedFor::Append.of(client).unwrap(), "10.0.0.7");
        let client = "fd00::7".parse().ok();
        assert_eq!(ForwardedFor::Append.of(client).unwrap(), "fd00::7");
    }

    proptest! {
        #[test]
        fn whatever_was_there_stays(values in prop::collection::vec("[ -~\t]{0,30}", 0..5)) {
            let values: Vec<_> = values.iter().map(String::as_bytes).collect();
            let after = appended(&values);
            prop_assert_eq!(after.len(), 1);
            let mut rest = &after[0][..];
            for value in values {
                let value = value.trim_ascii();
                // Of nothing there is nothing to keep.
                if value.is_empty() {
                    continue;
                }
                prop_assert!(rest.starts_with(value));
                rest = rest[value.len()..].trim_ascii_start();
                rest = rest.strip_prefix(b",").unwrap_or(rest).trim_ascii_start();
            }
            prop_assert!(rest.ends_with(b"10.0.0.7"));
        }
    }
}
