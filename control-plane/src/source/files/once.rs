//! Paths that are read once, for whoever wants to know what the control plane would make of them.
//!
//! Reading is the watched directory's own: the same limits, the same parser, the same words for what
//! is refused. Only `mesh.yaml` may be missing here.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::SourceError;
use super::parse::{Contents, Key};
use super::scan::{Scanner, read, understand};
use super::store::Store;
use crate::index::{MeshSettings, Objects};
use crate::source::mesh_file::{DEFAULT_SERVER_FIRST_PORTS, FILE_NAME};

/// What some paths hold together.
#[derive(Clone, Debug)]
pub struct Once {
    /// Every object that is good by itself, and what was refused. Files are called by their paths.
    pub objects: Objects,
    /// Whether it is known what the mesh is made of: a `mesh.yaml` was there and could be read.
    /// Without it, the mesh-wide settings are the defaults and there is no service and no workload.
    pub has_mesh: bool,
}

/// Reads all of `paths` as one mesh: directories as the control plane does, anything else as a file
/// whatever its name. Fails only where a path itself cannot be read; what is wrong inside of files is
/// among the refusals.
pub fn read_once(paths: &[PathBuf]) -> Result<Once, SourceError> {
    let mut files = BTreeMap::new();
    // A file that several paths lead to defines nothing twice.
    let mut seen = HashSet::new();
    let mut is_new = |path: &Path| path.canonicalize().map_or(true, |path| seen.insert(path));
    for path in paths {
        let unreadable = |error| SourceError::Unreadable {
            dir: path.clone(),
            error,
        };
        if path.is_dir() {
            let mut scanner = Scanner::new(path.clone());
            scanner.scan().map_err(unreadable)?;
            if scanner.contents().is_empty() {
                return Err(SourceError::Empty { dir: path.clone() });
            }
            for (file, contents) in scanner.contents() {
                let file = path.join(file);
                if is_new(&file) {
                    files.insert(shown(&file), contents.clone());
                }
            }
        } else {
            let bytes = read(path).map_err(unreadable)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if is_new(path) {
                files.insert(shown(path), understand(&name, Ok(bytes)));
            }
        }
    }
    Ok(together(&files))
}

/// What files hold together, by the names that they are to be called.
pub(super) fn together(files: &BTreeMap<String, Contents>) -> Once {
    let has_mesh = files.iter().any(|(file, contents)| {
        let is_mesh = Path::new(file)
            .file_name()
            .is_some_and(|name| name == FILE_NAME);
        let mut entries = contents.entries.iter();
        is_mesh && entries.any(|entry| entry.key == Some(Key::Settings))
    });
    let store = Store::of(files);
    let settings = store.settings().unwrap_or_else(|| MeshSettings {
        trust_domain: weft_proto::names::DEFAULT_TRUST_DOMAIN.to_owned(),
        networks: Vec::new(),
        server_first_ports: DEFAULT_SERVER_FIRST_PORTS.to_vec(),
        minimum_mtls: None,
        default_authorization: crate::policy::DefaultAuthorization::AllowAll,
    });
    Once {
        objects: store.objects_under(settings),
        has_mesh,
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
