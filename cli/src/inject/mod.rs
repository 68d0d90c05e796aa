//! `weft inject`: manifests with the sidecar in their pods.
//!
//! What is added is the injector's own (`weft_injector`); here YAML is read and written. Objects come
//! out in the order in which they came in, with the fields in theirs, and what is no pod is left as it
//! is. Comments are lost, and anchors are written out: YAML's reader keeps neither.

#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use weft_injector::decide::Namespace;
use weft_injector::inject::{Verdict, inject};
use weft_injector::settings::{Settings, SidecarMode};
use weft_injector::values::Image;
use weft_injector::workload;
use weft_proto::names::{self, INJECT_ENABLED, INJECT_LABEL};

use crate::command::USAGE;
use tree::Tree;

/// Exit code where a pod cannot have a sidecar as it is.
const REFUSED: u8 = 1;
/// Bytes of all that is read: far more than what an API server takes at once.
const MAX_INPUT: u64 = 32 << 20;
/// Where pods are that say nothing else, as kubectl has it.
const DEFAULT_NAMESPACE: &str = "default";

/// What gets sidecars, and of which mesh.
#[derive(Debug, Args)]
#[command(after_help = "\
Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs and Lists of them get the
sidecar, unless their own label weft.dev/inject or that of a Namespace among the manifests says
disabled; all else is printed as it is. Why a pod gets none is said on stderr. Comments are lost.

Exit codes:
  0   done
  1   a pod cannot have a sidecar as it is: why is on stderr, and nothing is printed
  64  bad command line, or what cannot be read")]
pub struct Options {
    /// A file with YAML documents, or - for stdin; may be repeated.
    #[arg(short, long = "file", value_name = "FILE|-", required = true)]
    file: Vec<PathBuf>,
    /// The control plane's namespace.
    #[arg(short, long, value_name = "NAMESPACE", default_value = names::CONTROL_PLANE_NAMESPACE)]
    namespace: String,
    /// The mesh's trust domain.
    #[arg(long, value_name = "NAME", default_value = names::DEFAULT_TRUST_DOMAIN)]
    trust_domain: String,
    /// Image of the sidecar, with tag or digest [default: weft-proxy of this version].
    #[arg(long, value_name = "IMAGE", value_parser = image)]
    image: Option<Image>,
    /// What the sidecar is: native, an init container that restarts always (Kubernetes 1.29), or
    /// legacy, the pod's first container.
    #[arg(long, value_name = "native|legacy", default_value_t = SidecarMode::Native)]
    sidecar_mode: SidecarMode,
}

/// Manifests with sidecars, and what was said.
#[derive(Debug, PartialEq, Eq)]
struct Injected {
    /// YAML documents.
    yaml: String,
    /// Lines for people.
    said: String,
    /// Whether a pod was refused.
    is_refused: bool,
}

/// Reads manifests, adds sidecars and prints them. Exit codes are in the command's help.
pub fn run(options: &Options) -> ExitCode {
    let injected = match read_and_inject(options) {
        Ok(injected) => injected,
        Err(error) => {
            eprintln!("weft inject: {error:#}");
            return ExitCode::from(USAGE);
        }
    };
    eprint!("{}", injected.said);
    if injected.is_refused {
        return ExitCode::from(REFUSED);
    }
    match io::stdout().lock().write_all(injected.yaml.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // Half a manifest is nothing that kubectl behind a pipe should take for done.
        Err(error) => {
            eprintln!("weft inject: stdout cannot be written: {error}");
            ExitCode::from(USAGE)
        }
    }
}

fn read_and_inject(options: &Options) -> anyhow::Result<Injected> {
    let image = options.image.clone();
    let mut settings = Settings::new(
        &options.namespace,
        &options.trust_domain,
        image.unwrap_or_else(Settings::default_image),
    )?;
    settings.sidecar_mode = options.sidecar_mode;
    let mut trees = Vec::new();
    for path in &options.file {
        let text = read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let documents =
            documents(&text).with_context(|| format!("{} is no YAML", path.display()))?;
        trees.extend(documents);
    }
    inject_all(&settings, trees)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than is allowed shows that there are more.
    let limit = MAX_INPUT + 1;
    if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_string(&mut text)?;
    } else {
        fs::File::open(path)?
            .take(limit)
            .read_to_string(&mut text)?;
    }
    if text.len() as u64 > MAX_INPUT {
        return Err(io::Error::other(format!("more than {MAX_INPUT} bytes")));
    }
    Ok(text)
}

