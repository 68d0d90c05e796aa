//! The command line, settings, start and end.
//!
//! The admin listener is there first, so that a process which waits for its source or its state can
//! be seen doing so; the gRPC listener comes last, when everything behind it works. SIGTERM and
//! SIGINT end the process within a second.
//!
//! Exit codes: 0 after a requested end, 1 after a failure, 64 for a bad command line or environment.

mod logging;
mod settings;

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_proto::names::env;

use self::settings::{Command, Serve, Settings, Token};
use crate::identity::tokens::{JoinTokenReviewer, JoinTokens};
use crate::identity::{Authority, TRUST_BUNDLE_FILE};
use crate::index::{MeshSettings, Model};
use crate::serve::admin::Admin;
use crate::serve::streams::Streams;
use crate::serve::{DEFAULT_STREAM_LIFE, Metrics, Server};
use crate::source;
use crate::source::progress::Progress;

const USAGE: u8 = 64;
/// What background threads may take after everything else has ended.
const RUNTIME_GRACE: Duration = Duration::from_millis(100);

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
    match settings.command {
        Command::Token(settings) => finish(token(&settings), |error| eprintln!("{error:#}")),
        Command::Serve(settings) => {
            logging::start(settings.log_level, settings.log_format);
            finish(serve(settings), |error| tracing::error!("{error:#}"))
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
    println!("{token}");
    Ok(())
}

fn serve(settings: Serve) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting threads")?;
    let result = runtime.block_on(run(settings));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    result
}

async fn run(settings: Serve) -> anyhow::Result<()> {
    let end = CancellationToken::new();
    end_on_signals(&end).context("listening for signals")?;
    let metrics = Arc::new(Metrics::new());
    let streams = Arc::new(Streams::new(metrics.clone()));

    let (synced, models) = watch::channel(None);
    let admin = bind(settings.admin).await.context("the admin listener")?;
    let admin_address = admin.local_addr().context("the admin listener")?;
    let progress = Progress::default();
    let pages = Admin {
        models,
        progress: progress.clone(),
        streams: streams.clone(),
        metrics: metrics.clone(),
        end: end.clone(),
    };
    tokio::spawn(pages.run(admin));

    let models = tokio::select! {
        models = watch(settings.dir, settings.cluster, progress, end.clone()) => models?,
        () = end.cancelled() => return Ok(()),
    };
    let trust_domain = models.borrow().trust_domain().to_owned();
    let now = SystemTime::now();
    let authority = Authority::open(&settings.state, &trust_domain, settings.leaf_lifetime, now)
        .context("the certificate authority")?;
    let tokens = JoinTokens::open(&settings.state).context("the join tokens")?;
    let accounts = {
        let models = models.clone();
        move |namespace: &str, workload: &str| {
            let model = models.borrow();
            let workload = model.workload(namespace, workload)?;
            Some(workload.service_account.clone())
        }
    };
    let reviewer = Arc::new(JoinTokenReviewer::new(tokens, Box::new(accounts)));
    let server = Server::new(
        Arc::new(authority),
        reviewer,
        models.clone(),
        streams,
        metrics,
        DEFAULT_STREAM_LIFE,
    )?;

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
        trust_bundle = %settings.state.join(TRUST_BUNDLE_FILE).display(),
        version = env!("CARGO_PKG_VERSION"),
        "control plane listening",
    );
    synced.send_replace(Some(models));
    server.run(listener, end).await;
    tracing::info!("control plane ended");
    Ok(())
}

/// Follows the directory where there is one, else a cluster.
async fn watch(
    dir: Option<PathBuf>,
    cluster: settings::Cluster,
    progress: Progress,
    end: CancellationToken,
) -> anyhow::Result<watch::Receiver<Arc<Model>>> {
    let Some(dir) = dir else {
        let settings = source::files::settings(cluster.into_file());
        let settings = settings.map_err(anyhow::Error::msg)?;
        return watch_cluster(settings, progress, end).await;
    };
    source::files::watch_dir(dir.clone(), end)
        .await
        .with_context(|| format!("reading {}", dir.display()))
}

#[cfg(feature = "kubernetes")]
async fn watch_cluster(
    settings: MeshSettings,
    progress: Progress,
    end: CancellationToken,
) -> anyhow::Result<watch::Receiver<Arc<Model>>> {
    use crate::source::kubernetes;

    let client = kubernetes::connect()
        .await
        .with_context(|| format!("no directory is given by --dir or {}", env::MANIFEST_DIR))?;
    let following = kubernetes::watch_cluster(client, settings, progress, end).await;
    Ok(following.context("watching the cluster")?.models)
}

#[cfg(not(feature = "kubernetes"))]
async fn watch_cluster(
    _: MeshSettings,
    _: Progress,
    _: CancellationToken,
) -> anyhow::Result<watch::Receiver<Arc<Model>>> {
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
