//! Where the programs of others are.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Searched after `PATH`, which of an ordinary user may leave it out.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// The file of a program, if there is one: `given`, which may be the directory of a Python environment
/// too, or else the first of that name in `PATH`.
pub(super) fn find(name: &str, given: Option<&Path>) -> Option<PathBuf> {
    match given {
        Some(place) if place.is_dir() => in_python(name, place),
        Some(file) => real(name, file),
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut places =
                std::env::split_paths(&path).chain(SYSTEM.into_iter().map(PathBuf::from));
            places.find_map(|place| real(name, &place.join(name)))
        }
    }
}

/// The program itself, where `file` is a script of a Python environment that only starts it.
fn real(name: &str, file: &Path) -> Option<PathBuf> {
    let mut begin = [0; 2];
    let read = File::open(file).and_then(|mut file| file.read_exact(&mut begin));
    match read {
        Ok(()) if begin == *b"#!" => in_python(name, file.parent()?.parent()?),
        Ok(()) => file.canonicalize().ok(),
        Err(_) => None,
    }
}

/// As a wheel lays it out: `lib/python3.*/site-packages/envoy/_bin/envoy`.
fn in_python(name: &str, environment: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(environment.join("lib")).ok()?;
    let packages = ["site-packages", "dist-packages"];
    versions
        .flatten()
        .flat_map(|version| packages.map(|packages| version.path().join(packages)))
        .map(|packages| packages.join(name).join("_bin").join(name))
        .find(|file| file.is_file())
}
