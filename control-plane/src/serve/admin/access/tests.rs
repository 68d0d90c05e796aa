//! Who gets in from where, and what is remembered.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use weft_proto::discovery::{
    BreakerCommand, BreakerList, ConfigDump, MetricsDump, TapPoll, TrafficQuery,
};

use super::recent::{ALLOWED, DENIED, MAX_REMEMBERED, key};
use super::*;

const POD: &str = "10.0.0.7:40000";
const LOOPBACK: [&str; 3] = ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"];

/// Answers all alike.
struct Fake {
    answer: Mutex<Result<String, Denied>>,
    asked: AtomicUsize,
}

impl Fake {
    fn new(answer: Result<String, Denied>) -> Arc<Self> {
        Arc::new(Self {
            answer: Mutex::new(answer),
            asked: AtomicUsize::new(0),
        })
    }

    fn gate(self: &Arc<Self>) -> Gate {
        let reviewer: Arc<dyn AccessReviewer> = self.clone();
        Gate::reviewed(watch::channel(Some(reviewer)).1)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl AccessReviewer for Fake {
    fn review<'a>(&'a self, _: &'a str, _: Verb) -> BoxFuture<'a, Result<String, Denied>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer.lock().clone();
        Box::pin(async move { answer })
    }

    fn namespace(&self) -> &'static str {
        "mesh"
    }
}

fn with(authorization: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, authorization.parse().unwrap());
    headers
}

async fn code(gate: &Gate, peer: &str, headers: &HeaderMap, verb: Verb) -> u16 {
    let judged = gate.admit(peer.parse().unwrap(), headers, verb, "x").await;
    judged.map_or_else(|answer| answer.status().as_u16(), |()| 200)
}

#[tokio::test]
async fn without_a_cluster_only_loopback_gets_in() {
    for verb in [Verb::Observe, Verb::Operate] {
        for peer in LOOPBACK {
            assert_eq!(
                code(&Gate::Loopback, peer, &HeaderMap::new(), verb).await,
                200
            );
        }
        for headers in [HeaderMap::new(), with("Bearer good")] {
            assert_eq!(code(&Gate::Loopback, POD, &headers, verb).await, 403);
        }
    }
}

#[tokio::test]
async fn in_a_cluster_loopback_is_nobody_in_particular() {
    let fake = Fake::new(Ok("alice".to_owned()));
    let gate = fake.gate();
    for peer in LOOPBACK.into_iter().chain([POD]) {
        for headers in [
            HeaderMap::new(),
            with("Bearer"),
            with("Bearer  "),
            with("Basic good"),
            with(&format!("Bearer {}", "x".repeat(MAX_TOKEN_LEN + 1))),
        ] {
            assert_eq!(
                code(&gate, peer, &headers, Verb::Observe).await,
                401,
                "{headers:?}"
            );
        }
        assert_eq!(
            code(&gate, peer, &with("bearer good"), Verb::Operate).await,
            200
        );
    }
    assert_eq!(fake.asked(), 1, "the others came with what it had said");
}

#[tokio::test]
async fn nobody_gets_in_before_there_is_a_reviewer() {
    let (_serving, reviewer) = watch::channel(None);
    let gate = Gate::reviewed(reviewer);
    assert_eq!(
        code(&gate, LOOPBACK[0], &with("Bearer good"), Verb::Observe).await,
        503
    );
}

#[tokio::test]
async fn what_nobody_can_say_is_asked_again() {
    let fake = Fake::new(Err(Denied::Unavailable("it is away".to_owned())));
    let gate = fake.gate();
    let headers = with("Bearer good");
    assert_eq!(code(&gate, POD, &headers, Verb::Observe).await, 503);
    *fake.answer.lock() = Ok("alice".to_owned());
    assert_eq!(code(&gate, POD, &headers, Verb::Observe).await, 200);
    // Another verb is another question.
    assert_eq!(code(&gate, POD, &headers, Verb::Operate).await, 200);
    assert_eq!(fake.asked(), 3);
}

