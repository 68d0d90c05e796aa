//! Reads an archive with programs of the system, as far from what wrote it as can be.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// An archive, unpacked.
pub(crate) struct Layout {
    folder: PathBuf,
}

/// A line of what `tar` lists.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Kind and permissions, as `-rw-r--r--`.
    pub(crate) mode: String,
    /// Numbers of user and group, as `0/0`.
    pub(crate) owner: String,
    pub(crate) time: String,
    pub(crate) path: String,
}

impl Layout {
    /// Unpacks an archive into an empty folder.
    pub(crate) fn unpack(archive: &Path, folder: PathBuf) -> Self {
        output(
            Command::new("tar")
                .arg("-xf")
                .arg(archive)
                .current_dir(&folder),
        );
        Self { folder }
    }

    /// A file of the layout.
    pub(crate) fn json(&self, path: &str) -> Value {
        let text = fs::read(self.folder.join(path)).expect(path);
        serde_json::from_slice(&text).expect("JSON")
    }

    /// The manifest and the configuration of its one image.
    pub(crate) fn image(&self) -> (Value, Value) {
        let index = self.json("index.json");
        let manifest = self.json(&blob_path(&index["manifests"][0]));
        let config = self.json(&blob_path(&manifest["config"]));
        (manifest, config)
    }

    /// Files of its layers, lowest first.
    pub(crate) fn layers(&self) -> Vec<PathBuf> {
        let (manifest, _) = self.image();
        let layers = manifest["layers"].as_array().expect("layers");
        let paths = layers.iter().map(blob_path);
        paths.map(|path| self.folder.join(path)).collect()
    }

    /// Where a descriptor's blob is; its size and digest were compared with the descriptor's.
    pub(crate) fn blob(&self, descriptor: &Value) -> PathBuf {
        let path = self.folder.join(blob_path(descriptor));
        let size = fs::metadata(&path).expect("a blob").len();
        assert_eq!(descriptor["size"], size, "{}", path.display());
        let digest = sha256(Command::new("cat").arg(&path));
        assert_eq!(descriptor["digest"], digest, "{}", path.display());
        path
    }

    /// Every file in the archive, by its path.
    pub(crate) fn paths(&self) -> BTreeSet<String> {
        let found = output(
            Command::new("find")
                .args([".", "-type", "f", "-printf", "%P\\n"])
                .current_dir(&self.folder),
        );
        found.lines().map(str::to_owned).collect()
    }

    /// Unpacks the layers over each other, as a container runtime does.
    pub(crate) fn unpack_root(&self, root: &Path) {
        for layer in self.layers() {
            output(
                Command::new("tar")
                    .args(["--extract", "--gzip", "--preserve-permissions", "--file"])
                    .arg(&layer)
                    .current_dir(root),
            );
        }
    }
}

/// Path of a descriptor's blob in the layout.
pub(crate) fn blob_path(descriptor: &Value) -> String {
    let digest = descriptor["digest"].as_str().expect("a digest");
    let digits = digest.strip_prefix("sha256:").expect("SHA-256");
    format!("blobs/sha256/{digits}")
}

/// Digest of a compressed file's content.
pub(crate) fn sha256_unpacked(path: &Path) -> String {
    sha256(Command::new("gzip").arg("-dc").arg(path))
}

/// What is in a compressed tar archive.
pub(crate) fn listed(archive: &Path) -> Vec<Listed> {
    let list = output(
        Command::new("tar")
            .args(["--list", "--gzip", "--verbose", "--numeric-owner", "--utc"])
            .args(["--full-time", "--file"])
            .arg(archive),
    );
    let lines = list.lines().map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [mode, owner, _size, day, time, path] = words[..] else {
            panic!("neither file nor directory: {line}");
        };
        Listed {
            mode: mode.to_owned(),
            owner: owner.to_owned(),
            time: format!("{day} {time}"),
            path: path.to_owned(),
        }
    });
    lines.collect()
}

/// What a command prints; it must succeed.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}, {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Digest of what a command prints, as images spell it.
fn sha256(command: &mut Command) -> String {
    let mut source = command.stdout(Stdio::piped()).spawn().expect("a command");
    let printed = source.stdout.take().expect("piped");
    let sum = Command::new("sha256sum").stdin(printed).output();
    let sum = sum.expect("sha256sum, of every system's basics");
    assert!(source.wait().expect("its end").success(), "{command:?}");
    let digits = String::from_utf8(sum.stdout).expect("UTF-8");
    format!(
        "sha256:{}",
        digits.split_whitespace().next().expect("a sum")
    )
}
