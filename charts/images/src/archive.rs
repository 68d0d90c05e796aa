//! An image as one file: a tar archive with an OCI image layout in it.
//!
//! Tools find the image's name in the layout's index: containerd and what stands on it (kind, k3d) in
//! one annotation, others in another. Docker without containerd's store reads `manifest.json` instead,
//! as it writes it itself beside the layout; others pass over it.

use std::io::{self, Write};

use serde_json::json;

use crate::assemble::{Assembled, media_type};
use crate::layer::Digest;
use crate::reference::Reference;
use crate::root::{DIRECTORY_MODE, FILE_MODE};
use crate::tar::Writer;

/// Annotation with the tag.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with the whole name, which containerd and podman take.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Folder of everything that is found by its digest.
const BLOBS: &str = "blobs/sha256";

impl Assembled {
    /// Writes the image under this name.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write_archive(&self, reference: &Reference, to: impl Write) -> io::Result<()> {
        let mut archive = Writer::new(to);
        let mut text = |name: &str, content: serde_json::Value| {
            archive.file(name, FILE_MODE, content.to_string().as_bytes())
        };
        text("oci-layout", json!({"imageLayoutVersion": "1.0.0"}))?;
        text("index.json", self.index(reference))?;
        text("manifest.json", self.docker_manifest(reference))?;
        archive.directory("blobs", DIRECTORY_MODE)?;
        archive.directory(BLOBS, DIRECTORY_MODE)?;
        let layers = self.layers.iter().map(|layer| &layer.blob);
        for blob in [&self.manifest, &self.config].into_iter().chain(layers) {
            archive.file(&path(blob), FILE_MODE, blob)?;
        }
        archive.finish()?.flush()
    }

    fn index(&self, reference: &Reference) -> serde_json::Value {
        let manifest = json!({
            "annotations": {
                CONTAINERD_NAME: reference.in_full(),
                REF_NAME: reference.tag(),
            },
            "digest": self.digest().to_string(),
            "mediaType": media_type::MANIFEST,
            "platform": {"architecture": self.architecture, "os": "linux"},
            "size": self.manifest.len(),
        });
        json!({
            "manifests": [manifest],
            "mediaType": media_type::INDEX,
            "schemaVersion": 2,
        })
    }

    fn docker_manifest(&self, reference: &Reference) -> serde_json::Value {
        let layers = self.layers.iter().map(|layer| path(&layer.blob));
        json!([{
            "Config": path(&self.config),
            "Layers": layers.collect::<Vec<_>>(),
            "RepoTags": [reference.to_string()],
        }])
    }
}

fn path(blob: &[u8]) -> String {
    format!("{BLOBS}/{}", Digest::of(blob).digits())
}
