//! Gets this workload's certificate, and keeps it young.
//!
//! A new key for every certificate, made here and never sent. The next certificate is asked for when
//! half of the life of the one in force is over, give or take a tenth, so that workloads that
//! started together do not renew together. A failure is tried again with a growing delay and takes
//! nothing away: what is valid stays in force until it expires.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::time::{sleep, timeout};
use weft_proto::identity::identity_client::IdentityClient;
use weft_proto::identity::{CertifyRequest, CertifyResponse};
use zeroize::Zeroizing;

use super::control_plane::{Channel, ConnectError, ControlPlane};
use super::verify::IdentityError;
use super::{Credentials, Identity};

/// Bounds of the delay after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Longest wait for the answer to one request.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The clock on the wall is looked at this often, since it may jump where timers do not.
const CLOCK_CHECK: Duration = Duration::from_secs(30);
/// However short-lived a certificate is, renewing does not become a busy loop.
const MIN_RENEWAL_DELAY: Duration = Duration::from_millis(100);
/// A token is a few hundred bytes; a file beyond this is something else.
const MAX_TOKEN: usize = 16 * 1024;
/// A leaf and its issuers.
const MAX_CHAIN: usize = 8;

/// Keeps an [`Identity`] supplied.
pub struct Certifier {
    control_plane: ControlPlane,
    identity: Identity,
    token_file: PathBuf,
    status: CertifyStatus,
}

/// How certifying goes, for `/config` and metrics. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct CertifyStatus(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    last_error: ArcSwapOption<String>,
    renews_at: ArcSwapOption<SystemTime>,
    successes: AtomicU64,
    failures: AtomicU64,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum CertifyError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("key and request: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the certificate is refused: {0}")]
    Refused(#[from] IdentityError),
    #[error("control plane: {} ({:?})", .0.message(), .0.code())]
    Status(Box<tonic::Status>),
    #[error("no answer within {CALL_TIMEOUT:?}")]
    Timeout,
    #[error("token file {}: {why}", path.display())]
    Token { path: PathBuf, why: String },
    #[error("the chain has {0} certificates, where 1 to {MAX_CHAIN} are allowed")]
    Chain(usize),
}

impl Certifier {
    /// Asks `control_plane` for certificates with the token in `token_file`, which is read again for
    /// every request, and puts them into `identity`.
    pub fn new(
        control_plane: ControlPlane,
        identity: Identity,
        token_file: impl Into<PathBuf>,
    ) -> Self {
        Self {
            control_plane,
            identity,
            token_file: token_file.into(),
            status: CertifyStatus::default(),
        }
    }

    /// How it goes.
    pub fn status(&self) -> CertifyStatus {
        self.status.clone()
    }

    /// Runs until it is dropped. Where no renewal comes in time, the expiry is noticed here too.
    pub async fn run(self) {
        tokio::join!(self.renew(), self.identity.watch_expiry());
    }

    async fn renew(&self) {
        let mut failures = 0;
        loop {
            match self.certify().await {
                Ok(credentials) => {
                    failures = 0;
                    self.status.succeeded();
                    tracing::info!(
                        identity = %credentials.id(),
                        not_after = seconds_since_epoch(credentials.not_after()),
                        "certificate in force"
                    );
                    self.wait_for_renewal(&credentials).await;
                    self.status.renewing();
                }
                Err(error) => {
                    let delay = backoff(failures, fastrand::f64());
                    failures += 1;
                    tracing::warn!(%error, ?delay, "no certificate");
                    self.status.failed(error.to_string());
                    sleep(delay).await;
                }
            }
        }
    }

    async fn certify(&self) -> Result<Arc<Credentials>, CertifyError> {
        let token = read_token(&self.token_file)?;
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let key = Zeroizing::new(key);
        let csr = signing_request(&key)?;

        let channel = self.control_plane.connect_anonymous(&self.identity).await?;
        let mut client = IdentityClient::with_origin(channel, Channel::origin());
        let call = client.certify(CertifyRequest {
            token: token.to_string(),
            csr,
        });
        let response = timeout(CALL_TIMEOUT, call)
            .await
            .map_err(|_| CertifyError::Timeout)?
            .map_err(|status| CertifyError::Status(Box::new(status)))?
            .into_inner();
        self.install(&key, response)
    }

    fn install(
        &self,
        key: &rcgen::KeyPair,
        response: CertifyResponse,
    ) -> Result<Arc<Credentials>, CertifyError> {
        let CertifyResponse { chain, roots, .. } = response;
        if chain.is_empty() || chain.len() > MAX_CHAIN {
            return Err(CertifyError::Chain(chain.len()));
        }
        let certificates = |list: Vec<Vec<u8>>| list.into_iter().map(CertificateDer::from);
        Ok(self.identity.install(
            certificates(chain).collect(),
            PrivatePkcs8KeyDer::from(key.serialize_der()),
            certificates(roots).collect(),
            SystemTime::now(),
        )?)
    }

