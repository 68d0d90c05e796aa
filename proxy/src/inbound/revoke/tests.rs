//! What a change of policy ends and what it does not, on paused time, without a network.

use std::collections::BTreeSet;
use std::task::{Context, Waker};

use http::{Method, Uri};
use proptest::prelude::*;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::advance;
use weft_proto::spiffe::SpiffeId;

use super::*;
use crate::discovery::Discovery;
use crate::http::cuts::Cuttable;
use crate::policy::{AllowEntry, AllowList, MtlsMode, Principal, Probe};
use crate::testing::policies::inbound;

const PORT: u16 = 8080;
const MOMENT: Duration = Duration::from_millis(1);
const METHODS: [Method; 2] = [Method::GET, Method::POST];
const PATHS: [&str; 3] = ["/a", "/b", "/c"];
const ACCOUNTS: [&str; 2] = ["web", "job"];

/// A port whose policy the test tells.
struct Told {
    discovery: Discovery,
    port: Port,
}

impl Told {
    fn new(policy: InboundPolicy) -> Self {
        let told = Self::untold();
        told.tell(policy);
        told
    }

    fn untold() -> Self {
        let discovery = Discovery::untold();
        let address = ([10, 0, 0, 7], PORT).into();
        let port = Port {
            address,
            app: address,
            policy: discovery.inbound(PORT),
        };
        Self { discovery, port }
    }

    fn tell(&self, policy: InboundPolicy) {
        self.discovery.tell_inbound(PORT, policy);
    }

    /// A connection of this caller that never ends of itself.
    fn connection(&self, peer: &Peer) -> Connection {
        let cuts = Arc::new(Cuts::default());
        let (port, peer, known) = (self.port.clone(), peer.clone(), Arc::clone(&cuts));
        let served = tokio::spawn(async move {
            let serving = std::pin::pin!(std::future::pending());
            serve_while_welcome(&port, &peer, &known, serving).await;
        });
        Connection { cuts, served }
    }

    /// What the layers of a request do, to its end: whether it goes on.
    fn judge(&self, peer: &Peer, method: &Method, path: &str) -> bool {
        let policy = self.port.policy.load().expect("a policy was told");
        admit(&policy, peer.id.as_ref(), Wish::Request { method, path }).is_ok()
    }
}

struct Connection {
    cuts: Arc<Cuts>,
    served: JoinHandle<()>,
}

impl Connection {
    fn begin(&self, method: &Method, path: &'static str) -> Cuttable {
        self.cuts.begin(method, &Uri::from_static(path))
    }

    fn is_over(&self) -> bool {
        self.served.is_finished()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.served.abort();
    }
}

fn web() -> Peer {
    Peer::verified(id("web"))
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("t", "shop", account).unwrap()
}

fn entry(account: &str, methods: &[Method], paths: &[&str]) -> AllowEntry {
    AllowEntry {
        principals: vec![Principal::Exact(id(account).as_str().into())],
        methods: methods.to_vec(),
        paths: paths.iter().map(|path| (*path).into()).collect(),
    }
}

fn allows(entries: Vec<AllowEntry>) -> InboundPolicy {
    let audit = false;
    InboundPolicy {
        authorization: vec![AllowList { entries, audit }],
        ..inbound(MtlsMode::Permissive)
    }
}

fn audited(mut policy: InboundPolicy) -> InboundPolicy {
    for list in &mut policy.authorization {
        list.audit = true;
    }
    policy
}

fn is_cut(exchange: &Cuttable) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    exchange.poll_cut(&mut cx).is_ready()
}

/// Everybody who can do something has done it; no time has passed.
async fn settle() {
    for _ in 0..10 {
        yield_now().await;
    }
}

/// Of each: account, method, path.
type Triples = BTreeSet<(usize, usize, usize)>;

fn triples() -> impl Strategy<Value = Triples> {
    prop::collection::btree_set((0..2_usize, 0..2_usize, 0..3_usize), 0..12)
}

