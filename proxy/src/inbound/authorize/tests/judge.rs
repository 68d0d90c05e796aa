//! Paths against an independent judge.

#[path = "../../../../../tests/src/readings.rs"]
#[expect(
    unreachable_pub,
    reason = "the file is shared with the end-to-end suite"
)]
mod readings;

use proptest::prelude::*;

use self::readings::all_find_it_below;
use super::super::paths::always_below;

/// What tricks are made of.
fn tricky() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "/", "/", "/", ".", "..", "a", "public", "admin", "/public", "/..", "%2e", "%2E%2e",
        "%2f", "%5c", "\\", ";", ";x=1", "%3b", "?", "%3f", "%23", "%00", "%25", "%252e", "%252f",
        "%25252e", "%c0%ae", "%c0%af", "%", "%zz", "%20", "%09", " ", "é", "%c3%a9", "...",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/public{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Nothing is let through that any server takes for something else.
    #[test]
    fn no_server_is_led_out(path in tricky()) {
        if always_below("/public", &path) {
            prop_assert!(all_find_it_below("/public", &path), "{path}");
        }
        if always_below("/public/a", &path) {
            prop_assert!(all_find_it_below("/public/a", &path), "{path}");
        }
    }

    /// What nobody can read in two ways is decided as everybody reads it.
    #[test]
    fn plain_paths_are_decided_exactly(
        path in "(/(a|b|public|publicly|x\\.y|[A-Za-z0-9_~$&+,=:@!'()*-]{1,8})){1,5}/?",
    ) {
        for prefix in ["/public", "/a/b", "/a"] {
            prop_assert_eq!(
                always_below(prefix, &path),
                all_find_it_below(prefix, &path),
                "{} {}", prefix, path
            );
        }
    }
}

/// The judge itself knows a server for each of the tricks.
#[test]
fn the_judge_knows_the_tricks() {
    for path in [
        "/admin",
        "/publicly",
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/..%2fadmin",
        "/public/%252e%252e/admin",
        "/public/..;/admin",
        "/public/..;x=1/admin",
        "/public/..%3bx/admin",
        "/public/..\\admin",
        "/public/..%5cadmin",
        "/public/%c0%ae%c0%ae/admin",
        "/public//../admin",
        "/public/x/../..%3f",
        "/public/a%2fb/../..",
        "/public/a%2fb\\../..",
        "/x/../public",
        "//public",
        "/%70ublic",
    ] {
        assert!(!all_find_it_below("/public", path), "{path}");
        assert!(!always_below("/public", path), "{path}");
    }
    for path in [
        "/public",
        "/public/",
        "/public/x/../y",
        "/public/é",
        "/public/a;v=1/b",
    ] {
        assert!(all_find_it_below("/public", path), "{path}");
        assert!(always_below("/public", path), "{path}");
    }
}
