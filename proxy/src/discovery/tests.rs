//! The conversation without its I/O. [`agreement`] plays at random, [`loopback`] goes all the way.

mod agreement;
mod loopback;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use weft_proto::discovery as wire;
use weft_proto::discovery::client_message::Kind as Said;
use weft_proto::discovery::server_message::Kind as Say;
use weft_proto::discovery::update::Resource;

use super::session::{Broken, MAX_PAYLOAD, Session};
use super::table::Change;
use super::*;
use crate::policy::{MtlsMode, Protocol};

fn introduction() -> Introduction {
    Introduction {
        workload: "web-1".into(),
        zone: "a".into(),
        version: "test".into(),
    }
}

fn cart() -> ServiceRef {
    ServiceRef {
        namespace: "shop".into(),
        name: "cart".into(),
        port: 80,
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8080))
}

fn endpoint(last: u8) -> wire::Endpoint {
    wire::Endpoint {
        address: Some(wire::SocketAddress {
            ip: vec![10, 0, 0, last],
            port: 8080,
        }),
        workload: format!("cart-{last}"),
        weight: 1,
        ..Default::default()
    }
}

fn full(lasts: &[u8]) -> Resource {
    Resource::Endpoints(wire::Endpoints {
        endpoints: lasts.iter().copied().map(endpoint).collect(),
    })
}

fn delta(upsert: &[u8], remove: &[u8]) -> Resource {
    Resource::EndpointsDelta(wire::EndpointsDelta {
        upsert: upsert.iter().copied().map(endpoint).collect(),
        remove: remove
            .iter()
            .filter_map(|last| endpoint(*last).address)
            .collect(),
    })
}

fn inbound(mtls: wire::MtlsMode) -> Resource {
    Resource::Inbound(wire::Inbound {
        mtls: mtls.into(),
        ..Default::default()
    })
}

fn not_found() -> Resource {
    Resource::NotFound(wire::NotFound {})
}

fn version(hash: u8, revision: u64) -> wire::Version {
    wire::Version {
        content_hash: vec![hash],
        source_revision: revision,
        created_at: None,
    }
}

fn update(key: &Key, hash: u8, revision: u64, resource: Resource) -> Say {
    Say::Update(wire::Update {
        key: Some(key.to_wire()),
        version: Some(version(hash, revision)),
        resource: Some(resource),
    })
}

fn hello_reply() -> Say {
    Say::HelloReply(wire::HelloReply {
        trust_domain: "cluster.local".into(),
        networks: vec!["10.0.0.0/8".into()],
        ..Default::default()
    })
}

/// What workers hold, a stream to it, and everything that the stream says.
struct Bench {
    discovery: Discovery,
    changes: mpsc::UnboundedReceiver<Change>,
    identity: Identity,
}

impl Bench {
    fn new() -> Self {
        Self::with_capacity(MAX_SUBSCRIPTIONS)
    }

    fn with_capacity(capacity: usize) -> Self {
        let (shared, changes) = Shared::new(introduction(), capacity);
        Self {
            discovery: Discovery(shared),
            changes,
            identity: Identity::new(),
        }
    }

    /// A stream whose greetings are over, and the hello that it began with.
    fn stream(&mut self) -> (Session<'_>, wire::Hello, Vec<Key>) {
        let mut session = Session::open(&self.discovery.0, &self.identity, &mut self.changes);
        tell(&mut session, hello_reply());
        let mut said = drain(&mut session).into_iter();
        let Some(Said::Hello(hello)) = said.next() else {
            panic!("no hello");
        };
        let subscribed = said
            .map(|it| match it {
                Said::Subscribe(it) => Key::from_wire(&it.key.unwrap()).unwrap(),
                other => panic!("{other:?}"),
            })
            .collect();
        (session, hello, subscribed)
    }
}

fn tell(session: &mut Session<'_>, kind: Say) {
    let message = wire::ServerMessage { kind: Some(kind) };
    session.on_message(message, Instant::now()).unwrap();
}

fn drain(session: &mut Session<'_>) -> Vec<Said> {
    std::iter::from_fn(|| session.next_mail())
        .map(|message| message.kind.unwrap())
        .collect()
}