fn policy_of(triples: &Triples) -> InboundPolicy {
    let entry = |&(account, method, path): &(usize, usize, usize)| {
        entry(
            ACCOUNTS[account],
            &METHODS[method..=method],
            &PATHS[path..=path],
        )
    };
    allows(triples.iter().map(entry).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Of all that is in flight exactly that is cut which the new policy has not, at once. The connection
    /// ends where nothing is left to its caller, or where it does not let go of what was cut; not before it
    /// had its time, and else not at all.
    #[test]
    fn exactly_what_would_be_denied_ends(
        before in triples(),
        after in triples(),
        lets_go in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let told = Told::new(policy_of(&before));
            let callers = ACCOUNTS.map(|account| told.connection(&Peer::verified(id(account))));
            settle().await;
            let mut flying = Vec::new();
            for &(account, method, path) in &before {
                let exchange = callers[account].begin(&METHODS[method], PATHS[path]);
                flying.push(((account, method, path), exchange));
            }
            told.tell(policy_of(&after));
            settle().await;
            let mut held = [false; 2];
            for (what, exchange) in &flying {
                let denied = !after.contains(what);
                assert_eq!(is_cut(exchange), denied, "{what:?} of {flying:?}");
                held[what.0] |= denied && !lets_go;
            }
            if lets_go {
                flying.retain(|(what, _)| after.contains(what));
            }
            assert!(callers.iter().all(|caller| !caller.is_over()));
            advance(GRACE.saturating_sub(MOMENT)).await;
            settle().await;
            assert!(callers.iter().all(|caller| !caller.is_over()));
            advance(2 * MOMENT).await;
            settle().await;
            for (account, caller) in callers.iter().enumerate() {
                let welcome = after.iter().any(|triple| triple.0 == account);
                assert_eq!(caller.is_over(), !welcome || held[account], "{account}");
            }
        });
    }
}

/// A request begins, and is judged; a policy is told, and acts. In whichever order, the request is refused
/// or cut, and one that stays allowed is neither.
#[tokio::test(start_paused = true)]
async fn whoever_is_first_nothing_slips_through() {
    let orders = [
        "begin judge tell act",
        "begin tell judge act",
        "begin tell act judge",
        "tell begin judge act",
        "tell begin act judge",
        "tell act begin judge",
    ];
    for order in orders {
        let (web, get) = (web(), Method::GET);
        let told = Told::new(allows(vec![entry("web", &[], &[])]));
        let connection = told.connection(&web);
        settle().await;
        let mut exchanges = None;
        let mut admitted = [false; 2];
        for step in order.split(' ') {
            match step {
                "begin" => {
                    exchanges = Some(["/a", "/b"].map(|path| connection.begin(&get, path)));
                }
                "judge" => admitted = ["/a", "/b"].map(|path| told.judge(&web, &get, path)),
                "tell" => told.tell(allows(vec![entry("web", &[], &["/b"])])),
                _ => settle().await,
            }
        }
        let [revoked, kept] = exchanges.expect("every order begins");
        assert!(!admitted[0] || is_cut(&revoked), "{order}");
        assert!(admitted[1] && !is_cut(&kept), "{order}");
        // Only what was admitted before it changed has to be cut.
        assert_eq!(admitted[0], order.starts_with("begin judge"), "{order}");
    }
}

/// The same while the connection still has its grace for a former change.
#[tokio::test(start_paused = true)]
async fn a_change_within_the_grace_of_another_acts_after_it() {
    let told = Told::new(allows(vec![entry("web", &[], &[])]));
    let connection = told.connection(&web());
    settle().await;
    let get = Method::GET;
    let [first, second, kept] = PATHS.map(|path| connection.begin(&get, path));
    told.tell(allows(vec![entry("web", &[], &["/b", "/c"])]));
    settle().await;
    assert!(is_cut(&first) && !is_cut(&second));
    drop(first);
    advance(GRACE / 2).await;
    told.tell(allows(vec![entry("web", &[], &["/c"])]));
    let late = connection.begin(&get, "/b");
    assert!(!told.judge(&web(), &get, "/b"), "the new policy holds");
    advance(GRACE / 2 + MOMENT).await;
    settle().await;
    assert!(is_cut(&second) && is_cut(&late) && !is_cut(&kept));
    drop((second, late));
    advance(GRACE + MOMENT).await;
    settle().await;
    assert!(!connection.is_over());
}

