//! How a pod reaches the API server: the sandbox's pods have networks of their own, with no way to the
//! host's loopback. A listener in the pod hands its connections on to the API server, whose TLS goes
//! through it untouched.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::Uri;
use kube::config::Kubeconfig;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Pod;

/// Where the API server is, as seen from the pod.
const PORT: u16 = 6443;
/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 256;
/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Ports of URLs that name none.
const HTTPS: u16 = 443;

/// Carries connections from `127.0.0.1:6443` in the pod until it is dropped or cut.
#[derive(Debug)]
pub(super) struct Relay {
    pod: Pod,
    to: Target,
    runtime: Handle,
    running: Mutex<Option<DropGuard>>,
}

/// Host and port of an API server. Resolved anew for every connection.
#[derive(Clone, Debug)]
struct Target {
    host: Arc<str>,
    port: u16,
}

impl Relay {
    /// A relay to the API server of a kubeconfig, and the kubeconfig for whoever is in the pod: of the
    /// current context only, with the same authority and the name that the certificate is for.
    pub(super) fn start(
        mut kubeconfig: Kubeconfig,
        pod: &Pod,
        runtime: &Handle,
    ) -> anyhow::Result<(Self, Kubeconfig)> {
        let current = kubeconfig
            .current_context
            .clone()
            .context("the kubeconfig has no current context")?;
        kubeconfig.contexts.retain(|named| named.name == current);
        let named = kubeconfig.contexts.first();
        let context = named
            .and_then(|named| named.context.clone())
            .with_context(|| format!("the kubeconfig has no context {current}"))?;
        kubeconfig
            .clusters
            .retain(|named| named.name == context.cluster);
        let user = context.user.as_deref();
        kubeconfig
            .auth_infos
            .retain(|named| Some(&*named.name) == user);
        let cluster = kubeconfig.clusters.first_mut();
        let cluster = cluster.and_then(|named| named.cluster.as_mut());
        let cluster = cluster
            .with_context(|| format!("the kubeconfig has no cluster {}", context.cluster))?;
        let server: Uri = cluster
            .server
            .as_deref()
            .unwrap_or_default()
            .parse()
            .context("the cluster's server")?;
        anyhow::ensure!(
            server.scheme_str() == Some("https") && cluster.proxy_url.is_none(),
            "the API server must be reached with https and without a proxy"
        );
        let host = server.host().context("the cluster's server has no host")?;
        let host = host.trim_matches(['[', ']']);
        let to = Target {
            host: host.into(),
            port: server.port_u16().unwrap_or(HTTPS),
        };
        if cluster.tls_server_name.is_none() {
            cluster.tls_server_name = Some(host.to_owned());
        }
        let path = server.path().trim_end_matches('/');
        cluster.server = Some(format!("https://{}{path}", Self::address()));
        let relay = Self {
            pod: pod.clone(),
            to,
            runtime: runtime.clone(),
            running: Mutex::new(None),
        };
        relay.mend()?;
        Ok((relay, kubeconfig))
    }

    /// Ends all connections; new ones are refused.
    pub(super) fn cut(&self) {
        *self.running.lock() = None;
    }

    /// Goes on after [`Self::cut`].
    pub(super) fn mend(&self) -> anyhow::Result<()> {
        let end = CancellationToken::new();
        let listener = {
            // The socket is the pod's, the runtime is ours.
            let _context = self.runtime.enter();
            let listener = self.pod.listen(Self::address());
            listener.context("the relay's listener in the control plane's pod")?
        };
        let carrying = carry_all(listener, self.to.clone(), end.clone());
        self.runtime
            .spawn(end.clone().run_until_cancelled_owned(carrying));
        *self.running.lock() = Some(end.drop_guard());
        Ok(())
    }

    fn address() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, PORT).into()
    }
}

async fn carry_all(listener: TcpListener, to: Target, end: CancellationToken) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (to, end) = (to.clone(), end.clone());
        tokio::spawn(async move {
            let _permit = permit;
            // How it ends is told by the ends of the connections themselves.
            let _ = end.run_until_cancelled(carry(stream, &to)).await;
        });
    }
}

async fn carry(mut stream: TcpStream, to: &Target) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut other = TcpStream::connect((&*to.host, to.port)).await?;
    other.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut stream, &mut other).await?;
    Ok(())
}