/// The one thing that was said: an ack.
fn acked(session: &mut Session<'_>) -> wire::Version {
    match &drain(session)[..] {
        [Said::Ack(ack)] => ack.version.clone().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The one thing that was said: a nack.
fn nacked(session: &mut Session<'_>) -> String {
    match &drain(session)[..] {
        [Said::Nack(nack)] => nack.reason.clone(),
        other => panic!("{other:?}"),
    }
}

fn addresses(watched: &Watched<Vec<EndpointInfo>>) -> Vec<SocketAddr> {
    let endpoints = watched.load().unwrap();
    endpoints.iter().map(|it| it.address).collect()
}

#[tokio::test(start_paused = true)]
async fn one_cell_per_key() {
    let bench = Bench::new();
    let discovery = &bench.discovery;
    assert!(
        discovery
            .endpoints(&cart())
            .same(&discovery.endpoints(&cart()))
    );
    let mapped: SocketAddr = "[::ffff:10.0.0.1]:8080".parse().unwrap();
    assert!(
        discovery
            .outbound(mapped)
            .same(&discovery.outbound(address(1)))
    );
    assert!(
        discovery
            .authority("Cart:80")
            .same(&discovery.authority("cart:80"))
    );
    assert!(!discovery.inbound(80).same(&discovery.inbound(81)));
    let long = discovery.authority(&"a".repeat(1000)).load().unwrap();
    assert_eq!(*long, OutboundTarget::NotFound);
}

#[tokio::test(start_paused = true)]
async fn values_are_waited_for_and_told() {
    let watched = Watched::<u32>::empty();
    assert_eq!(watched.ready(Duration::from_secs(5)).await, None);

    let told = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&told);
    watched.on_change(Box::new(move |value| log.lock().push(**value)));
    let waiting = tokio::spawn(watched.ready(Duration::from_secs(5)));
    tokio::task::yield_now().await;
    watched.store(1);
    let first = waiting.await.unwrap().unwrap();
    assert_eq!(*first, 1);

    let log = Arc::clone(&told);
    watched.on_change(Box::new(move |value| log.lock().push(**value + 100)));
    watched.store(2);
    // A change before the call is not missed.
    assert_eq!(*watched.changed(Some(&first)).await, 2);
    assert_eq!(*told.lock(), [1, 101, 2, 102]);
}

#[test]
fn listeners_are_told_before_a_value_is_seen() {
    let watched = Watched::empty();
    let seen = watched.clone();
    watched.on_change(Box::new(move |value| {
        let before = seen.load();
        assert!(before.is_none_or(|before| *before < **value));
    }));
    watched.store(1);
    watched.store(2);
    assert_eq!(watched.load().as_deref(), Some(&2));
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_with_everything_that_is_held() {
    let mut bench = Bench::new();
    let watched = bench.discovery.endpoints(&cart());
    let key = Key::Endpoints(cart());
    let (mut session, hello, subscribed) = bench.stream();
    assert_eq!(hello.workload, "web-1");
    assert!(hello.held.is_empty());
    assert_eq!(subscribed, [key.clone(), Key::Inbound(0), Key::TrustBundle]);
    tell(&mut session, update(&key, 1, 10, full(&[1, 2])));
    assert_eq!(acked(&mut session), version(1, 10));
    drop(session);
    assert_eq!(
        bench.discovery.mesh().load().unwrap().trust_domain.as_ref(),
        "cluster.local"
    );

    let (mut session, hello, subscribed) = bench.stream();
    assert_eq!(subscribed.len(), 3);
    assert_eq!(hello.held.len(), 1);
    assert_eq!(hello.held[0].version, Some(version(1, 10)));
    // The first word of the new stream may be a delta to what is held.
    tell(&mut session, update(&key, 2, 11, delta(&[3], &[1])));
    assert_eq!(acked(&mut session), version(2, 11));
    assert_eq!(addresses(&watched), [address(2), address(3)]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_comes_later_is_subscribed_once() {
    let mut bench = Bench::new();
    let discovery = bench.discovery.clone();
    drop(bench.stream());
    assert!(bench.changes.try_recv().is_err());
    let held = discovery.inbound(80);
    assert!(discovery.inbound(80).same(&held));
    let change = bench.changes.try_recv().unwrap();
    assert_eq!(change, Change::Subscribe(Key::Inbound(80)));
    assert!(bench.changes.try_recv().is_err());
    let (mut session, _, _) = bench.stream();
    session.on_change(change).unwrap();
    assert!(matches!(&drain(&mut session)[..], [Said::Subscribe(_)]));
}

#[tokio::test(start_paused = true)]
async fn deltas_apply_to_what_was_sent_before() {
    let mut bench = Bench::new();
    let watched = bench.discovery.endpoints(&cart());
    let key = Key::Endpoints(cart());
    let changes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&changes);
    watched.on_change(Box::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let (mut session, _, _) = bench.stream();

    // A delta to nothing: the whole set is asked for again.
    tell(&mut session, update(&key, 1, 1, delta(&[1], &[])));
    assert!(matches!(
        &drain(&mut session)[..],
        [Said::Unsubscribe(_), Said::Subscribe(_)]
    ));
    tell(&mut session, update(&key, 1, 1, full(&[1, 2])));
    tell(&mut session, update(&key, 2, 2, delta(&[3], &[1, 9])));
    assert_eq!(addresses(&watched), [address(2), address(3)]);
    // Equal content tells nobody.
    tell(&mut session, update(&key, 2, 3, full(&[2, 3])));
    assert_eq!(changes.load(Ordering::Relaxed), 2);
    drain(&mut session);

    // A broken delta changes nothing, and the next one no longer fits.
    let mut broken = delta(&[4], &[]);
    if let Resource::EndpointsDelta(delta) = &mut broken {
        delta.upsert[0].weight = 0;
    }
    tell(&mut session, update(&key, 3, 4, broken));
    assert!(nacked(&mut session).contains("weight"));
    tell(&mut session, update(&key, 4, 5, delta(&[5], &[])));
    assert!(matches!(
        &drain(&mut session)[..],
        [Said::Unsubscribe(_), Said::Subscribe(_)]
    ));
    assert_eq!(addresses(&watched), [address(2), address(3)]);

    // None is not the same as not known.
    tell(&mut session, update(&key, 6, 6, not_found()));
    assert!(addresses(&watched).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_breaks_the_rules_is_refused_and_the_last_good_one_stays() {
    let mut bench = Bench::new();
    let discovery = bench.discovery.clone();
    let watched = discovery.inbound(80);
    let key = Key::Inbound(80);
    let (mut session, _, _) = bench.stream();
    tell(
        &mut session,
        update(&key, 1, 1, inbound(wire::MtlsMode::Strict)),
    );
    assert_eq!(acked(&mut session), version(1, 1));
    tell(
        &mut session,
        update(&key, 2, 2, inbound(wire::MtlsMode::Unspecified)),
    );
    assert_eq!(nacked(&mut session), "mtls: missing");
    tell(&mut session, update(&key, 3, 3, full(&[1])));
    assert_eq!(nacked(&mut session), "not a resource for inbound 80");
    let nothing = wire::Update {
        key: Some(key.to_wire()),
        version: Some(version(4, 4)),
        resource: None,
    };
    tell(&mut session, Say::Update(nothing));
    assert_eq!(nacked(&mut session), "no resource that is known here");
    tell(&mut session, Say::Update(wire::Update::default()));
    assert_eq!(nacked(&mut session), "a key that no sidecar asks for");
    let bundle = Resource::TrustBundle(wire::TrustBundle::default());
    tell(&mut session, update(&Key::TrustBundle, 5, 5, bundle));
    assert!(nacked(&mut session).contains("trust roots"));

    assert_eq!(watched.load().unwrap().mtls, MtlsMode::Strict);
    let state = discovery.state();
    assert_eq!(state.nacks, 5);
    let port = state
        .subscriptions
        .iter()
        .find(|it| it.key == "inbound 80")
        .unwrap();
    assert_eq!(port.version.as_deref(), Some("01"));
    assert_eq!(
        port.refused.as_deref(),
        Some("no resource that is known here")
    );

    // What comes right again is taken.
    tell(
        &mut session,
        update(&key, 6, 6, inbound(wire::MtlsMode::Permissive)),
    );
    assert_eq!(acked(&mut session), version(6, 6));
    assert_eq!(watched.load().unwrap().mtls, MtlsMode::Permissive);
}

#[tokio::test(start_paused = true)]
async fn destinations_that_the_mesh_does_not_know() {
    let mut bench = Bench::new();
    let target = bench.discovery.outbound(address(1));
    let key = Key::Outbound(address(1));
    let (mut session, _, _) = bench.stream();
    tell(&mut session, update(&key, 1, 1, not_found()));
    assert_eq!(*target.load().unwrap(), OutboundTarget::NotFound);
}

#[tokio::test(start_paused = true)]
async fn ports_that_nobody_declared_have_the_namespaces_policy() {
    let mut bench = Bench::new();
    let (before, after) = (bench.discovery.inbound(80), bench.discovery.inbound(81));
    let (mut session, _, _) = bench.stream();
    tell(&mut session, update(&Key::Inbound(80), 1, 1, not_found()));
    assert!(before.load().is_none());
    let strict = inbound(wire::MtlsMode::Strict);
    tell(&mut session, update(&Key::Inbound(0), 2, 1, strict));
    assert_eq!(before.load().unwrap().mtls, MtlsMode::Strict);
    assert_eq!(before.load().unwrap().protocol, Protocol::Detect);
    assert!(after.load().is_none());
    tell(&mut session, update(&Key::Inbound(81), 1, 1, not_found()));
    assert_eq!(after.load().unwrap().mtls, MtlsMode::Strict);

    let permissive = inbound(wire::MtlsMode::Permissive);
    tell(&mut session, update(&Key::Inbound(80), 3, 2, permissive));
    let disabled = inbound(wire::MtlsMode::Disabled);
    tell(&mut session, update(&Key::Inbound(0), 4, 3, disabled));
    assert_eq!(before.load().unwrap().mtls, MtlsMode::Permissive);
    assert_eq!(after.load().unwrap().mtls, MtlsMode::Disabled);
    // The default itself must be something.
    drain(&mut session);
    tell(&mut session, update(&Key::Inbound(0), 5, 4, not_found()));
    assert!(nacked(&mut session).contains("not a resource"));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_lags_is_followed_only_when_it_sticks_to_it() {
    let mut bench = Bench::new();
    let discovery = bench.discovery.clone();
    let watched = discovery.endpoints(&cart());
    let key = Key::Endpoints(cart());
    let (mut session, _, _) = bench.stream();
    tell(&mut session, update(&key, 9, 100, full(&[1, 2])));
    drop(session);

    // It catches up in time, by a delta to what it sent itself.
    let (mut session, _, _) = bench.stream();
    tell(&mut session, update(&key, 1, 50, full(&[7])));
    assert!(drain(&mut session).is_empty());
    assert_eq!(addresses(&watched), [address(1), address(2)]);
    tokio::time::advance(Duration::from_secs(9)).await;
    session.follow(Instant::now()).unwrap();
    tell(&mut session, update(&key, 2, 101, delta(&[8], &[])));
    assert_eq!(acked(&mut session), version(2, 101));
    assert_eq!(addresses(&watched), [address(7), address(8)]);
    assert_eq!(session.patience_ends(), None);
    drop(session);

    // It does not: what it sent last is followed ten seconds after the first.
    let (mut session, _, _) = bench.stream();
    let begun = Instant::now();
    tell(&mut session, update(&key, 3, 60, full(&[4])));
    tokio::time::advance(Duration::from_secs(6)).await;
    tell(&mut session, update(&key, 4, 61, delta(&[5], &[])));
    assert_eq!(addresses(&watched), [address(7), address(8)]);
    assert_eq!(session.patience_ends(), Some(begun + LAG_PATIENCE));
    tokio::time::advance(Duration::from_secs(4)).await;
    session.follow(Instant::now()).unwrap();
    assert_eq!(acked(&mut session), version(4, 61));
    assert_eq!(addresses(&watched), [address(4), address(5)]);
    assert_eq!(discovery.state().followed_lagging, 1);
    assert_eq!(session.patience_ends(), None);

    // Equal content does not lag, and makes nothing older.
    tell(&mut session, update(&key, 4, 40, full(&[4, 5])));
    assert_eq!(session.patience_ends(), None);
    let held = discovery.state().subscriptions[0].source_revision;
    assert_eq!(held, Some(61));
}

#[tokio::test(start_paused = true)]
async fn the_table_is_bounded() {
    let mut bench = Bench::with_capacity(5);
    let discovery = bench.discovery.clone();
    // Two places are always taken.
    let kept = discovery.outbound(address(1));
    drop(discovery.outbound(address(2)));
    drop(discovery.outbound(address(3)));

    // Away from the control plane nothing goes.
    let homeless = discovery.outbound(address(4));
    assert!(!homeless.same(&discovery.outbound(address(4))));
    assert_eq!(discovery.state().refused, 2);

    while bench.changes.try_recv().is_ok() {}
    discovery.0.heard(Instant::now());
    let housed = discovery.outbound(address(5));
    assert!(housed.same(&discovery.outbound(address(5))));
    assert!(kept.same(&discovery.outbound(address(1))));
    let mut changes = Vec::new();
    while let Ok(change) = bench.changes.try_recv() {
        changes.push(change);
    }
    let out = |last| Key::Outbound(address(last));
    assert_eq!(
        changes,
        [
            Change::Unsubscribe(out(2)),
            Change::Unsubscribe(out(3)),
            Change::Subscribe(out(5))
        ]
    );
    let (mut session, _, _) = bench.stream();
    // An update that crosses its unsubscription is nobody's.
    tell(&mut session, update(&out(2), 1, 1, not_found()));
    assert!(drain(&mut session).is_empty());
}

struct Echo;

impl CommandHandler for Echo {
    fn handle(&self, command: Command) -> Result<String, String> {
        match command {
            Command::LogLevel(level) => Ok(format!("\"{level}\"")),
            Command::Breaker { endpoint, .. } => Err(format!("{endpoint:?}")),
            Command::ConfigDump => Ok("{}".into()),
            Command::Tap(poll) => Ok(poll.session),
            Command::BreakerList => Ok("b".repeat(MAX_PAYLOAD)),
            Command::MetricsDump => Ok("m".repeat(MAX_PAYLOAD + 1)),
            Command::Traffic(query) => Err(format!("{query:?}")),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn commands_are_answered() {
    let mut bench = Bench::new();
    let discovery = bench.discovery.clone();
    let (mut session, _, _) = bench.stream();
    let mut ask = |kind| {
        tell(&mut session, Say::Command(wire::Command { id: 7, kind }));
        match &drain(&mut session)[..] {
            [Said::CommandReply(reply)] if reply.id == 7 => {
                (reply.payload.clone(), reply.error.clone())
            }
            other => panic!("{other:?}"),
        }
    };
    use wire::command::Kind;
    let level = || Some(Kind::LogLevel("debug".into()));
    assert_eq!(ask(level()).1, "commands are not taken");
    discovery.set_handler(Arc::new(Echo));
    assert_eq!(ask(level()), ("\"debug\"".into(), String::new()));
    assert_eq!(ask(None).1, "unknown command");
    let breaker = |action, port| {
        Some(Kind::Breaker(wire::BreakerCommand {
            backend: None,
            endpoint: Some(wire::SocketAddress {
                ip: vec![10, 0, 0, 1],
                port,
            }),
            action,
        }))
    };
    assert_eq!(ask(breaker(1, 80)).1, "Some(10.0.0.1:80)");
    assert!(ask(breaker(1, 0)).1.contains("port"));
    assert!(ask(breaker(9, 80)).1.contains("unknown value 9"));
    let list = ask(Some(Kind::BreakerList(wire::BreakerList {})));
    assert_eq!((list.0.len(), list.1), (MAX_PAYLOAD, String::new()));
    let metrics = ask(Some(Kind::MetricsDump(wire::MetricsDump {})));
    assert!(metrics.0.is_empty());
    assert!(metrics.1.contains("longer than 4 MiB"), "{}", metrics.1);
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_report_waits() {
    let mut bench = Bench::new();
    let discovery = bench.discovery.clone();
    let (mut session, _, _) = bench.stream();
    session.report().unwrap();
    assert!(drain(&mut session).is_empty());
    discovery.set_reporter(Arc::new(|_| Some(wire::Report::default())));
    session.report().unwrap();
    session.report().unwrap();
    assert!(matches!(&drain(&mut session)[..], [Said::Report(_)]));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_believed_before_hello_is_answered() {
    let mut bench = Bench::new();
    let watched = bench.discovery.inbound(80);
    let mut session = Session::open(&bench.discovery.0, &bench.identity, &mut bench.changes);
    let message = wire::ServerMessage {
        kind: Some(update(
            &Key::Inbound(80),
            1,
            1,
            inbound(wire::MtlsMode::Disabled),
        )),
    };
    let told = session.on_message(message, Instant::now());
    assert_eq!(told, Err(Broken::NoHelloReply));
    assert!(watched.load().is_none());
}

#[tokio::test(start_paused = true)]
async fn age_counts_from_the_loss() {
    let bench = Bench::new();
    let discovery = &bench.discovery;
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!((discovery.config_age() - 3.0).abs() < 0.1);
    discovery.0.heard(Instant::now());
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(discovery.config_age() < 0.001 && discovery.connected());
    discovery.0.lost(Instant::now(), "gone".into());
    tokio::time::advance(Duration::from_secs(30)).await;
    discovery.0.lost(Instant::now(), "still gone".into());
    assert!((discovery.config_age() - 30.0).abs() < 0.1);
    assert_eq!(discovery.state().last_error.as_deref(), Some("still gone"));
}
