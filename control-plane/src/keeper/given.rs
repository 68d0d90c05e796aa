//! Keeps an authority whose issuer somebody else makes and renews.
//!
//! What is given is read every few seconds. One that cannot be used is refused loudly, and the last good one
//! stays in force. One that whoever trusts the roots of now believes is used at once. One under a new root
//! goes through the same phases as a rotation of an own root, in this process's memory: both are trusted
//! until everybody has confirmed that, then the new one signs, and roots that are not given any more are
//! forgotten when the last leaf under them has expired. A process that starts begins with what is given
//! then: a giver that replaces its root gives the former one beside it for as long as leaves live.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use http::StatusCode;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use tokio::time::sleep;

use super::gauges::Gauges;
use super::hearing::{InStep, heard, longest_leaf};
use super::status::{Status, Waiting};
use super::{StoreError, TICK};
use crate::identity::rotation::{Heard, Kind, Phase, Published, Rotation, Timing};
use crate::identity::{Authority, Fingerprint, GivenText, TrustBundle, Weighed};
use crate::serve::Metrics;
use crate::serve::admin::Trusted;
use crate::serve::replicas::{Replicas, Standpoint};

/// Where an issuer is given.
pub trait Giver: Send + Sync + 'static {
    /// Where, for people.
    fn place(&self) -> String;
    /// What is given; `None` where it is gone.
    fn read(&self) -> BoxFuture<'_, Result<Option<GivenText>, StoreError>>;
    /// How far the bundle has come to where sidecars boot from.
    fn published(&self, bundle: &TrustBundle) -> Published;
}

/// Keeps an authority of a given issuer.
pub struct GivenKeeper {
    authority: Arc<Authority>,
    giver: Box<dyn Giver>,
    gauges: Gauges,
    replicas: OnceLock<Arc<Replicas>>,
    seen: Mutex<Seen>,
}

/// What the last round saw.
#[derive(Clone, Default)]
struct Seen {
    problem: Option<String>,
    rotation: Option<Rotation>,
    published: Published,
}

/// What one process remembers of what was given.
pub(super) struct Course {
    /// Whom to trust with the issuer that signs.
    roots: Vec<CertificateDer<'static>>,
    pending: Option<(Weighed, SystemTime)>,
    in_step: InStep,
}

impl GivenKeeper {
    /// Keeps this authority, whose issuer is given there.
    pub fn new(authority: Arc<Authority>, giver: impl Giver, metrics: &Metrics) -> Self {
        let keeper = Self {
            authority,
            giver: Box::new(giver),
            gauges: Gauges::new(metrics),
            replicas: OnceLock::new(),
            seen: Mutex::default(),
        };
        keeper.gauges.intact.set(1.0);
        keeper.show();
        keeper
    }

    /// Keeps it, and hears of sidecars and other replicas from `replicas`. Never ends.
    pub async fn run(self: Arc<Self>, replicas: Arc<Replicas>) {
        let replicas = self.replicas.get_or_init(|| replicas).clone();
        let mut course = self.course();
        loop {
            sleep(TICK.mul_f64(1.0 - fastrand::f64() / 4.0)).await;
            let others = || replicas.standpoints();
            self.round(&mut course, &others, SystemTime::now()).await;
            self.show();
        }
    }

    pub(super) fn course(&self) -> Course {
        Course {
            roots: self.authority.bundle().borrow().roots.to_vec(),
            pending: None,
            in_step: InStep::default(),
        }
    }

    /// Reads, and goes on by one step.
    pub(super) async fn round(
        &self,
        course: &mut Course,
        standpoints: &(dyn Fn() -> Vec<Standpoint> + Sync),
        now: SystemTime,
    ) {
        // Away is not gone.
        let Ok(read) = self.giver.read().await else {
            return;
        };
        let place = self.giver.place();
        let weighed = match &read {
            None => Err(format!("{place} is gone")),
            Some(text) => {
                let weighed = self.authority.weigh(text, now);
                weighed.map_err(|why| format!("what {place} gives is refused: {why}"))
            }
        };
        match weighed {
            Ok(weighed) => {
                self.say(None);
                self.consider(course, weighed, now);
            }
            Err(why) => self.say(Some(format!(
                "{why}. The last good issuer stays in force; a process that starts now has none"
            ))),
        }

        let bundle = self.authority.bundle().borrow().clone();
        let published = self.giver.published(&bundle);
        let standpoints = standpoints();
        let heard = heard(
            &self.authority.stand(),
            &standpoints,
            published,
            &mut course.in_step,
        );
        let timing = Timing::of(longest_leaf(self.authority.leaf_lifetime(), &standpoints));
        let rotation = self.go_on(course, &heard, &timing, now);
        let mut seen = self.seen.lock();
        seen.rotation = rotation;
        seen.published = published;
    }

