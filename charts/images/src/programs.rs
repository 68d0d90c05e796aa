//! The programs of images: building them with cargo, finding them, and taking off what only debuggers
//! read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::elf::{Elf, ElfError};
use crate::spec::{Image, Program};

/// Takes symbols off; it comes with every C compiler.
const STRIP: &str = "strip";

/// Files of programs, by their names.
pub type Files = BTreeMap<&'static str, PathBuf>;

/// Why there is no program to put into an image.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A command could not be started, or a file not be read.
    #[error("{what}")]
    Io {
        /// The command or file.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// Cargo said why, on this terminal.
    #[error("cargo did not build the programs")]
    Build,
    /// The package is built, and the program is not among what cargo made.
    #[error("cargo built no program {0}")]
    NotBuilt(&'static str),
    /// The file is no program.
    #[error("{}", path.display())]
    Elf {
        /// Which.
        path: PathBuf,
        /// What it is.
        source: ElfError,
    },
    /// The command that takes symbols off is not there, or failed.
    #[error(
        "{}: its symbols cannot be taken off ({why}): install binutils, which has `strip`",
        path.display()
    )]
    Strip {
        /// The program.
        path: PathBuf,
        /// What was said.
        why: String,
    },
}

/// Builds the images' programs with this profile of cargo's.
///
/// # Errors
/// See [`ProgramError`].
pub fn build(images: &[&Image], profile: &str) -> Result<Files, ProgramError> {
    let mut command = Command::new(cargo());
    command.args(["build", "--locked", "--bins", "--profile", profile]);
    command.args(["--message-format", "json-render-diagnostics"]);
    for program in programs_of(images) {
        command.args(["--package", program.package]);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = output.output().map_err(|source| ProgramError::Io {
        what: "cargo".to_owned(),
        source,
    })?;
    if !output.status.success() {
        return Err(ProgramError::Build);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let built: BTreeMap<String, PathBuf> = messages.lines().filter_map(executable).collect();
    programs_of(images)
        .map(|Program { name, .. }| {
            let path = built.get(*name).cloned();
            path.map(|it| (*name, it))
                .ok_or(ProgramError::NotBuilt(name))
        })
        .collect()
}

/// The images' programs in a folder.
pub fn in_folder(images: &[&Image], folder: &Path) -> Files {
    let named = programs_of(images).map(|it| (it.name, folder.join(it.name)));
    named.collect()
}

/// What a program's file says without what only debuggers read.
///
/// # Errors
/// See [`ProgramError`].
pub fn stripped(path: &Path) -> Result<Vec<u8>, ProgramError> {
    let io = |source| ProgramError::Io {
        what: path.display().to_string(),
        source,
    };
    let content = fs::read(path).map_err(io)?;
    let elf = Elf::parse(&content).map_err(|source| ProgramError::Elf {
        path: path.to_owned(),
        source,
    })?;
    if !elf.has_symbols {
        return Ok(content);
    }
    let refused = |why| ProgramError::Strip {
        path: path.to_owned(),
        why,
    };
    let folder = tempfile::tempdir().map_err(io)?;
    let result = folder.path().join("stripped");
    let mut command = Command::new(STRIP);
    command.arg("--strip-all").arg("-o").arg(&result).arg(path);
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| refused(error.to_string()))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(refused(why.trim().to_owned()));
    }
    fs::read(&result).map_err(io)
}

/// The cargo that runs this, or else the one that there is.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn programs_of<'a>(images: &'a [&Image]) -> impl Iterator<Item = &'a Program> {
    images.iter().flat_map(|image| image.programs)
}

/// Name and path of the program, where cargo's message is of one.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let name = message["target"]["name"].as_str()?;
    let path = message["executable"].as_str()?;
    Some((name.to_owned(), path.into()))
}
