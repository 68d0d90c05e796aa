//! What the tests share: the cluster that a test has, its mesh, and `kubectl`.

use std::fmt::Display;
use std::fs;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::FutureExt as _;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::Value;
use tokio::runtime::Runtime;
use weft_proto::names;
use weft_sandbox::app::Stats;
use weft_sandbox::load::{Load, Report, Running, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Programs, Sandbox, Service, Workload};
use weft_tests::apiserver::ApiServer;
use weft_tests::counts::wait_for;

use crate::KUBECTL;

/// The HTTP port of every application here.
pub(crate) const APP_PORT: u16 = 8080;
/// The port of every service here.
pub(crate) const PORT: u16 = 80;
/// How long a change may take from the API server to the traffic. Generous: a mesh takes milliseconds,
/// a loaded machine may not.
pub(crate) const CHANGE: Duration = Duration::from_secs(10);
/// What a test may take, in both tiers: what hangs is named instead of waited for.
const LIMIT: Duration = Duration::from_secs(75);
const SOAK_LIMIT: Duration = Duration::from_secs(300);
/// Where the logs of failing tests are kept; nowhere without it.
const KEEP_LOGS: &str = "WEFT_TEST_LOGS";

/// What a test runs with.
#[derive(Clone, Debug)]
pub(crate) struct Cx {
    pub(crate) name: String,
    pub(crate) sandbox: Sandbox,
    pub(crate) soak: bool,
    /// The kubeconfig of a cluster that is there already.
    pub(crate) given: Option<PathBuf>,
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

    /// A cluster with Weft's definitions.
    pub(crate) async fn cluster(&self) -> anyhow::Result<Cluster> {
        let cluster = self.bare_cluster().await?;
        cluster.define(&trafficpolicies()?).await?;
        Ok(cluster)
    }

    /// A cluster that may not have heard of Weft.
    pub(crate) async fn bare_cluster(&self) -> anyhow::Result<Cluster> {
        let dir = tempfile::tempdir_in(self.sandbox.dir())?;
        let (server, kubeconfig) = if let Some(given) = &self.given {
            (None, given.clone())
        } else {
            let server = Server::start().await?;
            let file = dir.path().join("kubeconfig");
            fs::write(&file, server.api.kubeconfig()?)?;
            (Some(server), file)
        };
        let read = Kubeconfig::read_from(&kubeconfig)?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(read, &options).await?;
        Ok(Cluster {
            client: Client::try_from(config)?,
            kubeconfig,
            server,
            dir,
        })
    }

    /// Starts a mesh in the cluster and runs the test on it. Where it fails, the ends of all logs are
    /// shown.
    pub(crate) async fn on(
        &self,
        cluster: &Cluster,
        mesh: Builder,
        test: impl AsyncFnOnce(&Mesh) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mesh = mesh
            .cluster(&cluster.kubeconfig)
            .start(&self.sandbox)
            .await?;
        let begin = Instant::now();
        let limit = self.pick(LIMIT, SOAK_LIMIT);
        let bounded = tokio::time::timeout(limit, test(&mesh));
        let result = AssertUnwindSafe(bounded).catch_unwind().await;
        if !matches!(result, Ok(Ok(Ok(())))) {
            self.keep_logs(&mesh).await;
        }
        let left = match cluster.server {
            // It ends with everything that is in it.
            Some(_) => Ok(()),
            None => mesh.leave_cluster(),
        };
        match result {
            Ok(Ok(Ok(()))) => has_its_rights(&mesh)?,
            Ok(Ok(Err(error))) => return Err(error.context(mesh.log_tails())),
            Ok(Err(_)) => anyhow::bail!("not done after {limit:?}\n{}", mesh.log_tails()),
            // The mesh shows its logs itself when it is dropped in a panic.
            Err(panic) => std::panic::resume_unwind(panic),
        }
        self.measured(format!("ran for {:.1?}", begin.elapsed()));
        left
    }

