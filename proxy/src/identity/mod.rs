//! Keys, certificates, mesh TLS.
//!
//! * [`certify`]: gets the certificate from the control plane, and a new one at half its life.
//! * [`control_plane`]: the connection to the control plane, for [`certify`] and for discovery.
//! * [`tls`]: who is believed in handshakes between sidecars.
//! * [`thin`]: the handshakes themselves, and the records that follow.
//! * [`hello`]: tells mesh TLS from other TLS before anything is answered.
//! * [`verify`]: whose certificate is believed.
//!
//! [`Identity`] is the handle that everybody shares. What it holds is replaced whole: a handshake
//! uses one [`Credentials`] from beginning to end, and the next one uses the newest. Nothing is
//! published that does not verify: the key belongs to the leaf, the leaf chains to the trust roots,
//! and it names one workload of the mesh. The private key exists only in this process's memory, once,
//! inside of the TLS library; what it was made of is overwritten, and it has no textual form.
//!
//! Every connection knows when the first of the two certificates ends that it was made with. Where
//! there is no valid certificate any more, nothing is connected, nothing accepted, and what is open
//! carries nothing: see [`Certified`]. The first new one heals that.

pub mod certify;
pub mod control_plane;
mod fault;
pub mod hello;
pub mod thin;
pub mod tls;
pub mod verify;
mod x509;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use weft_proto::spiffe::SpiffeId;
use zeroize::Zeroize;

use crate::net::certified::{Certified, Lapse};
use crate::outcome::{Failure, Outcome};

pub use control_plane::{ControlPlane, Dial};
pub use fault::fault_of;
pub use hello::{HelloVerdict, is_mesh_client_hello};
pub use thin::Thin;
pub use tls::Alpn;
use verify::{IdentityError, TrustRoots};

/// The clock on the wall is looked at this often, since it may jump where timers do not.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// No connection lasts so long: what a certificate says beyond it does not matter.
const MAX_LEFT: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Who this workload is, and whom it trusts. Cheap to clone; read from any thread.
#[derive(Clone, Debug, Default)]
pub struct Identity(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    current: ArcSwapOption<Credentials>,
    /// Makes writers take turns; readers never see it.
    writing: Mutex<()>,
    published: watch::Sender<u64>,
    renew: Notify,
    /// The newest certificate has expired.
    lapse: Lapse,
}

/// One certificate with its key, the roots that it came with, and the TLS settings made of them.
pub struct Credentials {
    id: SpiffeId,
    not_after: SystemTime,
    serial: Arc<str>,
    roots: TrustRoots,
    key: Arc<CertifiedKey>,
    tls: tls::Configs,
}

impl Identity {
    /// A handle that knows nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest credentials; `None` before the first certificate.
    pub fn current(&self) -> Option<Arc<Credentials>> {
        self.0.current.load_full()
    }

    /// Waits for the first certificate.
    pub async fn wait_ready(&self) -> Arc<Credentials> {
        let mut published = self.0.published.subscribe();
        loop {
            if let Some(credentials) = self.current() {
                return credentials;
            }
            // The sender lives in `self`, so that waiting cannot fail.
            let _ = published.changed().await;
        }
    }

    /// Rises by one whenever new credentials are published.
    pub fn published(&self) -> watch::Receiver<u64> {
        self.0.published.subscribe()
    }

