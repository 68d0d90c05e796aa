//! A mesh in which everything happens that dashboards show: HTTP/1, gRPC and TCP, retries and budgets that
//! run out, breakers that open, a canary that is worse than its stable side, a denied caller, an audited
//! one, plaintext, copies, limits, and pods that are patched.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use weft_proto::names::{INJECTOR_SERVICE_ACCOUNT, cluster, env};
use weft_sandbox::app::Behavior;
use weft_sandbox::load::{Load, Protocol, Running, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Pod, Workload};
use weft_tests::apiserver::ApiServer;
use weft_tests::counts::wait_for;

use crate::common::{CHANGE, Cluster, PORT, http_app, mesh, policy, service};

/// Namespace of the workloads.
pub(super) const NAMESPACE: &str = "shop";
/// Every workload with a sidecar.
pub(super) const WORKLOADS: [&str; 8] = [
    "client", "guest", "app-1", "app-2", "shadow-1", "flaky-1", "flaky-2", "db-1",
];
/// Namespace of pods that are patched.
const PATCHED: &str = "patched";
/// The control plane's namespace begins so.
const CONTROL: &str = "weft-observe-control";
const DB_PORT: u16 = 5432;
const WEFT: &str = env!("CARGO_BIN_EXE_weft-under-test");
/// What a process may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// Between connections to the database.
const TCP_PAUSE: Duration = Duration::from_millis(100);

/// A canary of a fifth, copied to a shadow; only the client may.
const APP: &str = "split: {backends: [{name: app-stable, weight: 80}, {name: app-canary, weight: 20}], \
    mirror: {name: shadow, percent: 20}}, circuitBreaker: {limits: {maxRequests: 100, maxConnections: 100}}, \
    authorization: {mode: Enforce, allow: [{principals: [{serviceAccount: {name: client}}]}]}";
/// Retries that soon cannot be afforded, and endpoints that are ejected for a moment.
const FLAKY: &str = "retries: {attempts: 3, statusCodes: [503], backoff: {base: 1ms, max: 5ms}, \
    budget: {percent: 10, interval: 1s, minRetriesPerSecond: 1}}, \
    circuitBreaker: {consecutiveFailures: {threshold: 3}, openDuration: 1s, maxOpenDuration: 1s}";
/// Nobody would be let in.
const AUDIT: &str =
    "authorization: {mode: Audit, allow: [{principals: [{serviceAccount: {name: nobody}}]}]}";

/// The mesh, before anything happens.
pub(super) fn builder() -> Builder {
    let account = |name: &str| Workload::new(name).service_account(name);
    mesh("observe")
        .namespace(NAMESPACE)
        .workload(account("client"))
        .workload(account("guest"))
        .workload(http_app("app-1"))
        .workload(http_app("app-2").version("v2"))
        .workload(http_app("shadow-1"))
        .workload(http_app("flaky-1"))
        .workload(http_app("flaky-2"))
        .workload(Workload::new("db-1").port(DB_PORT, AppSpec::tcp().protocol("tcp")))
        .service(service("app", ["app-1", "app-2"]))
        .service(service("app-stable", ["app-1"]))
        .service(service("app-canary", ["app-2"]))
        .service(service("shadow", ["shadow-1"]))
        .service(service("flaky", ["flaky-1", "flaky-2"]))
        .service(
            weft_sandbox::Service::new("db")
                .port(DB_PORT, DB_PORT)
                .app_protocol("tcp")
                .endpoints(["db-1"]),
        )
        .named_policy("app", &policy(NAMESPACE, "app", "app", APP))
        .named_policy("flaky", &policy(NAMESPACE, "flaky", "flaky", FLAKY))
        .named_policy("db", &policy(NAMESPACE, "db", "db", AUDIT))
}

/// What goes on until it is dropped.
pub(super) struct Traffic {
    loads: Vec<Running>,
    _connections: JoinSet<()>,
}

