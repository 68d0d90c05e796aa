//! `weft explain`: what is in force for a service, who said so, and what happens to a request.
//!
//! Who said what comes from the control plane (`weft_control_plane::explain`); what happens to a
//! request is compiled by the control plane and decided by the sidecar's code. Here it is gathered
//! and printed.

mod ask;
mod ranges;
mod server;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod text;
mod verdict;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;
use weft_control_plane::explain::{Explained, Explainer, find_service, find_workload};
use weft_control_plane::index::Objects;
use weft_control_plane::source::files::read_once;

use crate::cluster::{self, ClusterArgs, NoCluster};
use crate::command::USAGE;
use crate::paint::{self, Paint};
use ask::{AskError, Subject};
use server::Server;
use verdict::Verdict;

/// Exit code where something that concerns the service is not in force as it is written.
const PROBLEMS: u8 = 1;
/// Exit code where there is no such service or workload, or the question cannot be understood.
const BAD_INPUT: u8 = 2;

/// What is asked, and for whom.
#[derive(Debug, Args)]
#[command(after_help = "\
With -f, files are read as weft check reads them; a mesh.yaml must be among them. Without it, a
cluster is read, under the settings that its control plane in namespace weft runs with. A name without a
namespace is looked for in the namespace of --from, then in default, then in the only namespace that
has it.

Exit codes:
  0   everything that concerns the service is in force as it is written
  1   something is not: it is named under problems
  2   no such service, port or workload, or a question that cannot be understood
  64  bad command line, or files or a cluster that cannot be read")]
pub struct Options {
    /// service/NAME, service/NAME:PORT (number or name) or service/NAMESPACE/NAME.
    #[arg(value_name = "SERVICE")]
    subject: String,
    /// A file, or a directory of which every *.yaml and *.yml is read; may be repeated. All of them
    /// together are one mesh.
    #[arg(short, long = "file", value_name = "FILE|DIR")]
    file: Vec<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The namespace of what is named without one.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Who asks: a workload, as NAME or NAMESPACE/NAME.
    #[arg(long, value_name = "WORKLOAD")]
    from: Option<String>,
    /// A sample request, as 'GET /path?query'; may be repeated.
    #[arg(long, value_name = "REQUEST")]
    request: Vec<String>,
    /// A header of every sample request, as 'name: value'; may be repeated.
    #[arg(short = 'H', long, value_name = "HEADER", requires = "request")]
    header: Vec<String>,
    /// Sample requests are gRPC's; their method may be left out.
    #[arg(long, requires = "request")]
    grpc: bool,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One object for machines.
    Json,
    /// The same object as YAML.
    Yaml,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    version: &'static str,
    /// Who asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Caller>,
    /// One for each port that was asked for.
    ports: Vec<PortAnswer>,
}

/// Who asks.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Caller {
    workload: String,
    service_account: String,
    meshed: bool,
}

/// What there is to say about a port.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PortAnswer {
    #[serde(flatten)]
    explained: Explained,
    /// Whether the caller may reach each group of workloads with any request at all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    caller: Vec<Server>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    requests: Vec<Verdict>,
}

/// Explains a service and prints it. Exit codes are in the command's help.
pub fn run(options: &Options) -> ExitCode {
    let out = io::stdout();
    let paint = Paint::of(out.is_terminal() && paint::knows_control_sequences());
    let (code, printed) = match answer_for(options) {
        Ok(answer) => (code(&answer), print(options.output, &answer, paint)),
        Err(error) => {
            eprintln!("weft explain: {error:#}");
            return ExitCode::from(exit_of(&error));
        }
    };
    // Fails only where nobody reads any more; the exit code still tells.
    let _ = out.lock().write_all(printed.as_bytes());
    ExitCode::from(code)
}

fn answer_for(options: &Options) -> anyhow::Result<Answer> {
    let asked = options.namespace.as_deref();
    let subject = Subject::service(&options.subject, asked)?;
    let from = options.from.as_deref();
    let from = from
        .map(|text| Subject::workload(text, asked))
        .transpose()?;
    let requests = options.request.iter();
    let requests = requests
        .map(|text| ask::request(text, &options.header, options.grpc))
        .collect::<Result<Vec<_>, AskError>>()?;

    let explainer = Explainer::new(objects(options)?);
    let model = explainer.model();
    let from = from
        .map(|from| find_workload(model, from.namespace.as_deref(), &from.name))
        .transpose()?;
    // A short name is what the caller would mean by it.
    let near = from.map(|from| &*from.name.namespace);
    let namespace = subject.namespace.as_deref().or(near.filter(|near| {
        let is_there = model.service(near, &subject.name).is_some();
        is_there && subject.namespace.is_none()
    }));
    let port = subject.port.as_deref();
    let (service, ports) = find_service(model, namespace, &subject.name, port)?;

    let mut answers = Vec::with_capacity(ports.len());
    for port in ports {
        let view = near.unwrap_or(&service.name.namespace);
        let explained = explainer.explain(service, port, view);
        let target = verdict::target_of(&explainer, &explained, from)?;
        let requests = requests.iter().map(|request| {
            verdict::verdict(&explainer, &explained, &target, from, request.clone())
        });
        let requests = requests.collect::<anyhow::Result<Vec<_>>>()?;
        let groups = explained.inbound.iter().filter(|_| from.is_some());
        let caller = groups
            .map(|group| server::judge(&explainer, group, from, None))
            .collect::<anyhow::Result<Vec<_>>>()?;
        answers.push(PortAnswer {
            explained,
            caller,
            requests,
        });
    }
    Ok(Answer {
        version: env!("CARGO_PKG_VERSION"),
        from: from.map(|from| Caller {
            workload: from.name.to_string(),
            service_account: from.service_account.clone(),
            meshed: from.meshed,
        }),
        ports: answers,
    })
}

/// What the mesh is made of.
fn objects(options: &Options) -> anyhow::Result<Objects> {
    if options.file.is_empty() {
        return Ok(cluster::objects(&options.cluster)?);
    }
    let read = read_once(&options.file)?;
    anyhow::ensure!(
        read.has_mesh,
        "no mesh.yaml is among the files, so that nobody knows what the mesh is made of"
    );
    Ok(read.objects)
}

fn code(answer: &Answer) -> u8 {
    let mut ports = answer.ports.iter();
    let problems = ports.any(|port| !port.explained.problems.is_empty());
    if problems { PROBLEMS } else { 0 }
}

/// Paths and clusters are the command line's; everything else is the question's.
fn exit_of(error: &anyhow::Error) -> u8 {
    let is_path = error.is::<weft_control_plane::source::files::SourceError>();
    if is_path || error.is::<NoCluster>() {
        USAGE
    } else {
        BAD_INPUT
    }
}

fn print(output: Output, answer: &Answer, paint: Paint) -> String {
    // Names, numbers and words: none of this can fail to be written.
    match output {
        Output::Text => text::of(answer, paint),
        Output::Json => serde_json::to_string_pretty(answer).expect("plain values") + "\n",
        Output::Yaml => serde_saphyr::to_string(answer).expect("plain values"),
    }
}
