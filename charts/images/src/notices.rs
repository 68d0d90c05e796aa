//! The licences of what Weft's programs are made of. Most of them ask that their text goes with every
//! copy of a program; so each image has one file with all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::programs::cargo;
use crate::spec::Image;

/// How files with licences begin, in capitals.
const NAMES: [&str; 6] = [
    "LICENSE",
    "LICENCE",
    "COPYING",
    "COPYRIGHT",
    "NOTICE",
    "UNLICENSE",
];

/// Every package that this workspace is built from, as cargo says.
#[derive(Clone, Debug)]
pub struct Packages {
    /// By cargo's id.
    all: BTreeMap<String, Package>,
}

#[derive(Clone, Debug)]
struct Package {
    name: String,
    version: String,
    licence: String,
    folder: PathBuf,
    is_ours: bool,
    /// Ids of what is built into it.
    parts: Vec<String>,
}

/// Why licences are not known.
#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    /// A command could not be started.
    #[error("{what}")]
    Start {
        /// Which.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A command failed.
    #[error("{what} failed: {why}")]
    Failed {
        /// Which.
        what: &'static str,
        /// What it said.
        why: String,
    },
    /// Its answer is not as documented.
    #[error("cargo metadata does not answer as this version of Weft knows it: {0}")]
    Unreadable(&'static str),
    /// A file with a licence cannot be read.
    #[error("{}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Packages {
    /// Asks cargo. Where a package's source is not on this machine yet, cargo fetches it.
    ///
    /// # Errors
    /// See [`NoticeError`].
    pub fn read() -> Result<Self, NoticeError> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let version = said("rustc", Command::new(rustc).arg("-vV"))?;
        let host = version.lines().find_map(|it| it.strip_prefix("host: "));
        let host = host.ok_or(NoticeError::Unreadable("rustc names no host"))?;
        let mut command = Command::new(cargo());
        command.args(["metadata", "--locked", "--format-version", "1"]);
        command.args(["--filter-platform", host]);
        let metadata = said("cargo metadata", &mut command)?;
        let metadata: Value = serde_json::from_str(&metadata)
            .map_err(|_| NoticeError::Unreadable("it is no JSON"))?;
        Self::parse(&metadata).ok_or(NoticeError::Unreadable("a field is missing"))
    }

    /// What `cargo metadata` says; `None` where a field is missing.
    fn parse(metadata: &Value) -> Option<Self> {
        let mut parts = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array()? {
            let is_built_in = |dependency: &&Value| {
                let kinds = dependency["dep_kinds"].as_array();
                kinds.is_some_and(|kinds| kinds.iter().any(|it| it["kind"].is_null()))
            };
            let dependencies = node["deps"].as_array()?.iter().filter(is_built_in);
            let ids = dependencies.map(|it| it["pkg"].as_str().map(str::to_owned));
            parts.insert(node["id"].as_str()?, ids.collect::<Option<Vec<_>>>()?);
        }
        let packages = metadata["packages"].as_array()?.iter().map(|package| {
            let id = package["id"].as_str()?;
            let text = |field: &str| package[field].as_str().map(str::to_owned);
            let manifest = PathBuf::from(text("manifest_path")?);
            let read = Package {
                name: text("name")?,
                version: text("version")?,
                licence: text("license").unwrap_or_else(|| "see its text".to_owned()),
                folder: manifest.parent()?.to_owned(),
                is_ours: package["source"].is_null(),
                parts: parts.remove(id).unwrap_or_default(),
            };
            Some((id.to_owned(), read))
        });
        let all = packages.collect::<Option<_>>()?;
        Some(Self { all })
    }

    /// What is to be said for an image: every package in its programs, then each text once, with the
    /// packages that it is of.
    ///
    /// # Errors
    /// When a file with a licence cannot be read.
    pub fn notices(&self, image: &Image) -> Result<String, NoticeError> {
        let built_in = self.built_into(image);
        let mut text = format!(
            "What the programs of the image {} are made of, beside Weft's own code, and under which licences.\n\n",
            image.name
        );
        // Writing to a string cannot fail.
        let _ = writeln!(text, "Rust's standard library: MIT OR Apache-2.0");
        let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for package in &built_in {
            let named = format!("{} {}", package.name, package.version);
            let _ = writeln!(text, "{named}: {}", package.licence);
            for licence in licences_in(&package.folder)? {
                texts.entry(licence).or_default().insert(named.clone());
            }
        }
        let mut texts: Vec<_> = texts.into_iter().collect();
        texts.sort_by(|one, other| one.1.cmp(&other.1).then_with(|| one.0.cmp(&other.0)));
        for (licence, packages) in texts {
            let packages: Vec<_> = packages.into_iter().collect();
            let line = "-".repeat(80);
            let _ = write!(
                text,
                "\n{line}\n{}\n{line}\n\n{licence}\n",
                packages.join(", ")
            );
        }
        Ok(text)
    }

    /// Packages of others that end up in an image's programs, by name and version.
    fn built_into(&self, image: &Image) -> Vec<&Package> {
        let is_program = |package: &Package| {
            let mut programs = image.programs.iter();
            package.is_ours && programs.any(|program| program.package == package.name)
        };
        let programs = self.all.iter().filter(|(_, it)| is_program(it));
        let mut open: Vec<&String> = programs.map(|(id, _)| id).collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if let Some(package) = self.all.get(id)
                && seen.insert(id)
            {
                open.extend(&package.parts);
            }
        }
        let packages = seen.into_iter().map(|id| &self.all[id]);
        let mut others: Vec<_> = packages.filter(|package| !package.is_ours).collect();
        others.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
        others
    }
}

/// Texts of the licences in a package's folder, by their files' names.
fn licences_in(folder: &Path) -> Result<Vec<String>, NoticeError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| NoticeError::Read { path, source }
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_uppercase();
        if path.is_file() && NAMES.iter().any(|begin| name.starts_with(begin)) {
            paths.push(path);
        }
    }
    paths.sort();
    let texts = paths.iter().map(|path| {
        let content = fs::read(path).map_err(failed(path))?;
        Ok(String::from_utf8_lossy(&content).trim().to_owned())
    });
    texts.collect()
}

fn said(what: &'static str, command: &mut Command) -> Result<String, NoticeError> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|source| NoticeError::Start { what, source })?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(NoticeError::Failed { what, why });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests;
