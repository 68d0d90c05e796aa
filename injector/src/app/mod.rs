//! The command line, settings, start and end.
//!
//! The admin listener is there first, so that a process which waits for its certificate can be seen doing
//! so. Nothing in the cluster is needed to start: what is not there yet is waited for, not ready.
//!
//! SIGTERM: not ready at once, but serving for [`LINGER`] more, since API servers learn by and by that
//! this replica is gone; then requests that are under way are answered. SIGINT: without lingering.
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
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use weft_proto::names::{self, env};

use self::settings::Environment;
use crate::admin::Admin;
use crate::certificate::Serving;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::rbac;
use crate::serve::{self, Server};
use crate::watch::namespaces::Namespaces;
use crate::watch::{self, Progress};

/// How long calls are still taken after SIGTERM.
pub const LINGER: Duration = Duration::from_secs(5);
const USAGE: u8 = 64;
/// What background threads may take after everything else has ended.
const RUNTIME_GRACE: Duration = Duration::from_millis(100);

/// Weft's admission webhook: adds the sidecar to pods. Its settings come from the environment (WEFT_*).
#[derive(Debug, Parser)]
#[command(name = "weft-injector", version)]
struct Arguments {
    /// Prints the roles that the webhook needs in a cluster, with their bindings.
    #[arg(long)]
    print_rbac: bool,
    /// The mesh's namespace in what is printed; else what the environment says.
    #[arg(long, value_name = "NAMESPACE", requires = "print_rbac")]
    namespace: Option<String>,
    /// Writes the ports that are listened on here, the webhook's and admin's, a line each.
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
}

/// Runs the webhook's command line, the program's name first.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing is left to do where even this cannot be printed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    if arguments.print_rbac {
        let namespace = arguments
            .namespace
            .or_else(|| std::env::var(env::NAMESPACE).ok());
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        let namespace = namespace
            .as_deref()
            .unwrap_or(names::CONTROL_PLANE_NAMESPACE);
        print!("{}", rbac::print(namespace));
        return ExitCode::SUCCESS;
    }
    // What is not Unicode is nothing that any variable expects; its reader says so.
    let look_up = |name: &str| std::env::var_os(name).map(|it| it.to_string_lossy().into_owned());
    let environment = match Environment::read(look_up) {
        Ok(environment) => environment,
        Err(wrong) => {
            for wrong in wrong {
                eprintln!("weft-injector: {wrong}");
            }
            return ExitCode::from(USAGE);
        }
    };
    let _last_lines = logging::start(environment.log_level, environment.log_format);
    match serve(environment, arguments.port_file.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(environment: Environment, port_file: Option<&Path>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting threads")?;
    let result = runtime.block_on(run(environment, port_file));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    result
}

async fn run(environment: Environment, port_file: Option<&Path>) -> anyhow::Result<()> {
    let Environment {
        namespace,
        settings,
        listen,
        admin,
        instance,
        ..
    } = environment;
    let (leaving, end) = (CancellationToken::new(), CancellationToken::new());
    end_on_signals(&leaving, &end).context("listening for signals")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let metrics = Arc::new(Metrics::new());
    let progress = Progress::default();
    let serving = Serving::new(&namespace, Arc::clone(&provider), metrics.expiry.clone());
    let serving = Arc::new(serving);

    let admin = bind(admin).await.context("the admin listener")?;
    let admin_address = admin.local_addr().context("the admin listener")?;
    let pages = Admin {
        serving: Arc::clone(&serving),
        progress: progress.clone(),
        metrics: Arc::clone(&metrics),
        leaving,
    };
    let admin = tokio::spawn(pages.run(admin));

    let config = Config::infer().await.context(
        "neither KUBECONFIG nor a service account's token says how to reach the API server",
    )?;
    let client = Client::try_from(config).context("the API server's client")?;
    let namespaces = Arc::new(Namespaces::new(client.clone()));
    let watching = {
        let (client, namespaces) = (client.clone(), Arc::clone(&namespaces));
        let (serving, namespace) = (Arc::clone(&serving), namespace.clone());
        tokio::spawn(async move {
            watch::follow_all(client, &namespace, &namespaces, &serving, &progress).await;
        })
    };

    let listener = bind(listen).await.context("the webhook's listener")?;
    let address = listener.local_addr().context("the webhook's listener")?;
    if let Some(file) = port_file {
        write_ports(file, address, admin_address)
            .with_context(|| format!("writing {}", file.display()))?;
    }
    tracing::info!(
        address = %address,
        admin = %admin_address,
        namespace,
        image = %settings.image,
        version = env!("CARGO_PKG_VERSION"),
        "the webhook listens",
    );
    let events = Events::start(client, instance, metrics.events_lost.clone());
    let tls = serve::tls(serving, provider).context("TLS")?;
    let server = Arc::new(Server::new(settings, namespaces, events, metrics));
    server.run(listener, tls, end).await;
    watching.abort();
    admin.abort();
    tracing::info!("the webhook ended");
    Ok(())
}

fn end_on_signals(leaving: &CancellationToken, end: &CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (leaving, end) = (leaving.clone(), end.clone());
    tokio::spawn(async move {
        let lingers = tokio::select! {
            _ = terminate.recv() => true,
            _ = interrupt.recv() => false,
        };
        tracing::info!("told to end");
        leaving.cancel();
        if lingers {
            tokio::select! {
                () = sleep(LINGER) => {}
                _ = interrupt.recv() => {}
            }
        }
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
fn write_ports(file: &Path, webhook: SocketAddr, admin: SocketAddr) -> io::Result<()> {
    let draft = file.with_extension(format!("draft-{}", std::process::id()));
    std::fs::write(&draft, format!("{}\n{}\n", webhook.port(), admin.port()))?;
    std::fs::rename(draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
        let read = |args: &[&str]| Arguments::try_parse_from(["weft-injector"].iter().chain(args));
        assert!(read(&[]).is_ok());
        let roles = read(&["--print-rbac", "--namespace", "mesh"]).expect("good");
        assert!(roles.print_rbac && roles.namespace.as_deref() == Some("mesh"));
        for wrong in [&["serve"][..], &["--namespace", "mesh"]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
