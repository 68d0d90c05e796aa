//! Books under paused time, and answers put together: against a count of single calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use tokio::time::{Instant, advance};
use weft_proto::discovery::{Edge, EdgeTls, Report};
use weft_proto::replica::EdgesResponse;

use super::book::{KEPT, MAX_EDGES, MAX_REPORTS};
use super::*;
use crate::index::{
    MeshSettings, Model, Name, Objects, Origin, Service, ServiceEndpoint, ServicePort, Sourced,
    Workload,
};
use crate::policy::{DefaultAuthorization, TrafficPolicy};

/// `web-1`, `cart-1` and `cart-2` with sidecars, `legacy-1` without one; services `cart` (both), `cart-v2`
/// (the second) and `legacy`.
fn objects() -> Objects {
    let workload = |name: &str, owner: &str, last: u8, meshed| {
        sourced(Workload {
            name: Name::new("shop", name),
            owner: owner.to_owned(),
            service_account: owner.to_owned(),
            addresses: vec![[10, 0, 0, last].into()],
            meshed,
            zone: String::new(),
            weight: 1,
            draining: false,
            ended: false,
            ports: Vec::new(),
        })
    };
    let service = |name: &str, last: u8, endpoints: &[&str]| {
        sourced(Service {
            name: Name::new("shop", name),
            cluster_ips: vec![[10, 96, 0, last].into()],
            ports: vec![ServicePort {
                name: "http".to_owned(),
                port: 80,
                target_port: 8080,
                exceptions: BTreeMap::new(),
                app_protocol: String::new(),
            }],
            endpoints: endpoints
                .iter()
                .map(|name| ServiceEndpoint::Workload((*name).to_owned()))
                .collect(),
            idle: Default::default(),
            last_resort: false,
        })
    };
    Objects {
        settings: MeshSettings {
            trust_domain: "mesh.test".to_owned(),
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            server_first_ports: Vec::new(),
            minimum_mtls: None,
            default_authorization: DefaultAuthorization::AllowAll,
        },
        listeners: Vec::new(),
        workloads: vec![
            workload("web-1", "web", 1, true),
            workload("cart-1", "cart", 11, true),
            workload("cart-2", "cart", 12, true),
            workload("legacy-1", "legacy", 99, false),
        ],
        services: vec![
            service("cart", 1, &["cart-1", "cart-2"]),
            service("cart-v2", 2, &["cart-2"]),
            service("legacy", 3, &["legacy-1"]),
        ],
        policies: Vec::new(),
        broken: Vec::new(),
        routes: Vec::new(),
        grants: Vec::new(),
        refusals: Vec::new(),
    }
}

fn model() -> Model {
    Model::build(objects(), 1)
}

fn sourced<T>(object: T) -> Sourced<T> {
    let file = "mesh.yaml".into();
    Sourced {
        origin: Origin { file, line: 1 },
        object,
    }
}

fn came(from: impl Into<Came>, tls: EdgeTls, requests: u64) -> Edge {
    let (peer, address) = match from.into() {
        Came::Proved(peer) => (peer.to_owned(), Vec::new()),
        Came::From(last) => (String::new(), vec![10, 0, 0, last]),
    };
    Edge {
        port: 8080,
        service: "shop/cart:80".to_owned(),
        peer,
        address,
        tls: tls.into(),
        connections: 1,
        requests,
        ..Edge::default()
    }
}

enum Came {
    Proved(&'static str),
    From(u8),
}

impl From<&'static str> for Came {
    fn from(peer: &'static str) -> Self {
        Self::Proved(peer)
    }
}

impl From<u8> for Came {
    fn from(last: u8) -> Self {
        Self::From(last)
    }
}

fn called(service: &str, tls: EdgeTls, requests: u64) -> Edge {
    Edge {
        outbound: true,
        service: service.to_owned(),
        tls: tls.into(),
        connections: 1,
        requests,
        ..Edge::default()
    }
}

