//! Keys, certificates, mesh TLS.
//!
//! * [`certify`]: gets the certificate from the control plane, and a new one at half its life.
//! * [`control_plane`]: the connection to the control plane, for [`certify`] and for discovery.
//! * [`tls`]: handshakes between sidecars.
//! * [`hello`]: tells mesh TLS from other TLS before anything is answered.
//! * [`verify`]: whose certificate is believed.
//!
//! [`Identity`] is the handle that everybody shares. What it holds is replaced whole: a handshake
//! uses one [`Credentials`] from beginning to end, and the next one uses the newest. Nothing is
//! published that does not verify: the key belongs to the leaf, the leaf chains to the trust roots,
//! and it names one workload of the mesh. The private key exists only in this process's memory and
//! has no textual form.

pub mod certify;
pub mod control_plane;
mod fault;
pub mod hello;
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
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use weft_proto::spiffe::SpiffeId;

use crate::outcome::{Failure, Outcome};

pub use control_plane::{ControlPlane, Dial};
pub use fault::fault_of;
pub use hello::{HelloVerdict, is_mesh_client_hello};
pub use tls::Alpn;
use verify::{IdentityError, TrustRoots};

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
}

/// One certificate with its key, the roots that it came with, and the TLS settings made of them.
pub struct Credentials {
    id: SpiffeId,
    not_after: SystemTime,
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

    /// Mesh TLS as the client; see [`Credentials::connect`]. `tls_failed` without a certificate.
    pub async fn connect<S>(
        &self,
        io: S,
        expected: &SpiffeId,
        alpn: Alpn,
    ) -> Result<tokio_rustls::client::TlsStream<S>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.for_handshake()?.connect(io, expected, alpn).await
    }

    /// Mesh TLS as the server; see [`Credentials::accept`]. `tls_failed` without a certificate.
    pub async fn accept<S>(
        &self,
        io: S,
    ) -> Result<(tokio_rustls::server::TlsStream<S>, SpiffeId, Alpn), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.for_handshake()?.accept(io).await
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
        let key = CertifiedKey::from_der(chain, key.into(), tls::provider())
            .map_err(IdentityError::Key)?;
        let key = Arc::new(key);

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

    fn for_handshake(&self) -> Result<Arc<Credentials>, Failure> {
        self.current()
            .ok_or_else(|| Failure::never(Outcome::TlsFailed, "no certificate yet"))
    }

    fn publish(&self, credentials: Credentials) -> Arc<Credentials> {
        let credentials = Arc::new(credentials);
        self.0.current.store(Some(Arc::clone(&credentials)));
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
        let tls = tls::Configs::new(&key, &roots, id.trust_domain())?;
        let credentials = Self {
            id,
            not_after,
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

    /// The certificate of whoever signed the own one, where it came along.
    pub fn issuer(&self) -> Option<&CertificateDer<'static>> {
        self.key.cert.get(1)
    }

    /// Mesh TLS as the client. Returns before a byte of the caller's has been sent, and only when
    /// the server proved to be `expected` and agreed to `alpn`; all failures are `tls_failed`, never
    /// processed. The caller bounds the time.
    pub async fn connect<S>(
        &self,
        io: S,
        expected: &SpiffeId,
        alpn: Alpn,
    ) -> Result<tokio_rustls::client::TlsStream<S>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        tls::connect(self.tls.client(alpn), io, expected, alpn.id())
            .await
            .map_err(tls::Refusal::into_failure)
    }

    /// Mesh TLS as the server: the client must prove to be a workload of the mesh and speak one of
    /// its protocols. The caller bounds the time.
    pub async fn accept<S>(
        &self,
        io: S,
    ) -> Result<(tokio_rustls::server::TlsStream<S>, SpiffeId, Alpn), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        tls::accept(self.tls.server(), io)
            .await
            .map_err(tls::Refusal::into_failure)
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
            tls: tls::Configs::new(&self.key, &roots, self.id.trust_domain())?,
            roots,
            key: Arc::clone(&self.key),
        })
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

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