    /// Mesh TLS as the client; see [`Credentials::connect`]. `tls_failed` without a valid certificate.
    pub async fn connect<S>(
        &self,
        io: S,
        expected: &SpiffeId,
        alpn: Alpn,
    ) -> Result<Certified<Thin<S>>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let credentials = self.for_handshake()?;
        let (stream, ends_at) = credentials.connect(io, expected, alpn).await?;
        Ok(Certified::new(stream, ends_at, self.0.lapse.clone()))
    }

    /// Mesh TLS as the server; see [`Credentials::accept`]. `tls_failed` without a valid certificate.
    pub async fn accept<S>(&self, io: S) -> Result<(Certified<Thin<S>>, SpiffeId, Alpn), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let credentials = self.for_handshake()?;
        let (stream, ends_at, peer, alpn) = credentials.accept(io).await?;
        let stream = Certified::new(stream, ends_at, self.0.lapse.clone());
        Ok((stream, peer, alpn))
    }

    /// Publishes a new certificate once it verifies. The roots in force stay where the chain leads
    /// to them; else `roots`, which came with the certificate, replace them.
    pub fn install(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivatePkcs8KeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
        now: SystemTime,
    ) -> Result<Arc<Credentials>, IdentityError> {
        let key = Arc::new(certified_key(chain, key)?);

        let _turn = self.0.writing.lock();
        let in_force = self.current().map(|current| current.roots.clone());
        let kept = in_force.and_then(|roots| Credentials::new(Arc::clone(&key), roots, now).ok());
        let credentials = match kept {
            Some(credentials) => credentials,
            None => Credentials::new(key, TrustRoots::new(roots)?, now)?,
        };
        Ok(self.publish(credentials))
    }

    /// Replaces the trust roots. Where the own certificate does not lead to the new ones, they hold
    /// all the same, and a new certificate is asked for at once. Without a certificate nothing is
    /// kept: the first one brings its roots along.
    pub fn trust(&self, roots: Vec<CertificateDer<'static>>) -> Result<(), IdentityError> {
        let roots = TrustRoots::new(roots)?;
        let _turn = self.0.writing.lock();
        let Some(current) = self.current() else {
            return Ok(());
        };
        if current.roots == roots {
            return Ok(());
        }
        let credentials = current.with_roots(roots)?;
        if credentials.check(SystemTime::now()).is_err() {
            self.0.renew.notify_one();
        }
        self.publish(credentials);
        Ok(())
    }

    /// Completes when the certificate should be renewed before its time.
    pub(crate) async fn renewal_wanted(&self) {
        self.0.renew.notified().await;
    }

    /// Finds out that the newest certificate has expired, and says so. Runs until it is dropped.
    pub(crate) async fn watch_expiry(&self) {
        let mut published = self.published();
        loop {
            published.borrow_and_update();
            let wait = self.current().and_then(|current| {
                let left = current.not_after.duration_since(SystemTime::now()).ok();
                if left.is_none() && !self.0.lapse.holds() {
                    tracing::error!(
                        identity = %current.id,
                        "the certificate has expired and was not renewed: mesh connections carry nothing"
                    );
                }
                self.0.lapse.set(left.is_none());
                left
            });
            // Where there is none, or it has expired, only another one changes that. The sender lives
            // in `self`, so that waiting cannot fail.
            match wait {
                Some(left) => {
                    let _ = timeout(left.min(CLOCK_CHECK), published.changed()).await;
                }
                None => {
                    let _ = published.changed().await;
                }
            }
        }
    }

    fn for_handshake(&self) -> Result<Arc<Credentials>, Failure> {
        let failed = |why| Failure::never(Outcome::TlsFailed, why);
        let credentials = self.current().ok_or_else(|| failed("no certificate yet"))?;
        if self.0.lapse.holds() {
            return Err(failed("the own certificate has expired"));
        }
        Ok(credentials)
    }

    fn publish(&self, credentials: Credentials) -> Arc<Credentials> {
        let credentials = Arc::new(credentials);
        self.0.current.store(Some(Arc::clone(&credentials)));
        self.0.lapse.set(credentials.not_after < SystemTime::now());
        self.0.published.send_modify(|count| *count += 1);
        credentials
    }
}

impl Credentials {
    fn new(
        key: Arc<CertifiedKey>,
        roots: TrustRoots,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let leaf = key.cert.first().ok_or(IdentityError::NoCertificate)?;
        let id = verify::spiffe_id(leaf)?;
        let not_after = x509::Leaf::read(leaf)?.not_after;
        let serial = x509::serial(leaf)?.into();
        let tls = tls::Configs::new(&key, &roots, id.trust_domain())?;
        let credentials = Self {
            id,
            not_after,
            serial,
            roots,
            key,
            tls,
        };
        credentials.check(now)?;
        Ok(credentials)
    }

