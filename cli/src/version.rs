//! `weft version`: what this program is, and what a control plane and its sidecars are.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::cluster::ClusterArgs;
use crate::order::{NO_ANSWER, Output, print};
use crate::proxy_status::ask::{self, AskError, Server};

/// Exit code where a replica did not answer, so that its sidecars are not counted.
const INCOMPLETE: u8 = 1;
/// A sidecar that does not say its version.
const UNSAID: &str = "unknown";

/// Whose versions are shown.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes:
  0   printed
  1   printed, but a replica of the control plane did not answer
  2   the control plane cannot be asked
  64  bad command line")]
pub struct Options {
    /// The admin port of a control plane that is asked too, such as http://127.0.0.1:15190; in a cluster,
    /// forward it first.
    #[arg(long, value_name = "URL")]
    server: Option<Server>,
    /// A file with a token to ask it with, instead of WEFT_ADMIN_TOKEN_FILE, or of one that the cluster
    /// gives where one is wanted.
    #[arg(long, value_name = "FILE", requires = "server")]
    token_file: Option<PathBuf>,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Versions.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    /// Of this program.
    client: String,
    /// Of the replica that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    control_plane: Option<String>,
    /// How many sidecars have which.
    #[serde(skip_serializing_if = "Option::is_none")]
    sidecars: Option<BTreeMap<String, usize>>,
    /// Replicas that did not answer, whose sidecars are not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    silent_replicas: Vec<String>,
}

/// Prints versions. Exit codes are in the command's help.
pub fn run(options: &Options) -> ExitCode {
    let mut versions = Versions::of_client();
    if let Some(server) = &options.server {
        let cluster = ClusterArgs::default();
        let server = server
            .clone()
            .with_tokens_of(options.token_file.clone(), &cluster);
        if let Err(error) = versions.ask(&server) {
            eprintln!("weft version: {server}: {error}");
            return ExitCode::from(NO_ANSWER);
        }
    }
    let printed = print(options.output, &versions, || versions.text());
    // Fails only where nobody reads any more; the exit code still tells.
    let _ = io::stdout().lock().write_all(printed.as_bytes());
    ExitCode::from(if versions.silent_replicas.is_empty() {
        0
    } else {
        INCOMPLETE
    })
}

impl Versions {
    fn of_client() -> Self {
        Self {
            client: env!("CARGO_PKG_VERSION").to_owned(),
            control_plane: None,
            sidecars: None,
            silent_replicas: Vec::new(),
        }
    }

    fn ask(&mut self, server: &Server) -> Result<(), AskError> {
        let health: Value = serde_json::from_slice(&ask::get(server, "/health")?)?;
        let status: Value = serde_json::from_slice(&ask::get(server, "/status")?)?;
        self.read(&health, &status);
        Ok(())
    }

    fn read(&mut self, health: &Value, status: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or(UNSAID).to_owned();
        self.control_plane = Some(text(&health["version"]));
        let mut sidecars = BTreeMap::new();
        for proxy in status["proxies"].as_array().into_iter().flatten() {
            let version = match text(&proxy["proxyVersion"]) {
                version if version.is_empty() => UNSAID.to_owned(),
                version => version,
            };
            *sidecars.entry(version).or_default() += 1;
        }
        self.sidecars = Some(sidecars);
        let replicas = status["replicas"].as_array().into_iter().flatten();
        let silent = replicas.filter(|replica| !replica["error"].is_null());
        self.silent_replicas = silent.map(|replica| text(&replica["address"])).collect();
    }

    /// Without a control plane, in one line.
    fn text(&self) -> String {
        let mut lines = vec![format!("weft {}", self.client)];
        let version = self.control_plane.as_ref();
        lines.extend(version.map(|version| format!("control plane {version}")));
        if self.sidecars.as_ref().is_some_and(BTreeMap::is_empty) {
            lines.push("no sidecar is connected".to_owned());
        }
        for (version, count) in self.sidecars.iter().flatten() {
            let what = if *count == 1 { "sidecar" } else { "sidecars" };
            lines.push(format!("{count} {what} {version}"));
        }
        lines.extend(self.silent_replicas.iter().map(|replica| {
            format!("the replica at {replica} did not answer: its sidecars are not counted")
        }));
        lines.join("\n") + "\n"
    }
}
