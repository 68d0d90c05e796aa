//! `weft canary`: the weights of a service's split, shown and changed.
//!
//! The split is that of the one TrafficPolicy that targets the service. In a cluster its object is changed,
//! and only while it is what was looked at; among files, the weights in the file are, and nothing else of
//! it. Whether a change is good is decided before anything is written.
//!
//! * `model`: what a split is, as it is shown.
//! * `plan`: which weights are wanted, whether they may be, and which users move.
//! * `policy`: a split out of a policy's manifest.
//! * `files` and `edit`: among files. `object`: in a cluster.
//! * `text`: for people.

mod edit;
mod files;
mod model;
mod object;
mod plan;
mod policy;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use weft_control_plane::policy::PolicyDuration;

use crate::cluster::ClusterArgs;
use crate::order::{Output, print};
use crate::paint::{self, Paint};
use model::{Canary, Proxies};
use plan::{Move, Plan, Wanted};

/// Exit code where it is refused, and nothing was changed.
const REFUSED: u8 = 1;
/// Exit code where the cluster or the files cannot be read or written.
const NO_ANSWER: u8 = 2;
/// Exit code where it was changed, and not every sidecar is known to have it.
const NOT_EVERYWHERE: u8 = 3;
/// How often somebody else may be faster. The control plane is one: it writes how a policy fares into it, and
/// most of all just after a change.
const MAX_LOST: usize = 4;

const CODES: &str = "\
Without -f, the TrafficPolicy of the cluster is meant that targets the service; with -f, that in files,
of which nothing but the weights changes. Weights that an HTTPRoute or a GRPCRoute holds are its own, and
those of a policy's rules are not touched.

Exit codes:
  0   shown; or changed, and in a cluster every sidecar has it (unless --no-wait)
  1   refused, nothing was changed
  2   the cluster or the files cannot be read, or written
  3   changed, and not every sidecar is known to have it within --timeout
  64  bad command line";

/// What is done about a split.
#[derive(Debug, Subcommand)]
pub enum CanaryCommand {
    /// Shows weights, endpoints, and how many sidecars have them.
    #[command(after_help = CODES)]
    Get(Get),
    /// Sets weights; those that are not named stay.
    #[command(after_help = CODES)]
    Set(Set),
    /// Sends everything to one backend, the last one unless said.
    #[command(after_help = CODES)]
    Promote(Promote),
    /// Sends everything back to the first backend.
    #[command(after_help = CODES)]
    Abort(Abort),
}

/// Whose split is shown.
#[derive(Debug, Args)]
pub struct Get {
    #[command(flatten)]
    of: Of,
}

/// Which weights are set.
#[derive(Debug, Args)]
pub struct Set {
    #[command(flatten)]
    of: Of,
    /// What backends are to have, as `checkout-v2=10`.
    #[arg(value_name = "BACKEND=WEIGHT", required = true)]
    weights: Vec<Weight>,
    #[command(flatten)]
    how: How,
}

/// Which backend gets everything.
#[derive(Debug, Args)]
pub struct Promote {
    #[command(flatten)]
    of: Of,
    /// The backend; the last one if left out.
    backend: Option<String>,
    #[command(flatten)]
    how: How,
}

/// Whose canary ends.
#[derive(Debug, Args)]
pub struct Abort {
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    how: How,
}

/// Whose split, and where.
#[derive(Debug, Args)]
struct Of {
    /// The service that clients address.
    service: String,
    /// Its namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The policy, where several have a split for the service.
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// A file, or a directory as a control plane reads it, instead of a cluster; may be repeated.
    #[arg(short, long, value_name = "PATH")]
    file: Vec<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How it is changed.
#[derive(Debug, Args)]
struct How {
    /// Sends traffic also where nothing is there to take it.
    #[arg(long)]
    force: bool,
    /// Does not wait until sidecars have it.
    #[arg(long, conflicts_with = "file")]
    no_wait: bool,
    /// How long sidecars are waited for.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "60s",
        conflicts_with_all = ["file", "no_wait"]
    )]
    timeout: PolicyDuration,
}

/// What one backend is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Weight {
    backend: String,
    weight: u32,
}

/// Why nothing was shown or changed.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// It may not be.
    #[error("{0}")]
    Refused(String),
    /// Cluster or files.
    #[error("{0}")]
    Unreachable(String),
}

/// What was changed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Changed {
    /// As it is now.
    canary: Canary,
    /// Weights as they were, in the order of the backends.
    before: Vec<u32>,
    /// Which users move, where users are kept on one side.
    moves: Vec<Move>,
    warnings: Vec<String>,
    /// Whether every sidecar has it; nothing where nobody waited.
    everywhere: Option<bool>,
}

