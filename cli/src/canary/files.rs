//! A split among files, as a control plane reads them.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde_json::Value;
use weft_control_plane::index::{Objects, ServiceEndpoint};
use weft_control_plane::source::files::{documents, read_once};
use weft_proto::names::{API_VERSION, TRAFFIC_POLICY_KIND};

use super::model::{Canary, Endpoint};
use super::plan::Plan;
use super::{Of, Trouble, edit, policy};

/// Kinds of routes that hold weights.
const ROUTES: [&str; 2] = ["HTTPRoute", "GRPCRoute"];
/// The group of routes.
const GATEWAY: &str = "gateway.networking.k8s.io/";
/// A file that is larger is nobody's, as for a control plane.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// A policy in a file.
pub(super) struct Found {
    pub(super) canary: Canary,
    file: PathBuf,
    /// All of the file, as it was read.
    text: String,
    /// Which of its documents it is.
    document: usize,
}

/// The policy with the split of the service.
pub(super) fn find(of: &Of) -> Result<Found, Trouble> {
    let mut found = Vec::new();
    let mut routes = Vec::new();
    for file in files(&of.file)? {
        let text = read(&file)?;
        for (document, part) in documents(&text).enumerate() {
            // What cannot be read is none of ours, or weft check says what is wrong with it.
            let Ok(object) = serde_saphyr::from_str::<Value>(&part) else {
                continue;
            };
            let metadata = &object["metadata"];
            let namespace = metadata["namespace"].as_str().unwrap_or("default");
            let name = metadata["name"].as_str().unwrap_or_default();
            let kind = object["kind"].as_str().unwrap_or_default();
            let version = object["apiVersion"].as_str().unwrap_or_default();
            if ROUTES.contains(&kind) && version.starts_with(GATEWAY) {
                if policy::holds(of, namespace, &object) {
                    routes.push(format!("{kind} {name}"));
                }
                continue;
            }
            let is_policy = kind == TRAFFIC_POLICY_KIND && version == API_VERSION;
            if !is_policy || namespace != of.namespace {
                continue;
            }
            // Another one that is wrong is no matter here.
            let Ok(Some(mut canary)) = policy::canary(of, name, &object["spec"]) else {
                continue;
            };
            let line = 1 + part.chars().take_while(|letter| *letter == '\n').count();
            canary.place = Some(format!("{}:{line}", file.display()));
            found.push(Found {
                canary,
                file: file.clone(),
                text: text.clone(),
                document,
            });
        }
    }
    let of_route = routes.first().cloned();
    let mut found = policy::only(of, found, |it| &it.canary.policy).map_err(|why| {
        Trouble::Refused(match of_route {
            Some(route) => format!("{why}; {route} holds its weights"),
            None => why,
        })
    })?;
    found.canary.routes = routes;
    let read = read_once(&of.file).map_err(|error| Trouble::Unreachable(error.to_string()))?;
    // Where the mesh is not among the files, nobody knows what stands behind a service.
    if read.has_mesh {
        for side in &mut found.canary.backends {
            side.endpoints = Some(endpoints(&read.objects, &of.namespace, &side.name));
        }
    }
    Ok(found)
}

impl Found {
    /// Writes the weights, where anything is to be changed: whoever reads the file sees it as it was or as it
    /// is to be.
    pub(super) fn write(&self, plan: &Plan) -> Result<(), Trouble> {
        if !plan.changes() {
            return Ok(());
        }
        let refused = |why| Trouble::Refused(format!("{}: {why}", self.file.display()));
        let changed =
            edit::with_weights(&self.text, self.document, &plan.after).map_err(refused)?;
        if read(&self.file)? != self.text {
            let why = "somebody else has just changed it; try again".to_owned();
            return Err(refused(why));
        }
        replace(&self.file, &changed)
            .map_err(|error| Trouble::Unreachable(format!("{}: {error}", self.file.display())))
    }
}

/// What stands behind a service.
fn endpoints(objects: &Objects, namespace: &str, service: &str) -> Vec<Endpoint> {
    let mut services = objects.services.iter().map(|service| &service.object);
    let service = services.find(|it| it.name.namespace == namespace && it.name.name == service);
    let Some(service) = service else {
        return Vec::new();
    };
    let takes_traffic = |name: &str| {
        let mut workloads = objects.workloads.iter().map(|workload| &workload.object);
        workloads.any(|it| {
            it.name.namespace == namespace && it.name.name == name && !it.draining && !it.ended
        })
    };
    let active = service.endpoints.iter().map(|endpoint| match endpoint {
        ServiceEndpoint::Workload(name) => Endpoint {
            name: name.clone(),
            ready: takes_traffic(name),
        },
        ServiceEndpoint::Address(foreign) => Endpoint {
            name: foreign.ip.to_string(),
            ready: true,
        },
    });
    let idle = service.idle.iter().map(|name| Endpoint {
        name: name.clone(),
        ready: false,
    });
    active.chain(idle).collect()
}

/// Files of which policies are read, in the order of their names.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Trouble> {
    let mut files = Vec::new();
    for path in paths {
        let unreadable =
            |error: io::Error| Trouble::Unreachable(format!("{}: {error}", path.display()));
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut own = Vec::new();
        for entry in fs::read_dir(path).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            let name = file.file_name().and_then(|name| name.to_str());
            let extension = file.extension().and_then(|it| it.to_str());
            let is_read = name.is_some_and(|name| !name.starts_with('.') && name != "mesh.yaml")
                && matches!(extension, Some("yaml" | "yml"))
                && file.is_file();
            if is_read {
                own.push(file);
            }
        }
        own.sort();
        files.extend(own);
    }
    Ok(files)
}

fn read(file: &Path) -> Result<String, Trouble> {
    let failed = |why: String| Trouble::Unreachable(format!("{}: {why}", file.display()));
    let size = fs::metadata(file)
        .map_err(|error| failed(error.to_string()))?
        .len();
    if size > MAX_FILE {
        return Err(failed(format!("larger than {MAX_FILE} bytes")));
    }
    fs::read_to_string(file).map_err(|error| failed(error.to_string()))
}

/// Puts another text into a file's place, with the same permissions.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    // A link stays one.
    let file = fs::canonicalize(file)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // Control planes pass over what begins with a dot.
    let draft = file.with_file_name(format!(".{name}.draft-{}", std::process::id()));
    let written = (|| {
        let mut to = File::create_new(&draft)?;
        to.set_permissions(fs::metadata(&file)?.permissions())?;
        to.write_all(text.as_bytes())?;
        to.sync_all()?;
        fs::rename(&draft, &file)
    })();
    if written.is_err() {
        // It is ours, and of no use any more.
        let _ = fs::remove_file(&draft);
    }
    written
}
