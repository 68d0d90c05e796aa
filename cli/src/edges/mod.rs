//! `weft edges`: who calls whom, and who still does it in plaintext.
//!
//! One replica of the control plane is asked on its admin port; it asks the others and puts together what
//! sidecars reported. Here that is sifted and printed.

pub(crate) mod seen;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::paint::{self, Paint};
use crate::proxy_status::ask::Server;
use seen::Seen;

/// Exit code where not everybody answered.
const INCOMPLETE: u8 = 1;
/// Exit code where the control plane cannot be asked.
const NO_ANSWER: u8 = 2;

/// Whom to ask, and for what.
#[derive(Debug, Args)]
#[command(after_help = "\
TLS is how the bytes were protected:
  mesh       mesh TLS, both identities proved
  plaintext  not at all; Strict would refuse it
  app-tls    TLS of the application's own, of which the mesh knows nothing; Strict would refuse it
  exempt     in plaintext as declared: probes
  refused    plaintext or TLS of the application's own, to what is Strict
  local      the workload called itself

Counts are those since the start of the sidecars that are connected, or were 5 minutes ago. One
replica of the control plane is asked, on its admin port; it asks the others. With files it answers on
loopback only. In a cluster it wants a token, which is had of the cluster by whoever may
(docs/commands.md); forward the port first:

  kubectl -n weft port-forward deploy/weft-control-plane 15190

Exit codes:
  0   printed
  1   printed, but a replica did not answer
  2   the control plane cannot be asked
  64  bad command line")]
pub struct Options {
    #[command(flatten)]
    server: Server,
    /// Only callers and called of this namespace.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only what is not mesh TLS and not exempt from it: plaintext, app-tls and refused.
    #[arg(long)]
    plaintext: bool,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table that fits 100 columns.
    Text,
    /// One object for machines.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Prints who calls whom. Exit codes are in the command's help.
pub fn run(options: &Options) -> ExitCode {
    let mut seen = match seen::ask(&options.server) {
        Ok(seen) => seen,
        Err(error) => {
            eprintln!("weft edges: {}: {error}", options.server);
            return ExitCode::from(NO_ANSWER);
        }
    };
    seen.keep(options.namespace.as_deref(), options.plaintext);
    let out = io::stdout();
    let paint = Paint::of(out.is_terminal() && paint::knows_control_sequences());
    let printed = print(options.output, &seen, paint);
    // Fails only where nobody reads any more; the exit code still tells.
    let _ = out.lock().write_all(printed.as_bytes());
    ExitCode::from(if seen.is_whole() { 0 } else { INCOMPLETE })
}

fn print(output: Output, seen: &Seen, paint: Paint) -> String {
    match output {
        Output::Text => text::of(seen, paint),
        // Names, numbers and words: none of this can fail to be written.
        Output::Json => serde_json::to_string_pretty(seen).expect("plain values") + "\n",
        Output::Yaml => serde_saphyr::to_string(seen).expect("plain values"),
    }
}
