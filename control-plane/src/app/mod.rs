//! The command line, settings, start and end.
//!
//! The admin listener is there first, so that a process which waits for its source or its state can
//! be seen doing so; the gRPC listener comes last, when everything behind it works. SIGTERM and
//! SIGINT end the process within a second.
//!
//! Exit codes: 0 after a requested end, 1 after a failure, 64 for a bad command line or environment.

#[cfg(feature = "kubernetes")]
mod cluster;
mod descriptors;
mod logging;
mod settings;

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_proto::logs::LogControl;
#[cfg(not(feature = "kubernetes"))]
use weft_proto::names::env;

use self::settings::{Command, Serve, Settings, Token};
use crate::identity::tokens::{JoinTokenReviewer, JoinTokens};
use crate::identity::{Authority, Directory, TRUST_BUNDLE_FILE, TokenReviewer};
use crate::index::Model;
use crate::keeper::{AnyKeeper, DirectoryStore, FilesGiver, GivenFiles, GivenKeeper, Keeper};
use crate::serve::admin::Admin;
use crate::serve::admin::access::{AccessReviewer, Gate};
use crate::serve::counts::Counts;
use crate::serve::replicas::Place;
use crate::serve::streams::Streams;
use crate::serve::{DEFAULT_STREAM_LIFE, Metrics, Server};
use crate::source;
use crate::source::progress::Progress;

const USAGE: u8 = 64;
/// What background threads may take after everything else has ended.
const RUNTIME_GRACE: Duration = Duration::from_millis(100);
/// What tasks beside the server may take to end; it ends at the same time.
const TASKS_GRACE: Duration = Duration::from_millis(700);

/// Runs the control plane's command line, the program's name first.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let settings = match Settings::try_parse_from(args) {
        Ok(settings) => settings,
        Err(error) => {
            // Nothing is left to do where even this cannot be printed.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    #[cfg(feature = "kubernetes")]
    if settings.roles.print_rbac {
        print_rbac(&settings.roles);
        return ExitCode::SUCCESS;
    }
    let Some(command) = settings.command else {
        let mut usage = Settings::command();
        // As above.
        let _ = usage
            .error(ErrorKind::MissingSubcommand, "what is to be done?")
            .print();
        return ExitCode::from(USAGE);
    };
    match command {
        Command::Token(settings) => finish(token(&settings), |error| eprintln!("{error:#}")),
        Command::Serve(settings) => {
            let (log, _last_lines) =
                logging::start(settings.log_level, settings.log_format).unzip();
            descriptors::raise();
            finish(serve(*settings, log), |error| tracing::error!("{error:#}"))
        }
    }
}

#[cfg(feature = "kubernetes")]
fn print_rbac(settings: &settings::Roles) {
    use crate::cluster::rbac;

    let namespace = &settings.namespace;
    match settings.output {
        settings::Output::Yaml => print!("{}", rbac::print(namespace)),
        settings::Output::Json => {
            let items = rbac::manifests(namespace);
            let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items});
            println!("{list:#}");
        }
    }
}

fn finish(result: anyhow::Result<()>, complain: impl FnOnce(&anyhow::Error)) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn token(settings: &Token) -> anyhow::Result<()> {
    let (namespace, workload) = &settings.workload;
    let token = JoinTokens::open(&settings.state)?.issue(namespace, workload)?;
    println!("{}", token.as_str());
    Ok(())
}

fn serve(settings: Serve, log: Option<LogControl>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting threads")?;
    let result = runtime.block_on(run(settings, log));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    result
}

async fn run(settings: Serve, log: Option<LogControl>) -> anyhow::Result<()> {
    let end = CancellationToken::new();
    end_on_signals(&end).context("listening for signals")?;
    let tasks = TaskTracker::new();
    let tasks_end = async {
        end.cancelled().await;
        tasks.close();
        // Who has not ended by then is cut off with the process.
        let _ = timeout(TASKS_GRACE, tasks.wait()).await;
    };
    let serving = async {
        let result = serve_until(&settings, log, &tasks, &end).await;
        end.cancel();
        result
    };
    tokio::join!(serving, tasks_end).0
}

