//! Which shared libraries programs need, and where they are on this machine.
//!
//! A library keeps its folder in the image: it is looked for only where the dynamic loader looks without
//! being configured, so that an image needs neither a cache nor a setting for it. Libraries from
//! elsewhere are refused by name rather than left out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::elf::{Elf, ElfError, Machine};

/// Folders that loaders search by themselves, beside their own.
const FOLDERS: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// The C library, as programs ask for it where it is the GNU one.
const GLIBC: &str = "libc.so.6";
/// Since this version it looks up names by itself; older ones load plug-ins that nobody asks for by
/// name (release notes of glibc 2.34).
const GLIBC_WITH_NAMES: &[u8] = b"GLIBC_2.34\0";
/// Libraries of one image: far beyond what Weft's programs need.
const MAX_LIBRARIES: usize = 32;

/// What programs need to be loaded.
#[derive(Clone, Debug)]
pub struct Libraries {
    /// What the programs and all of these are for.
    pub machine: Machine,
    /// The dynamic loader: its path in the image and its content. `None` for static programs.
    pub interpreter: Option<(String, Vec<u8>)>,
    /// Every library, by its path in the image.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Why an image cannot be made from these programs.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// A program or library is not what it should be.
    #[error("{file}")]
    Elf {
        /// Which.
        file: String,
        /// What it is.
        source: ElfError,
    },
    /// A file is there but cannot be read.
    #[error("{}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Programs of one image are for different machines, or the library here is for another one.
    #[error(
        "{file} is for {found}, and the image for {meant}: build on a machine of the image's kind"
    )]
    OtherMachine {
        /// The file.
        file: String,
        /// What it is for.
        found: &'static str,
        /// What the image is for.
        meant: &'static str,
    },
    /// A program is loaded in another way than the others.
    #[error("{file} asks for the loader {found:?}, others for {meant:?}")]
    OtherLoader {
        /// The program.
        file: String,
        /// Its loader.
        found: Option<String>,
        /// That of the others.
        meant: Option<String>,
    },
    /// A library is not where loaders look by themselves.
    #[error(
        "{file} needs {library}, which is in none of {searched:?}: an image takes libraries only from where the loader looks by itself"
    )]
    NotFound {
        /// What needs it.
        file: String,
        /// The library.
        library: String,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// A program brings a search path of its own.
    #[error("{file} searches libraries in {path:?}, which an image has not: build it without one")]
    SearchPath {
        /// The program or library.
        file: String,
        /// The path.
        path: String,
    },
    /// The C library here needs plug-ins to look up names.
    #[error(
        "{}: older than glibc 2.34, which looks up host names with plug-ins that no image has: build on a newer system",
        path.display()
    )]
    OldGlibc {
        /// The library.
        path: PathBuf,
    },
    /// No end of libraries.
    #[error("more than {MAX_LIBRARIES} libraries are needed: these are not Weft's programs")]
    TooMany,
}

/// Everything that these programs, given by name and content, need to be loaded.
///
/// # Errors
/// See [`LibraryError`].
///
/// # Panics
/// When there is no program.
pub fn needed_by(programs: &[(&str, &[u8])]) -> Result<Libraries, LibraryError> {
    let mut wanted = Vec::new();
    let mut first: Option<(Machine, Option<String>)> = None;
    for (name, content) in programs {
        let elf = parse(name, content)?;
        let (machine, interpreter) =
            first.get_or_insert_with(|| (elf.machine, elf.interpreter.clone()));
        must_be_for(*machine, name, &elf)?;
        if elf.interpreter != *interpreter {
            return Err(LibraryError::OtherLoader {
                file: (*name).to_owned(),
                found: elf.interpreter,
                meant: interpreter.clone(),
            });
        }
        let libraries = elf.needed.into_iter();
        wanted.extend(libraries.map(|library| ((*name).to_owned(), library)));
    }
    let (machine, interpreter) = first.expect("an image has programs");
    let Some(interpreter) = interpreter else {
        return Ok(Libraries {
            machine,
            interpreter: None,
            files: BTreeMap::new(),
        });
    };
    let folders = folders_of(&interpreter)?;
    let loader_name = Path::new(&interpreter).file_name();
    let mut files = BTreeMap::new();
    let mut seen = Vec::new();
    while let Some((file, library)) = wanted.pop() {
        // The loader knows its own name.
        if loader_name == Some(library.as_ref()) || seen.contains(&library) {
            continue;
        }
        let Some((path, content)) = find(&library, &folders, machine)? else {
            return Err(LibraryError::NotFound {
                file,
                library,
                searched: folders,
            });
        };
        let elf = parse(&library, &content)?;
        must_look_up_names(&library, &path, &content)?;
        wanted.extend(elf.needed.into_iter().map(|more| (library.clone(), more)));
        seen.push(library);
        if seen.len() > MAX_LIBRARIES {
            return Err(LibraryError::TooMany);
        }
        files.insert(path.to_string_lossy().into_owned(), content);
    }
    let loader = read(Path::new(&interpreter))?;
    must_be_for(machine, &interpreter, &parse(&interpreter, &loader)?)?;
    Ok(Libraries {
        machine,
        interpreter: Some((interpreter, loader)),
        files,
    })
}

/// Where the loader looks: beside itself, whatever links lead there, then in the usual folders.
fn folders_of(interpreter: &str) -> Result<Vec<PathBuf>, LibraryError> {
    let real = fs::canonicalize(interpreter).map_err(|source| LibraryError::Read {
        path: interpreter.into(),
        source,
    })?;
    let beside = real.parent().map(Path::to_path_buf);
    let usual = FOLDERS.into_iter().map(PathBuf::from);
    Ok(beside.into_iter().chain(usual).collect())
}

/// The first library of this name that is for this machine, as the loader takes it.
fn find(
    name: &str,
    folders: &[PathBuf],
    machine: Machine,
) -> Result<Option<(PathBuf, Vec<u8>)>, LibraryError> {
    for path in folders.iter().map(|folder| folder.join(name)) {
        if !path.is_file() {
            continue;
        }
        let content = read(&path)?;
        if Elf::parse(&content).is_ok_and(|elf| elf.machine == machine) {
            return Ok(Some((path, content)));
        }
    }
    Ok(None)
}

fn parse(file: &str, content: &[u8]) -> Result<Elf, LibraryError> {
    let elf = Elf::parse(content).map_err(|source| LibraryError::Elf {
        file: file.to_owned(),
        source,
    })?;
    plain(file, elf)
}

/// The same, where it has no search path of its own.
fn plain(file: &str, elf: Elf) -> Result<Elf, LibraryError> {
    match elf.search_paths.first() {
        None => Ok(elf),
        Some(path) => Err(LibraryError::SearchPath {
            file: file.to_owned(),
            path: path.clone(),
        }),
    }
}

/// A C library of the GNU kind must do so by itself.
fn must_look_up_names(library: &str, path: &Path, content: &[u8]) -> Result<(), LibraryError> {
    let mut windows = content.windows(GLIBC_WITH_NAMES.len());
    if library != GLIBC || windows.any(|window| window == GLIBC_WITH_NAMES) {
        return Ok(());
    }
    Err(LibraryError::OldGlibc {
        path: path.to_owned(),
    })
}

fn must_be_for(machine: Machine, file: &str, elf: &Elf) -> Result<(), LibraryError> {
    if elf.machine == machine {
        return Ok(());
    }
    Err(LibraryError::OtherMachine {
        file: file.to_owned(),
        found: elf.machine.architecture(),
        meant: machine.architecture(),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, LibraryError> {
    fs::read(path).map_err(|source| LibraryError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
