//! From programs to an image: two layers, a configuration and a manifest, as the OCI image specification
//! has them. What changes with every build is in a layer of its own, so that a new version is mostly its
//! programs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::layer::{Digest, Layer};
use crate::libraries::{self, LibraryError};
use crate::programs::{self, Files, ProgramError};
use crate::root::{FILE_MODE, PROGRAM_MODE, Root};
use crate::spec::{Image, PROGRAM_DIR, UID, USER_NAME};

/// Media types of the OCI image specification.
pub mod media_type {
    /// An index of manifests.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An image's configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
}

/// When every image was made, as far as it says: the hour must not make a difference.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// Weft's own licence.
const LICENCE_TEXT: &str = include_str!("../../../LICENSE");
const LICENCE_PATH: &str = "/usr/share/doc/weft/LICENSE";
/// Those of what its programs are made of.
const NOTICES_PATH: &str = "/usr/share/doc/weft/NOTICES";
/// Where systems keep the licences of the libraries that images take from them (Debian's packages, then
/// Fedora's): files, or folders of them. What is there goes into the image.
const LIBRARY_LICENCES: [&str; 4] = [
    "/usr/share/doc/libc6/copyright",
    "/usr/share/doc/libgcc-s1/copyright",
    "/usr/share/licenses/glibc",
    "/usr/share/licenses/libgcc",
];
/// Names are looked up in files, host names then by DNS.
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// An image, ready to be written.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// Which one.
    pub image: &'static Image,
    /// For which processors, as images spell it.
    pub architecture: &'static str,
    /// Its files, layer by layer.
    pub roots: [Root; 2],
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// Its configuration, JSON.
    pub config: Vec<u8>,
    /// Its manifest, JSON.
    pub manifest: Vec<u8>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// Of its programs.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Of what they need.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A file of this machine cannot be read.
    #[error("{}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A layer cannot hold its files.
    #[error("a layer")]
    Layer(#[source] io::Error),
}

/// Makes an image from the files of its programs, all of which must be among `files`, and from what is to
/// be said of the licences of their parts.
///
/// # Errors
/// See [`AssembleError`].
///
/// # Panics
/// When a program of the image is not among the files.
pub fn assemble(
    image: &'static Image,
    files: &Files,
    notices: &str,
) -> Result<Assembled, AssembleError> {
    let mut contents = BTreeMap::new();
    for program in image.programs {
        let file = files.get(program.name).expect("every program has a file");
        contents.insert(program.name, programs::stripped(file)?);
    }
    let named: Vec<(&str, &[u8])> = contents.iter().map(|(name, it)| (*name, &**it)).collect();
    let libraries = libraries::needed_by(&named)?;
    let architecture = libraries.machine.architecture();

    let mut system = Root::default();
    if let Some((path, content)) = libraries.interpreter {
        system.add(&path, PROGRAM_MODE, content);
    }
    for (path, content) in libraries.files {
        system.add(&path, FILE_MODE, content);
    }
    system.add("/etc/passwd", FILE_MODE, passwd());
    system.add("/etc/group", FILE_MODE, group());
    system.add("/etc/nsswitch.conf", FILE_MODE, NSSWITCH);
    for licence in LIBRARY_LICENCES {
        add_licences(&mut system, Path::new(licence))?;
    }
    let mut own = Root::default();
    for (name, content) in contents {
        own.add(&format!("{PROGRAM_DIR}/{name}"), PROGRAM_MODE, content);
    }
    own.add(LICENCE_PATH, FILE_MODE, LICENCE_TEXT);
    own.add(NOTICES_PATH, FILE_MODE, notices);

    let layers = vec![
        Layer::new("libraries and users", &system).map_err(AssembleError::Layer)?,
        Layer::new("programs", &own).map_err(AssembleError::Layer)?,
    ];
    let config = config(image, architecture, &layers)
        .to_string()
        .into_bytes();
    let manifest = manifest(image, &config, &layers).to_string().into_bytes();
    Ok(Assembled {
        image,
        architecture,
        roots: [system, own],
        layers,
        config,
        manifest,
    })
}

impl Assembled {
    /// What it is known by: the digest of its manifest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Bytes of its files.
    pub fn unpacked(&self) -> u64 {
        self.layers.iter().map(|layer| layer.unpacked).sum()
    }

    /// Bytes of its layers as a registry keeps them and a node fetches them.
    pub fn compressed(&self) -> u64 {
        let sizes = self.layers.iter().map(|layer| layer.blob.len() as u64);
        sizes.sum()
    }

    /// Writes its files into a folder.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write_root(&self, folder: &Path) -> io::Result<()> {
        self.roots.iter().try_for_each(|root| root.write_to(folder))
    }
}

/// The descriptor of a blob. Its fields are in the order of their names, as in all JSON here, so that it
/// is the same text whether or not this build's JSON library sorts them.
fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({
        "digest": Digest::of(blob).to_string(),
        "mediaType": media_type,
        "size": blob.len(),
    })
}

fn config(image: &Image, architecture: &str, layers: &[Layer]) -> Value {
    let diff_ids: Vec<_> = layers.iter().map(|it| it.diff_id.to_string()).collect();
    let history = layers.iter().map(|layer| {
        let by = format!("cargo image: {}", layer.what);
        json!({"created": CREATED, "created_by": by})
    });
    json!({
        "architecture": architecture,
        "config": {
            "Entrypoint": [image.entrypoint()],
            "Env": [format!("PATH={PROGRAM_DIR}")],
            "Labels": labels(image),
            "User": format!("{UID}:{UID}"),
            "WorkingDir": "/",
        },
        "created": CREATED,
        "history": history.collect::<Vec<_>>(),
        "os": "linux",
        "rootfs": {"diff_ids": diff_ids, "type": "layers"},
    })
}

fn manifest(image: &Image, config: &[u8], layers: &[Layer]) -> Value {
    let blobs = layers.iter().map(|layer| &layer.blob);
    let layers = blobs.map(|blob| descriptor(media_type::LAYER, blob));
    json!({
        "annotations": labels(image),
        "config": descriptor(media_type::CONFIG, config),
        "layers": layers.collect::<Vec<_>>(),
        "mediaType": media_type::MANIFEST,
        "schemaVersion": 2,
    })
}

fn labels(image: &Image) -> Map<String, Value> {
    let labels = image.labels().into_iter();
    labels.map(|(name, it)| (name.into(), it.into())).collect()
}

fn passwd() -> String {
    format!(
        "root:x:0:0:root:/:/usr/sbin/nologin\n\
         {USER_NAME}:x:{UID}:{UID}:Weft:/:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
    )
}

fn group() -> String {
    format!("root:x:0:\n{USER_NAME}:x:{UID}:\nnogroup:x:65534:\n")
}

/// Adds a file, or the files of a folder, under their own paths; nothing where there is none.
fn add_licences(root: &mut Root, path: &Path) -> Result<(), AssembleError> {
    let failed = |source| AssembleError::Read {
        path: path.to_owned(),
        source,
    };
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            add_licences(root, &entry.map_err(failed)?.path())?;
        }
    } else if path.is_file() {
        let content = fs::read(path).map_err(failed)?;
        root.add(&path.to_string_lossy(), FILE_MODE, content);
    }
    Ok(())
}
