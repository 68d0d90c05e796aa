use proptest::prelude::*;
use tokio::time::advance;

use super::*;

fn edges() -> Arc<Edges> {
    Edges::new(Counter::noop())
}

fn address(last: u8) -> Caller {
    Caller::Address(IpAddr::from([10, 0, 0, last]))
}

fn visit(edges: &Arc<Edges>, from: Caller) -> Visit {
    edges.visit(8080, "shop/cart:80".into(), from)
}

fn told(edges: &Edges) -> Vec<wire::Edge> {
    let mut told = edges.report(true).expect("anew").edges;
    told.sort_by(|a, b| (a.tls, &a.peer, &a.address).cmp(&(b.tls, &b.peer, &b.address)));
    told
}

#[tokio::test(start_paused = true)]
async fn a_connection_counts_once_for_each_thing_that_it_is() {
    let edges = edges();
    let one = visit(&edges, address(1));
    for tls in [EdgeTls::Plaintext, EdgeTls::Exempt, EdgeTls::Plaintext] {
        one.request(tls, Instant::now());
    }
    let another = visit(&edges, address(1));
    another.request(EdgeTls::Plaintext, Instant::now());
    // Nothing was asked of this one.
    drop(visit(&edges, address(2)));
    let told = told(&edges);
    let counts: Vec<_> = told
        .iter()
        .map(|edge| (edge.tls(), edge.connections, edge.requests))
        .collect();
    assert_eq!(
        counts,
        [(EdgeTls::Plaintext, 2, 3), (EdgeTls::Exempt, 1, 1)]
    );
    assert_eq!(told[0].address, [10, 0, 0, 1]);
    assert_eq!((told[0].port, &*told[0].service), (8080, "shop/cart:80"));
}

#[tokio::test(start_paused = true)]
async fn servers_share_an_edge_by_service_and_identity() {
    let edges = edges();
    let called = |peer: &str, tls| edges.called("shop/cart:80".into(), peer.into(), tls);
    let servers = ["shop/cart", "shop/cart", "shop/other"];
    for server in servers.map(|peer| called(peer, EdgeTls::Mesh)) {
        server.connection(Instant::now());
        server.request(Instant::now());
        server.request(Instant::now());
    }
    let told = told(&edges);
    let counts: Vec<_> = told
        .iter()
        .map(|edge| (&*edge.peer, edge.connections, edge.requests, edge.outbound))
        .collect();
    assert_eq!(
        counts,
        [("shop/cart", 2, 4, true), ("shop/other", 1, 2, true)]
    );
}

