//! Whose TLS the first bytes are.

use weft_proxy::detect::{Verdict, classify};
use weft_proxy::identity::hello::MAX_HELLO;
use weft_proxy::identity::{HelloVerdict, is_mesh_client_hello};

/// The longest host name that is believed.
const MAX_NAME: usize = 255;

/// A verdict never changes; ours is said only of what carries our protocol's name; host names are plain
/// text; detection agrees about what is TLS at all.
pub fn target(data: &[u8]) {
    let mut decided = HelloVerdict::NeedMore;
    for end in 0..=data.len() {
        let verdict = is_mesh_client_hello(&data[..end]);
        if decided == HelloVerdict::NeedMore {
            decided = verdict;
        } else {
            assert_eq!(verdict, decided, "after {end} bytes");
        }
    }
    match decided {
        HelloVerdict::Foreign { sni } => {
            let Some(name) = sni else { return };
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
            assert!((1..=MAX_NAME).contains(&name.len()) && name.chars().all(plain));
        }
        HelloVerdict::Mesh { http } => {
            assert_eq!(classify(data), Verdict::Tls);
            let last: &[u8] = if http { b"weft/1/h" } else { b"weft/1/" };
            // The name may be spread over records: its letters are there in this order.
            let mut rest = data.iter();
            assert!(last.iter().all(|byte| rest.any(|other| other == byte)));
        }
        HelloVerdict::NeedMore => assert!(data.len() < MAX_HELLO),
        // A handshake that is no hello, as empty records, is nobody's.
        HelloVerdict::NotTls => {}
    }
}
