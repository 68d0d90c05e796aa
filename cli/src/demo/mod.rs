//! `weft demo`: a meshed application on this machine, with real interception where the kernel allows
//! network namespaces, and on the loopback where it does not.
//!
//! It starts a control plane and the workloads of a [`story`], each with a sidecar; lets traffic flow;
//! and tells the story, in which each act does something to the mesh. Whatever an act shows is measured
//! by the load generator, by the sidecars or by the applications, and compared with what had been
//! expected of it. Without a name it is the story of a small [shop](quickstart); `--platform` plays that
//! of one of the [`platforms`].
//!
//! Nothing is left behind, however it ends: processes and namespaces go with this process.

mod alerts;
mod check;
mod compare;
mod keep;
mod live;
mod pace;
mod platforms;
mod quickstart;
#[cfg(test)]
mod rehearsal;
mod screen;
mod stage;
mod story;
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
use clap::builder::PossibleValuesParser;
use tokio::signal::unix::{SignalKind, signal};
use weft_sandbox::enter::MODE_ENV;
use weft_sandbox::{Mode, Sandbox};

use check::{Check, Expected, Unit};
use keep::Doors;
use live::Size;
use pace::Pace;
use screen::Screen;
use stage::Stage;
use story::Story;
use summary::Summary;
use world::{Set, World};

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
    /// Plays the failures of a platform under the numbers of its deployment guide, instead of the shop's
    /// story: examples/NAME.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(platforms::names()))]
    platform: Option<String>,
    /// Plays the platform with its guide's own durations, instead of a tenth of them.
    #[arg(long, requires = "platform")]
    real_time: bool,
    /// Lists the platforms that --platform knows, and ends.
    #[arg(long, exclusive = true)]
    platforms: bool,
}

impl Options {
    /// Which story is to be told, and how fast.
    fn story(&self) -> (&'static Story, Pace) {
        let platform = self.platform.as_deref().and_then(platforms::story);
        match (platform, self.real_time) {
            (None, _) => (&quickstart::STORY, Pace::REAL),
            (Some(story), true) => (story, Pace::REAL),
            (Some(story), false) => (story, Pace::QUICK),
        }
    }
}

/// Runs the demo. Call it while the process has one thread: it enters namespaces first.
pub fn run(options: &Options) -> ExitCode {
    if options.platforms {
        // Fails only where nobody reads any more.
        let _ = io::stdout().write_all(platforms::list().as_bytes());
        return ExitCode::SUCCESS;
    }
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
    let (story, pace) = options.story();
    let table = Size::of(story.targets.iter().map(|target| target.service));
    let mut screen = Screen::new(options.json, table);
    let mut summary = Summary::new(story, pace, sandbox.mode());
    let version = env!("CARGO_PKG_VERSION");
    let title = screen.paint().strong(&format!("weft demo {version}"));
    screen.say(&format!("{title}: {}", mode_and_why(sandbox.mode())));
    screen.say(interception(sandbox.mode()));
    if let Some(name) = story.name {
        screen.say(&format!("Platform: {name}, {}.", story.about));
        screen.say(&pace_and_how_to_change_it(pace));
        if let (Some(_), Some(why)) = (story.watched, alerts::lacking()) {
            screen.say(&why);
        }
    }

    let set = match start(story, pace, sandbox, &mut screen, &summary).await {
        Ok(set) => set,
        Err(error) => {
            summary.fail(&error.context("starting the mesh"));
            return finish(options, &mut screen, &summary);
        }
    };
    let mut stage = Stage::new(World::new(set), screen, summary);
    let played = play(&mut stage, story).await;
    let (world, mut screen, mut summary) = stage.end();
    let world = Rc::into_inner(world).expect("acts that have ended keep nothing of the world");
    let (set, reports) = world.stop_traffic().await;
    for report in &reports {
        summary.add(report);
    }
    match played {
        Ok(()) => summary.push(everything(&summary)),
        Err(error) => {
            screen.say(&set.mesh.log_tails());
            summary.fail(&error);
        }
    }
    let code = finish(options, &mut screen, &summary);
    if options.keep
        && let Err(error) = keep(set, &mut screen).await
    {
        screen.say(&format!("weft demo: {error:#}"));
        return ExitCode::from(BROKEN);
    }
    code
}

/// Plays every act.
async fn play(stage: &mut Stage, story: &Story) -> anyhow::Result<()> {
    for act in story.acts {
        act(stage).await?;
    }
    Ok(())
}

/// What durations are divided by.
fn pace_and_how_to_change_it(pace: Pace) -> String {
    match pace.factor() {
        1 => "Durations are those of the platform's guide.".to_owned(),
        factor => format!(
            "Durations are those of the platform's guide divided by {factor}; --real-time plays them as they are."
        ),
    }
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
async fn start(
    story: &'static Story,
    pace: Pace,
    sandbox: &Sandbox,
    screen: &mut Screen,
    summary: &Summary,
) -> anyhow::Result<Set> {
    screen.say(&format!("Starting {} …", story.cast));
    let mut starting = pin!(Set::start(story, pace, sandbox));
    let set = loop {
        tokio::select! {
            biased;
            set = &mut starting => break set?,
            () = tokio::time::sleep(HEARTBEAT) => {
                screen.say(&format!("  … {:.0} s", summary.elapsed().as_secs_f64()));
            }
        }
    };
    let took = summary.elapsed().as_secs_f64();
    screen.say(&format!(
        "Everything is ready after {took:.1} s. Traffic flows from now on."
    ));
    Ok(set)
}

/// The last line: nothing that was sent is missing from what was counted.
fn everything(summary: &Summary) -> Check {
    let traffic = summary.traffic();
    Check {
        act: "The whole story",
        what: "neither answered nor failed".into(),
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
async fn keep(set: Set, screen: &mut Screen) -> anyhow::Result<()> {
    let doors = Doors::open(&set).await.context("opening the mesh")?;
    screen.say("");
    for line in doors.help(&set) {
        screen.say(&line);
    }
    let world = World::new(set);
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