#[tokio::test]
async fn refusals_say_what_mends_them() {
    let fake = Fake::new(Err(Denied::Forbidden {
        user: "bob".to_owned(),
    }));
    let gate = fake.gate();
    let peer = POD.parse().unwrap();
    let refused = gate
        .admit(peer, &with("Bearer good"), Verb::Operate, "x")
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.status(), 403);
    let text = body(refused).await;
    for words in [
        "bob may not operate",
        "meshes.weft.dev",
        "weft-operate",
        "weft-operator",
    ] {
        assert!(text.contains(words), "{text}");
    }
    let refused = gate
        .admit(peer, &HeaderMap::new(), Verb::Observe, "x")
        .await;
    let refused = refused.unwrap_err();
    let challenge = &refused.headers()[WWW_AUTHENTICATE];
    assert_eq!(
        challenge,
        r#"Bearer realm="admin.weft.dev", verb="observe", namespace="mesh""#
    );
    let text = body(refused).await;
    assert!(
        text.contains("kubectl -n mesh create token weft-observer --audience admin.weft.dev"),
        "{text}"
    );
}

async fn body(answer: Refusal) -> String {
    use http_body_util::BodyExt as _;
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[test]
fn what_is_not_known_to_look_only_changes() {
    let observe = [
        Kind::BreakerList(BreakerList {}),
        Kind::ConfigDump(ConfigDump {}),
        Kind::MetricsDump(MetricsDump {}),
        Kind::Traffic(TrafficQuery::default()),
        Kind::LogLevel(String::new()),
    ];
    for kind in &observe {
        assert_eq!(Verb::of_command(Some(kind)), Verb::Observe, "{kind:?}");
    }
    let operate = [
        Kind::Breaker(BreakerCommand::default()),
        Kind::LogLevel("debug".to_owned()),
        Kind::TapPoll(TapPoll::default()),
    ];
    for kind in &operate {
        assert_eq!(Verb::of_command(Some(kind)), Verb::Operate, "{kind:?}");
    }
    assert_eq!(Verb::of_command(None), Verb::Operate);
    for path in PUBLIC {
        assert_eq!(Verb::of(&Method::GET, path), None);
    }
    for path in ["/status", "/edges", "/identity", "/what-comes-later"] {
        assert_eq!(Verb::of(&Method::GET, path), Some(Verb::Observe));
        assert_eq!(Verb::of(&Method::POST, path), Some(Verb::Operate));
    }
    assert_eq!(
        Verb::of(&Method::PUT, "/identity/rotate/root"),
        Some(Verb::Operate)
    );
}

proptest! {
    /// Never more than the bound, never longer than said, and nothing of another token or verb.
    #[test]
    fn what_is_remembered_is_true_and_bounded(
        events in prop::collection::vec((0..600_u32, 0..3_u8, any::<bool>(), 0..4_000_u64), 0..800),
    ) {
        let mut now = Instant::now();
        let mut recent = Recent::default();
        let mut said = std::collections::HashMap::new();
        for (token, answer, operates, later) in events {
            now += std::time::Duration::from_millis(later / 100);
            let verb = if operates { Verb::Operate } else { Verb::Observe };
            let key = key(&token.to_string(), verb);
            if let Some(found) = recent.find(&key, now) {
                let (then, known) = &said[&key];
                prop_assert_eq!(&found, known);
                let lifetime = if found.is_ok() { ALLOWED } else { DENIED };
                prop_assert!(now.duration_since(*then) < lifetime);
                continue;
            }
            let judged = match answer {
                0 => Ok(token.to_string()),
                1 => Err(Denied::Invalid("no".to_owned())),
                _ => Err(Denied::Unavailable("away".to_owned())),
            };
            recent.keep(key, &judged, now);
            prop_assert!(recent.len() <= MAX_REMEMBERED);
            if matches!(judged, Err(Denied::Unavailable(_))) {
                prop_assert_eq!(recent.find(&key, now), None);
            } else {
                said.insert(key, (now, judged));
            }
        }
    }
}