impl Traffic {
    /// Everything begins.
    pub(super) async fn start(mesh: &Mesh) -> anyhow::Result<Self> {
        let failing = |status, share| Behavior {
            status_percent: share,
            ..Behavior::status(status)
        };
        mesh.app("app-2").behave(&failing(500, 30.0)).await?;
        mesh.app("flaky-1").behave(&failing(503, 90.0)).await?;
        mesh.app("flaky-2").behave(&failing(503, 40.0)).await?;
        let client = mesh.pod("client");
        let load = |service: &str, rate: f64| Load::new(mesh.addr(service, PORT)).rate(rate);
        let mixed = load("app", 40.0).clients(4).id_prefix("http");
        let mut loads = vec![
            mixed
                .shot(Shot::get("/"))
                .shot(Shot::new(Method::POST, "/orders"))
                .start(&client),
            load("app", 20.0)
                .protocol(Protocol::Grpc)
                .id_prefix("grpc")
                .start(&client),
            load("flaky", 40.0)
                .clients(4)
                .id_prefix("flaky")
                .start(&client),
            load("app", 10.0)
                .id_prefix("guest")
                .start(&mesh.pod("guest")),
            // A server that is a client too.
            load("shadow", 5.0)
                .id_prefix("inner")
                .start(&mesh.pod("app-1")),
        ];
        // Past the mesh: plaintext, to a pod's own address.
        let stranger = mesh.stranger("stranger")?;
        let bare = (mesh.pod("flaky-2").v4(), crate::common::APP_PORT).into();
        loads.push(Load::new(bare).rate(5.0).id_prefix("bare").start(&stranger));
        let mut connections = JoinSet::new();
        let db = mesh.addr("db", DB_PORT);
        connections.spawn_local(use_database(client.clone(), db));
        connections.spawn_local(use_database(mesh.pod("app-1"), db));
        // One that stays.
        connections.spawn_local(async move {
            let _open = client.connect(db).await;
            std::future::pending::<()>().await;
        });
        Ok(Self {
            loads,
            _connections: connections,
        })
    }

    /// Ends, once every part of it has had answers.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        for load in self.loads {
            let report = load.stop().await;
            anyhow::ensure!(
                report.sent > report.failed,
                "nothing was answered: {report:?}"
            );
        }
        Ok(())
    }
}

/// A connection after another, each with a few bytes that come back.
async fn use_database(pod: Pod, db: SocketAddr) {
    loop {
        if let Ok(mut stream) = pod.connect(db).await {
            let mut back = [0; 4];
            // What fails shows in the sidecar's metrics.
            let _ = stream.write_all(b"ping").await;
            let _ = stream.read_exact(&mut back).await;
        }
        tokio::time::sleep(TCP_PAUSE).await;
    }
}

/// The webhook's process, with the certificate that the mesh's control plane makes. Killed when dropped.
pub(super) struct Injector {
    child: Child,
    admin: SocketAddr,
    relay: JoinSet<()>,
}

