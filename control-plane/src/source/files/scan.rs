//! Finds out what changed in a directory. Blocking: runs where blocking is allowed.
//!
//! A file is looked at again when its time, size or inode changed, or when it is so young that a
//! second write could hide behind the same time; it counts as changed when its bytes did. While a
//! directory is still being written to, scanning waits a little, so that half-written files are
//! rarely seen; one that is seen all the same is read again at the next scan.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::parse::{Contents, Problem, parse};

/// Files beyond this many are not read, in the order of their names.
const MAX_FILES: usize = 4096;
/// A file that is larger is refused.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Younger than this, a file's time proves nothing.
const YOUNG: Duration = Duration::from_secs(2);
/// How long a directory is left alone once it was seen changing, and how often at most.
const SETTLE: Duration = Duration::from_millis(15);
const MAX_SETTLES: u32 = 6;

/// A directory, and what it held when it was last looked at.
#[derive(Debug)]
pub(super) struct Scanner {
    dir: PathBuf,
    known: BTreeMap<String, Known>,
    contents: BTreeMap<String, Contents>,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    /// Whether the stamp alone proves that nothing has changed.
    proven: bool,
    hash: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    size: u64,
    inode: u64,
    device: u64,
}

impl Scanner {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            known: BTreeMap::new(),
            contents: BTreeMap::new(),
        }
    }

    /// What every file holds.
    pub(super) fn contents(&self) -> &BTreeMap<String, Contents> {
        &self.contents
    }

    /// Looks again; says whether anything is different. An error leaves everything as it was.
    pub(super) fn scan(&mut self) -> io::Result<bool> {
        let stamps = self.settled()?;
        let mut changed = false;
        let gone: Vec<_> = self
            .known
            .keys()
            .filter(|file| !stamps.contains_key(*file))
            .cloned()
            .collect();
        for file in gone {
            self.known.remove(&file);
            self.contents.remove(&file);
            changed = true;
        }
        for (file, stamp) in stamps {
            if let Some(known) = self.known.get(&file)
                && known.stamp == stamp
                && known.proven
            {
                continue;
            }
            changed |= self.look(file, stamp);
        }
        Ok(changed)
    }

    fn look(&mut self, file: String, stamp: Stamp) -> bool {
        let read = match read(&self.dir.join(&file)) {
            // Gone between listing and reading: the next scan sees it gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
            read => read,
        };
        let hash = {
            let mut hasher = DefaultHasher::new();
            match &read {
                Ok(bytes) => (true, bytes.as_slice()).hash(&mut hasher),
                Err(error) => (false, error.to_string().as_bytes()).hash(&mut hasher),
            }
            hasher.finish()
        };
        let proven = read.is_ok() && !is_young(&stamp);
        let known = Known {
            stamp,
            proven,
            hash,
        };
        let before = self.known.insert(file.clone(), known);
        if before.is_some_and(|before| before.hash == hash) {
            return false;
        }
        let contents = understand(&file, read);
        self.contents.insert(file, contents);
        true
    }

    /// The directory's files, once they have stopped changing or patience is over.
    fn settled(&self) -> io::Result<BTreeMap<String, Stamp>> {
        let mut stamps = list(&self.dir)?;
        let as_known = stamps.len() == self.known.len()
            && stamps.iter().all(|(file, stamp)| {
                self.known
                    .get(file)
                    .is_some_and(|known| known.stamp == *stamp)
            });
        if as_known {
            return Ok(stamps);
        }
        for _ in 0..MAX_SETTLES {
            std::thread::sleep(SETTLE);
            let again = list(&self.dir)?;
            let same = again == stamps;
            stamps = again;
            if same {
                break;
            }
        }
        Ok(stamps)
    }
}

/// What a file holds, by its name and its bytes.
pub(super) fn understand(file: &str, read: io::Result<Vec<u8>>) -> Contents {
    let text = read
        .map_err(|error| error.to_string())
        .and_then(|bytes| String::from_utf8(bytes).map_err(|error| error.to_string()));
    match text {
        Ok(text) => parse(file, &text),
        Err(reason) => Contents {
            entries: Vec::new(),
            unreadable: vec![Problem {
                line: 0,
                reason,
                mend: String::new(),
            }],
        },
    }
}

fn list(dir: &Path) -> io::Result<BTreeMap<String, Stamp>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        let extension = Path::new(&name).extension().and_then(|ext| ext.to_str());
        if name.starts_with('.') || !matches!(extension, Some("yaml" | "yml")) {
            continue;
        }
        // Follows links, as mounted directories are full of them.
        let metadata = match fs::metadata(dir.join(&name)) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let stamp = Stamp {
            modified: metadata.modified().ok(),
            size: metadata.len(),
            inode: metadata.ino(),
            device: metadata.dev(),
        };
        files.insert(name, stamp);
    }
    while files.len() > MAX_FILES {
        files.pop_last();
    }
    Ok(files)
}

/// A file's bytes, unless there are too many.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {MAX_FILE_BYTES} bytes"),
        ));
    }
    Ok(bytes)
}

fn is_young(stamp: &Stamp) -> bool {
    let age = stamp
        .modified
        .and_then(|modified| SystemTime::now().duration_since(modified).ok());
    // A time in the future proves nothing either.
    age.is_none_or(|age| age < YOUNG)
}
