//! The state directory: what of the authority outlives the process.
//!
//! * `authority.pem` (0600): what `document` says. One file, so that it is there whole or not at all.
//! * `trust-bundle.pem` (0644): the trusted roots, for sidecars to boot from. Always written after
//!   `authority.pem`: where it stands alone, the secret was lost.
//!
//! Files appear by link or rename of a finished, synced file, so that a reader never sees a part.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use super::{Authority, TrustBundle};

/// The trust bundle's name in the state directory.
pub const TRUST_BUNDLE_FILE: &str = "trust-bundle.pem";
pub(super) const AUTHORITY_FILE: &str = "authority.pem";

/// The longest state file that is read, in bytes.
const MAX_FILE_LEN: u64 = 256 * 1024;
/// Bytes of room beyond a file's length: what the end is found with.
const SPARE: usize = 64;
const DIRECTORY_MODE: u32 = 0o700;
pub(super) const SECRET_MODE: u32 = 0o600;
pub(super) const PUBLIC_MODE: u32 = 0o644;

/// Why state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system said no.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// The trust bundle is there, the secret behind it is not.
    #[error(
        "{} is there but {AUTHORITY_FILE} beside it is not: the authority's secret was lost. A new \
         one would cut off every sidecar that trusts the old one. Restore {AUTHORITY_FILE}, or \
         remove the bundle to begin a new mesh",
        path.display()
    )]
    SecretLost {
        /// The trust bundle.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The authority's files, for whoever keeps them while they are in use.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Held for as long as this process may write; the kernel gives it back at the process's end.
    lock: Mutex<Option<File>>,
}

impl Directory {
    /// The files in this directory.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            lock: Mutex::new(None),
        }
    }

    /// Puts the bundle of a given issuer there. Refused where the one that is there has none of its roots:
    /// no sidecar that knows that one would believe the control plane.
    pub fn begin_given(&self, authority: &Authority) -> Result<(), StateError> {
        create_directory(&self.path)?;
        let path = self.path.join(TRUST_BUNDLE_FILE);
        let found = read(&path)?.and_then(|found| TrustBundle::from_pem(&found));
        if found.is_some_and(|found| !authority.is_known_to(&found)) {
            return Err(corrupt(
                &path,
                "holds none of the roots that are given now: put the former root beside them until every \
                 sidecar has the new one, or remove the bundle to begin a new mesh",
            ));
        }
        self.publish(&authority.bundle().borrow())
    }

    /// Where they are, for people.
    pub fn authority_file(&self) -> PathBuf {
        self.path.join(AUTHORITY_FILE)
    }

    /// Whether this process is the one that writes: the first of those that serve this directory.
    pub fn is_ours(&self) -> bool {
        let mut lock = self.lock.lock();
        if lock.is_none() {
            let exclusive = FlockOperation::NonBlockingLockExclusive;
            let held = File::open(&self.path).ok();
            *lock = held.filter(|directory| flock(directory, exclusive).is_ok());
        }
        lock.is_some()
    }

    /// The authority's state; `None` where it is gone.
    pub fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        read(&self.authority_file())
    }

    /// Puts a state in the place of the one that was read. `false`: another one is there.
    pub fn replace(&self, text: &str, over: &[u8]) -> Result<bool, StateError> {
        if self.read()?.is_none_or(|found| *found != over) {
            return Ok(false);
        }
        replace(&self.authority_file(), text.as_bytes(), SECRET_MODE).map(|()| true)
    }

    /// Puts the bundle where sidecars boot from, unless it is there.
    pub fn publish(&self, bundle: &TrustBundle) -> Result<(), StateError> {
        let path = self.path.join(TRUST_BUNDLE_FILE);
        let wanted = bundle.to_pem();
        if read(&path)?.is_some_and(|found| *found == wanted.as_bytes()) {
            return Ok(());
        }
        replace(&path, wanted.as_bytes(), PUBLIC_MODE)
    }
}

/// Makes a private directory where there is none.
pub(super) fn create_directory(path: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
        .map_err(|error| io_error(path, error))
}

/// Reads a whole file, which may be secret; `None` where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(path, error)),
    };
    // With room for more than is there, so that it is not grown and no copy stays behind.
    let length = file
        .metadata()
        .map_err(|error| io_error(path, error))?
        .len();
    let room = usize::try_from(length.min(MAX_FILE_LEN)).unwrap_or(0) + SPARE;
    let mut content = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_FILE_LEN + 1)
        .read_to_end(&mut content)
        .map_err(|error| io_error(path, error))?;
    if content.len() as u64 > MAX_FILE_LEN {
        return Err(corrupt(path, "longer than 256 KiB"));
    }
    Ok(Some(content))
}

/// Makes a file that was not there. `false`: it was, and is untouched.
pub(super) fn create(path: &Path, content: &[u8], mode: u32) -> Result<bool, StateError> {
    let draft = write_draft(path, content, mode)?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft).map_err(|error| io_error(&draft, error))?;
    match linked {
        Ok(()) => sync_directory(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(io_error(path, error)),
    }
}

/// Makes or replaces a file.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), StateError> {
    let draft = write_draft(path, content, mode)?;
    fs::rename(&draft, path).map_err(|error| io_error(path, error))?;
    sync_directory(path)
}

pub(super) fn corrupt(path: &Path, reason: impl Into<String>) -> StateError {
    StateError::Corrupt {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// Writes beside the target, under a name that no other process picks and no reader looks for.
fn write_draft(path: &Path, content: &[u8], mode: u32) -> Result<PathBuf, StateError> {
    let name = format!(".draft-{}-{:016x}", std::process::id(), fastrand::u64(..));
    let draft = path.with_file_name(name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
    written.map_err(|error| io_error(&draft, error))?;
    Ok(draft)
}

fn sync_directory(path: &Path) -> Result<(), StateError> {
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| io_error(directory, error))
}

fn io_error(path: &Path, error: io::Error) -> StateError {
    StateError::Io {
        path: path.to_owned(),
        error,
    }
}