/// The documents of a stream that hold something, read as kubectl reads them: `yes` is a boolean and
/// `0644` an octal number.
fn documents(text: &str) -> anyhow::Result<Vec<Tree>> {
    let options = serde_saphyr::options! {
        strict_booleans: false,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let documents: Vec<Tree> = serde_saphyr::from_multiple_with_options(text, options)?;
    let documents = documents.into_iter();
    Ok(documents.filter(|tree| *tree != Tree::Null).collect())
}

fn inject_all(settings: &Settings, mut trees: Vec<Tree>) -> anyhow::Result<Injected> {
    let objects = trees
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<Vec<_>, _>>()?;
    let namespaces = namespaces(&objects);
    let mut said = String::new();
    let mut is_refused = false;
    for (object, tree) in objects.iter().zip(&mut trees) {
        for place in workload::pods(object) {
            let name = match place.namespace.as_str() {
                "" => DEFAULT_NAMESPACE,
                name => name,
            };
            let namespace = namespaces.get(name).cloned();
            let namespace = namespace.unwrap_or_else(|| asking(name));
            let Some(pod) = object.pointer(&place.pointer) else {
                let _ = writeln!(said, "{}: refused: it has no pod template", place.label);
                is_refused = true;
                continue;
            };
            let outcome = inject(settings, &namespace, pod);
            match outcome.verdict {
                Verdict::Patched(operations) => {
                    for operation in operations {
                        tree.apply(operation.under(&place.pointer))?;
                    }
                    let _ = writeln!(said, "{}: injected", place.label);
                }
                Verdict::Skipped(skip) => {
                    let _ = writeln!(said, "{}: skipped: {skip}", place.label);
                }
                Verdict::Refused(wrong) => {
                    is_refused = true;
                    for refusal in wrong {
                        let _ = writeln!(said, "{}: refused: {refusal}", place.label);
                    }
                }
            }
            // Why it is skipped was just said.
            let warnings = outcome.warnings.iter();
            for warning in warnings.filter(|warning| !warning.starts_with("no sidecar: ")) {
                let _ = writeln!(said, "{}: warning: {warning}", place.label);
            }
        }
    }
    Ok(Injected {
        yaml: serde_saphyr::to_string_multiple(&trees)?,
        said,
        is_refused,
    })
}

/// The Namespaces among the manifests. To ask for this command is to ask for sidecars, so that only
/// `disabled` says otherwise.
fn namespaces(objects: &[Value]) -> BTreeMap<String, Namespace> {
    let texts = |object: &Value, pointer: &str| {
        let map = object.pointer(pointer).and_then(Value::as_object).cloned();
        let entries = map.into_iter().flatten();
        let texts = entries.filter_map(|(key, value)| Some((key, value.as_str()?.to_owned())));
        texts.collect::<BTreeMap<_, _>>()
    };
    let mut namespaces = BTreeMap::new();
    for object in objects {
        let is_namespace = object["apiVersion"] == "v1" && object["kind"] == "Namespace";
        let Some(name) = object["metadata"]["name"].as_str().filter(|_| is_namespace) else {
            continue;
        };
        let mut namespace = asking(name);
        namespace.labels.extend(texts(object, "/metadata/labels"));
        namespace.annotations = texts(object, "/metadata/annotations");
        namespaces.insert(name.to_owned(), namespace);
    }
    namespaces
}

fn asking(name: &str) -> Namespace {
    Namespace {
        name: name.to_owned(),
        labels: BTreeMap::from([(INJECT_LABEL.to_owned(), INJECT_ENABLED.to_owned())]),
        annotations: BTreeMap::new(),
    }
}

fn image(text: &str) -> Result<Image, String> {
    Image::parse(text).ok_or_else(|| {
        "an image is a name, with a tag or a digest (@sha256:...) or both".to_owned()
    })
}