/// Serves until `end`, or until something that is needed cannot be had.
async fn serve_until(
    settings: &Serve,
    log: Option<LogControl>,
    tasks: &TaskTracker,
    end: &CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new());
    let streams = Arc::new(Streams::new(metrics.clone()));

    let (synced, models) = watch::channel(None);
    let (serving, replicas) = watch::channel(None);
    let (keeping, keeper) = watch::channel(None);
    let (letting_in, reviewer) = watch::channel(None);
    let admin = bind(settings.admin).await.context("the admin listener")?;
    let admin_address = admin.local_addr().context("the admin listener")?;
    let progress = Progress::default();
    let pages = Admin {
        models,
        progress: progress.clone(),
        streams: streams.clone(),
        metrics: metrics.clone(),
        replicas,
        gate: match (&settings.dir, &settings.state) {
            (Some(_), Some(_)) => Gate::Loopback,
            _ => Gate::reviewed(reviewer),
        },
        keeper,
        log,
        end: end.clone(),
    };
    tokio::spawn(pages.run(admin));

    let parts = tokio::select! {
        parts = gather(settings, &metrics, progress, tasks, end) => parts?,
        () = end.cancelled() => return Ok(()),
    };
    let models = parts.models;
    let trust_domain = parts.authority.trust_domain().to_owned();
    let mut server = Server::new(
        parts.authority,
        parts.reviewer,
        models.clone(),
        streams,
        metrics,
        DEFAULT_STREAM_LIFE,
    )?;
    if let Some(place) = parts.place {
        server = server.among(place);
    }

    let listener = bind(settings.listen).await.context("the gRPC listener")?;
    let address = listener.local_addr().context("the gRPC listener")?;
    if let Some(file) = &settings.port_file {
        write_ports(file, address, admin_address)
            .with_context(|| format!("writing {}", file.display()))?;
    }
    tracing::info!(
        address = %address,
        admin = %admin_address,
        trust_domain,
        trust_bundle = parts.trust_bundle,
        version = env!("CARGO_PKG_VERSION"),
        "control plane listening",
    );
    synced.send_replace(Some(models));
    serving.send_replace(Some(server.replicas()));
    letting_in.send_replace(parts.access);
    keeping.send_replace(Some(parts.keeper.trusted()));
    tasks.spawn(
        end.clone()
            .run_until_cancelled_owned(parts.keeper.run(server.replicas())),
    );
    if let Some(beside) = parts.beside {
        tasks.spawn(
            end.clone()
                .run_until_cancelled_owned(beside(server.replicas().counts())),
        );
    }
    server.run(listener, end.clone()).await;
    tracing::info!("control plane ended");
    Ok(())
}

/// What the gRPC server serves from, whatever the source is.
struct Parts {
    models: watch::Receiver<Arc<Model>>,
    authority: Arc<Authority>,
    /// Who moves its rotations on.
    keeper: AnyKeeper,
    reviewer: Arc<dyn TokenReviewer>,
    /// Who says who may ask the admin listener, where that is not loopback only.
    access: Option<Arc<dyn AccessReviewer>>,
    /// Where sidecars boot from, for people.
    trust_bundle: String,
    /// Where this replica stands among others, where there may be any.
    place: Option<Place>,
    /// What goes on while it serves, and looks at how many sidecars run which policy.
    beside: Option<Beside>,
}

type Beside = Box<dyn FnOnce(watch::Receiver<Arc<Counts>>) -> BoxFuture<'static, ()> + Send>;

/// Follows the directory where there is one, else a cluster.
async fn gather(
    settings: &Serve,
    metrics: &Arc<Metrics>,
    progress: Progress,
    tasks: &TaskTracker,
    end: &CancellationToken,
) -> anyhow::Result<Parts> {
    match (&settings.dir, &settings.state) {
        (Some(dir), Some(state)) => from_directory(dir, state, settings, metrics, end).await,
        _ => from_cluster(settings, metrics, progress, tasks, end).await,
    }
}

