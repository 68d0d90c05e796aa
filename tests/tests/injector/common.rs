//! An API server, the webhook beside it, and somebody who calls it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use weft_control_plane::cluster::webhook::{Timing, Webhook};
use weft_control_plane::serve::Metrics;
use weft_proto::names::{INJECTOR_SERVICE_ACCOUNT, cluster, env};
use weft_tests::apiserver::{ApiServer, User};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const WEFT: &str = env!("CARGO_BIN_EXE_weft-under-test");
pub(crate) const SECRET: &str = "/api/v1/namespaces/weft/secrets/weft-injector-certificate";
pub(crate) const CONFIGURATION: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector";

/// An API server with the webhook's account, where only roles allow anything to it.
pub(crate) struct Scene {
    pub(crate) server: ApiServer,
    pub(crate) directory: TempDir,
}

/// The webhook's process. Killed when dropped.
pub(crate) struct Injector {
    pub(crate) child: Child,
    pub(crate) webhook: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let server = ApiServer::start().await.unwrap();
        namespace(&server, "weft", None).await;
        let account = |name: &str| {
            json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": name, "namespace": "weft"}})
        };
        server
            .put(&account(INJECTOR_SERVICE_ACCOUNT))
            .await
            .unwrap();
        for role in roles() {
            server.put(&role).await.unwrap();
        }
        server.enforce_roles();
        let directory = tempfile::tempdir().unwrap();
        Self { server, directory }
    }

    /// A kubeconfig of one of the mesh's service accounts.
    pub(crate) fn account(&self, name: &str) -> String {
        let day = Duration::from_secs(24 * 3600);
        let token = self.server.mint_token(("weft", name), &[], day, None);
        self.server.kubeconfig_with_token(&token)
    }

    /// Starts the webhook, and has the API server call it.
    pub(crate) async fn injector(&self) -> Injector {
        let directory = self.directory.path();
        let injector = Injector::start(directory, &self.account(INJECTOR_SERVICE_ACCOUNT)).await;
        let service = ("weft", cluster::WEBHOOK_SERVICE);
        self.server.route_webhook(service, injector.webhook);
        injector
    }

    /// The part of the control plane that makes certificates.
    pub(crate) async fn certificates(&self, timing: Timing) -> AbortHandle {
        let (sender, leading) = watch::channel(true);
        // Nobody leads by the word of somebody who is gone.
        std::mem::forget(sender);
        let expiry = Metrics::new().gauge("expiry", "");
        let webhook = Webhook::new(client(&self.server).await, "weft", timing, leading, expiry);
        tokio::spawn(webhook.run()).abort_handle()
    }

    /// A webhook that is ready.
    pub(crate) async fn ready(&self) -> Injector {
        self.server.put(&configuration()).await.unwrap();
        self.certificates(quick()).await;
        let injector = self.injector().await;
        injector.until_ready().await;
        injector
    }

    /// The roots that the API server trusts, PEM.
    pub(crate) async fn roots(&self) -> String {
        let configuration = self.at(CONFIGURATION).await.unwrap();
        let bundle = &configuration["webhooks"][0]["clientConfig"]["caBundle"];
        String::from_utf8(STANDARD.decode(bundle.as_str().unwrap()).unwrap()).unwrap()
    }

    /// What there is at a path, if anything.
    pub(crate) async fn at(&self, path: &str) -> Option<Value> {
        let (code, object) = self.server.ask(Method::GET, path, None).await;
        (code == 200).then_some(object)
    }

    /// What the webhook has asked for, as verb and resource.
    pub(crate) fn asked(&self) -> Vec<(&'static str, String)> {
        let user = User::service_account("weft", INJECTOR_SERVICE_ACCOUNT).name;
        let seen = self
            .server
            .seen()
            .into_keys()
            .filter(|seen| seen.user == user);
        seen.map(|seen| (seen.verb, seen.resource)).collect()
    }
}

