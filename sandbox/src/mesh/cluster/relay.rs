//! How a pod reaches the API server: the sandbox's pods have networks of their own, with no way to the
//! host's loopback. A listener in the pod hands its connections on to the API server, whose TLS goes
//! through it untouched.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::Context as _;
use http::Uri;
use kube::config::Kubeconfig;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

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
    running: Mutex<Option<Running>>,
}

/// Ends when it is dropped.
#[derive(Debug)]
struct Running {
    end: DropGuard,
    tasks: TaskTracker,
}

/// Host and port of an API server. Resolved anew for every connection.
#[derive(Clone, Debug)]
struct Target {
    host: Arc<str>,
    port: u16,
}

impl Relay {
    /// A relay to the API server of a kubeconfig, and the kubeconfig for whoever is in the pod.
    pub(super) fn start(
        kubeconfig: Kubeconfig,
        pod: &Pod,
        runtime: &Handle,
    ) -> anyhow::Result<(Self, Kubeconfig)> {
        let (to, inside) = redirected(kubeconfig)?;
        let relay = Self {
            pod: pod.clone(),
            to,
            runtime: runtime.clone(),
            running: Mutex::new(None),
        };
        relay.mend()?;
        Ok((relay, inside))
    }

    /// Another one to the same API server, from another pod.
    pub(super) fn beside(&self, pod: &Pod) -> anyhow::Result<Self> {
        let relay = Self {
            pod: pod.clone(),
            to: self.to.clone(),
            runtime: self.runtime.clone(),
            running: Mutex::new(None),
        };
        relay.mend()?;
        Ok(relay)
    }

    /// Ends all connections and waits for that; new ones are refused.
    pub(super) fn cut(&self) {
        let Some(Running { end, tasks }) = self.running.lock().take() else {
            return;
        };
        drop(end);
        tasks.close();
        let (done, ended) = channel();
        self.runtime.spawn(async move {
            tasks.wait().await;
            // Nobody waits any more where the runtime ends.
            let _ = done.send(());
        });
        let _ = ended.recv();
    }

    /// Goes on after [`Self::cut`].
    pub(super) fn mend(&self) -> anyhow::Result<()> {
        self.cut();
        let end = CancellationToken::new();
        let listener = {
            // The socket is the pod's, the runtime is ours.
            let _context = self.runtime.enter();
            let listener = self.pod.listen(Self::address());
            listener.context("the relay's listener in the control plane's pod")?
        };
        let tasks = TaskTracker::new();
        let carrying = carry_all(listener, self.to.clone(), tasks.clone(), end.clone());
        let carrying = end.clone().run_until_cancelled_owned(carrying);
        tasks.spawn_on(carrying, &self.runtime);
        let end = end.drop_guard();
        *self.running.lock() = Some(Running { end, tasks });
        Ok(())
    }

    fn address() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, PORT).into()
    }
}

/// Where a kubeconfig's API server is, and the same kubeconfig for whoever comes through the relay: of
/// the current context only, with the same authority, and the name that the server's certificate is for.
fn redirected(mut kubeconfig: Kubeconfig) -> anyhow::Result<(Target, Kubeconfig)> {
    let current = kubeconfig
        .current_context
        .clone()
        .context("the kubeconfig has no current context")?;
    kubeconfig.contexts.retain(|named| named.name == current);
    let named = kubeconfig.contexts.first();
    let context = named
        .and_then(|named| named.context.clone())
        .with_context(|| format!("the kubeconfig has no context {current}"))?;
    let (cluster, user) = (context.cluster, context.user.as_deref());
    kubeconfig.clusters.retain(|named| named.name == cluster);
    kubeconfig
        .auth_infos
        .retain(|named| Some(&*named.name) == user);
    let known = kubeconfig.clusters.first_mut();
    let known = known.and_then(|named| named.cluster.as_mut());
    let known = known.with_context(|| format!("the kubeconfig has no cluster {cluster}"))?;
    let server: Uri = known
        .server
        .as_deref()
        .unwrap_or_default()
        .parse()
        .context("the cluster's server")?;
    anyhow::ensure!(
        server.scheme_str() == Some("https") && known.proxy_url.is_none(),
        "the API server must be reached with https and without a proxy"
    );
    let host = server.host().context("the cluster's server has no host")?;
    let host = host.trim_matches(['[', ']']);
    let to = Target {
        host: host.into(),
        port: server.port_u16().unwrap_or(HTTPS),
    };
    if known.tls_server_name.is_none() {
        known.tls_server_name = Some(host.to_owned());
    }
    let path = server.path().trim_end_matches('/');
    known.server = Some(format!("https://{}{path}", Relay::address()));
    Ok((to, kubeconfig))
}

async fn carry_all(listener: TcpListener, to: Target, tasks: TaskTracker, end: CancellationToken) {
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
        tasks.spawn(async move {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(server: &str, more: &str) -> Kubeconfig {
        let text = format!(
            "clusters:\n\
             - {{name: other, cluster: {{server: 'https://nowhere'}}}}\n\
             - {{name: it, cluster: {{server: '{server}'{more}}}}}\n\
             users:\n\
             - {{name: me, user: {{token: secret}}}}\n\
             - {{name: you, user: {{token: other}}}}\n\
             contexts:\n\
             - {{name: now, context: {{cluster: it, user: me}}}}\n\
             current-context: now\n"
        );
        Kubeconfig::from_yaml(&text).unwrap()
    }

    #[test]
    fn whoever_comes_through_meets_the_same_server_as_the_same_user() {
        for (server, host, port, path) in [
            ("https://127.0.0.1:6444", "127.0.0.1", 6444, ""),
            ("https://[::1]:6444/", "::1", 6444, ""),
            (
                "https://api.example.org/k8s/c",
                "api.example.org",
                443,
                "/k8s/c",
            ),
        ] {
            let (to, inside) = redirected(read(server, "")).unwrap();
            assert_eq!((&*to.host, to.port), (host, port), "{server}");
            let [named] = &inside.clusters[..] else {
                panic!("only the current one")
            };
            let cluster = named.cluster.as_ref().unwrap();
            let at = format!("https://127.0.0.1:6443{path}");
            assert_eq!(cluster.server.as_deref(), Some(&*at));
            assert_eq!(cluster.tls_server_name.as_deref(), Some(host));
            let written = serde_json::to_string(&inside).unwrap();
            assert!(written.contains("secret") && !written.contains("other"));
        }
        let named = read("https://10.0.0.1", ", tls-server-name: kubernetes");
        let (_, inside) = redirected(named).unwrap();
        let cluster = inside.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.tls_server_name.as_deref(), Some("kubernetes"));
    }

    #[test]
    fn what_cannot_be_relayed_is_refused() {
        redirected(read("http://127.0.0.1:8080", "")).unwrap_err();
        redirected(read("https://10.0.0.1", ", proxy-url: 'http://10.0.0.2'")).unwrap_err();
        let mut lost = read("https://10.0.0.1", "");
        lost.current_context = Some("then".to_owned());
        redirected(lost).unwrap_err();
    }
}
