//! One keeper, and two of them on one store, with time as an argument.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt as _, ready};
use parking_lot::Mutex;
use serde_json::Value;
use zeroize::Zeroizing;

use super::{InStep, Keeper, Kept, Refused, Store, StoreError, Written};
use crate::identity::rotation::{Kind, Phase, Published, Timing};
use crate::identity::tests::given::Root;
use crate::identity::{
    Authority, BeginError, Document, Fingerprint, GivenText, Lifetimes, TrustBundle,
};
use crate::serve::Metrics;
use crate::serve::admin::Trusted;
use crate::serve::counts::Trust;
use crate::serve::replicas::Standpoint;

const DOMAIN: &str = "mesh.test";
const LEAF: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A store in memory.
#[derive(Clone)]
struct Memory {
    kept: Arc<Mutex<Option<String>>>,
    asked: Arc<Mutex<Option<Kind>>>,
    waiting_for: Arc<Mutex<Option<String>>>,
    /// How often the last one was said.
    said: Arc<AtomicU32>,
    published: Arc<Mutex<Published>>,
    /// Fails every call.
    away: Arc<AtomicBool>,
    leads: Arc<AtomicBool>,
}

impl Memory {
    fn new() -> Self {
        let made = Authority::make_state_with(DOMAIN, &Lifetimes::DEFAULT, LEAF, SystemTime::now());
        Self {
            kept: Arc::new(Mutex::new(Some(made.unwrap().to_string()))),
            asked: Arc::default(),
            waiting_for: Arc::default(),
            said: Arc::default(),
            published: Arc::new(Mutex::new(Published::Everywhere)),
            away: Arc::default(),
            leads: Arc::new(AtomicBool::new(true)),
        }
    }

    fn document(&self) -> Document {
        let text = self.kept.lock().clone().unwrap();
        Document::parse(text.as_bytes(), DOMAIN, SystemTime::now()).unwrap()
    }

    fn phase(&self) -> Option<(Kind, Phase)> {
        let underway = self.document().underway?;
        Some((underway.rotation.kind, underway.rotation.phase))
    }

    /// The same store for another process.
    fn other(&self, leads: bool) -> Self {
        Self {
            leads: Arc::new(AtomicBool::new(leads)),
            ..self.clone()
        }
    }
}

impl Store for Memory {
    fn place(&self) -> String {
        "the memory".to_owned()
    }

    fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    fn read(&self) -> BoxFuture<'_, Result<Option<Kept>, StoreError>> {
        if self.away.load(Ordering::Relaxed) {
            return ready(Err(StoreError("away".to_owned()))).boxed();
        }
        let kept = self.kept.lock().clone().map(|text| Kept {
            version: text.clone(),
            text: Zeroizing::new(text.into_bytes()),
            asked: *self.asked.lock(),
            waiting_for: self.waiting_for.lock().clone(),
        });
        ready(Ok(kept)).boxed()
    }

    fn write<'a>(
        &'a self,
        next: &'a Document,
        over: &'a Kept,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        let mut kept = self.kept.lock();
        if kept.as_ref() != Some(&over.version) {
            return ready(Ok(Written::Overtaken)).boxed();
        }
        *kept = Some(next.to_text().to_string());
        *self.asked.lock() = None;
        *self.waiting_for.lock() = None;
        ready(Ok(Written::Done)).boxed()
    }

    fn forget_asked<'a>(&'a self, _: &'a Kept) -> BoxFuture<'a, Result<Written, StoreError>> {
        *self.asked.lock() = None;
        ready(Ok(Written::Done)).boxed()
    }

    fn say_waiting<'a>(
        &'a self,
        waiting_for: Option<&'a str>,
        _: &'a Kept,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        self.said.fetch_add(1, Ordering::Relaxed);
        *self.waiting_for.lock() = waiting_for.map(str::to_owned);
        ready(Ok(Written::Done)).boxed()
    }

    fn published<'a>(&'a self, _: &'a TrustBundle) -> BoxFuture<'a, Published> {
        ready(*self.published.lock()).boxed()
    }

    fn ask(&self, kind: Kind) -> BoxFuture<'_, Result<(), StoreError>> {
        *self.asked.lock() = Some(kind);
        ready(Ok(())).boxed()
    }
}