#[tokio::test(start_paused = true)]
async fn what_only_would_be_denied_goes_on() {
    let everything = || allows(vec![entry("web", &[], &[])]);
    let told = Told::new(everything());
    let connection = told.connection(&web());
    settle().await;
    let exchange = connection.begin(&Method::GET, "/a");
    let nobody = || allows(Vec::new());
    for policy in [everything(), audited(nobody()), everything()] {
        told.tell(policy);
        advance(2 * GRACE).await;
        settle().await;
        assert!(!is_cut(&exchange) && !connection.is_over());
    }
    told.tell(nobody());
    settle().await;
    assert!(is_cut(&exchange), "and this was no test otherwise");
}

/// Whoever proved nothing, when the port becomes strict: probes go on and nothing else does.
#[tokio::test(start_paused = true)]
async fn going_strict_leaves_probes() {
    let probed = |mtls| InboundPolicy {
        probes: vec![Probe {
            method: Method::GET,
            path: "/healthz".into(),
        }],
        ..inbound(mtls)
    };
    let told = Told::new(probed(MtlsMode::Permissive));
    let connection = told.connection(&Peer::unknown());
    let verified = told.connection(&web());
    settle().await;
    let get = Method::GET;
    let (probe, other) = (
        connection.begin(&get, "/healthz"),
        connection.begin(&get, "/a"),
    );
    let kept = verified.begin(&get, "/a");
    told.tell(probed(MtlsMode::Strict));
    settle().await;
    assert!(!is_cut(&probe) && is_cut(&other) && !is_cut(&kept));
    drop(other);
    advance(2 * GRACE).await;
    settle().await;
    assert!(!connection.is_over() && !verified.is_over());
}

/// Bytes, and what follows an upgrade: how each ends under which change.
#[tokio::test(start_paused = true)]
async fn bytes_end_where_they_would_not_be_let_in() {
    let events = Wish::Request {
        method: &Method::GET,
        path: "/events",
    };
    let open = || inbound(MtlsMode::Permissive);
    let only = |account| allows(vec![entry(account, &[], &[])]);
    let below = |path| allows(vec![entry("web", &[Method::GET], &[path])]);
    let (denied, strict) = (Some(Outcome::Unauthorized), Some(Outcome::MtlsRequired));
    for (name, caller, wish, after, ends) in [
        ("the same", web(), Wish::Bytes, only("web"), None),
        ("another account", web(), Wish::Bytes, only("job"), denied),
        ("audited", web(), Wish::Bytes, audited(only("job")), None),
        ("paths", web(), Wish::Bytes, below("/events"), denied),
        ("its path", web(), events, below("/events"), None),
        ("another path", web(), events, below("/other"), denied),
        (
            "strict",
            web(),
            Wish::Bytes,
            inbound(MtlsMode::Strict),
            None,
        ),
        (
            "strict",
            Peer::unknown(),
            Wish::Bytes,
            inbound(MtlsMode::Strict),
            strict,
        ),
        ("a list", Peer::unknown(), events, only("web"), denied),
        ("open", Peer::unknown(), Wish::Bytes, open(), None),
    ] {
        let told = Told::new(open());
        let seen = told.port.policy.load();
        let relaying = std::pin::pin!(async {
            settle().await;
            told.tell(after);
            settle().await;
        });
        let relayed = relay_while_welcome(&told.port, &caller, wish, seen, relaying).await;
        assert_eq!(relayed.err(), ends, "{name} of {}", caller.label);
    }
}

/// Between the decision and the first byte the application is dialled: what changes then counts.
#[tokio::test(start_paused = true)]
async fn no_byte_passes_that_was_revoked_before_the_first() {
    let told = Told::new(inbound(MtlsMode::Permissive));
    let seen = told.port.policy.load();
    told.tell(allows(Vec::new()));
    let mut passed = false;
    let relaying = std::pin::pin!(async { passed = true });
    let relayed = relay_while_welcome(&told.port, &web(), Wish::Bytes, seen, relaying).await;
    assert_eq!(relayed, Err(Outcome::Unauthorized));
    assert!(!passed);
}

/// Nothing is known of a port at first: what is told then is a change like any other.
#[tokio::test(start_paused = true)]
async fn the_first_policy_counts_too() {
    let told = Told::untold();
    let connection = told.connection(&web());
    settle().await;
    let exchange = connection.begin(&Method::GET, "/a");
    told.tell(allows(vec![entry("web", &[], &["/b"])]));
    settle().await;
    assert!(is_cut(&exchange));
}