#[tokio::test(start_paused = true)]
async fn only_what_changed_is_told_again() {
    let edges = edges();
    let first = edges.report(false).expect("that it watches is news");
    assert_eq!((first.edges.len(), first.run), (0, edges.run));
    assert_eq!(edges.report(false), None);
    let visit = visit(&edges, address(1));
    let open = visit.bytes(EdgeTls::Passthrough, Instant::now());
    advance(Duration::from_secs(100)).await;
    let report = edges.report(false).expect("a connection came");
    assert_eq!(report.watched_seconds, 100);
    assert_eq!((report.edges[0].open, report.edges[0].last_seconds), (1, 0));
    assert_eq!(edges.report(false), None, "it is only still open");
    drop(open);
    advance(Duration::from_secs(7)).await;
    let report = edges.report(false).expect("it was closed");
    assert_eq!((report.edges[0].open, report.edges[0].last_seconds), (0, 7));
    assert!(edges.report(true).is_some());
    assert_eq!(edges.report(false), None);
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_seen_makes_room() {
    let edges = edges();
    let visits: Vec<_> = (0..MAX_HALF as u8)
        .map(|last| visit(&edges, address(last)))
        .collect();
    for visit in &visits {
        visit.request(EdgeTls::Plaintext, Instant::now());
    }
    advance(ACTIVE).await;
    for visit in &visits[1..] {
        visit.request(EdgeTls::Plaintext, Instant::now());
    }
    // One that is not in plaintext takes nobody's room.
    visit(&edges, Caller::Identity("shop/web".into())).request(EdgeTls::Mesh, Instant::now());
    assert_eq!(told(&edges).len(), MAX_HALF + 1);
    let newcomer = visit(&edges, address(200));
    newcomer.request(EdgeTls::Plaintext, Instant::now());
    let report = edges.report(true).unwrap();
    assert_eq!((report.edges.len(), report.forgotten), (MAX_HALF + 1, 1));
    let is_there = |last: u8| report.edges.iter().any(|it| it.address == [10, 0, 0, last]);
    assert!(!is_there(0) && is_there(1) && is_there(200));

    // All others were just seen: who comes now waits outside, and loses nothing by it.
    visits[0].request(EdgeTls::Plaintext, Instant::now());
    let late = visit(&edges, address(201));
    late.request(EdgeTls::Plaintext, Instant::now());
    assert!(!told(&edges).iter().any(|it| it.address == [10, 0, 0, 201]));
    advance(ACTIVE).await;
    late.request(EdgeTls::Plaintext, Instant::now());
    let told = told(&edges);
    let late = told.iter().find(|it| it.address == [10, 0, 0, 201]);
    let late = late.map(|it| (it.connections, it.requests));
    assert_eq!(late, Some((1, 2)));
}

#[tokio::test(start_paused = true)]
async fn what_is_open_is_not_forgotten() {
    let edges = edges();
    let visit_open = visit(&edges, address(255));
    let open = visit_open.bytes(EdgeTls::Plaintext, Instant::now());
    advance(ACTIVE * 100).await;
    for last in 0..250 {
        visit(&edges, address(last)).request(EdgeTls::Plaintext, Instant::now());
        advance(ACTIVE).await;
    }
    let is_there = |edges: &Edges| told(edges).iter().any(|it| it.address == [10, 0, 0, 255]);
    assert!(is_there(&edges));
    drop(open);
    advance(ACTIVE * 2_000).await;
    for last in 0..250 {
        visit(&edges, address(last)).request(EdgeTls::Plaintext, Instant::now());
        advance(ACTIVE).await;
    }
    assert!(!is_there(&edges));
}

/// What happens to a table.
#[derive(Clone, Debug)]
enum Step {
    /// Somebody makes a request over one of a few connections.
    Request {
        who: u16,
        tls: EdgeTls,
    },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let tls = prop::sample::select(vec![
        EdgeTls::Mesh,
        EdgeTls::Plaintext,
        EdgeTls::Exempt,
        EdgeTls::Passthrough,
        EdgeTls::Refused,
    ]);
    prop_oneof![
        20 => (0u16..400, tls).prop_map(|(who, tls)| Step::Request { who, tls }),
        1 => (0u64..30).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whoever comes in whatever order: the bound holds for each half, and what is listed has all that
    /// its live connection counted.
    #[test]
    fn bounded_and_nothing_counted_twice(steps in prop::collection::vec(step(), 0..2_000)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let edges = edges();
            let name = |who: u16| Caller::Address(IpAddr::from([10, 0, (who >> 8) as u8, who as u8]));
            let visits: Vec<_> = (0..400).map(|who| visit(&edges, name(who))).collect();
            let mut truth: HashMap<(u16, EdgeTls), u64> = HashMap::new();
            for step in steps {
                match step {
                    Step::Wait(seconds) => advance(Duration::from_secs(seconds)).await,
                    Step::Request { who, tls } => {
                        // One kind of its own for each connection.
                        let tls = match tls {
                            EdgeTls::Exempt | EdgeTls::Refused => tls,
                            _ if who % 2 == 0 => EdgeTls::Mesh,
                            _ => EdgeTls::Plaintext,
                        };
                        visits[usize::from(who)].request(tls, Instant::now());
                        *truth.entry((who, tls)).or_default() += 1;
                    }
                }
                let table = edges.table.lock();
                assert!(table.halves.iter().all(|half| half.len() <= MAX_HALF));
            }
            let report = edges.report(true).unwrap();
            assert!(report.edges.len() as u64 + report.forgotten >= truth.len() as u64);
            for edge in report.edges {
                let who = u16::from(edge.address[2]) << 8 | u16::from(edge.address[3]);
                assert_eq!(Some(&edge.requests), truth.get(&(who, edge.tls())), "{edge:?}");
                assert_eq!(edge.connections, 1);
            }
        });
    }
}