    /// Keeps logs and the sidecars' metrics, where that is asked for.
    async fn keep_logs(&self, mesh: &Mesh) {
        let Some(place) = std::env::var_os(KEEP_LOGS) else {
            return;
        };
        let place = Path::new(&place).join(self.name.replace("::", "."));
        let copy = || -> std::io::Result<()> {
            fs::create_dir_all(&place)?;
            for file in fs::read_dir(mesh.dir().join("logs"))? {
                let file = file?;
                fs::copy(file.path(), place.join(file.file_name()))?;
            }
            Ok(())
        };
        let copied = copy();
        for workload in mesh.workloads() {
            // Without a sidecar, or with one that is gone, there are none.
            if let Ok(page) = mesh.metrics(&workload).await {
                let file = format!("{}.metrics", workload.replace('/', "."));
                let _ = fs::write(place.join(file), page);
            }
        }
        if let Err(error) = copied {
            eprintln!("the logs could not be kept in {}: {error}", place.display());
        }
    }
}

/// The control plane's roles are all that it needs: it was never told that it may not do something.
fn has_its_rights(mesh: &Mesh) -> anyhow::Result<()> {
    for file in fs::read_dir(mesh.dir().join("logs"))? {
        let file = file?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        // Each replica has one.
        if name.starts_with("control-plane") {
            let log = fs::read_to_string(&file)?;
            let told = log.lines().find(|line| line.contains("forbidden"));
            anyhow::ensure!(told.is_none(), "{}", told.unwrap_or_default());
        }
    }
    Ok(())
}

/// The API server for tests, on a thread of its own: what waits for its answer may do so in any way.
pub(crate) struct Server {
    pub(crate) api: ApiServer,
    runtime: Option<Runtime>,
}

impl Server {
    async fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("api-server")
            .enable_all()
            .build()?;
        let api = runtime.spawn(ApiServer::start()).await??;
        api.enforce_roles();
        Ok(Self {
            api,
            runtime: Some(runtime),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A cluster, as whoever administers it sees it.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    kubeconfig: PathBuf,
    server: Option<Server>,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// The test's own API server.
    pub(crate) fn server(&self) -> anyhow::Result<&ApiServer> {
        let server = self.server.as_ref();
        Ok(&server
            .context("the test was registered without `server`")?
            .api)
    }

    /// A token of an account of the control plane's namespace, for an audience.
    pub(crate) async fn token(
        &self,
        mesh: &Mesh,
        account: &str,
        audience: &str,
    ) -> anyhow::Result<String> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.to_owned()],
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let namespace = mesh.control_plane_namespace()?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let params = PostParams::default();
        let given = accounts.create_token_request(account, &params, &request);
        Ok(given.await?.status.context("no token")?.token)
    }

    /// A kubeconfig of whoever administers the cluster, as the API server is reached from the control plane's
    /// pods.
    pub(crate) fn admin_inside(&self, mesh: &Mesh) -> anyhow::Result<PathBuf> {
        let admin = Kubeconfig::read_from(&self.kubeconfig)?;
        let mut inside = Kubeconfig::read_from(mesh.dir().join("kubeconfig"))?;
        for (own, of_admin) in inside.contexts.iter_mut().zip(&admin.contexts) {
            own.context.clone_from(&of_admin.context);
        }
        inside.auth_infos = admin.auth_infos;
        let file = self.dir.path().join("admin-inside");
        fs::write(&file, serde_json::to_string(&inside)?)?;
        Ok(file)
    }

