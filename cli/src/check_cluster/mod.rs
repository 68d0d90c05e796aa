//! `weft check` against a cluster, before installing (`--pre`) and afterwards.
//!
//! Facts are fetched first, by a handful of reads that change nothing; each check is a function over
//! them. What the user may not read is skipped and said, and so is what hangs on something that failed.
//! No key is asked for where another field can answer.

mod callers;
mod certificates;
mod control_plane;
mod facts;
mod fetch;
mod line;
mod objects;
mod platform;
mod print;
mod sidecars;
#[cfg(test)]
mod tests;
pub(crate) mod time;

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use crate::cluster::ClusterArgs;
use crate::edges::seen;
use crate::paint::{self, Paint};
use crate::proxy_status::ask::Server;
use facts::{After, Before, Common};
use fetch::Cluster;
use line::{Line, State};

/// What is checked.
pub(crate) struct Asked<'a> {
    /// Which cluster.
    pub(crate) cluster: &'a ClusterArgs,
    /// The control plane's namespace.
    pub(crate) namespace: &'a str,
    /// Before Weft is installed.
    pub(crate) is_before: bool,
    /// For machines.
    pub(crate) json: bool,
    /// Who is asked who calls whom; nobody where that is not wanted.
    pub(crate) callers: Option<Callers<'a>>,
}

/// Who is asked who calls whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Callers<'a> {
    /// The control plane's admin port.
    pub(crate) server: &'a Server,
    /// Who came in plaintext longer ago does not count.
    pub(crate) window: Duration,
}

/// What was found of callers, beside checks of something else.
pub(crate) struct OfCallers(Vec<Line>);

impl OfCallers {
    /// Asks, and judges.
    pub(crate) fn ask(asked: Callers<'_>) -> Self {
        Self(callers::check(&seen::ask(asked.server), asked.window))
    }

    /// For people.
    pub(crate) fn text(&self, paint: Paint) -> String {
        print::lines(&self.0, paint)
    }

    /// For machines.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!(self.0)
    }

    /// Whether there are warnings.
    pub(crate) fn warns(&self) -> bool {
        self.0.iter().any(|line| line.state == State::Warning)
    }
}

/// Checks a cluster and prints what was found: whether something failed, and whether there are warnings.
/// `Err` where no cluster is known.
pub(crate) fn run(asked: &Asked<'_>) -> anyhow::Result<(bool, bool)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let told = Told::new();
    let mut lines = runtime.block_on(lines(asked, &told))?;
    if let Some(callers) = asked.callers {
        told.say("who calls whom");
        lines.extend(OfCallers::ask(callers).0);
    }
    told.end();
    let out = io::stdout();
    let paint = Paint::of(out.is_terminal() && paint::knows_control_sequences());
    let printed = if asked.json {
        format!("{:#}\n", print::object(&lines, asked.is_before))
    } else {
        print::text(&lines, paint)
    };
    // Fails only where nobody reads any more; the exit code still tells.
    let _ = out.lock().write_all(printed.as_bytes());
    let any = |state| lines.iter().any(|line| line.state == state);
    Ok((any(State::Failed), any(State::Warning)))
}

async fn lines(asked: &Asked<'_>, told: &Told) -> anyhow::Result<Vec<Line>> {
    let progress = |what: &str| told.say(what);
    let cluster = Cluster {
        client: asked.cluster.client().await?,
        namespace: asked.namespace.to_owned(),
        progress: &progress,
    };
    let common = cluster.common().await;
    if common.version.is_err() {
        return Ok(platform::check(&common, None));
    }
    if asked.is_before {
        let before = cluster.before().await;
        return Ok(judge_before(&common, &before));
    }
    let after = cluster.after(&common).await;
    Ok(judge_after(&common, &after))
}

fn judge_before(common: &Common, before: &Before) -> Vec<Line> {
    platform::check(common, Some(before))
}

fn judge_after(common: &Common, after: &After) -> Vec<Line> {
    let mut lines = platform::check(common, None);
    lines.extend(control_plane::check(common, after));
    lines.extend(certificates::check(common, after));
    lines.extend(sidecars::check(common, after));
    lines.extend(objects::check(after));
    lines
}

/// Says on a terminal what is being read, in one line that goes away.
struct Told {
    is_terminal: bool,
}

impl Told {
    fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal() && paint::knows_control_sequences(),
        }
    }

    fn say(&self, what: &str) {
        if self.is_terminal {
            eprint!("\r\x1b[Kreading {what} …");
        }
    }

    fn end(&self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}
