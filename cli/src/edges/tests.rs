use super::seen::{Edge, End, Name, Replica, Seen, Target};
use super::*;

fn edge(from: (&str, &str), to: &str, tls: &str, requests: u64) -> Edge {
    let (kind, name) = from;
    Edge {
        from: End {
            kind: kind.to_owned(),
            name: name.to_owned(),
        },
        to: Name {
            namespace: "shop".to_owned(),
            name: to.to_owned(),
        },
        port: 80,
        tls: tls.to_owned(),
        connections: 2,
        requests,
        last_seconds: 200,
    }
}

fn seen() -> Seen {
    Seen {
        replicas: vec![Replica::default()],
        sidecars: 3,
        edges: vec![
            edge(("unmeshed", "jobs/nightly"), "cart", "plaintext", 4),
            edge(("address", "10.0.0.7"), "cart", "exempt", 900),
            edge(("identity", "shop/web"), "cart", "mesh", 12_000),
            edge(("address", "10.0.0.9"), "ledger", "refused", 1),
        ],
        permissive: vec![Target {
            namespace: "shop".to_owned(),
            ..Target::default()
        }],
        ..Seen::default()
    }
}

#[test]
fn the_table_is_this_one() {
    assert_eq!(
        print(Output::Text, &seen(), Paint::plain()),
        "\
FROM                       TO           PORT  TLS        CONNECTIONS  REQUESTS  LAST
jobs/nightly (no sidecar)  shop/cart    80    plaintext  2            4         3m20s ago
10.0.0.7                   shop/cart    80    exempt     2            900       3m20s ago
shop/web                   shop/cart    80    mesh       2            12000     3m20s ago
10.0.0.9                   shop/ledger  80    refused    2            1         3m20s ago

4 edges by 3 sidecars, 1 in plaintext.
"
    );
}

#[test]
fn long_names_and_what_is_missing_fit() {
    let mut seen = seen();
    let long = "a-namespace-of-a-team/a-workload-with-quite-a-long-name-that-goes-on-and-on";
    seen.edges.push(edge(
        ("unmeshed", long),
        &long.replace('/', "-"),
        "plaintext",
        1,
    ));
    (seen.forgotten, seen.left_out) = (7, 9);
    seen.replicas.push(Replica {
        address: Some("10.0.0.2:15180".to_owned()),
        error: Some("connecting: refused".to_owned()),
        ..Replica::default()
    });
    let printed = print(Output::Text, &seen, Paint::plain());
    assert!(
        printed.lines().all(|line| line.chars().count() <= 100),
        "{printed}"
    );
    for words in [
        "2 in plaintext. 7 were forgotten",
        "9 found no room.",
        "The replica at 10.0.0.2:15180 did not answer: connecting: refused",
    ] {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    assert!(!seen.is_whole());
}

#[test]
fn nothing_is_said_so() {
    let printed = print(Output::Text, &Seen::default(), Paint::plain());
    assert_eq!(printed, "No edges by 0 sidecars, 0 in plaintext.\n");
}

#[test]
fn what_is_not_wanted_is_left_out() {
    let names = |seen: &Seen| -> Vec<String> {
        seen.edges
            .iter()
            .map(|edge| edge.from.name.clone())
            .collect()
    };
    let mut plain = seen();
    plain.keep(None, true);
    assert_eq!(names(&plain), ["jobs/nightly", "10.0.0.9"]);
    let mut jobs = seen();
    jobs.keep(Some("jobs"), false);
    assert_eq!(names(&jobs), ["jobs/nightly"]);
    assert!(jobs.permissive.is_empty());
    let mut shop = seen();
    shop.keep(Some("shop"), false);
    assert_eq!(shop, seen());
}

#[test]
fn machines_get_what_was_said() {
    let json = print(Output::Json, &seen(), Paint::plain());
    assert_eq!(serde_json::from_str::<Seen>(&json).unwrap(), seen());
    let yaml = print(Output::Yaml, &seen(), Paint::plain());
    assert_eq!(serde_saphyr::from_str::<Seen>(&yaml).unwrap(), seen());
}
