//! The stand-in service: an application that does what it is told and counts what it sees.
//!
//! One process serves several ports. An HTTP port speaks HTTP/1.1, HTTP/2 with prior knowledge and
//! the gRPC [`echo`] service; it answers `/echo` with the request's body, streamed, and everything
//! else with a JSON [`http::Seen`]. Query parameters script one request: `status=503`,
//! `delay_ms=200`, `bytes=1000` (a body of that length), `chunks=10&every_ms=100` (a body in
//! pieces), `call=10.96.0.1:80/path` (asks there, passes trace headers and `x-request-id` on, and answers
//! with what came; the last in the query, so that calls nest). A TCP port sends back what it gets, with half-close; a port of [`kafka`] is a
//! broker.
//!
//! [`Behavior`] scripts all requests. It is set, and [`Stats`] are read, through a control port on
//! the pod's loopback, past the mesh: [`Control`].
//!
//! With a [`KeepAlive`] it closes connections that rest.
//!
//! On SIGTERM it closes its listeners, announces the end on its connections (HTTP/1 with its next
//! answer, HTTP/2 by GOAWAY; idle ones are closed a moment later), finishes what is in
//! flight, for at most 20 s, prints its [`Stats`] as the last line, and exits. A request that carries
//! [`ID`] is counted by it, so that tests can prove that what was sent is what was seen.

mod behavior;
mod call;
mod control;
mod grpc;
pub mod http;
pub mod kafka;
mod keep_alive;
mod server;
mod stats;
mod tcp;

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;

pub use behavior::{Behavior, Failure};
pub use control::Control;
pub use grpc::SEEN;
pub use keep_alive::KeepAlive;
pub use server::App;
pub use stats::{Stats, body_hash};

/// The gRPC echo service.
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod echo {
    tonic::include_proto!("weft.sandbox.v1");
}

/// Request header with a unique id.
pub const ID: &str = "x-load-id";
/// Response header: name of the application that answered.
pub const SERVED_BY: &str = "x-served-by";
/// Response header: its version.
pub const VERSION: &str = "x-served-version";
/// Port of the control listener, on the pod's loopback.
pub const CONTROL_PORT: u16 = 9900;

/// What a port of the application speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// HTTP/1.1, HTTP/2, gRPC.
    Http,
    /// Bytes that come back.
    Tcp,
    /// A line of greeting, then bytes that come back.
    TcpServerFirst,
    /// A broker of [`kafka`].
    Kafka,
}

/// A port to serve, as `http:8080`, `tcp:9000`, `tcp-server-first:9001` or `kafka:9092`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// What it speaks.
    pub kind: PortKind,
    /// Its number.
    pub port: u16,
}

/// The command line.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-app", about = "Stand-in service")]
pub struct Settings {
    /// Name in answers.
    #[arg(long)]
    pub name: String,
    /// Version in answers.
    #[arg(long = "app-version", default_value = "v1")]
    pub version: String,
    /// Address to listen on; `::` takes IPv4 too.
    #[arg(long, default_value = "::")]
    pub bind: IpAddr,
    /// A port to serve: http:PORT, tcp:PORT, tcp-server-first:PORT or kafka:PORT.
    #[arg(long = "serve")]
    pub ports: Vec<Port>,
    /// Port of the control listener: on 127.0.0.1, or on the address to listen on where that is on
    /// loopback itself.
    #[arg(long, default_value_t = CONTROL_PORT)]
    pub control: u16,
    /// Milliseconds after which connections that rest are closed; never without.
    #[arg(long)]
    pub keep_alive_ms: Option<u64>,
    /// Announce it in answers over HTTP/1.
    #[arg(long, requires = "keep_alive_ms")]
    pub keep_alive_announced: bool,
    /// Milliseconds from the decision to close such a connection to its close.
    #[arg(long, default_value_t = 0)]
    pub keep_alive_blind_ms: u64,
}

impl Settings {
    /// When connections that rest are closed.
    fn keep_alive(&self) -> Option<KeepAlive> {
        self.keep_alive_ms.map(|limit| KeepAlive {
            limit: Duration::from_millis(limit),
            announced: self.keep_alive_announced,
            blind: Duration::from_millis(self.keep_alive_blind_ms),
        })
    }
}

/// Runs the application until SIGTERM; the first of `args` is the program's name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let settings = match Settings::try_parse_from(args) {
        Ok(settings) => settings,
        Err(error) => {
            // Fails only where nobody reads any more.
            let _ = error.print();
            return ExitCode::from(64);
        }
    };
    match server::run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-app: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl fmt::Display for PortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::TcpServerFirst => "tcp-server-first",
            Self::Kafka => "kafka",
        })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.port)
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, port) = text.split_once(':').ok_or("write it as KIND:PORT")?;
        let kind = match kind {
            "http" => PortKind::Http,
            "tcp" => PortKind::Tcp,
            "tcp-server-first" => PortKind::TcpServerFirst,
            "kafka" => PortKind::Kafka,
            _ => {
                return Err(format!(
                    "{kind} is not http, tcp, tcp-server-first or kafka"
                ));
            }
        };
        let port = port
            .parse()
            .map_err(|_| format!("{port} is not a port number"))?;
        Ok(Self { kind, port })
    }
}