impl Injector {
    /// Starts it, waits until it is ready, and has a pod patched. Its admin port is `port` on `from`'s
    /// loopback.
    pub(super) async fn start(
        cluster: &Cluster,
        directory: &Path,
        (from, port): (&Pod, u16),
    ) -> anyhow::Result<Self> {
        let server = cluster.server()?;
        let all = Api::<Namespace>::all(cluster.client.clone());
        let names = all.list(&ListParams::default()).await?.items.into_iter();
        let mut names = names.filter_map(|it| it.metadata.name);
        let own = names
            .find(|name| name.starts_with(CONTROL))
            .context("the control plane's namespace")?;
        give_rights(server, &own).await?;
        server.put(&configuration(&own)).await?;
        let (child, webhook, admin) = launch(server, &own, directory).await?;
        let mut injector = Self {
            child,
            admin,
            relay: JoinSet::new(),
        };
        server.route_webhook((&own, cluster::WEBHOOK_SERVICE), webhook);
        wait_for("an injector that is ready", CHANGE, async || {
            let stream = TcpStream::connect(injector.admin).await;
            let Ok(mut stream) = stream else {
                return Ok(None);
            };
            let request = b"GET /ready HTTP/1.1\r\nhost: injector\r\nconnection: close\r\n\r\n";
            stream.write_all(request).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer.starts_with("HTTP/1.1 200").then_some(()))
        })
        .await?;
        patch_a_pod(server).await?;
        let listener = from.listen(SocketAddr::from(([127, 0, 0, 1], port)))?;
        injector.relay.spawn_local(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                // A scrape that finds nobody fails, and is seen.
                if let Ok(mut far) = TcpStream::connect(admin).await {
                    tokio::task::spawn_local(async move {
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    });
                }
            }
        });
        Ok(injector)
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn launch(
    server: &ApiServer,
    namespace: &str,
    directory: &Path,
) -> anyhow::Result<(Child, SocketAddr, SocketAddr)> {
    let account = (namespace, INJECTOR_SERVICE_ACCOUNT);
    let token = server.mint_token(account, &[], Duration::from_secs(3600), None);
    let (config, ports) = (
        directory.join("injector.kubeconfig"),
        directory.join("injector.ports"),
    );
    std::fs::write(&config, server.kubeconfig_with_token(&token))?;
    let log = std::fs::File::create(directory.join("logs/injector.log"))?;
    let child = Command::new(WEFT)
        .args(["internal", "injector", "--port-file"])
        .arg(&ports)
        .env("KUBECONFIG", config)
        .env("KUBERNETES_SERVICE_HOST", "10.96.0.1")
        .env(env::NAMESPACE, namespace)
        .env(env::LISTEN_ADDR, "127.0.0.1:0")
        .env(env::ADMIN_ADDR, "127.0.0.1:0")
        .env(env::PROXY_IMAGE, "registry.example/weft-proxy:1.2.3")
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let listening = wait_for("an injector that listens", START_PATIENCE, async || {
        let text = std::fs::read_to_string(&ports).unwrap_or_default();
        let found: Vec<u16> = text.lines().filter_map(|port| port.parse().ok()).collect();
        Ok((found.len() == 2).then(|| [found[0], found[1]]))
    });
    let [webhook, admin] = listening.await?.map(|port| ([127, 0, 0, 1], port).into());
    Ok((child, webhook, admin))
}

/// The account and the roles that it prints, in the control plane's namespace.
async fn give_rights(server: &ApiServer, namespace: &str) -> anyhow::Result<()> {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": INJECTOR_SERVICE_ACCOUNT, "namespace": namespace},
    });
    server.put(&account).await?;
    let printed = Command::new(WEFT)
        .args([
            "internal",
            "injector",
            "--print-rbac",
            "--namespace",
            namespace,
        ])
        .output()?;
    let text = String::from_utf8(printed.stdout)?;
    for document in text.split("---\n") {
        let role: Value = serde_saphyr::from_str(document)?;
        server.put(&role).await?;
    }
    Ok(())
}

/// The webhooks as the chart has them, as far as this server reads them, for one namespace.
fn configuration(namespace: &str) -> Value {
    let webhook = |name: &str, namespaces: &str| {
        json!({
            "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "NoneOnDryRun",
            "failurePolicy": "Ignore", "timeoutSeconds": 5,
            "clientConfig": {"service": {
                "name": cluster::WEBHOOK_SERVICE, "namespace": namespace, "path": "/inject", "port": 443}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["pods"], "scope": "Namespaced"}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespaces}},
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": cluster::WEBHOOK_CONFIGURATION},
        "webhooks": [
            webhook(cluster::WEBHOOK_BY_NAMESPACE, PATCHED),
            webhook(cluster::WEBHOOK_BY_POD, "nowhere"),
        ],
    })
}

/// A pod in a labelled namespace, through the webhook.
async fn patch_a_pod(server: &ApiServer) -> anyhow::Result<()> {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": PATCHED, "labels": {
            "weft.dev/inject": "enabled", "kubernetes.io/metadata.name": PATCHED}},
    });
    server.put(&namespace).await?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 8080}]}]},
    });
    wait_for("a pod that is patched", CHANGE, async || {
        let path = format!("/api/v1/namespaces/{PATCHED}/pods");
        let (code, made) = server.ask(Method::POST, &path, Some(&pod)).await;
        anyhow::ensure!(code == 201, "{code}: {made}");
        if made["spec"].to_string().contains("weft-proxy") {
            return Ok(Some(()));
        }
        let path = format!("{path}/web");
        let (_, _) = server.ask(Method::DELETE, &path, None).await;
        Ok(None)
    })
    .await
}
