//! The authority as metrics.

use metrics::Gauge;
use rustls_pki_types::CertificateDer;

use super::seconds;
use crate::identity::rotation::{Kind, Phase};
use crate::identity::{Document, validity};
use crate::serve::Metrics;

/// What is shown of an authority.
pub(super) struct Gauges {
    issuer_expiry: Gauge,
    root_expiry: Gauge,
    phases: [((Kind, Phase), Gauge); 3],
    pub(super) intact: Gauge,
}

impl Gauges {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let phase = |kind, phase, labels: [(&'static str, &'static str); 2]| {
            let gauge = metrics.gauge_with(
                "weft_control_plane_rotation_phase",
                "Whether a rotation of the authority is in this phase.",
                &labels,
            );
            ((kind, phase), gauge)
        };
        Self {
            issuer_expiry: metrics.gauge(
                "weft_control_plane_issuer_expiry_timestamp_seconds",
                "When the issuer's certificate expires.",
            ),
            root_expiry: metrics.gauge(
                "weft_control_plane_root_expiry_timestamp_seconds",
                "When the root's certificate expires that the issuer is under.",
            ),
            phases: [
                phase(
                    Kind::Root,
                    Phase::Publish,
                    [("kind", "root"), ("phase", "publish")],
                ),
                phase(
                    Kind::Root,
                    Phase::Sign,
                    [("kind", "root"), ("phase", "sign")],
                ),
                phase(
                    Kind::Issuer,
                    Phase::Sign,
                    [("kind", "issuer"), ("phase", "sign")],
                ),
            ],
            intact: metrics.gauge(
                "weft_control_plane_authority_secret_intact",
                "Whether the authority's state still is what this process serves.",
            ),
        }
    }

    pub(super) fn show(&self, document: &Document) {
        let underway = document.underway.as_ref();
        let now = underway.map(|underway| (underway.rotation.kind, underway.rotation.phase));
        let root = std::slice::from_ref(&document.signing.root);
        self.show_certificates(&document.signing.issuer, root, now);
    }

    /// Of several roots, the one that expires first.
    pub(super) fn show_certificates(
        &self,
        issuer: &CertificateDer<'_>,
        roots: &[CertificateDer<'_>],
        now: Option<(Kind, Phase)>,
    ) {
        // All were read before they came into force.
        let end = |it: &CertificateDer<'_>| validity(it).ok().map(|(_, not_after)| not_after);
        if let Some(not_after) = end(issuer) {
            self.issuer_expiry.set(seconds(not_after) as f64);
        }
        if let Some(not_after) = roots.iter().filter_map(end).min() {
            self.root_expiry.set(seconds(not_after) as f64);
        }
        for (phase, gauge) in &self.phases {
            gauge.set(f64::from(u8::from(now == Some(*phase))));
        }
    }
}