fn report(run: u64, watched_seconds: u64, edges: impl Into<Vec<Edge>>) -> Report {
    Report {
        run,
        watched_seconds,
        edges: edges.into(),
        ..Report::default()
    }
}

fn hear(book: &mut Book, workload: &str, report: Report) -> bool {
    hear_by(&model(), book, workload, report)
}

fn hear_by(model: &Model, book: &mut Book, workload: &str, report: Report) -> bool {
    let (account, _) = workload.split_once('-').unwrap_or((workload, ""));
    let reporter = Reporter {
        workload: &Name::new("shop", workload),
        service_account: account,
    };
    book.hear(reporter, report, model, Instant::now())
}

fn list(book: &mut Book) -> EdgesResponse {
    book.list("a", Instant::now())
}

/// What a book says alone, in short.
fn rows(book: &mut Book) -> Vec<String> {
    words(&merge(&model(), [&list(book)]))
}

fn words(merged: &Merged) -> Vec<String> {
    let rows = merged.rows.iter();
    rows.map(|row| {
        let from = format!("{} {}", row.from.kind(), row.from.name());
        let to = format!("{}:{}", row.to.name, row.port);
        let tls = tls_word(row.tls);
        format!("{from} > {to} {tls} {}", row.requests)
    })
    .collect()
}

