//! The files of an image, by path. There are directories and regular files only: a link could lead out
//! of the image, and nothing in it needs one.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Mode of every directory.
pub const DIRECTORY_MODE: u32 = 0o755;
/// Mode of what is executed: programs, and the loader.
pub const PROGRAM_MODE: u32 = 0o755;
/// Mode of everything else.
pub const FILE_MODE: u32 = 0o644;

/// Files and the directories that they are in, in the order of their paths.
#[derive(Clone, Debug, Default)]
pub struct Root {
    entries: BTreeMap<String, Entry>,
}

/// What is at a path.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A directory.
    Directory,
    /// A file.
    File {
        /// Permission bits.
        mode: u32,
        /// What is in it.
        content: Vec<u8>,
    },
}

impl Root {
    /// Puts a file at an absolute path, and the directories above it.
    pub fn add(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            let above = path[..at].to_owned();
            self.entries.entry(above).or_insert(Entry::Directory);
        }
        let content = content.into();
        let file = Entry::File { mode, content };
        self.entries.insert(path.to_owned(), file);
    }

    /// Everything, directories before what is in them; paths without a slash in front.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, it)| (path.as_str(), it))
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        let sizes = self.entries.values().map(|entry| match entry {
            Entry::Directory => 0,
            Entry::File { content, .. } => content.len() as u64,
        });
        sizes.sum()
    }

    /// Writes everything into a folder, which is made where it is missing.
    ///
    /// # Errors
    /// When a file or folder cannot be written.
    pub fn write_to(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        for (path, entry) in self.entries() {
            let path = folder.join(path);
            let mode = match entry {
                Entry::Directory => {
                    fs::create_dir_all(&path)?;
                    DIRECTORY_MODE
                }
                Entry::File { mode, content } => {
                    fs::write(&path, content)?;
                    *mode
                }
            };
            // Whatever this process's umask says.
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
        Ok(())
    }
}
