use super::super::line::State;
use super::*;
use crate::edges::seen::{End, Replica};

const HOUR: u64 = 3_600;

fn caller(kind: &str, name: &str, tls: &str, last_seconds: u64) -> Caller {
    Caller {
        from: End {
            kind: kind.to_owned(),
            name: name.to_owned(),
        },
        tls: tls.to_owned(),
        last_seconds,
    }
}

fn web() -> Caller {
    caller("identity", "shop/web", "mesh", 5)
}

fn target(service: &str, callers: impl Into<Vec<Caller>>) -> Target {
    Target {
        namespace: "shop".to_owned(),
        service: Some(service.to_owned()),
        workloads: 2,
        watched_seconds: 3 * HOUR,
        callers: callers.into(),
        ..Target::default()
    }
}

fn seen(permissive: impl Into<Vec<Target>>) -> Seen {
    Seen {
        replicas: vec![Replica::default()],
        permissive: permissive.into(),
        ..Seen::default()
    }
}

fn lines(seen: Seen, hours: u64) -> Vec<Line> {
    check(&Ok(seen), Duration::from_secs(hours * HOUR))
}

fn line(seen: Seen, hours: u64) -> (State, String, Vec<String>) {
    let mut lines = lines(seen, hours);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = lines.remove(0);
    (line.state, line.what, line.list)
}

#[test]
fn strict_is_safe_where_all_come_by_mesh_tls() {
    let local = caller("identity", "shop/cart", "local", 7);
    // A caller of two services is one caller.
    let all = seen([target("cart", [web(), local]), target("pay", [web()])]);
    let safe = "shop: Strict is safe: 2 callers, all by mesh TLS, in the last 3 h";
    assert_eq!(line(all.clone(), 24), (State::Ok, safe.to_owned(), vec![]));
    let safe = "shop: Strict is safe: 2 callers, all by mesh TLS, in the last 2 h";
    assert_eq!(line(all, 2).1, safe);
    let nobody = line(seen([target("cart", [])]), 24);
    assert_eq!(
        nobody.1,
        "shop: Strict is safe: nobody called in the last 3 h"
    );
    let none = line(seen([]), 24);
    assert_eq!(
        (none.0, &*none.1),
        (State::Ok, "nothing with a sidecar is Permissive")
    );
}

#[test]
fn whoever_comes_in_plaintext_is_named() {
    let callers = [
        web(),
        caller("unmeshed", "jobs/nightly", "plaintext", 2 * HOUR + 5),
        caller("address", "10.0.0.7", "app-tls", 3),
    ];
    let mut young = target(
        "pay",
        [caller("unmeshed", "jobs/once", "plaintext", 30 * HOUR)],
    );
    // That is known whoever else has said nothing.
    (young.silent, young.watched_seconds) = (2, 0);
    let (state, what, list) = line(seen([target("cart", callers), young]), 24);
    assert_eq!(state, State::Warning);
    assert_eq!(
        what,
        "shop: Strict is not safe yet: 2 callers come in plaintext"
    );
    assert_eq!(
        list,
        [
            "cart: 10.0.0.7 with TLS of its own, last seen 3 s ago",
            "cart: jobs/nightly (no sidecar), last seen 2 h ago",
        ]
    );
}

#[test]
fn plaintext_of_before_the_window_is_over() {
    let callers = [caller(
        "unmeshed",
        "jobs/nightly",
        "plaintext",
        2 * HOUR + 5,
    )];
    let one = seen([target("cart", callers)]);
    assert_eq!(line(one.clone(), 24).0, State::Warning);
    assert_eq!(line(one, 2).0, State::Ok);
}

#[test]
fn who_has_not_looked_for_long_cannot_say() {
    let mut young = target("cart", [web()]);
    young.watched_seconds = 599;
    let (state, what, _) = line(seen([target("pay", []), young.clone()]), 24);
    assert_eq!(state, State::Skipped);
    assert_eq!(
        what,
        "shop: too early to say whether Strict is safe: sidecars have been watching for 9 min, and \
         10 min are wanted"
    );
    // Unless less is asked for.
    let asked = check(&Ok(seen([young.clone()])), Duration::from_secs(60));
    assert_eq!(asked[0].state, State::Ok);
    young.watched_seconds = 600;
    assert_eq!(line(seen([young.clone()]), 24).0, State::Ok);

    young.silent = 1;
    young.silent_names = vec!["cart-1".to_owned()];
    let (state, what, list) = line(seen([young]), 24);
    assert_eq!(state, State::Skipped);
    assert!(what.ends_with("1 sidecar has not said who calls"), "{what}");
    assert_eq!(list, ["shop/cart-1"]);

    let mut half = seen([target("cart", [web()])]);
    half.replicas.push(Replica {
        address: Some("10.0.0.2:15180".to_owned()),
        error: Some("no".to_owned()),
        ..Replica::default()
    });
    let (state, what, _) = line(half, 24);
    assert_eq!(state, State::Skipped);
    assert!(
        what.ends_with("the replica at 10.0.0.2:15180 did not answer"),
        "{what}"
    );
}

#[test]
fn nothing_of_it_is_a_failure() {
    let lines = check(&Err(AskError::NotHttp), Duration::from_secs(1));
    assert_eq!(lines[0].state, State::Skipped);
    assert!(lines[0].what.contains("the answer is no HTTP"));
    let mut two = seen([target("cart", [web()]), target("cart", [web()])]);
    two.permissive[1].namespace = "bank".to_owned();
    let names: Vec<_> = self::lines(two, 24)
        .into_iter()
        .map(|line| line.what)
        .collect();
    assert!(
        names[0].starts_with("bank: ") && names[1].starts_with("shop: "),
        "{names:?}"
    );
}
