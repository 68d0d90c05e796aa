//! What people may see of this workload's certificates: everything but the keys.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::identity::certify::CertifyStatus;
use crate::identity::{Identity, fingerprint};
use crate::telemetry::{Exposition, families};

/// Digits of a fingerprint that stand in labels, as many as `weft identity status` shows.
const LABEL_DIGITS: usize = 16;

/// Certificates as they are now, and how getting them goes. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    identity: Identity,
    certify: CertifyStatus,
}

impl Certificates {
    pub(super) fn new(identity: Identity, certify: CertifyStatus) -> Self {
        Self { identity, certify }
    }

    /// When the newest one ends; `None` before the first.
    pub(super) fn not_after(&self) -> Option<SystemTime> {
        self.identity.current().map(|current| current.not_after())
    }

    /// Who this is, as `namespace/service-account`; `None` before the first certificate.
    pub(super) fn account(&self) -> Option<String> {
        let current = self.identity.current()?;
        let id = current.id();
        Some(format!("{}/{}", id.namespace(), id.service_account()))
    }

    /// For `/health` and `/config`. Fingerprints are SHA-256 of the whole certificate.
    pub(super) fn to_json(&self) -> Value {
        let last_error = self.certify.last_error().map(|error| error.to_string());
        match self.identity.current() {
            None => json!({
                "spiffeId": null,
                "certificateFailures": self.certify.failures(),
                "lastError": last_error,
            }),
            Some(current) => json!({
                "spiffeId": current.id().as_str(),
                "serial": current.serial(),
                "fingerprint": fingerprint(current.leaf()),
                "notAfter": unix_seconds(current.not_after()),
                "expired": current.not_after() < SystemTime::now(),
                "roots": current.roots().len(),
                "rootFingerprints": current.roots().iter().map(fingerprint).collect::<Vec<_>>(),
                "issuerFingerprint": current.issuer().map(fingerprint),
                "renewsAt": self.certify.next_renewal().map(unix_seconds),
                "certificatesIssued": self.certify.successes(),
                "certificateFailures": self.certify.failures(),
                "lastError": last_error,
            }),
        }
    }

    /// For metrics.
    pub(super) fn collect(&self, exposition: &mut Exposition) {
        let results = [
            ("ok", self.certify.successes()),
            ("failed", self.certify.failures()),
        ];
        for (result, count) in results {
            let labels = [("result", result)];
            exposition.counter(&families::CERTIFICATE_RENEWALS, &labels, count as f64);
        }
        let Some(current) = self.identity.current() else {
            return;
        };
        for root in current.roots() {
            let digits = fingerprint(root);
            let labels = [("fingerprint", &digits[..LABEL_DIGITS])];
            exposition.gauge(&families::TRUST_ROOT, &labels, 1.0);
        }
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
