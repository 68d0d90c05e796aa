//! The stories of `weft demo --platform NAME`: each plays the failures that one platform's deployment
//! guide speaks of, under the policies of `examples/NAME`, which have the guide's own numbers.
//!
//! # To add a platform
//!
//! 1. A folder `platforms/NAME/` with a `pub(super) static STORY: Story`, and a line in [`STORIES`]. The
//!    name is that of its folder in `examples`.
//! 2. Its mesh is [`cast`] from `examples/NAME/mesh.yaml`: name the workloads that the story needs, few,
//!    because each is two processes. Its policies are the files of `examples/NAME/policies`, embedded
//!    with `example!` and given to [`Story::policies`] under the names of the files.
//! 3. Each act is a function of its own that begins with [`Stage::begin`] and speaks of time only as
//!    the guide does, through [`Stage::time`]: then `--real-time` needs no word. What a caller suffers
//!    without a policy is played by [`Stage::before_and_after`]. [`common`] has the acts that
//!    every platform has.
//! 4. Its guide's alerts and queries are [`Story::watched`]; acts say which of them fire, and which do not,
//!    with [`Stage::check_alerts`]. What else it needs (databases) is made by [`Story::props`].
//! 5. The names of its checks go into a module of `tests/tests/platforms`, which runs the story
//!    and asserts them; the numbers go into `docs/platform-NAME.md`.
//!
//! Invariants of every story: counts are taken at the server where they say what reached it; an act
//! leaves the mesh as it found it; the whole takes at most a minute.
//!
//! [`Stage::begin`]: super::stage::Stage::begin
//! [`Stage::time`]: super::stage::Stage::time
//! [`Stage::before_and_after`]: super::stage::Stage::before_and_after
//! [`Story::policies`]: super::story::Story::policies
//! [`Story::props`]: super::story::Story::props
//! [`Story::watched`]: super::story::Story::watched
//! [`Stage::check_alerts`]: super::stage::Stage::check_alerts

/// The text of a file in `examples`.
macro_rules! example {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/", $path))
    };
}

mod common;
mod dotmac;
mod ecommerce;
mod kafka_gateway;
mod rent_to_own;
mod venta;

use std::fmt::Write as _;

use weft_control_plane::source::mesh_file::{MeshFile, WorkloadEntry};
use weft_sandbox::load::{Protocol, Shot};
use weft_sandbox::mesh::{Builder, Endpoint};
use weft_sandbox::{AppSpec, Mesh, Programs, Service, Workload};

use super::story::{Policy, Story, Target};

/// All of them, by name.
static STORIES: &[&Story] = &[
    &rent_to_own::STORY,
    &ecommerce::STORY,
    &venta::STORY,
    &dotmac::STORY,
    &kafka_gateway::STORY,
];
/// How an opaque port is declared; a story has a server of its own there, or nothing.
const OPAQUE: &str = "tcp";

/// What `--platform` understands.
pub(super) fn names() -> Vec<&'static str> {
    STORIES.iter().filter_map(|story| story.name).collect()
}

/// The story of this platform.
pub(super) fn story(name: &str) -> Option<&'static Story> {
    let found = STORIES.iter().find(|story| story.name == Some(name));
    found.copied()
}

/// A line for each.
pub(super) fn list() -> String {
    let mut text = String::new();
    for story in STORIES {
        let name = story.name.unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<14}  {}", story.about);
    }
    text
}

/// A policy of an example, under the name of its file.
const fn policy(name: &'static str, yaml: &'static str) -> Policy {
    Policy { name, yaml }
}

/// A service that is called over HTTP/1, twenty times a second.
const fn target(
    service: &'static str,
    port: u16,
    backends: &'static [&'static str],
    caller: &'static str,
    shots: fn(&Mesh) -> Vec<Shot>,
) -> Target {
    Target {
        service,
        port,
        backends,
        caller,
        rate: 20.0,
        // Callers that hang for 20 s each, at the rate above and in real time, are four hundred.
        clients: 500,
        protocol: Protocol::Http1,
        versions: None,
        shots,
    }
}

/// The mesh of an example: its services, and of its workloads those that are named here, as
/// `NAMESPACE/NAME` where they are not of `namespace`. HTTP ports are served by the stand-in
/// application; on opaque ones nothing listens. `dress` has the last word about each workload.
///
/// # Panics
/// When the file is no `mesh.yaml`, or has no such workload: both are part of this program.
fn cast(
    namespace: &str,
    mesh_yaml: &str,
    workloads: &[&str],
    dress: impl Fn(&str, Workload) -> Workload,
) -> Builder {
    let file: MeshFile = serde_saphyr::from_str(mesh_yaml).expect("the example's mesh.yaml");
    let mut mesh = Mesh::builder("demo", Programs::of_this_program())
        .namespace(namespace)
        .trust_domain(file.trust_domain.as_deref().unwrap_or("weft.local"));
    for name in workloads {
        let entry = file
            .workloads
            .iter()
            .find(|entry| key(namespace, entry) == *name);
        let entry = entry.unwrap_or_else(|| panic!("the example has no workload {name}"));
        mesh = mesh.workload(dress(name, workload(entry)));
    }
    for entry in file.services {
        let mut service = Service::new(&entry.name).namespace(&entry.namespace);
        if entry.cluster_ips.is_empty() {
            service = service.headless();
        }
        for port in &entry.ports {
            let target = port.target_port.unwrap_or(port.port);
            service = service.port(port.port, target);
            if !port.name.is_empty() {
                service = service.port_name(&port.name);
            }
            if !port.app_protocol.is_empty() {
                service = service.app_protocol(&port.app_protocol);
            }
        }
        let names = entry.endpoints.into_iter().filter_map(|it| it.workload);
        let played = |name: &String| {
            let key = qualified(namespace, &entry.namespace, name);
            workloads.contains(&key.as_str())
        };
        mesh = mesh.service(service.endpoints(names.filter(played).map(Endpoint::Workload)));
    }
    mesh
}

fn workload(entry: &WorkloadEntry) -> Workload {
    let mut workload = Workload::new(&entry.name)
        .namespace(&entry.namespace)
        .service_account(&entry.service_account)
        .weight(entry.weight);
    if !entry.meshed {
        workload = workload.unmeshed();
    }
    for port in &entry.ports {
        let app = match port.protocol.as_str() {
            "" => AppSpec::http(),
            OPAQUE => AppSpec::none().protocol(OPAQUE),
            declared => AppSpec::http().protocol(declared),
        };
        workload = workload.port(port.port, app);
        for probe in &port.probes {
            workload = workload.probe(port.port, &probe.path);
        }
    }
    workload
}

fn key(namespace: &str, entry: &WorkloadEntry) -> String {
    qualified(namespace, &entry.namespace, &entry.name)
}

/// A name as a mesh of `own` namespace knows it.
fn qualified(own: &str, namespace: &str, name: &str) -> String {
    if own == namespace {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    }
}

#[cfg(test)]
mod tests;