fn gone(book: &mut Book, workload: &str) {
    book.gone(&Name::new("shop", workload), Instant::now());
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn the_newest_report_counts_and_ages() {
    let mut book = Book::default();
    let one = came("shop/web", EdgeTls::Mesh, 3);
    assert!(hear(&mut book, "cart-1", report(1, 5, [one.clone()])));
    advance(SECOND * 10).await;
    let two = Edge {
        requests: 4,
        last_seconds: 2,
        ..one
    };
    hear(&mut book, "cart-1", report(1, 15, [two]));
    advance(SECOND * 100).await;
    let told = list(&mut book);
    let [watcher] = &told.watchers[..] else {
        panic!("not one: {told:?}");
    };
    assert_eq!((watcher.watched_seconds, watcher.gone_seconds), (115, None));
    let [edge] = &watcher.edges[..] else {
        panic!("not one: {watcher:?}");
    };
    assert_eq!((edge.requests, edge.last_seconds), (4, 102));
    assert_eq!(rows(&mut book), ["identity shop/web > cart:80 mesh 4"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_open_is_being_seen_until_its_sidecar_is_gone() {
    let mut book = Book::default();
    let open = Edge {
        open: 1,
        ..came(99, EdgeTls::Plaintext, 0)
    };
    hear(&mut book, "cart-1", report(1, 5, [open]));
    let last = |book: &mut Book| list(book).watchers[0].edges[0].last_seconds;
    advance(SECOND * 1_000).await;
    assert_eq!(last(&mut book), 0);
    gone(&mut book, "cart-1");
    advance(SECOND * 7).await;
    assert_eq!(last(&mut book), 7);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_is_gone_is_remembered_for_five_minutes() {
    let mut book = Book::default();
    hear(
        &mut book,
        "cart-1",
        report(1, 5, [came(99, EdgeTls::Plaintext, 3)]),
    );
    gone(&mut book, "cart-1");
    // The same workload again, with another sidecar that nobody called yet.
    hear(&mut book, "cart-1", report(2, 0, []));
    advance(KEPT.saturating_sub(SECOND)).await;
    // That it went is said once.
    gone(&mut book, "cart-1");
    hear(&mut book, "cart-1", report(2, 300, []));
    assert_eq!(
        rows(&mut book),
        ["unmeshed shop/legacy > cart:80 plaintext 3"]
    );
    let told = list(&mut book).watchers;
    let gone: Vec<_> = told.iter().map(|it| (it.run, it.gone_seconds)).collect();
    assert_eq!(gone, [(1, Some(299)), (2, None)]);
    advance(SECOND).await;
    assert_eq!(list(&mut book).watchers.len(), 1);
    assert!(rows(&mut book).is_empty());
}

/// The address of a caller is looked up when it is told of, and its name is kept when it has gone.
#[tokio::test(start_paused = true)]
async fn names_of_callers_outlive_them() {
    let mut book = Book::default();
    let edge = came(99, EdgeTls::Plaintext, 3);
    hear(
        &mut book,
        "cart-1",
        report(1, 5, [edge.clone(), came(77, EdgeTls::Plaintext, 1)]),
    );
    let mut without = objects();
    without
        .workloads
        .retain(|it| it.object.name.name != "legacy-1");
    let without = Model::build(without, 2);
    hear_by(&without, &mut book, "cart-1", report(1, 15, [edge.clone()]));
    let merged = merge(&without, [&list(&mut book)]);
    assert_eq!(
        words(&merged),
        ["unmeshed shop/legacy > cart:80 plaintext 3"]
    );
    // Whoever has it now is who calls now, as soon as something comes.
    let mut other = objects();
    other.workloads[3].object.name = Name::new("jobs", "nightly-x");
    other.workloads[3].object.owner = "nightly".to_owned();
    let other = Model::build(other, 3);
    hear_by(&other, &mut book, "cart-1", report(1, 25, [edge.clone()]));
    assert_eq!(
        rows(&mut book),
        ["unmeshed shop/legacy > cart:80 plaintext 3"]
    );
    let more = Edge {
        requests: 4,
        ..edge
    };
    hear_by(&other, &mut book, "cart-1", report(1, 35, [more]));
    assert_eq!(
        rows(&mut book),
        ["unmeshed jobs/nightly > cart:80 plaintext 4"]
    );
    // An address that nobody ever had.
    hear(
        &mut book,
        "cart-1",
        report(1, 35, [came(77, EdgeTls::Passthrough, 0)]),
    );
    assert_eq!(rows(&mut book), ["address 10.0.0.77 > cart:80 app-tls 0"]);
}

#[tokio::test(start_paused = true)]
async fn both_ends_make_one_row_with_the_servers_counts() {
    let mut book = Book::default();
    let client = [
        called("shop/cart:80", EdgeTls::Mesh, 12),
        called("shop/cart-v2:80", EdgeTls::Mesh, 5),
        called("shop/legacy:80", EdgeTls::Plaintext, 4),
        called("shop/web:80", EdgeTls::Local, 1),
    ];
    hear(&mut book, "web-1", report(1, 60, client));
    // Before the servers say anything, the client's word is all there is.
    let mut alone = rows(&mut book);
    alone.sort();
    assert_eq!(
        alone,
        [
            "identity shop/web > cart-v2:80 mesh 5",
            "identity shop/web > cart:80 mesh 12",
            "identity shop/web > web:80 local 1",
            "meshed shop/web > legacy:80 plaintext 4",
        ]
    );
    hear(
        &mut book,
        "cart-1",
        report(1, 60, [came("shop/web", EdgeTls::Mesh, 6)]),
    );
    // Both services lead to the second: `cart`, the first, is its label, and it is `cart-v2` too.
    hear(
        &mut book,
        "cart-2",
        report(1, 60, [came("shop/web", EdgeTls::Mesh, 10)]),
    );
    assert_eq!(
        rows(&mut book),
        [
            "meshed shop/web > legacy:80 plaintext 4",
            "identity shop/web > cart:80 mesh 16",
            "identity shop/web > web:80 local 1",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_moved_counts_once() {
    let (mut a, mut b) = (Book::default(), Book::default());
    let edges = |requests| [came("shop/web", EdgeTls::Mesh, requests)];
    hear(&mut a, "cart-1", report(7, 60, edges(6)));
    gone(&mut a, "cart-1");
    hear(&mut b, "cart-1", report(7, 70, edges(9)));
    // Another run of it counts beside it.
    hear(&mut a, "cart-2", report(7, 60, edges(1)));
    hear(&mut b, "cart-2", report(8, 60, edges(2)));
    let (a, b) = (list(&mut a), list(&mut b));
    for answers in [[&a, &b], [&b, &a]] {
        let merged = merge(&model(), answers);
        assert_eq!(words(&merged), ["identity shop/web > cart:80 mesh 12"]);
        assert_eq!(merged.watchers.len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_told_is_bounded() {
    let mut book = Book::default();
    // Those in plaintext are kept first.
    let mut many: Vec<_> = (0..2 * MAX_EDGES as u64)
        .map(|count| Edge {
            peer: format!("shop/{count}"),
            ..came("", EdgeTls::Mesh, count)
        })
        .collect();
    many.push(came(99, EdgeTls::Plaintext, 1));
    assert!(!hear(&mut book, "cart-1", report(1, 5, many)));
    let told = list(&mut book);
    assert_eq!(told.watchers[0].edges.len(), MAX_EDGES);
    assert_eq!(
        rows(&mut book)[0],
        "unmeshed shop/legacy > cart:80 plaintext 1"
    );
    // What no sidecar says is not taken.
    let mut long = came("", EdgeTls::Mesh, 1);
    long.peer = "x".repeat(10_000);
    let mut port = came("shop/web", EdgeTls::Mesh, 1);
    port.port = 70_000;
    let unknown = came("shop/web", EdgeTls::Unspecified, 1);
    hear(&mut book, "cart-1", report(1, 6, [long, port, unknown]));
    assert!(rows(&mut book).is_empty());
    // Runs of one sidecar that never ends restarting.
    for run in 0..100 {
        hear(
            &mut book,
            "cart-1",
            report(run, 0, [came(99, EdgeTls::Plaintext, 1)]),
        );
    }
    assert_eq!(list(&mut book).watchers.len(), 4);
    // More workloads than there can be.
    let model = model();
    let refused = (0..=MAX_REPORTS)
        .filter(|count| !hear_by(&model, &mut book, &format!("w-{count}"), report(1, 0, [])))
        .count();
    assert_eq!(refused, 5);
    assert_eq!(list(&mut book).watchers.len(), MAX_REPORTS);
}

#[tokio::test(start_paused = true)]
async fn what_is_permissive_is_asked_about() {
    let mut book = Book::default();
    let callers = [
        came("shop/web", EdgeTls::Mesh, 3),
        came(99, EdgeTls::Plaintext, 2),
        came(99, EdgeTls::Exempt, 50),
        came(98, EdgeTls::Refused, 50),
    ];
    hear(&mut book, "cart-1", report(1, 1_000, callers));
    hear(&mut book, "web-1", report(1, 500, []));
    let told = list(&mut book);
    let of = |model: &Model| {
        let merged = merge(model, [&told]);
        targets(model, &merged)
    };
    let found = of(&model());
    let names: Vec<_> = found.iter().map(|it| it.service.as_deref()).collect();
    // Behind `legacy` nobody enforces anything; `web-1` is behind no service.
    assert_eq!(names, [None, Some("cart"), Some("cart-v2")]);
    let alone = &found[0];
    assert_eq!(
        (alone.workloads, alone.silent, alone.watched_seconds),
        (1, 0, 500)
    );
    let cart = &found[1];
    assert_eq!(
        (cart.workloads, cart.silent, cart.watched_seconds),
        (2, 1, 1_000)
    );
    assert_eq!(cart.silent_names, ["cart-2"]);
    let came: Vec<_> = cart
        .callers
        .iter()
        .map(|it| (it.from.name(), it.tls))
        .collect();
    let legacy = ("shop/legacy", EdgeTls::Plaintext);
    assert_eq!(came, [legacy, ("shop/web", EdgeTls::Mesh)]);
    assert_eq!((found[2].silent, found[2].callers.len()), (1, 0));
    assert_eq!(found[2].watched_seconds, 0, "nobody watches");

    // Strict by policy, by namespace or by the mesh: nothing is left to ask.
    let strict = |kind: &str, name: &str| {
        let policy = TrafficPolicy::read(json!({
            "apiVersion": "weft.dev/v1alpha1",
            "kind": "TrafficPolicy",
            "metadata": {"name": "strict", "namespace": "shop"},
            "spec": {"targetRefs": [{"kind": kind, "name": name}], "mtls": {"mode": "Strict"}},
        }));
        let mut objects = objects();
        objects.policies.push(sourced(Arc::new(policy.unwrap())));
        of(&Model::build(objects, 2))
    };
    let left: Vec<_> = strict("Service", "cart")
        .into_iter()
        .map(|it| it.service)
        .collect();
    // Both workloads of `cart` are Strict now, whichever service leads there.
    assert_eq!(left, [None]);
    assert_eq!(strict("Namespace", "shop"), []);
}

/// One call of a client with a sidecar.
#[derive(Clone, Debug)]
struct Call {
    client: usize,
    server: usize,
}

proptest! {
    /// Whatever calls there were, however sidecars are spread over replicas and whichever moved: each call
    /// that a server's sidecar tells of is counted once, and no other.
    #[test]
    fn every_call_is_counted_once(
        calls in prop::collection::vec((0usize..3, 0usize..2), 0..60),
        homes in prop::collection::vec(0usize..3, 5),
        moved in prop::collection::vec(any::<bool>(), 5),
        silent in prop::collection::vec(any::<bool>(), 2),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let calls: Vec<_> = calls.into_iter().map(|(client, server)| Call { client, server }).collect();
        runtime.block_on(async {
            let clients = ["shop/a", "shop/b", "shop/c"];
            let count = |wanted: &dyn Fn(&Call) -> bool| {
                calls.iter().filter(|call| wanted(call)).count() as u64
            };
            let mut books: Vec<_> = (0..3).map(|_| Book::default()).collect();
            let mut tell = |sidecar: usize, name: &str, edges: Vec<Edge>| {
                let edges: Vec<_> = edges.into_iter().filter(|edge| edge.requests > 0).collect();
                let home = homes[sidecar];
                if moved[sidecar] {
                    let before = &mut books[(home + 1) % 3];
                    hear(before, name, report(sidecar as u64, 1, edges.clone()));
                    gone(before, name);
                }
                hear(&mut books[home], name, report(sidecar as u64, 9, edges));
            };
            for (at, client) in clients.iter().enumerate() {
                let (_, name) = client.split_once('/').unwrap();
                let to = |server: usize| count(&|call| call.client == at && call.server == server);
                // The second server is called by the other service's name. Tries that never came count
                // at the client alone.
                let edges = vec![
                    called("shop/cart:80", EdgeTls::Mesh, to(0) * 2),
                    called("shop/cart-v2:80", EdgeTls::Mesh, to(1) * 2),
                ];
                tell(at, &format!("{name}-1"), edges);
            }
            for (server, is_silent) in silent.iter().enumerate() {
                if *is_silent {
                    continue;
                }
                let from = |at: usize| count(&|call| call.client == at && call.server == server);
                let edges = (0..3).map(|at| came(clients[at], EdgeTls::Mesh, from(at))).collect();
                tell(3 + server, &format!("cart-{}", server + 1), edges);
            }
            let told: Vec<_> = books.iter_mut().map(list).collect();
            let merged = merge(&model(), &told);
            for (at, client) in clients.iter().enumerate() {
                let counted: u64 = merged.rows.iter()
                    .filter(|row| row.from.name() == *client)
                    .map(|row| row.requests)
                    .sum();
                let to = |server: usize| count(&|call| call.client == at && call.server == server);
                // What is seen of the second server's edges stands for `cart` as well, by which the
                // first is called.
                let wanted = match (silent[0], silent[1]) {
                    (false, false) => to(0) + to(1),
                    (true, true) => 2 * (to(0) + to(1)),
                    (false, true) => to(0) + 2 * to(1),
                    (true, false) if to(1) > 0 => to(1),
                    (true, false) => 2 * to(0),
                };
                prop_assert_eq!(counted, wanted, "{}: {:?}", client, words(&merged));
            }
            Ok(())
        })?;
    }
}
