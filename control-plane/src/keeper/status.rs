//! Where the authority stands, as `/identity` has it. Moments are seconds of unix time.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use serde::Serialize;

use super::hearing::{lagging, signs, trusts};
use super::{Seen, seconds};
use crate::identity::rotation::{self, Kind, Phase, Published, Timing};
use crate::identity::{Authority, Document, Fingerprint, Lifetimes, due_at, validity};
use crate::serve::counts::MAX_LAGGING;
use crate::serve::replicas::Standpoint;

/// Where an authority stands.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    trust_domain: String,
    /// Where the state is kept.
    kept: String,
    /// How often it has changed.
    generation: u64,
    /// Whether the process that answers is the one that writes.
    leads: bool,
    /// What is wrong with what is kept.
    problem: Option<String>,
    leaf_lifetime_seconds: u64,
    certificates: Vec<Certificate>,
    rotation: Option<Rotation>,
}

/// A root or an issuer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    kind: String,
    /// `signs`, `comes` or `goes`; of roots that are given, `trusted`.
    state: &'static str,
    /// SHA-256.
    fingerprint: String,
    not_after: u64,
    /// When it is rotated by its age; only of those that sign.
    rotates_at: Option<u64>,
}

/// A rotation under way.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rotation {
    kind: String,
    phase: String,
    since: u64,
    /// What comes next: `sign` or `retire`.
    next: &'static str,
    /// When it comes at the latest, where everybody is reached.
    at_the_latest: u64,
    waiting_for: Waiting,
}

/// Whom it waits for, beside the time.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Waiting {
    /// The bundle is not yet where sidecars boot from.
    bundle: bool,
    /// Replicas that have not followed.
    replicas: Vec<String>,
    /// Sidecars that have not confirmed the bundle.
    sidecars: u32,
    /// Some of them.
    sidecar_names: Vec<String>,
}

impl Status {
    pub(super) fn of(
        authority: &Authority,
        document: &Document,
        lifetimes: &Lifetimes,
        seen: &Seen,
        kept: String,
        standpoints: &[Standpoint],
    ) -> Self {
        let signing = &document.signing;
        let mut certificates = vec![
            Certificate::of(Kind::Root, "signs", &signing.root, Some(lifetimes.root)),
            Certificate::of(
                Kind::Issuer,
                "signs",
                &signing.issuer,
                Some(lifetimes.issuer),
            ),
        ];
        if let Some(underway) = &document.underway {
            if let Some(pair) = &underway.incoming {
                certificates.push(Certificate::of(Kind::Root, "comes", &pair.root, None));
                certificates.push(Certificate::of(Kind::Issuer, "comes", &pair.issuer, None));
            }
            let outgoing = underway.outgoing.iter();
            let kind = underway.rotation.kind;
            certificates.extend(outgoing.map(|it| Certificate::of(kind, "goes", it, None)));
        }
        let rotation = document.underway.as_ref().map(|underway| {
            let timing = Timing::of(document.longest_leaf);
            let rotation = &underway.rotation;
            // Only whoever leads knows how far the bundle is.
            let bundle = seen.leads && seen.published != Published::Everywhere;
            let waiting = Waiting::of(rotation.phase, authority, bundle, standpoints);
            Rotation::of(rotation, &timing, waiting)
        });
        Self {
            trust_domain: authority.trust_domain().to_owned(),
            kept,
            generation: document.generation,
            leads: seen.leads,
            problem: seen.problem.clone(),
            leaf_lifetime_seconds: authority.leaf_lifetime().as_secs(),
            certificates,
            rotation,
        }
    }
}

impl Status {
    /// That of an authority whose issuer is given.
    pub(super) fn of_given(
        authority: &Authority,
        kept: String,
        problem: Option<String>,
        rotation: Option<(rotation::Rotation, Timing, Waiting)>,
    ) -> Self {
        let roots = authority.bundle().borrow().roots.clone();
        let roots = roots.iter();
        let roots = roots.map(|root| Certificate::of(Kind::Root, "trusted", root, None));
        let issuer = Certificate::of(Kind::Issuer, "signs", &authority.issuer(), None);
        let rotation = rotation.map(|(it, timing, waiting)| Rotation::of(&it, &timing, waiting));
        Self {
            trust_domain: authority.trust_domain().to_owned(),
            kept,
            generation: 0,
            leads: false,
            problem,
            leaf_lifetime_seconds: authority.leaf_lifetime().as_secs(),
            certificates: roots.chain([issuer]).collect(),
            rotation,
        }
    }
}

impl Rotation {
    fn of(rotation: &rotation::Rotation, timing: &Timing, waiting_for: Waiting) -> Self {
        Self {
            kind: rotation.kind.to_string(),
            phase: rotation.phase.to_string(),
            since: seconds(rotation.since),
            next: match rotation.phase {
                Phase::Publish => "sign",
                Phase::Sign => "retire",
            },
            at_the_latest: seconds(rotation.ends(timing)),
            waiting_for,
        }
    }
}

impl Certificate {
    fn of(
        kind: Kind,
        state: &'static str,
        certificate: &CertificateDer<'_>,
        lifetime: Option<Duration>,
    ) -> Self {
        let rotates_at = lifetime.and_then(|lifetime| due_at(certificate, lifetime).ok());
        Self {
            kind: kind.to_string(),
            state,
            fingerprint: Fingerprint::of(certificate).to_string(),
            not_after: validity(certificate).map_or(0, |(_, not_after)| seconds(not_after)),
            rotates_at: rotates_at.map(seconds),
        }
    }
}

impl Waiting {
    /// `None` where nobody is waited for.
    pub(super) fn to_json(&self) -> Option<String> {
        let is_nobody = !self.bundle && self.replicas.is_empty() && self.sidecars == 0;
        let text = (!is_nobody).then(|| serde_json::to_string(self));
        text.map(|text| text.expect("plain values"))
    }

    pub(super) fn of(
        phase: Phase,
        authority: &Authority,
        bundle: bool,
        standpoints: &[Standpoint],
    ) -> Self {
        let own = authority.stand();
        let follows = match phase {
            Phase::Publish => trusts,
            Phase::Sign => signs,
        };
        let replicas = standpoints.iter().filter(|it| !follows(&own, it));
        let replicas = replicas.map(|it| match &*it.replica {
            "" => "this one".to_owned(),
            name => name.to_owned(),
        });
        let mut waiting = Self {
            replicas: replicas.collect(),
            ..Self::default()
        };
        // Once the new one signs, only time is waited for.
        if phase == Phase::Publish {
            waiting.bundle = bundle;
            waiting.sidecars = standpoints.iter().map(lagging).sum();
            let names = standpoints.iter().filter_map(|it| it.trust.as_ref());
            let names = names.flat_map(|trust| trust.names.iter().cloned());
            waiting.sidecar_names = names.take(MAX_LAGGING).collect();
        }
        waiting
    }
}
