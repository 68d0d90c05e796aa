//! The files of the five platforms in `examples` are what their pages say: policies are accepted and have
//! the numbers of the platforms' guides, manifests are such as an API server takes and can have sidecars,
//! containers are put together as `mesh.yaml` says, and rules and queries ask for what sidecars count.
//!
//! That they work on a mesh is proved where the platforms are run; nothing is run here but `weft` itself
//! and `promtool`.

mod compose;
mod kubernetes;
mod pages;
mod policies;
mod rules;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// One of the platforms.
#[derive(Clone, Copy, Debug)]
struct Platform {
    /// Its folder.
    name: &'static str,
    /// Where its services are.
    namespace: &'static str,
    /// Whether its guide runs it with Compose.
    has_compose: bool,
}

const PLATFORMS: [Platform; 5] = [
    Platform {
        name: "rent-to-own",
        namespace: "rent-to-own",
        has_compose: true,
    },
    Platform {
        name: "ecommerce",
        namespace: "ecommerce-prod",
        has_compose: true,
    },
    Platform {
        name: "venta",
        namespace: "venta",
        has_compose: true,
    },
    Platform {
        name: "dotmac",
        namespace: "dotmac-production",
        has_compose: false,
    },
    Platform {
        name: "kafka-gateway",
        namespace: "microservices",
        has_compose: true,
    },
];

impl Platform {
    fn folder(self) -> PathBuf {
        repository().join("examples").join(self.name)
    }

    fn mesh(self) -> Value {
        documents(&self.folder().join("mesh.yaml")).remove(0)
    }

    /// The workloads of `mesh.yaml`.
    fn workloads(self) -> Vec<Value> {
        list(&self.mesh()["workloads"]).to_vec()
    }

    /// The services of `mesh.yaml`.
    fn services(self) -> Vec<Value> {
        list(&self.mesh()["services"]).to_vec()
    }

    /// The documents of a folder's YAML files, in the order of the files' names.
    fn objects(self, folder: &str) -> Vec<Value> {
        let files = files(&self.folder().join(folder));
        files.iter().flat_map(|file| documents(file)).collect()
    }

    /// The workload of `mesh.yaml` with this name.
    fn workload(self, name: &str) -> Value {
        let mut all = self.workloads().into_iter();
        all.find(|it| it["name"] == name)
            .unwrap_or_else(|| panic!("{}: no workload {name}", self.name))
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every YAML file of a folder, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "nothing in {}", folder.display());
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents(path: &Path) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

fn name(object: &Value) -> &str {
    text(&object["metadata"]["name"])
}

/// Runs `weft` where no cluster can be known.
fn weft(arguments: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(arguments)
        .current_dir(dir)
        .env("HOME", dir)
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .expect("weft starts")
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `promtool`, which has to find nothing wrong. What a machine lacks is a failure only where nothing
/// may be lacking.
fn promtool(arguments: &[&str], files: &[PathBuf]) -> Option<String> {
    let output = Command::new("promtool")
        .args(arguments)
        .args(files)
        .output();
    let Ok(output) = output else {
        let may_lack = std::env::var_os("CI").is_none_or(|it| it != "true");
        assert!(may_lack, "promtool is not there");
        return None;
    };
    let both = said(&output.stdout) + &said(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {both}");
    Some(both)
}
