//! The run's directory: configuration, state and logs. Removed by the outer process; where that
//! one was killed, by the next run, which finds the lock free.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

const PREFIX: &str = "weft-sandbox-";
const LOCK: &str = "lock";

/// A directory that belongs to one run.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Held as long as the directory is in use; `None` where another process holds it.
    owner: Option<File>,
}

impl RunDir {
    /// Makes a new directory and removes those of runs that were killed.
    pub(super) fn create() -> io::Result<Self> {
        sweep();
        let path = tempfile::Builder::new().prefix(PREFIX).tempdir()?.keep();
        // Locked before it has its name: a sweep of another run never finds it free.
        let unnamed = path.join("lock.new");
        let lock = File::create(&unnamed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        fs::rename(unnamed, path.join(LOCK))?;
        Ok(Self {
            path,
            owner: Some(lock),
        })
    }

    /// The directory that the outer process owns.
    pub(super) fn borrowed(path: PathBuf) -> Self {
        Self { path, owner: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.owner.is_some() {
            // What cannot be removed now, the next run tries again.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes directories whose owner is gone. Another user's, and one that is being made (without a
/// lock file yet), are left alone.
fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join(LOCK)) else {
            continue;
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
