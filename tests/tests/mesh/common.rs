//! What the suites share: the context of a test, small meshes, and the checks that every load obeys.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Method, Request};
use http_body_util::Full;
use weft_proto::spiffe::SpiffeId;
use weft_sandbox::app::Stats;
use weft_sandbox::client::{Answer, Http1};
use weft_sandbox::mesh::Builder;
use weft_sandbox::metrics::Metrics;
use weft_sandbox::{AppSpec, Mesh, Pod, Programs, Sandbox, Service, Workload};

pub(crate) use weft_tests::counts::{
    add, assert_accounted, assert_all_served_once, assert_no_failure, wait_for,
};

/// The HTTP port of every application here.
pub(crate) const APP_PORT: u16 = 8080;
/// The port of every service here.
pub(crate) const PORT: u16 = 80;
/// What a test may take, in both tiers: what hangs is named instead of waited for.
const LIMIT: Duration = Duration::from_secs(90);
const SOAK_LIMIT: Duration = Duration::from_secs(600);
/// Where the logs of failing tests are kept; nowhere without it.
const KEEP_LOGS: &str = "WEFT_TEST_LOGS";

/// What a test runs with.
#[derive(Clone, Debug)]
pub(crate) struct Cx {
    pub(crate) name: String,
    pub(crate) sandbox: Sandbox,
    pub(crate) soak: bool,
}

impl Cx {
    /// The quick form's value, or the long form's where `WEFT_SOAK=1` asks for it.
    pub(crate) fn pick<T>(&self, quick: T, soak: T) -> T {
        if self.soak { soak } else { quick }
    }

    /// Says what was measured, for whoever reads the suite's output.
    pub(crate) fn measured(&self, what: impl Display) {
        println!("measured {}: {what}", self.name);
    }

    /// Starts a mesh and runs the test on it. Where it fails, the ends of all logs are shown.
    pub(crate) async fn on(
        &self,
        mesh: Builder,
        test: impl AsyncFnOnce(&Mesh) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mesh = mesh.start(&self.sandbox).await?;
        let limit = self.pick(LIMIT, SOAK_LIMIT);
        let bounded = tokio::time::timeout(limit, test(&mesh));
        match AssertUnwindSafe(bounded).catch_unwind().await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => {
                self.keep_logs(&mesh).await;
                Err(error.context(mesh.log_tails()))
            }
            Ok(Err(_)) => {
                self.keep_logs(&mesh).await;
                anyhow::bail!("not done after {limit:?}\n{}", mesh.log_tails())
            }
            Err(panic) => {
                // The mesh shows its logs itself when it is dropped in a panic.
                self.keep_logs(&mesh).await;
                std::panic::resume_unwind(panic)
            }
        }
    }

    /// Keeps logs, manifests and the sidecars' metrics, where that is asked for.
    async fn keep_logs(&self, mesh: &Mesh) {
        let Some(place) = std::env::var_os(KEEP_LOGS) else {
            return;
        };
        let place = std::path::Path::new(&place).join(self.name.replace("::", "."));
        let copy = || -> std::io::Result<()> {
            std::fs::create_dir_all(&place)?;
            for part in ["logs", "config"] {
                for file in std::fs::read_dir(mesh.dir().join(part))? {
                    let file = file?;
                    std::fs::copy(file.path(), place.join(file.file_name()))?;
                }
            }
            Ok(())
        };
        let copied = copy();
        for workload in mesh.workloads() {
            // Without a sidecar, or with one that is gone, there are none.
            if let Ok(page) = mesh.metrics(&workload).await {
                let file = format!("{}.metrics", workload.replace('/', "."));
                let _ = std::fs::write(place.join(file), page);
            }
        }
        if let Err(error) = copied {
            eprintln!("the logs could not be kept in {}: {error}", place.display());
        }
    }
}

/// An empty mesh that runs what was just built.
pub(crate) fn mesh(name: &str) -> Builder {
    Mesh::builder(
        name,
        Programs::of_weft(env!("CARGO_BIN_EXE_weft-under-test")),
    )
}

