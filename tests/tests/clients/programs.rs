//! The programs that the tests run: where they are, and which are missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use weft_sandbox::programs::{clean, missing};
pub(crate) use weft_sandbox::programs::{command, find};

/// Names a Python with `tests/clients/requirements.txt`.
const PYTHON: &str = "WEFT_CLIENTS_PYTHON";

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
        if let Some(missing) = missing(self.programs).first() {
            return Some(missing.to_string());
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

fn python() -> PathBuf {
    match std::env::var_os(PYTHON) {
        Some(program) => program.into(),
        None => root().join("target/python/bin/python"),
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
