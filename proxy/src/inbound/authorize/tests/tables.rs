//! The decision, case by case.

use super::super::*;

const WEB: &str = "spiffe://t/ns/shop/sa/web";

fn list(principal: &str, methods: &[Method], paths: &[&str]) -> AllowList {
    let principal = match principal.strip_suffix('*') {
        Some(start) => Principal::Prefix(start.into()),
        None => Principal::Exact(principal.into()),
    };
    AllowList {
        entries: vec![AllowEntry {
            principals: vec![principal],
            methods: methods.to_vec(),
            paths: paths.iter().map(|path| (*path).into()).collect(),
        }],
        audit: false,
    }
}

fn audited(list: AllowList) -> AllowList {
    AllowList {
        audit: true,
        ..list
    }
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("t", "shop", account).unwrap()
}

fn get(path: &str) -> Wish<'_> {
    Wish::Request {
        method: &Method::GET,
        path,
    }
}

fn policy(mtls: MtlsMode, authorization: Vec<AllowList>) -> InboundPolicy {
    InboundPolicy {
        authorization,
        ..crate::testing::policies::inbound(mtls)
    }
}

#[test]
fn every_list_must_allow() {
    let (web, job) = (id("web"), id("job"));
    let shop = list("spiffe://t/ns/shop/sa/*", &[], &[]);
    let only_web = list(WEB, &[], &[]);
    let both = [shop.clone(), only_web.clone()];
    assert_eq!(authorize(&both, Some(&web), Wish::Bytes), Decision::Allow);
    assert_eq!(authorize(&both, Some(&job), Wish::Bytes), Decision::Deny);
    assert_eq!(authorize(&both, None, Wish::Bytes), Decision::Deny);
    assert_eq!(authorize(&[], None, Wish::Bytes), Decision::Allow);
    let lists = [shop, audited(only_web.clone())];
    let decision = authorize(&lists, Some(&job), Wish::Bytes);
    assert_eq!(decision, Decision::AllowAudited);
    // A list that audits excuses nothing of one that does not, whichever comes first.
    let lists = [audited(list("spiffe://t/ns/x/*", &[], &[])), only_web];
    assert_eq!(authorize(&lists, Some(&job), Wish::Bytes), Decision::Deny);
}

#[test]
fn what_looks_into_requests_never_matches_bytes() {
    let web = id("web");
    let lists = [list(WEB, &[Method::GET], &["/cart"])];
    assert!(has_request_rules(&lists));
    assert_eq!(authorize(&lists, Some(&web), Wish::Bytes), Decision::Deny);
    let decision = authorize(&lists, Some(&web), get("/cart/1"));
    assert_eq!(decision, Decision::Allow);
    let post = Wish::Request {
        method: &Method::POST,
        path: "/cart",
    };
    assert_eq!(authorize(&lists, Some(&web), post), Decision::Deny);
}

/// A list without paths looks at none: neither `*` nor CONNECT, which has none, nor what climbs.
#[test]
fn without_paths_every_path_is_allowed() {
    let web = id("web");
    let lists = [list(WEB, &[], &[])];
    for path in ["", "*", "/../x", "/%zz", "/a"] {
        let decision = authorize(&lists, Some(&web), get(path));
        assert_eq!(decision, Decision::Allow, "{path}");
    }
    let lists = [list(WEB, &[], &["/"])];
    for (path, expected) in [("", false), ("*", false), ("/", true), ("/a/../..", true)] {
        let decision = authorize(&lists, Some(&web), get(path));
        assert_eq!(decision == Decision::Allow, expected, "{path}");
    }
}

#[test]
fn paths_hold_in_every_reading_or_not() {
    let web = id("web");
    let lists = [list(WEB, &[], &["/cart", "/caf\u{e9}/x y", "/a%2fb"])];
    for allowed in [
        "/cart",
        "/cart/",
        "/cart//1",
        "/cart/1/../2",
        "/cart/./1",
        "/cart/.hidden",
        "/cart/a..b/..c",
        "/cart/a%20b",
        "/cart/100%25",
        "/cart/%e2%82%ac",
        "/cart/x;v=1",
        "/cart/a%2Fb",
        "/caf%c3%a9/x%20y",
        "/caf%C3%A9/x%20y/1",
        "/a%2Fb/1",
    ] {
        let decision = authorize(&lists, Some(&web), get(allowed));
        assert_eq!(decision, Decision::Allow, "{allowed}");
    }
    for denied in [
        "/cartoon",
        "/CART",
        "/",
        "//cart",
        "/x/../cart",
        "/%63art",
        "/cart/../admin",
        "/cart/../cart",
        "/cart/%2e%2e/admin",
        "/cart/..%2fadmin",
        "/cart/%252e%252e/admin",
        "/cart/%25252525252e",
        "/cart/..;/admin",
        "/cart;x/../admin",
        "/cart/\\..\\..",
        "/cart/.../x",
        "/cart/..%20/x",
        "/../cart",
        "/cart/%zz",
        "/cart/%",
        "/cart/%00",
        "/cart/%0d%0a",
        "/cart/%c0%ae%c0%ae/",
        "/cart/%e9",
        "/cart/\u{ff0e}\u{ff0e}/x",
        "/cart/%ef%bc%8e%ef%bc%8e/x",
        "/caf%c3/x%20y",
        "/a%2f",
        "/a/b",
        "*",
        "",
    ] {
        let decision = authorize(&lists, Some(&web), get(denied));
        assert_eq!(decision, Decision::Deny, "{denied}");
    }
}

/// The whole policy of a port: probes pass without identity, and nothing else of a strict port.
#[test]
fn who_proves_nothing_gets_the_probes() {
    let mut strict = policy(MtlsMode::Strict, Vec::new());
    assert!(!admits_anything(&strict, None));
    let refused = admit(&strict, None, get("/healthz"));
    assert_eq!(refused, Err(Outcome::MtlsRequired));
    strict.probes = vec![Probe {
        path: "/healthz".into(),
        method: Method::GET,
    }];
    assert!(admits_anything(&strict, None));
    assert_eq!(admit(&strict, None, get("/healthz")), Ok(Admission::Exempt));
    for other in ["/healthz/", "/healthz/x", "//healthz", "/HEALTHZ", "/"] {
        let refused = admit(&strict, None, get(other));
        assert_eq!(refused, Err(Outcome::MtlsRequired), "{other}");
    }
    assert_eq!(
        admit(&strict, None, Wish::Bytes),
        Err(Outcome::MtlsRequired)
    );
    let admitted = admit(&strict, Some(&id("web")), get("/"));
    assert_eq!(admitted, Ok(Admission::Allowed));
}

#[test]
fn who_could_ask_for_something() {
    let (web, job) = (id("web"), id("job"));
    let looking = list(WEB, &[Method::GET], &["/cart"]);
    let permissive = policy(MtlsMode::Permissive, vec![looking.clone()]);
    assert!(admits_anything(&permissive, Some(&web)));
    assert!(!admits_anything(&permissive, Some(&job)));
    assert!(!admits_anything(&permissive, None));
    let audit = policy(MtlsMode::Permissive, vec![audited(looking)]);
    assert!(admits_anything(&audit, Some(&job)) && admits_anything(&audit, None));
    let decided = admit(&audit, Some(&job), get("/"));
    assert_eq!(decided, Ok(Admission::Audited));
}