impl Injector {
    async fn start(directory: &Path, kubeconfig: &str) -> Self {
        let (config, ports) = (directory.join("kubeconfig"), directory.join("ports"));
        std::fs::write(&config, kubeconfig).unwrap();
        let _ = std::fs::remove_file(&ports);
        let log = std::fs::File::create(directory.join("injector.log")).unwrap();
        let child = Command::new(WEFT)
            .args(["internal", "injector", "--port-file"])
            .arg(&ports)
            .env("KUBECONFIG", config)
            .env("KUBERNETES_SERVICE_HOST", "10.96.0.1")
            .env(env::LISTEN_ADDR, "127.0.0.1:0")
            .env(env::ADMIN_ADDR, "127.0.0.1:0")
            .env(env::PROXY_IMAGE, "registry.example/weft-proxy:1.2.3")
            .env(env::PROXY_IMAGE_PULL_POLICY, "IfNotPresent")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        until("it listens", async || ports.exists()).await;
        let text = std::fs::read_to_string(&ports).unwrap();
        let mut ports = text.lines().map(|port| port.parse::<u16>().unwrap());
        let mut next = || SocketAddr::from(([127, 0, 0, 1], ports.next().unwrap()));
        let (webhook, admin) = (next(), next());
        Self {
            child,
            webhook,
            admin,
        }
    }

    /// Code and body of an admin page; code 0 where nobody answers.
    pub(crate) async fn page(&self, path: &str) -> (u16, String) {
        let asking = async {
            let tcp = TcpStream::connect(self.admin).await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
            tokio::spawn(connection);
            let request = Request::get(path).header("host", "admin");
            let answer = sender
                .send_request(request.body(Empty::<Bytes>::new())?)
                .await?;
            let code = answer.status().as_u16();
            let body = answer.into_body().collect().await?.to_bytes();
            anyhow::Ok((code, String::from_utf8_lossy(&body).into_owned()))
        };
        asking.await.unwrap_or_default()
    }

    pub(crate) async fn until_ready(&self) {
        let mut last = String::new();
        let since = Instant::now();
        loop {
            let (code, page) = self.page("/ready").await;
            if code == 200 {
                return;
            }
            last.clone_from(&page);
            assert!(since.elapsed() < PATIENCE, "{last}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A metric's value in whole numbers, by its whole name with labels; 0 where there is none.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let (_, page) = self.page("/metrics").await;
        let mut lines = page.lines().filter_map(|line| line.rsplit_once(' '));
        let line = lines.find(|(metric, _)| *metric == name);
        line.map_or(0, |(_, value)| value.parse::<f64>().unwrap() as u64)
    }

    /// How many reviews came to this.
    pub(crate) async fn count(&self, outcome: &str, reason: &str) -> u64 {
        let name =
            format!("weft_injector_requests_total{{outcome=\"{outcome}\",reason=\"{reason}\"}}");
        self.metric(&name).await
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

/// A connection to the webhook, as an API server makes it.
pub(crate) enum Caller {
    One(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Two(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Caller {
    /// Connects, trusting these roots, and says which certificate is served.
    pub(crate) async fn connect(
        address: SocketAddr,
        roots: &str,
        http: Http,
    ) -> anyhow::Result<(Self, Vec<u8>)> {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store.add(root?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(store)
            .with_no_client_auth();
        config.alpn_protocols = match http {
            Http::One => vec![],
            Http::Two => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        let stream = TcpStream::connect(address).await?;
        let name = format!("{}.weft.svc", cluster::WEBHOOK_SERVICE).try_into()?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await?;
        let tls = stream.get_ref().1;
        anyhow::ensure!((tls.alpn_protocol() == Some(b"h2")) == (http == Http::Two));
        let served = tls.peer_certificates().map_or(&[][..], |chain| chain)[0].to_vec();
        let io = TokioIo::new(stream);
        let caller = match http {
            Http::One => {
                let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
                tokio::spawn(connection);
                Self::One(sender)
            }
            Http::Two => {
                let executor = TokioExecutor::new();
                let (sender, connection) =
                    hyper::client::conn::http2::handshake(executor, io).await?;
                tokio::spawn(connection);
                Self::Two(sender)
            }
        };
        Ok((caller, served))
    }

    /// Code and body of the answer to a request.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<(u16, Vec<u8>)> {
        let answer = match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Two(sender) => sender.send_request(request).await?,
        };
        let code = answer.status().as_u16();
        Ok((
            code,
            answer.into_body().collect().await?.to_bytes().to_vec(),
        ))
    }

    /// The response to a review.
    pub(crate) async fn review(&mut self, review: &Value) -> anyhow::Result<Value> {
        let (code, body) = self.send(post(review.to_string())).await?;
        anyhow::ensure!(code == 200, "{code}: {}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body)?;
        anyhow::ensure!(
            answer["apiVersion"] == "admission.k8s.io/v1" && answer["kind"] == "AdmissionReview"
        );
        anyhow::ensure!(answer["response"]["uid"] == review["request"]["uid"]);
        Ok(answer["response"].clone())
    }
}

pub(crate) fn post(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post("https://weft-injector.weft.svc/inject?timeout=5s")
        .header("host", "weft-injector.weft.svc")
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap()
}

/// A review of a pod, as API servers write it.
pub(crate) fn review(namespace: &str, pod: &Value, dry_run: bool) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": format!("{:032x}", fastrand::u128(..)),
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace, "operation": "CREATE", "object": pod, "dryRun": dry_run,
        },
    })
}

/// A pod of a ReplicaSet.
pub(crate) fn pod(owner: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": format!("{owner}-"), "labels": {"app": "web"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner,
                "uid": format!("uid-of-{owner}"), "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {"containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 8080}]}]},
    })
}