    /// Who this workload is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// When the certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The trust roots, in DER.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        self.roots.der()
    }

    /// The certificate, in DER.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        self.key
            .cert
            .first()
            .expect("there are no credentials without a leaf")
    }

    /// Its serial number, in hexadecimal digits.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The certificate of whoever signed the own one, where it came along.
    pub fn issuer(&self) -> Option<&CertificateDer<'static>> {
        self.key.cert.get(1)
    }

    /// Mesh TLS as the client, and when the first of the two certificates ends. Returns before a byte of
    /// the caller's has been sent, and only when the server proved to be `expected` and agreed to `alpn`;
    /// all failures are `tls_failed`, never processed. The caller bounds the time.
    pub async fn connect<S>(
        &self,
        io: S,
        expected: &SpiffeId,
        alpn: Alpn,
    ) -> Result<(Thin<S>, Instant), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (stream, leaf) = tls::connect(self.tls.client(alpn), io, expected, alpn.id())
            .await
            .map_err(tls::Refusal::into_failure)?;
        Ok((stream, self.ends_at(leaf.as_ref())))
    }

    /// Mesh TLS as the server, and when the first of the two certificates ends: the client must prove to
    /// be a workload of the mesh and speak one of its protocols. The caller bounds the time.
    pub async fn accept<S>(&self, io: S) -> Result<(Thin<S>, Instant, SpiffeId, Alpn), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (stream, leaf, peer, alpn) = tls::accept(self.tls.server(), io)
            .await
            .map_err(tls::Refusal::into_failure)?;
        Ok((stream, self.ends_at(leaf.as_ref()), peer, alpn))
    }

    pub(crate) fn trust_roots(&self) -> &TrustRoots {
        &self.roots
    }

    pub(crate) fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    fn with_roots(&self, roots: TrustRoots) -> Result<Self, IdentityError> {
        Ok(Self {
            id: self.id.clone(),
            not_after: self.not_after,
            serial: Arc::clone(&self.serial),
            tls: tls::Configs::new(&self.key, &roots, self.id.trust_domain())?,
            roots,
            key: Arc::clone(&self.key),
        })
    }

    /// When the first of the two certificates ends of a connection that was made with these
    /// credentials to a peer with this certificate.
    fn ends_at(&self, leaf: Option<&CertificateDer<'_>>) -> Instant {
        let theirs = leaf.and_then(|leaf| x509::Leaf::read(leaf).ok());
        let end = theirs.map_or(self.not_after, |leaf| leaf.not_after.min(self.not_after));
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        let now = Instant::now();
        // Beyond what the clock can tell, nothing ends.
        now.checked_add(left.min(MAX_LEFT)).unwrap_or(now)
    }

    /// Verifies the own chain as a peer would.
    fn check(&self, now: SystemTime) -> Result<(), IdentityError> {
        let since_epoch = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let (leaf, intermediates) = self
            .key
            .cert
            .split_first()
            .ok_or(IdentityError::NoCertificate)?;
        verify::chain(
            &self.roots,
            self.id.trust_domain(),
            leaf,
            intermediates,
            UnixTime::since_unix_epoch(since_epoch),
        )
        .map(drop)
    }
}

/// SHA-256 of a certificate, as hexadecimal digits.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    x509::hexadecimal(digest.as_ref())
}

/// A key as the TLS library uses it, once it belongs to the leaf of `chain`. The bytes that it came in
/// are overwritten.
fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
) -> Result<CertifiedKey, IdentityError> {
    let mut der = PrivateKeyDer::from(key);
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der);
    der.zeroize();
    let key = CertifiedKey::new(chain, signing.map_err(IdentityError::Key)?);
    key.keys_match().map_err(IdentityError::Key)?;
    Ok(key)
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
