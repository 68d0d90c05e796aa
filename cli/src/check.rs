//! `weft check`: what is wrong with a mesh's files, before a control plane reads them, or with a cluster.
//!
//! Verdicts are the control plane's own (`weft_control_plane::check`); here they are only printed.

#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use weft_control_plane::check::{Finding, Report, Severity, check};
use weft_control_plane::policy::PolicyDuration;
use weft_control_plane::source::files::read_once;
use weft_proto::names;

use crate::check_cluster::{self, Asked, Callers, OfCallers};
use crate::cluster::ClusterArgs;
use crate::command::USAGE;
use crate::paint::{self, Paint};
use crate::proxy_status::ask::Server;
use crate::words::wrapped;

/// Exit code where nothing is wrong but warnings.
const WARNINGS: u8 = 1;
/// Exit code where something is not in force as it is written.
const ERRORS: u8 = 2;
/// What lines fit into.
const WIDTH: usize = 100;
/// What stands before the words of a finding.
const INDENT: &str = "        ";

/// What is checked, and for whom.
#[derive(Debug, Args)]
#[command(after_help = "\
With -f, files are checked; without it a cluster is, whose objects are only read. With --server, a
control plane that runs is asked as well who calls whom, and whether Strict is safe; in a cluster,
forward its port first: kubectl -n weft port-forward deploy/weft-control-plane 15190

Refused is what the control plane refuses, for the same reasons. Warnings are about what is accepted
and can never act, or is risky. Where no mesh.yaml is among the files, services, ports and endpoints
are taken to be as the policies want them.

Exit codes:
  0   nothing was found
  1   warnings only, without --allow-warnings
  2   at least one error, or a check that failed
  64  bad command line, a path that cannot be read, or no cluster that is known")]
pub struct Options {
    /// A file, or a directory of which every *.yaml and *.yml is read; may be repeated. All of them
    /// together are one mesh.
    #[arg(short, long = "file", value_name = "FILE|DIR")]
    file: Vec<PathBuf>,
    /// Checks whether Weft can be installed in the cluster.
    #[arg(long, conflicts_with = "file")]
    pre: bool,
    /// The control plane's namespace.
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "file",
          default_value = names::CONTROL_PLANE_NAMESPACE)]
    namespace: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The admin port of a running control plane, which is asked whether Strict is safe, such as
    /// http://127.0.0.1:15190.
    #[arg(long, value_name = "URL", conflicts_with = "pre")]
    server: Option<Server>,
    /// A file with a token to ask it with, instead of WEFT_ADMIN_TOKEN_FILE, or of one that the cluster
    /// gives where one is wanted.
    #[arg(long, value_name = "FILE", requires = "server")]
    token_file: Option<PathBuf>,
    /// Strict is safe when nobody came in plaintext for so long, as far as sidecars have been up.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "24h",
        requires = "server"
    )]
    window: PolicyDuration,
    /// Ends with 0 where there are warnings only.
    #[arg(long)]
    allow_warnings: bool,
    /// How findings are printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl Options {
    fn server(&self) -> Option<Server> {
        let server = self.server.clone()?;
        Some(server.with_tokens_of(self.token_file.clone(), &self.cluster))
    }

    fn callers<'a>(&self, server: Option<&'a Server>) -> Option<Callers<'a>> {
        let window = self.window.get();
        server.map(|server| Callers { server, window })
    }

    /// The exit code where something failed, or where there are warnings.
    fn code(&self, failed: bool, warned: bool) -> u8 {
        match (failed, warned) {
            (true, _) => ERRORS,
            (false, true) if !self.allow_warnings => WARNINGS,
            (false, _) => 0,
        }
    }
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One object for machines.
    Json,
}

/// Checks files or a cluster and prints what was found. Exit codes are in the command's help.
pub fn run(options: &Options) -> ExitCode {
    if options.file.is_empty() {
        return run_on_cluster(options);
    }
    let out = io::stdout();
    let paint = Paint::of(out.is_terminal() && paint::knows_control_sequences());
    let code = match report(options) {
        Ok(report) => {
            let server = options.server();
            let callers = options.callers(server.as_ref()).map(OfCallers::ask);
            // Fails only where nobody reads any more; the exit code still tells.
            let _ = out
                .lock()
                .write_all(print(options, &report, callers.as_ref(), paint).as_bytes());
            code(options, &report, callers.as_ref())
        }
        Err(error) => {
            eprintln!("weft check: {error:#}");
            USAGE
        }
    };
    ExitCode::from(code)
}