/// The webhooks as the chart has them, as far as this server reads them.
pub(crate) fn configuration() -> Value {
    let webhook = |name: &str, namespaces: &str, pods: &str| {
        let (pods, word) = pods.split_once(' ').unwrap();
        json!({
            "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "NoneOnDryRun",
            "failurePolicy": "Fail", "timeoutSeconds": 5, "reinvocationPolicy": "IfNeeded",
            "clientConfig": {"service": {"name": "weft-injector", "namespace": "weft", "path": "/inject", "port": 443}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["pods"], "scope": "Namespaced"}],
            "namespaceSelector": {"matchExpressions": [
                {"key": "weft.dev/inject", "operator": namespaces, "values": ["enabled"]}]},
            "objectSelector": {"matchExpressions": [
                {"key": "weft.dev/inject", "operator": pods, "values": [word]}]},
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": cluster::WEBHOOK_CONFIGURATION},
        "webhooks": [
            webhook(cluster::WEBHOOK_BY_NAMESPACE, "In", "NotIn disabled"),
            webhook(cluster::WEBHOOK_BY_POD, "NotIn", "In enabled"),
        ],
    })
}

/// What `--print-rbac` prints.
pub(crate) fn roles() -> Vec<Value> {
    let printed = Command::new(WEFT)
        .args(["internal", "injector", "--print-rbac"])
        .output()
        .unwrap();
    let text = String::from_utf8(printed.stdout).unwrap();
    let documents = text.split("---\n");
    documents
        .map(|text| serde_saphyr::from_str(text).unwrap())
        .collect()
}

pub(crate) async fn namespace(server: &ApiServer, name: &str, inject: Option<&str>) {
    let labels = inject.map(|word| json!({"weft.dev/inject": word}));
    let manifest = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": labels.unwrap_or_else(|| json!({}))},
    });
    server.put(&manifest).await.unwrap();
}

pub(crate) async fn client(server: &ApiServer) -> Client {
    let config = Kubeconfig::from_yaml(&server.kubeconfig().unwrap()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(config, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// A control plane that looks often.
pub(crate) fn quick() -> Timing {
    Timing {
        period: Duration::from_millis(100),
        ..Timing::default()
    }
}

/// What a test waits for.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