/// A process, and the time that it sees.
struct Process {
    keeper: Keeper,
    authority: Arc<Authority>,
    metrics: Metrics,
    in_step: InStep,
    now: SystemTime,
}

impl Process {
    fn start(store: &Memory) -> Self {
        let now = SystemTime::now();
        let text = store.kept.lock().clone().unwrap();
        let authority = Authority::from_state(text.as_bytes(), DOMAIN, LEAF, now).unwrap();
        let authority = Arc::new(authority);
        let metrics = Metrics::new();
        Self {
            keeper: Keeper::new(
                authority.clone(),
                store.clone(),
                Lifetimes::DEFAULT,
                &metrics,
            ),
            authority,
            metrics,
            in_step: InStep::default(),
            now,
        }
    }

    /// As others hear it.
    fn standpoint(&self, lagging: u32) -> Standpoint {
        Standpoint {
            replica: "one".to_owned(),
            trust: Some(Trust {
                stand: self.authority.stand(),
                lagging,
                names: Vec::new(),
            }),
        }
    }

    async fn round(
        &mut self,
        wanted: Option<Kind>,
        others: &[Standpoint],
        lagging: u32,
    ) -> Result<(), Refused> {
        let mut all = vec![self.standpoint(lagging)];
        all.extend_from_slice(others);
        let all = || all.clone();
        self.keeper
            .round(&all, &mut self.in_step, wanted, self.now)
            .await
    }

    /// Time goes by, with a look every minute.
    async fn go_on(&mut self, minutes: u32, others: &[Standpoint], lagging: u32) {
        for _ in 0..minutes {
            self.now += MINUTE;
            tokio::time::advance(MINUTE).await;
            self.round(None, others, lagging).await.unwrap();
        }
    }

    fn phase(&self) -> Option<(Kind, Phase)> {
        let underway = self.keeper.document().underway.clone()?;
        Some((underway.rotation.kind, underway.rotation.phase))
    }

    fn roots(&self) -> Vec<Fingerprint> {
        self.authority.stand().roots
    }

    fn status(&self) -> Value {
        serde_json::to_value(self.keeper.status()).unwrap()
    }