/// A meshed workload with an HTTP application on [`APP_PORT`].
pub(crate) fn http_app(name: &str) -> Workload {
    Workload::new(name).port(APP_PORT, AppSpec::http())
}

/// A service on [`PORT`] with these workloads behind it.
pub(crate) fn service<const N: usize>(name: &str, endpoints: [&str; N]) -> Service {
    Service::new(name).port(PORT, APP_PORT).endpoints(endpoints)
}

/// A meshed client called `client`, and a service `api` with meshed HTTP applications behind it.
pub(crate) fn client_and<const N: usize>(name: &str, apps: [&str; N]) -> Builder {
    let mut builder = mesh(name).workload(Workload::new("client").service_account("client"));
    for app in apps {
        builder = builder.workload(http_app(app));
    }
    builder.service(service("api", apps))
}

/// A TrafficPolicy for a service of the namespace `default`; `stanzas` as in YAML's flow style.
pub(crate) fn policy(name: &str, service: &str, stanzas: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\n\
         kind: TrafficPolicy\n\
         metadata: {{name: {name}, namespace: default}}\n\
         spec: {{targetRefs: [{{kind: Service, name: {service}}}], {stanzas}}}\n"
    )
}

/// The SPIFFE id of a service account in the mesh's own namespace.
pub(crate) fn id(service_account: &str) -> SpiffeId {
    SpiffeId::new("weft.local", "default", service_account).expect("names of tests are valid")
}

/// A request with an id that the application counts.
pub(crate) fn request(method: Method, target: &str, id: &str, body: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(target)
        .header(http::header::HOST, "api")
        .header(weft_sandbox::app::ID, id)
        .body(Full::new(Bytes::from(body.to_owned())))
        .expect("all parts are valid")
}

/// One such request over a connection of its own.
pub(crate) async fn send(
    pod: &Pod,
    to: std::net::SocketAddr,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Answer> {
    let what = format!("{} {}", request.method(), request.uri());
    let exchange = async {
        let mut connection = Http1::connect(pod, to).await?;
        connection.request(request).await
    };
    tokio::time::timeout(weft_sandbox::client::PATIENCE, exchange)
        .await
        .with_context(|| format!("{what}: no answer"))?
        .context(what)
}

/// A sidecar's metrics.
pub(crate) async fn metrics(mesh: &Mesh, workload: &str) -> anyhow::Result<Metrics> {
    Ok(Metrics::parse(&mesh.metrics(workload).await?))
}

/// Waits until a sidecar's breakers are open for so many endpoints of a backend.
pub(crate) async fn wait_for_open(
    mesh: &Mesh,
    workload: &str,
    wanted: usize,
) -> anyhow::Result<()> {
    wait_for("an open breaker", Duration::from_secs(20), async || {
        Ok((open_breakers(mesh, workload).await? == wanted).then_some(()))
    })
    .await
}

/// How many endpoints a sidecar's breakers keep out now, open or half-open.
pub(crate) async fn open_breakers(mesh: &Mesh, workload: &str) -> anyhow::Result<usize> {
    let metrics = metrics(mesh, workload).await?;
    let not_closed: f64 = ["open", "half_open"]
        .iter()
        .map(|state| metrics.sum("weft_circuit_breaker_state", &[("state", state)]))
        .sum();
    Ok(not_closed as usize)
}

/// What applications have seen, added up.
pub(crate) async fn stats<const N: usize>(mesh: &Mesh, apps: [&str; N]) -> anyhow::Result<Stats> {
    let mut all = Stats::default();
    for app in apps {
        add(&mut all, &mesh.app(app).stats().await?);
    }
    Ok(all)
}

/// Nothing reached an application.
pub(crate) fn assert_untouched(stats: &Stats) {
    assert_eq!(
        stats.requests, 0,
        "requests reached the application: {:?}",
        stats.routes
    );
    assert_eq!(stats.connections, 0, "connections reached the application");
}

/// A share in percent.
pub(crate) fn percent(part: u64, all: u64) -> f64 {
    part as f64 * 100.0 / all as f64
}
