//! `weft demo`: a meshed application on this machine, with real interception where the kernel allows
//! network namespaces, and on the loopback where it does not.
//!
//! It starts a control plane and a small shop of eight workloads, each with a sidecar; lets traffic
//! flow; and tells a story in which each act does something to the mesh. Whatever an act shows is
//! measured by the load generator, by the sidecars or by the applications, and compared with what had
//! been expected of it.
//!
//! Nothing is left behind, however it ends: processes and namespaces go with this process.

mod acts;
mod check;
mod keep;
mod live;
mod screen;
mod stage;
mod summary;
pub(crate) mod text;
mod world;

use std::future::pending;
use std::io::{self, Write as _};
use std::pin::pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use weft_sandbox::enter::MODE_ENV;
use weft_sandbox::{Mesh, Mode, Sandbox};

use check::{Check, Expected, Unit};
use keep::Doors;
use screen::Screen;
use stage::Stage;
use summary::Summary;
use world::World;

/// Exit code when something was not as expected.
const UNEXPECTED: u8 = 1;
/// Exit code when the story broke off (`EX_SOFTWARE`, sysexits.h).
const BROKEN: u8 = 70;
/// Exit code after Ctrl-C (128 + SIGINT).
const INTERRUPTED: u8 = 130;
/// Pause between words while nothing is there to be drawn.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// What the load's reports may grow by before they are thrown away under `--keep`.
const KEEP_CUT: Duration = Duration::from_secs(10);

/// How the demo is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes:
  0    everything was as expected
  1    something was not as expected; the summary says what
  64   bad command line
  70   the story broke off; the last line says why
  130  ended by Ctrl-C or SIGTERM before the summary")]
pub struct Options {
    /// Leaves the mesh running after the story, until Ctrl-C, and says how to call it.
    #[arg(long)]
    keep: bool,
    /// Prints one JSON object on standard output, and everything else on standard error.
    #[arg(long)]
    json: bool,
}

/// Runs the demo. Call it while the process has one thread: it enters namespaces first.
pub fn run(options: &Options) -> ExitCode {
    // Never returns in the process that people started: that one waits for the one inside.
    let sandbox = match Sandbox::enter() {
        Ok(sandbox) => sandbox,
        Err(error) => {
            eprintln!("weft demo: {error:#}");
            return ExitCode::from(BROKEN);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(until_told(options, &sandbox)),
        Err(error) => {
            eprintln!("weft demo: {error}");
            ExitCode::from(BROKEN)
        }
    }
}

/// Runs the demo to its end, or to Ctrl-C.
async fn until_told(options: &Options, sandbox: &Sandbox) -> ExitCode {
    let mut demo = pin!(demo(options, sandbox));
    tokio::select! {
        // First: under `--keep` it has its own way to end.
        biased;
        code = &mut demo => code,
        () = told_to_end() => {
            eprintln!("weft demo: ended before its summary");
            ExitCode::from(INTERRUPTED)
        }
    }
}

async fn demo(options: &Options, sandbox: &Sandbox) -> ExitCode {
    let mut screen = Screen::new(options.json);
    let mut summary = Summary::new(sandbox.mode());
    let version = env!("CARGO_PKG_VERSION");
    let title = screen.paint().strong(&format!("weft demo {version}"));
    screen.say(&format!("{title}: {}", mode_and_why(sandbox.mode())));
    screen.say(interception(sandbox.mode()));

    let mesh = match start(sandbox, &mut screen, &summary).await {
        Ok(mesh) => mesh,
        Err(error) => {
            summary.fail(&error.context("starting the mesh"));
            return finish(options, &mut screen, &summary);
        }
    };
    let mut stage = Stage::new(World::new(mesh), screen, summary);
    let played = acts::play(&mut stage).await;
    let (world, mut screen, mut summary) = stage.end();
    let world = Rc::into_inner(world).expect("acts that have ended keep nothing of the world");
    let (mesh, reports) = world.stop_traffic().await;
    for report in &reports {
        summary.add(report);
    }
    match played {
        Ok(()) => summary.push(everything(&summary)),
        Err(error) => {
            screen.say(&mesh.log_tails());
            summary.fail(&error);
        }
    }
    let code = finish(options, &mut screen, &summary);
    if options.keep
        && let Err(error) = keep(mesh, &mut screen).await
    {
        screen.say(&format!("weft demo: {error:#}"));
        return ExitCode::from(BROKEN);
    }
    code
}

/// How pods are isolated here, and why so.
fn mode_and_why(mode: &Mode) -> String {
    match mode {
        Mode::UserNamespaces => format!("{mode} (this kernel lets everybody make them)"),
        Mode::Root { why } if why.is_empty() => {
            format!("network namespaces as root ({MODE_ENV} asks for them)")
        }
        Mode::Root { .. } | Mode::Explicit { .. } => mode.to_string(),
    }
}

/// How connections come to sidecars here.
fn interception(mode: &Mode) -> &'static str {
    if mode.has_namespaces() {
        "Interception: the kernel redirects every connection of a pod to its sidecar (nftables)."
    } else {
        "Interception: none; applications are told where on the loopback their sidecars listen."
    }
}

/// Starts the mesh and says that it does.
async fn start(sandbox: &Sandbox, screen: &mut Screen, summary: &Summary) -> anyhow::Result<Mesh> {
    screen.say("Starting a control plane and eight workloads with their sidecars …");
    let mut starting = pin!(World::start_mesh(sandbox));
    let mesh = loop {
        tokio::select! {
            biased;
            mesh = &mut starting => break mesh?,
            () = tokio::time::sleep(HEARTBEAT) => {
                screen.say(&format!("  … {:.0} s", summary.elapsed().as_secs_f64()));
            }
        }
    };
    let took = summary.elapsed().as_secs_f64();
    screen.say(&format!(
        "Everything is ready after {took:.1} s. Traffic flows from now on."
    ));
    Ok(mesh)
}

/// The last line: nothing that was sent is missing from what was counted.
fn everything(summary: &Summary) -> Check {
    let traffic = summary.traffic();
    Check {
        act: "The whole story",
        what: "neither answered nor failed",
        of: Some((traffic.sent, "requests")),
        value: Some(traffic.sent as f64 - (traffic.answered + traffic.failed) as f64),
        unit: Unit::Count,
        expected: Expected::exactly(0),
    }
}

/// Tells the summary.
fn finish(options: &Options, screen: &mut Screen, summary: &Summary) -> ExitCode {
    screen.say("");
    for line in summary.table(screen.paint()) {
        screen.say(&line);
    }
    if options.json {
        // Fails only where nobody reads any more.
        let _ = writeln!(io::stdout(), "{:#}", summary.json());
    }
    ExitCode::from(match (summary.is_whole(), summary.is_ok()) {
        (_, true) => 0,
        (true, false) => UNEXPECTED,
        (false, _) => BROKEN,
    })
}

/// Leaves the mesh running until the process is told to end, which is how this ends well.
async fn keep(mesh: Mesh, screen: &mut Screen) -> anyhow::Result<()> {
    let doors = Doors::open(&mesh).await.context("opening the mesh")?;
    screen.say("");
    for line in doors.help(&mesh) {
        screen.say(&line);
    }
    let world = World::new(mesh);
    let throw_reports_away = async {
        loop {
            tokio::time::sleep(KEEP_CUT).await;
            drop(world.take());
        }
    };
    tokio::select! {
        () = throw_reports_away => {}
        () = told_to_end() => {}
    }
    Ok(())
}

/// Ctrl-C, or what the outer process makes of it.
async fn told_to_end() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