    fn metric(&self, name: &str) -> u64 {
        let page = self.metrics.render();
        let line = page.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_root_is_replaced_phase_by_phase() {
    let store = Memory::new();
    let mut process = Process::start(&store);
    let old = process.roots();
    process.round(Some(Kind::Root), &[], 0).await.unwrap();
    assert_eq!(store.phase(), Some((Kind::Root, Phase::Publish)));
    assert_eq!(process.roots().len(), 2);
    assert_eq!(
        process.authority.stand().issuer,
        Process::start(&store).authority.stand().issuer
    );

    // Somebody has not confirmed; and the bundle is not where sidecars boot from.
    process.go_on(30, &[], 1).await;
    *store.published.lock() = Published::No;
    process.go_on(10, &[], 0).await;
    assert_eq!(store.phase(), Some((Kind::Root, Phase::Publish)));
    let refused = process.round(Some(Kind::Issuer), &[], 1).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("no phase of it can be skipped"),
        "{refused}"
    );
    assert_eq!(
        process.metric("weft_control_plane_rotation_phase{kind=\"root\",phase=\"publish\"}"),
        1
    );

    *store.published.lock() = Published::Everywhere;
    process.go_on(4, &[], 0).await;
    assert_eq!(store.phase(), Some((Kind::Root, Phase::Sign)));
    assert_eq!(process.roots().len(), 2);
    let sign = process.now;
    // A leaf, the margin, the clocks; no minute sooner.
    let timing = Timing::of(LEAF);
    let whole = timing.leaf + timing.margin + timing.slack;
    let minutes = (whole.as_secs() / 60) as u32;
    process.go_on(minutes - 2, &[], 0).await;
    assert_eq!(store.phase(), Some((Kind::Root, Phase::Sign)));
    process.go_on(3, &[], 0).await;
    assert_eq!(
        store.phase(),
        None,
        "{:?}",
        process.now.duration_since(sign)
    );
    let new = process.roots();
    assert!(new.len() == 1 && new != old);
    // And the next one may come.
    process.round(Some(Kind::Root), &[], 0).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_is_said_whom_a_rotation_waits_for() {
    let store = Memory::new();
    let mut process = Process::start(&store);
    let said = |store: &Memory| {
        let text = store.waiting_for.lock().clone();
        text.map(|text| serde_json::from_str::<Value>(&text).unwrap())
    };
    let unheard = Standpoint {
        replica: "10.0.0.9".to_owned(),
        trust: None,
    };
    process.round(Some(Kind::Root), &[], 0).await.unwrap();
    // What is over in moments is not said.
    process.round(None, &[], 3).await.unwrap();
    assert_eq!(said(&store), None);
    process.go_on(1, &[unheard], 3).await;
    let waiting = said(&store).unwrap();
    assert_eq!(waiting["replicas"], serde_json::json!(["10.0.0.9"]));
    assert_eq!(waiting["sidecars"], 3);
    assert_eq!(waiting["bundle"], false);
    assert_eq!(store.said.load(Ordering::Relaxed), 1);
    // Not anew, however long it lasts; and what changes again in the same moment is said later.
    process.go_on(5, &[], 3).await;
    assert_eq!(store.said.load(Ordering::Relaxed), 2);
    for lagging in [1, 2, 3, 4] {
        process.round(None, &[], lagging).await.unwrap();
    }
    assert_eq!(store.said.load(Ordering::Relaxed), 3);
    process.go_on(1, &[], 0).await;
    assert_eq!(said(&store), None);
    assert_eq!(store.said.load(Ordering::Relaxed), 4);
    process.go_on(20, &[], 0).await;
    assert_eq!(store.phase(), Some((Kind::Root, Phase::Sign)));
    // Who does not lead says nothing.
    let mut follower = Process::start(&store.other(false));
    follower.go_on(2, &[], 5).await;
    assert_eq!(store.said.load(Ordering::Relaxed), 4);
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_confirm_is_waited_for_as_long_as_a_leaf_lives() {
    let store = Memory::new();
    let mut process = Process::start(&store);
    process.round(Some(Kind::Root), &[], 0).await.unwrap();
    let silent = Standpoint {
        replica: "two".to_owned(),
        trust: None,
    };
    let others = [silent];
    process.go_on(68, &others, 0).await;
    assert_eq!(store.phase(), Some((Kind::Root, Phase::Publish)));
    process.go_on(4, &others, 0).await;
    assert_eq!(store.phase(), Some((Kind::Root, Phase::Sign)));
    // One that may still sign with the old one is waited for without a bound.
    process.go_on(600, &others, 0).await;
    assert_eq!(store.phase(), Some((Kind::Root, Phase::Sign)));
    let until = store.document().underway.unwrap().rotation.old_until;
    assert!(
        until > process.now + LEAF - MINUTE,
        "what it may sign is written down"
    );
    process.go_on(80, &[], 0).await;
    assert_eq!(store.phase(), None);
}

#[tokio::test(start_paused = true)]
async fn another_one_goes_on_where_the_leader_was() {
    let store = Memory::new();
    let mut first = Process::start(&store);
    let follows = store.other(false);
    let mut second = Process::start(&follows);
    first.round(Some(Kind::Root), &[], 0).await.unwrap();
    // It follows, and writes nothing.
    second.round(None, &[], 0).await.unwrap();
    assert_eq!(second.roots(), first.roots());
    second.go_on(10, &[first.standpoint(0)], 0).await;
    assert_eq!(store.phase(), Some((Kind::Root, Phase::Publish)));
    let refused = second.keeper.rotate(Kind::Issuer).await.unwrap_err();
    assert!(matches!(refused, Refused::Begin(_)), "{refused}");

    // The first one is gone.
    drop(first);
    follows.leads.store(true, Ordering::Relaxed);
    second.go_on(4, &[], 0).await;
    assert_eq!(store.phase(), Some((Kind::Root, Phase::Sign)));
    // A third one starts in the middle, and is where the others are.
    let third = Process::start(&store.other(false));
    assert_eq!(
        third.authority.stand().issuer,
        second.authority.stand().issuer
    );
    second.go_on(80, &[], 0).await;
    assert_eq!(store.phase(), None);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_asks() {
    let store = Memory::new();
    let mut leader = Process::start(&store);
    let follower = Process::start(&store.other(false));
    let asked = follower.keeper.rotate(Kind::Issuer).await;
    assert_eq!(asked, Ok(super::Accepted::Asked));
    let issuer = leader.authority.stand().issuer;
    leader.round(None, &[], 0).await.unwrap();
    assert_eq!(store.phase(), Some((Kind::Issuer, Phase::Sign)));
    assert_ne!(leader.authority.stand().issuer, issuer);
    assert_eq!(*store.asked.lock(), None);
    // It has not looked since, and still knows better than to ask.
    let refused = follower.keeper.rotate(Kind::Root).await;
    assert_eq!(
        refused,
        Err(Refused::Begin(BeginError::Underway {
            kind: Kind::Issuer,
            phase: Phase::Sign
        }))
    );
    assert_eq!(*store.asked.lock(), None);
    // Asked for meanwhile: forgotten, not kept for later.
    *store.asked.lock() = Some(Kind::Root);
    leader.round(None, &[], 0).await.unwrap();
    assert_eq!(*store.asked.lock(), None);
    assert_eq!(store.phase(), Some((Kind::Issuer, Phase::Sign)));
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_broken_foreign_or_older_changes_nothing() {
    let store = Memory::new();
    let mut process = Process::start(&store);
    let older = store.kept.lock().clone().unwrap();
    process.round(Some(Kind::Root), &[], 0).await.unwrap();
    process.go_on(4, &[], 0).await;
    let good = store.kept.lock().clone().unwrap();
    let stand = process.authority.stand();
    let foreign = Memory::new().kept.lock().clone().unwrap();
    let cases = [
        (None, "is gone"),
        (Some(String::new()), "root certificate, root key"),
        (Some(good[..good.len() / 2].to_owned()), "not taken"),
        (Some(foreign), "another authority's"),
        (Some(older), "older"),
    ];
    for (kept, words) in cases {
        store.kept.lock().clone_from(&kept);
        let refused = process.round(Some(Kind::Issuer), &[], 0).await.unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
        assert_eq!(*store.kept.lock(), kept, "nothing is written over it");
        assert_eq!(process.authority.stand(), stand);
        assert_eq!(
            process.metric("weft_control_plane_authority_secret_intact "),
            0
        );
        let status = process.status();
        assert!(
            status["problem"].as_str().unwrap().contains("restore it"),
            "{status}"
        );
    }
    // Away is not gone.
    *store.kept.lock() = Some(good);
    process.round(None, &[], 0).await.unwrap();
    store.away.store(true, Ordering::Relaxed);
    assert!(process.round(None, &[], 0).await.is_err());
    assert_eq!(
        process.metric("weft_control_plane_authority_secret_intact "),
        1
    );
    assert_eq!(process.status()["problem"], Value::Null);
    store.away.store(false, Ordering::Relaxed);
    process.go_on(80, &[], 0).await;
    assert_eq!(store.phase(), None);
}

#[tokio::test(start_paused = true)]
async fn age_begins_a_rotation() {
    let store = Memory::new();
    let mut process = Process::start(&store);
    process.now += 243 * DAY;
    process.round(None, &[], 0).await.unwrap();
    assert_eq!(process.phase(), None);
    process.now += DAY;
    process.round(None, &[], 0).await.unwrap();
    assert_eq!(process.phase(), Some((Kind::Issuer, Phase::Sign)));

    let store = Memory::new();
    let short = Lifetimes {
        issuer: DAY,
        root: DAY * 3,
    };
    let mut process = Process::start(&store);
    // What should live shorter is rotated sooner.
    process.keeper.lifetimes = short;
    process.now += DAY + MINUTE * 60 * 23;
    process.round(None, &[], 0).await.unwrap();
    assert_eq!(process.phase(), Some((Kind::Issuer, Phase::Sign)));
    process.go_on(100, &[], 0).await;
    assert_eq!(process.roots().len(), 2, "the root's turn has come");
}

#[tokio::test(start_paused = true)]
async fn the_status_says_who_is_waited_for() {
    let store = Memory::new();
    let mut process = Process::start(&store);
    let status = process.status();
    assert_eq!(status["rotation"], Value::Null);
    assert_eq!(status["certificates"].as_array().unwrap().len(), 2);
    assert_eq!(status["certificates"][0]["state"], "signs");
    *store.published.lock() = Published::No;
    process.round(Some(Kind::Root), &[], 0).await.unwrap();
    process.round(None, &[], 0).await.unwrap();
    let status = process.status();
    let rotation = &status["rotation"];
    assert_eq!(
        (&rotation["kind"], &rotation["phase"]),
        (&"root".into(), &"publish".into())
    );
    assert_eq!(rotation["next"], "sign");
    assert_eq!(rotation["waitingFor"]["bundle"], true);
    let states: Vec<_> = status["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["state"].clone())
        .collect();
    assert_eq!(states, ["signs", "signs", "comes", "comes"]);
    let text = status.to_string();
    assert!(
        !text.contains("PRIVATE") && !text.contains("BEGIN"),
        "{text}"
    );
}

/// An issuer in memory.
#[derive(Clone)]
struct Hands(Arc<Mutex<Option<[Vec<u8>; 3]>>>);

impl Hands {
    fn give(&self, text: &GivenText) {
        let parts = [
            text.certificate.clone(),
            text.key.to_vec(),
            text.roots.clone(),
        ];
        *self.0.lock() = Some(parts);
    }
}

impl super::Giver for Hands {
    fn place(&self) -> String {
        "the giver".to_owned()
    }

    fn read(&self) -> BoxFuture<'_, Result<Option<GivenText>, StoreError>> {
        let parts = self.0.lock().clone();
        let given = parts.map(|[certificate, key, roots]| GivenText {
            certificate,
            key: Zeroizing::new(key),
            roots,
        });
        ready(Ok(given)).boxed()
    }

    fn published(&self, _: &TrustBundle) -> Published {
        Published::Everywhere
    }
}

#[tokio::test(start_paused = true)]
async fn a_given_issuer_is_followed_phase_by_phase_or_refused() {
    let (one, two) = (Root::new("one"), Root::new("two"));
    let first = one.issues(&[&one]);
    let mut now = SystemTime::now();
    let authority = Arc::new(Authority::given(&first, DOMAIN, LEAF, now).unwrap());
    let hands = Hands(Arc::default());
    hands.give(&first);
    let metrics = Metrics::new();
    let keeper = super::GivenKeeper::new(authority.clone(), hands.clone(), &metrics);
    let mut course = keeper.course();
    let mut go_on = async |minutes: u32| {
        for _ in 0..minutes {
            now += MINUTE;
            tokio::time::advance(MINUTE).await;
            let trust = Trust {
                stand: authority.stand(),
                lagging: 0,
                names: Vec::new(),
            };
            let all = || {
                vec![Standpoint {
                    replica: String::new(),
                    trust: Some(trust.clone()),
                }]
            };
            keeper.round(&mut course, &all, now).await;
        }
    };
    go_on(2).await;
    let begin = authority.stand();

    // Another issuer under the same root: at once.
    hands.give(&one.issues(&[&one]));
    go_on(1).await;
    let second = authority.stand();
    assert_ne!(second.issuer, begin.issuer);
    assert_eq!(second.roots, begin.roots);

    // What cannot be used changes nothing, and is said.
    hands.give(&two.issues(&[&one]));
    go_on(1).await;
    assert_eq!(authority.stand(), second);
    let said = serde_json::to_value(keeper.describe()).unwrap()["problem"].to_string();
    assert!(
        said.contains("refused") && said.contains("last good"),
        "{said}"
    );
    *hands.0.lock() = None;
    go_on(1).await;
    assert_eq!(authority.stand(), second);

    // Another root, without the former one beside it: trusted first, then it signs, then it is alone.
    authority.issue_own(SystemTime::now()).unwrap();
    hands.give(&two.issues(&[&two]));
    go_on(1).await;
    assert_eq!(authority.stand().roots.len(), 2);
    assert_eq!(authority.stand().issuer, second.issuer);
    go_on(4).await;
    let third = authority.stand();
    assert_ne!(third.issuer, second.issuer);
    assert_eq!(third.roots.len(), 2);
    go_on(40).await;
    assert_eq!(
        authority.stand().roots.len(),
        2,
        "leaves of the former one are good"
    );
    go_on(40).await;
    let roots = authority.stand().roots;
    assert!(roots.len() == 1 && roots != begin.roots);
    let refused = Trusted::rotate(&keeper, "root").await.unwrap_err();
    assert!(
        refused.1.contains("whoever gives it rotates it"),
        "{}",
        refused.1
    );
}