    /// Looks at what is given: nothing new, taken at once, or trusted first.
    fn consider(&self, course: &mut Course, weighed: Weighed, now: SystemTime) {
        let digest = weighed.digest();
        let roots: Vec<_> = course.roots.iter().map(Fingerprint::of).collect();
        if digest == (self.authority.stand().issuer, roots) {
            // What was about to come was taken back.
            course.pending = None;
            return;
        }
        if matches!(&course.pending, Some((pending, _)) if pending.digest() == digest) {
            return;
        }
        let mut trusted = self.authority.bundle().borrow().roots.to_vec();
        let before = trusted.len();
        for root in weighed.roots() {
            if !trusted.contains(root) {
                trusted.push(root.clone());
            }
        }
        let issuer = digest.0.to_string();
        if trusted.len() > before {
            tracing::info!(issuer, "new roots are given: they are trusted from now on");
            self.authority.trust(trusted);
        } else if weighed.is_known() {
            tracing::info!(issuer, "another issuer is given, and signs from now on");
            course.roots = weighed.roots().to_vec();
            self.authority.take(weighed);
            course.pending = None;
            return;
        }
        course.pending = Some((weighed, now));
    }

    /// The phases of a new root, and the end of an old one.
    fn go_on(
        &self,
        course: &mut Course,
        heard: &Heard,
        timing: &Timing,
        now: SystemTime,
    ) -> Option<Rotation> {
        if let Some((weighed, since)) = course.pending.take() {
            let rotation = Rotation::publish(since);
            if rotation.next(now, heard, timing) == crate::identity::rotation::Next::Wait {
                course.pending = Some((weighed, since));
                return Some(rotation);
            }
            let issuer = weighed.digest().0.to_string();
            tracing::info!(issuer, "the issuer of the new root signs from now on");
            course.roots = weighed.roots().to_vec();
            self.authority.take(weighed);
            // What was heard is of before.
            return Some(Rotation::sign(Kind::Root, now, timing.leaf_end(now)));
        }
        let trusted = self.authority.bundle().borrow().roots.clone();
        if trusted.iter().all(|root| course.roots.contains(root)) {
            return None;
        }
        let old_until = heard.former_until.unwrap_or(SystemTime::UNIX_EPOCH);
        let rotation = Rotation::sign(Kind::Root, now, old_until);
        if heard.all_sign && now >= rotation.ends(timing) {
            tracing::info!("roots that are not given any more are forgotten");
            self.authority.trust(course.roots.clone());
            return None;
        }
        Some(rotation)
    }

    /// Says a problem once.
    fn say(&self, problem: Option<String>) {
        let intact = f64::from(u8::from(problem.is_none()));
        self.gauges.intact.set(intact);
        let mut seen = self.seen.lock();
        if let Some(problem) = problem
            .as_ref()
            .filter(|it| seen.problem.as_ref() != Some(it))
        {
            tracing::error!("{problem}");
        }
        seen.problem = problem;
    }

    fn show(&self) {
        let roots = self.authority.bundle().borrow().roots.clone();
        let phase = self.seen.lock().rotation.map(|it| (it.kind, it.phase));
        self.gauges
            .show_certificates(&self.authority.issuer(), &roots, phase);
    }

    pub(super) fn describe(&self) -> Status {
        let seen = self.seen.lock().clone();
        let standpoints = self.replicas.get().map(|replicas| replicas.standpoints());
        let standpoints = standpoints.unwrap_or_default();
        let timing = Timing::of(longest_leaf(self.authority.leaf_lifetime(), &standpoints));
        let waiting = |phase: Phase| {
            let bundle = seen.published != Published::Everywhere;
            Waiting::of(phase, &self.authority, bundle, &standpoints)
        };
        let rotation = seen.rotation.map(|it| (it, timing, waiting(it.phase)));
        Status::of_given(&self.authority, self.giver.place(), seen.problem, rotation)
    }
}

impl Trusted for GivenKeeper {
    fn status(&self) -> Value {
        serde_json::to_value(self.describe()).expect("plain values")
    }

    fn rotate<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<String, (StatusCode, String)>> {
        let place = self.giver.place();
        Box::pin(async move {
            let why = format!("the issuer is given by {place}: whoever gives it rotates it");
            Err((StatusCode::CONFLICT, why))
        })
    }
}