fn run_on_cluster(options: &Options) -> ExitCode {
    let server = options.server();
    let asked = Asked {
        cluster: &options.cluster,
        namespace: &options.namespace,
        is_before: options.pre,
        json: options.output == Output::Json,
        callers: options.callers(server.as_ref()),
    };
    ExitCode::from(match check_cluster::run(&asked) {
        Ok((failed, warned)) => options.code(failed, warned),
        Err(error) => {
            eprintln!("weft check: {error:#}");
            USAGE
        }
    })
}

fn report(options: &Options) -> anyhow::Result<Report> {
    Ok(check(read_once(&options.file)?))
}

fn code(options: &Options, report: &Report, callers: Option<&OfCallers>) -> u8 {
    let any = |severity| report.count(severity) > 0;
    let warned = any(Severity::Warning) || callers.is_some_and(OfCallers::warns);
    options.code(any(Severity::Error), warned)
}

fn print(options: &Options, report: &Report, callers: Option<&OfCallers>, paint: Paint) -> String {
    match options.output {
        Output::Text => {
            let callers = callers.map(|callers| format!("\n{}", callers.text(paint)));
            text(report, paint) + &callers.unwrap_or_default()
        }
        Output::Json => {
            let mut object = object(report);
            if let Some(callers) = callers {
                object["callers"] = callers.json();
            }
            format!("{object:#}\n")
        }
    }
}

/// The object for machines.
fn object(report: &Report) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "errors": report.count(Severity::Error),
        "warnings": report.count(Severity::Warning),
        "checked": {
            "policies": report.policies,
            "services": report.services,
            "workloads": report.workloads,
        },
        "findings": report.findings,
    })
}

/// A paragraph for each finding, and a last line that counts.
fn text(report: &Report, paint: Paint) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&paragraph(finding, paint));
        text.push('\n');
    }
    let checked = format!(
        "{}, {} and {} were checked",
        counted(report.policies, "policy", "policies"),
        counted(report.services, "service", "services"),
        counted(report.workloads, "workload", "workloads"),
    );
    let errors = report.count(Severity::Error);
    let warnings = report.count(Severity::Warning);
    let verdict = format!(
        "{}, {}",
        counted(errors, "error", "errors"),
        counted(warnings, "warning", "warnings")
    );
    let verdict = match (errors, warnings) {
        (0, 0) => paint.good("nothing found"),
        (0, _) => paint.doubtful(&verdict),
        _ => paint.bad(&verdict),
    };
    text + &format!("{checked}: {verdict}.\n")
}

fn paragraph(finding: &Finding, paint: Paint) -> String {
    // As wide as the indent.
    let severity = match finding.severity {
        Severity::Error => paint.bad("error  "),
        Severity::Warning => paint.doubtful("warning"),
    };
    let place = match finding.line {
        0 => finding.file.clone(),
        line => format!("{}:{line}", finding.file),
    };
    let mut lines = vec![format!("{severity} {place}")];
    let object = format!("{} [{}]", finding.object, finding.check);
    let object = wrapped(&object, "", WIDTH - INDENT.len());
    lines.extend(object.iter().map(|line| paint.strong(line)));
    for (head, words) in [
        ("what  ", &finding.what),
        ("why   ", &finding.why),
        ("mend  ", &finding.mend),
    ] {
        if !words.is_empty() {
            lines.extend(wrapped(words, head, WIDTH - INDENT.len()));
        }
    }
    lines.push(String::new());
    let first = lines.remove(0);
    let rest: Vec<_> = lines
        .iter()
        .map(|line| format!("{INDENT}{line}"))
        .map(|line| line.trim_end().to_owned())
        .collect();
    format!("{first}\n{}", rest.join("\n"))
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
