use super::*;
use crate::spec::IMAGES;

fn reference(prefix: Option<&str>, tag: &str) -> Result<Reference, ReferenceError> {
    Reference::new(&IMAGES[0], prefix, tag)
}

#[test]
fn people_and_runtimes_spell_it_differently() {
    for (prefix, short, full) in [
        (None, "weft-proxy:1", "docker.io/library/weft-proxy:1"),
        (Some("a"), "a/weft-proxy:1", "docker.io/a/weft-proxy:1"),
        (
            Some("a/b"),
            "a/b/weft-proxy:1",
            "docker.io/a/b/weft-proxy:1",
        ),
        (
            Some("r.example"),
            "r.example/weft-proxy:1",
            "r.example/weft-proxy:1",
        ),
        (
            Some("localhost/"),
            "localhost/weft-proxy:1",
            "localhost/weft-proxy:1",
        ),
        (
            Some("r:5000/a"),
            "r:5000/a/weft-proxy:1",
            "r:5000/a/weft-proxy:1",
        ),
    ] {
        let reference = reference(prefix, "1").expect("good");
        assert_eq!(reference.to_string(), short);
        assert_eq!(reference.in_full(), full);
    }
}

#[test]
fn what_no_registry_takes_is_refused() {
    for prefix in [
        "",
        "/",
        "A",
        "a//b",
        "/a",
        "-a",
        "a..b",
        "r:",
        "r:x",
        "r:70000",
        "a/b:5000",
        "https://r.example",
        "a b",
        "a@b",
    ] {
        let refused = reference(Some(prefix), "1");
        assert!(
            matches!(refused, Err(ReferenceError::Prefix(_))),
            "{prefix:?}"
        );
    }
    let long = "1".repeat(MAX_TAG + 1);
    for tag in ["", ".1", "-1", "a b", "a/b", "a:b", "\u{e4}", &long] {
        let refused = reference(None, tag);
        assert!(matches!(refused, Err(ReferenceError::Tag(_))), "{tag:?}");
    }
}