    /// Installs a definition, or what it has become, and waits until its kind is served.
    pub(crate) async fn define(&self, definition: &Value) -> anyhow::Result<()> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let mut crd: CustomResourceDefinition = serde_json::from_value(definition.clone())?;
        let name = crd.metadata.name.clone().context("a definition's name")?;
        match api.get_opt(&name).await? {
            None => drop(api.create(&PostParams::default(), &crd).await?),
            Some(known) => {
                crd.metadata.resource_version = known.metadata.resource_version;
                api.replace(&name, &PostParams::default(), &crd).await?;
            }
        }
        wait_for(&format!("the kind {name}"), CHANGE, async || {
            let known = api.get(&name).await?;
            let conditions = known.status.and_then(|status| status.conditions);
            let established = conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == "Established" && condition.status == "True");
            Ok(established.then_some(()))
        })
        .await
    }

    /// The policies of a namespace.
    pub(crate) fn policies(&self, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = names::API_VERSION.split_once('/').unwrap_or_default();
        let kind = GroupVersionKind::gvk(group, version, names::TRAFFIC_POLICY_KIND);
        let resource = ApiResource::from_gvk_with_plural(&kind, "trafficpolicies");
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    /// Creates a policy with kube-rs.
    pub(crate) async fn create_policy(
        &self,
        namespace: &str,
        manifest: &str,
    ) -> anyhow::Result<DynamicObject> {
        let object: DynamicObject = serde_saphyr::from_str(manifest)?;
        let api = self.policies(namespace);
        Ok(api.create(&PostParams::default(), &object).await?)
    }

    /// Merges into a policy with kube-rs.
    pub(crate) async fn merge_policy(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> anyhow::Result<()> {
        let patch = Patch::Merge(patch);
        let params = PatchParams::default();
        self.policies(namespace)
            .patch(name, &params, &patch)
            .await?;
        Ok(())
    }

    /// Deletes a policy with kube-rs.
    pub(crate) async fn delete_policy(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let params = DeleteParams::default();
        let _ = self.policies(namespace).delete(name, &params).await?;
        Ok(())
    }

    /// Runs `weft` to its end as whoever administers the cluster, whatever it says.
    pub(crate) async fn weft(&self, args: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft-under-test"));
        command
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null());
        let ran = tokio::task::spawn_blocking(move || command.output()).await;
        Ok(ran??)
    }

    /// Runs `weft check` for a control plane's namespace to its end, whatever it finds: what it printed, in one
    /// line.
    pub(crate) async fn check(&self, namespace: &str) -> anyhow::Result<String> {
        let ran = self.weft(&["check", "--namespace", namespace]).await?;
        let out = String::from_utf8(ran.stdout)?;
        Ok(out.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Runs `kubectl` to its end: what it printed.
    ///
    /// # Errors
    /// Where it fails, with what it said.
    pub(crate) async fn kubectl(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut command = Command::new(KUBECTL);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            // It keeps what it has discovered there.
            .env("HOME", self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (what, input) = (arguments.join(" "), input.to_owned());
        let ran = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(input.as_bytes())?;
            }
            child.wait_with_output()
        });
        let output = ran.await?.with_context(|| format!("kubectl {what}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(
            output.status.success(),
            "kubectl {what}: {}\n{}{text}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }
}

/// The definition of `TrafficPolicy`, as the chart has it.
pub(crate) fn trafficpolicies() -> anyhow::Result<Value> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/weft/templates/crds");
    let text = fs::read_to_string(chart.join("trafficpolicies.yaml"))?;
    Ok(serde_saphyr::from_str(&text)?)
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

/// A TrafficPolicy for a service; `stanzas` as in YAML's flow style.
pub(crate) fn policy(namespace: &str, name: &str, service: &str, stanzas: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\n\
         kind: TrafficPolicy\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{targetRefs: [{{kind: Service, name: {service}}}], {stanzas}}}\n"
    )
}

/// All of the traffic to one more service.
pub(crate) fn moved_to(service: &str) -> String {
    format!("split: {{backends: [{{name: {service}, weight: 1}}]}}")
}

/// GETs and POSTs from `client`, until stopped.
pub(crate) fn load(mesh: &Mesh, service: &str) -> Running {
    Load::new(mesh.addr(service, PORT))
        .clients(4)
        .rate(100.0)
        .id_prefix(service)
        .shot(Shot::get("/"))
        .shot(Shot::post("/orders", 100))
        .start(&mesh.pod("client"))
}

/// Waits until a load is answered by `app`.
pub(crate) async fn reaches(load: &Running, app: &str) -> anyhow::Result<Duration> {
    reaches_within(load, app, CHANGE).await
}

/// [`reaches`], with another patience.
pub(crate) async fn reaches_within(
    load: &Running,
    app: &str,
    patience: Duration,
) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    // What was answered before says nothing.
    let before = load.look(|report| count(report, app));
    wait_for(&format!("traffic to {app}"), patience, async || {
        let more = load.look(|report| count(report, app)) > before;
        Ok(more.then_some(()))
    })
    .await?;
    Ok(begin.elapsed())
}

/// Answers by `app` so far.
pub(crate) fn count(report: &Report, app: &str) -> u64 {
    report.served_by.get(app).copied().unwrap_or(0)
}

/// What applications have seen, added up.
pub(crate) async fn stats<const N: usize>(mesh: &Mesh, apps: [&str; N]) -> anyhow::Result<Stats> {
    let mut all = Stats::default();
    for app in apps {
        weft_tests::counts::add(&mut all, &mesh.app(app).stats().await?);
    }
    Ok(all)
}