    async fn wait_for_renewal(&self, credentials: &Credentials) {
        let due = SystemTime::now()
            + renewal_delay(SystemTime::now(), credentials.not_after(), fastrand::f64());
        self.status.renews_at(due);
        let due_by_the_clock = async {
            while let Ok(left) = due.duration_since(SystemTime::now()) {
                sleep(left.min(CLOCK_CHECK)).await;
            }
        };
        tokio::select! {
            () = due_by_the_clock => {}
            () = self.identity.renewal_wanted() => {
                // New roots that the fresh certificate does not lead to: the issuer may need a while.
                sleep(BACKOFF.0).await;
            }
        }
    }
}

impl CertifyStatus {
    /// Why the last attempt failed; `None` when it did not.
    pub fn last_error(&self) -> Option<Arc<String>> {
        self.0.last_error.load_full()
    }

    /// When the next certificate is asked for, by this machine's clock; `None` while one is.
    pub fn next_renewal(&self) -> Option<SystemTime> {
        self.0.renews_at.load().as_deref().copied()
    }

    /// Certificates received.
    pub fn successes(&self) -> u64 {
        self.0.successes.load(Ordering::Relaxed)
    }

    /// Attempts that failed.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    fn renews_at(&self, due: SystemTime) {
        self.0.renews_at.store(Some(Arc::new(due)));
    }

    fn renewing(&self) {
        self.0.renews_at.store(None);
    }

    fn succeeded(&self) {
        self.0.last_error.store(None);
        self.0.successes.fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&self, error: String) {
        self.0.last_error.store(Some(Arc::new(error)));
        self.0.failures.fetch_add(1, Ordering::Relaxed);
    }
}

/// How long a certificate that was received at `now` is kept: half of what is left of its life, by
/// a factor of 0.9 to 1.1 as `random` (0 to 1) says.
fn renewal_delay(now: SystemTime, not_after: SystemTime, random: f64) -> Duration {
    let left = not_after.duration_since(now).unwrap_or(Duration::ZERO);
    (left / 2)
        .mul_f64(0.9 + 0.2 * random.clamp(0.0, 1.0))
        .max(MIN_RENEWAL_DELAY)
}

/// The delay after the failure that followed `failures` others: doubling, half of it by chance.
fn backoff(failures: u32, random: f64) -> Duration {
    let (base, max) = BACKOFF;
    let bound = base.saturating_mul(1 << failures.min(16)).min(max);
    bound.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0)).max(base)
}

/// A request that says nothing but the key: who it is for, the token says.
fn signing_request(key: &rcgen::KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// The token is overwritten when it is let go of; only the request's copy is the library's.
fn read_token(path: &Path) -> Result<Zeroizing<String>, CertifyError> {
    let failed = |why: String| CertifyError::Token {
        path: path.to_path_buf(),
        why,
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let text = Zeroizing::new(text);
    let token = text.trim();
    if token.is_empty() || token.len() > MAX_TOKEN {
        return Err(failed(format!("{} bytes of token", token.len())));
    }
    Ok(Zeroizing::new(token.to_owned()))
}

fn seconds_since_epoch(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_at_half_life_give_or_take_a_tenth() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let day = Duration::from_secs(24 * 3600);
        let hours = |random| renewal_delay(now, now + day, random).as_secs_f64() / 3600.0;
        assert!((hours(0.0) - 10.8).abs() < 1e-6);
        assert!((hours(0.5) - 12.0).abs() < 1e-6);
        assert!((hours(1.0) - 13.2).abs() < 1e-6);
        assert_eq!(renewal_delay(now, now - day, 0.5), MIN_RENEWAL_DELAY);
    }

    #[test]
    fn backoff_grows_to_its_bound() {
        assert_eq!(backoff(0, 0.0), Duration::from_millis(200));
        assert_eq!(backoff(1, 1.0), Duration::from_millis(400));
        assert_eq!(backoff(100, 1.0), Duration::from_secs(10));
        assert_eq!(backoff(100, 0.0), Duration::from_secs(5));
    }

    #[test]
    fn tokens_are_trimmed_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(read_token(&path).is_err());
        std::fs::write(&path, " secret\n").unwrap();
        assert_eq!(*read_token(&path).unwrap(), "secret");
        std::fs::write(&path, "\n").unwrap();
        assert!(read_token(&path).is_err());
    }
}
