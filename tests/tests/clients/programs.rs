//! The programs that the tests run: where they are, and which are missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names a Python with `tests/clients/requirements.txt`.
const PYTHON: &str = "WEFT_CLIENTS_PYTHON";
/// Where Debian keeps servers that only root is thought to start.
const MORE_PATHS: [&str; 2] = ["/usr/sbin", "/usr/lib/rabbitmq/bin"];
/// Where it keeps the programs of PostgreSQL's server, by version.
const POSTGRESQL: &str = "/usr/lib/postgresql";

/// What a test cannot do without.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// Programs by name.
    pub(crate) programs: &'static [&'static str],
    /// Modules of Python.
    pub(crate) modules: &'static [&'static str],
}

impl Needs {
    /// Programs only.
    pub(crate) const fn programs(programs: &'static [&'static str]) -> Self {
        Self {
            programs,
            modules: &[],
        }
    }

    /// Modules of Python only.
    pub(crate) const fn modules(modules: &'static [&'static str]) -> Self {
        Self {
            programs: &[],
            modules,
        }
    }

    /// What is missing here.
    pub(crate) fn missing(self) -> Option<String> {
        for program in self.programs {
            if find(program).is_none() {
                return Some(format!("there is no {program} here"));
            }
        }
        for module in self.modules {
            let imported = Command::new(python())
                .args(["-c", &format!("import {module}")])
                .stderr(Stdio::null())
                .status();
            if !imported.is_ok_and(|status| status.success()) {
                return Some(format!(
                    "{} is no Python with {module}: make one with `python3 -m venv target/python && \
                     target/python/bin/pip install -r tests/clients/requirements.txt`, or name another \
                     in {PYTHON}",
                    python().display()
                ));
            }
        }
        None
    }
}

/// A command for a program of the machine, in an environment of its own: only what it needs to find
/// others, and no settings of whoever runs the tests.
pub(crate) fn command(program: &str, home: &Path) -> Command {
    let file = find(program).unwrap_or_else(|| program.into());
    let mut command = Command::new(file);
    clean(&mut command, home);
    command
}

/// A command for one of the scripts in `tests/clients`.
pub(crate) fn script(name: &str, home: &Path) -> Command {
    let mut command = Command::new(python());
    command.arg(root().join("tests/clients").join(name));
    clean(&mut command, home);
    // Leaves nothing behind in the sources; says at once what it has to say.
    command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUNBUFFERED", "1");
    command
}

/// A program's file.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    places()
        .into_iter()
        .map(|place| place.join(program))
        .find(|file| file.is_file())
}

fn clean(command: &mut Command, home: &Path) {
    let path = std::env::join_paths(places()).unwrap_or_default();
    command
        .env_clear()
        .env("PATH", path)
        .env("HOME", home)
        .env("TMPDIR", home)
        .env("LC_ALL", "C.UTF-8")
        // What they leave behind, such as dumps, goes with everything else.
        .current_dir(home)
        .stdin(Stdio::null());
}

/// The newest PostgreSQL first: what else has its name on the path may be half of one.
fn places() -> Vec<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir(POSTGRESQL)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    versions.sort();
    versions.reverse();
    let path = std::env::var_os("PATH").unwrap_or_default();
    versions.extend(std::env::split_paths(&path));
    versions.extend(MORE_PATHS.map(PathBuf::from));
    versions
}

fn python() -> PathBuf {
    match std::env::var_os(PYTHON) {
        Some(program) => program.into(),
        None => root().join("target/python/bin/python"),
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