async fn from_directory(
    dir: &Path,
    state: &Path,
    settings: &Serve,
    metrics: &Arc<Metrics>,
    end: &CancellationToken,
) -> anyhow::Result<Parts> {
    let models = source::files::watch_dir(dir.to_owned(), end.clone())
        .await
        .with_context(|| format!("reading {}", dir.display()))?;
    let trust_domain = models.borrow().trust_domain().to_owned();
    let (authority, keeper) = match settings.given() {
        Some(files) => given(files, state, &trust_domain, settings, metrics),
        None => own(state, &trust_domain, settings, metrics),
    }
    .context("the certificate authority")?;
    let tokens = JoinTokens::open(state).context("the join tokens")?;
    let accounts = {
        let models = models.clone();
        move |namespace: &str, workload: &str| {
            let model = models.borrow();
            let workload = model.workload(namespace, workload)?;
            Some(workload.service_account.clone())
        }
    };
    Ok(Parts {
        models,
        authority,
        keeper,
        reviewer: Arc::new(JoinTokenReviewer::new(tokens, Box::new(accounts))),
        access: None,
        trust_bundle: state.join(TRUST_BUNDLE_FILE).display().to_string(),
        place: None,
        beside: None,
    })
}

/// An authority that is made in the state directory, once.
fn own(
    state: &Path,
    trust_domain: &str,
    settings: &Serve,
    metrics: &Metrics,
) -> anyhow::Result<(Arc<Authority>, AnyKeeper)> {
    let lifetimes = settings.lifetimes()?;
    let (leaf, now) = (settings.leaf_lifetime, SystemTime::now());
    let authority = Authority::open_with(state, trust_domain, leaf, &lifetimes, now)?;
    let authority = Arc::new(authority);
    let store = DirectoryStore::new(Directory::new(state));
    let keeper = Keeper::new(authority.clone(), store, lifetimes, metrics);
    Ok((authority, AnyKeeper::Own(Arc::new(keeper))))
}

/// An authority whose issuer is given in files. Its bundle is in the state directory.
fn given(
    files: GivenFiles,
    state: &Path,
    trust_domain: &str,
    settings: &Serve,
    metrics: &Metrics,
) -> anyhow::Result<(Arc<Authority>, AnyKeeper)> {
    let (leaf, now) = (settings.leaf_lifetime, SystemTime::now());
    let authority = Authority::given(&files.read()?, trust_domain, leaf, now)
        .with_context(|| format!("the issuer of {}", files.certificate.display()))?;
    let directory = Directory::new(state);
    directory.begin_given(&authority)?;
    let authority = Arc::new(authority);
    let keeper = GivenKeeper::new(
        authority.clone(),
        FilesGiver::new(files, directory),
        metrics,
    );
    Ok((authority, AnyKeeper::Given(Arc::new(keeper))))
}

#[cfg(feature = "kubernetes")]
async fn from_cluster(
    settings: &Serve,
    metrics: &Arc<Metrics>,
    progress: Progress,
    tasks: &TaskTracker,
    end: &CancellationToken,
) -> anyhow::Result<Parts> {
    cluster::start(settings, metrics, progress, tasks, end).await
}

#[cfg(not(feature = "kubernetes"))]
async fn from_cluster(
    settings: &Serve,
    _: &Arc<Metrics>,
    _: Progress,
    _: &TaskTracker,
    _: &CancellationToken,
) -> anyhow::Result<Parts> {
    // What is wrong with the settings is said by either program.
    let mesh = source::files::settings(settings.cluster.clone().into_file());
    mesh.map_err(anyhow::Error::msg)?;
    anyhow::bail!(
        "no directory is given by --dir or {}, and this program was built without the feature \
         kubernetes",
        env::MANIFEST_DIR
    )
}

fn end_on_signals(end: &CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let end = end.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to end");
        end.cancel();
    });
    Ok(())
}

/// Binds an address; the IPv6 wildcard means IPv4 where the kernel has no IPv6.
async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = match TcpListener::bind(address).await {
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            TcpListener::bind(address).await
        }
        bound => bound,
    };
    bound.with_context(|| format!("binding {address}"))
}

/// Whoever waits for the file sees it whole.
fn write_ports(file: &Path, grpc: SocketAddr, admin: SocketAddr) -> io::Result<()> {
    let draft = file.with_extension(format!("draft-{}", std::process::id()));
    std::fs::write(&draft, format!("{}\n{}\n", grpc.port(), admin.port()))?;
    std::fs::rename(draft, file)
}