/// Does something about a split. Exit codes are in the command's help.
pub fn run(command: &CanaryCommand) -> ExitCode {
    let (name, done) = match command {
        CanaryCommand::Get(get) => ("get", get.of.show()),
        CanaryCommand::Set(set) => {
            let weights = set.weights.iter();
            let weights = weights.map(|it| (it.backend.clone(), it.weight)).collect();
            let wanted = Wanted::Set(weights);
            ("set", set.of.change(&wanted, &set.how))
        }
        CanaryCommand::Promote(promote) => {
            let wanted = Wanted::Promote(promote.backend.clone());
            ("promote", promote.of.change(&wanted, &promote.how))
        }
        CanaryCommand::Abort(abort) => ("abort", abort.of.change(&Wanted::Abort, &abort.how)),
    };
    ExitCode::from(match done {
        Ok(code) => code,
        Err(trouble) => {
            eprintln!("weft canary {name}: {trouble}");
            match trouble {
                Trouble::Refused(_) => REFUSED,
                Trouble::Unreachable(_) => NO_ANSWER,
            }
        }
    })
}

impl Of {
    fn show(&self) -> Result<u8, Trouble> {
        let canary = if self.file.is_empty() {
            on_runtime(async {
                let cluster = object::Cluster::of(&self.cluster, &self.namespace).await?;
                Ok(cluster.find(self).await?.canary)
            })?
        } else {
            files::find(self)?.canary
        };
        let painted = || text::shown(&canary, paint());
        show(&print(self.output, &canary, painted));
        Ok(0)
    }

    fn change(&self, wanted: &Wanted, how: &How) -> Result<u8, Trouble> {
        let changed = if self.file.is_empty() {
            on_runtime(self.change_object(wanted, how))?
        } else {
            let found = files::find(self)?;
            let plan = Plan::of(&found.canary, wanted, how.force).map_err(Trouble::Refused)?;
            found.write(&plan)?;
            Changed::of(files::find(self)?.canary, &plan, None)
        };
        let painted = || text::changed(&changed, paint());
        show(&print(self.output, &changed, painted));
        Ok(match changed.everywhere {
            Some(false) => NOT_EVERYWHERE,
            Some(true) | None => 0,
        })
    }

    async fn change_object(&self, wanted: &Wanted, how: &How) -> Result<Changed, Trouble> {
        let cluster = object::Cluster::of(&self.cluster, &self.namespace).await?;
        let mut told = Told::new();
        let mut lost = 0;
        loop {
            let found = cluster.find(self).await?;
            let plan = Plan::of(&found.canary, wanted, how.force).map_err(Trouble::Refused)?;
            let Some(generation) = cluster.write(&found, &plan).await? else {
                lost += 1;
                if lost <= MAX_LOST {
                    told.line("somebody else has just changed the policy: it is looked at again");
                    continue;
                }
                return Err(Trouble::Refused(
                    "somebody else changes the policy at the same time; look who, and try again"
                        .to_owned(),
                ));
            };
            let everywhere = if how.no_wait {
                None
            } else {
                let until = tokio::time::Instant::now() + how.timeout.get();
                let of = &found.canary.policy;
                Some(cluster.wait(of, generation, until, &mut told).await?)
            };
            let now = cluster.find(self).await?.canary;
            return Ok(Changed::of(now, &plan, everywhere));
        }
    }
}

impl Changed {
    fn of(canary: Canary, plan: &Plan, everywhere: Option<bool>) -> Self {
        Self {
            canary,
            before: plan.before.clone(),
            moves: plan.moves.clone(),
            warnings: plan.warnings.clone(),
            everywhere,
        }
    }
}

/// What is said while it takes time: on a terminal in one line that goes away, elsewhere a line each time
/// that something is new.
struct Told {
    is_terminal: bool,
    last: String,
}

impl Told {
    fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal() && paint::knows_control_sequences(),
            last: String::new(),
        }
    }

    fn line(&mut self, text: &str) {
        self.end();
        eprintln!("{text}");
    }

    fn progress(&mut self, proxies: Option<Proxies>) {
        let text = match proxies {
            Some(Proxies {
                acknowledged,
                total,
            }) => format!("{acknowledged} of {total} sidecars have it"),
            None => "waiting for the control plane".to_owned(),
        };
        if text == self.last {
            return;
        }
        if self.is_terminal {
            eprint!("\r\x1b[K{text} …");
        } else {
            eprintln!("{text}");
        }
        self.last = text;
    }

    fn end(&mut self) {
        if self.is_terminal && !std::mem::take(&mut self.last).is_empty() {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.end();
    }
}

impl FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "not a backend and its weight, such as checkout-v2=10, from 0 to {}",
                plan::MAX_WEIGHT
            )
        };
        let (backend, weight) = text.split_once('=').ok_or_else(wrong)?;
        let weight: u32 = weight.parse().map_err(|_| wrong())?;
        if backend.is_empty() || weight > plan::MAX_WEIGHT {
            return Err(wrong());
        }
        Ok(Self {
            backend: backend.to_owned(),
            weight,
        })
    }
}

fn on_runtime<T>(work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Trouble::Unreachable(error.to_string()))?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_millis(100));
    done
}

fn paint() -> Paint {
    Paint::of(io::stdout().is_terminal() && paint::knows_control_sequences())
}

fn show(text: &str) {
    // Fails only where nobody reads any more; the exit code still tells.
    let _ = io::stdout().lock().write_all(text.as_bytes());
}
