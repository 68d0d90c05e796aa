//! `mesh.yaml`, and the files beside it: everything behind a second `0xff` byte is another file's.

use serde_saphyr::options;
use weft_control_plane::check::check;
use weft_control_plane::index::Model;
use weft_control_plane::source::files::read_texts;
use weft_control_plane::source::mesh_file::{FILE_NAME, MeshFile};

use crate::input::part;

const OTHER: &str = "policies.yaml";

/// What is refused is refused with a place in its file, and what is accepted survives being written
/// and read again; whatever is accepted can be put together and looked at.
pub fn target(data: &[u8]) {
    let (Ok(mesh), Ok(other)) = (
        std::str::from_utf8(part(data, 0)),
        std::str::from_utf8(part(data, 1)),
    ) else {
        return;
    };
    let read = read_texts(&[(FILE_NAME, mesh), (OTHER, other)]);
    for refusal in &read.objects.refusals {
        let text = if refusal.file == OTHER { other } else { mesh };
        assert!(refusal.file == OTHER || refusal.file == FILE_NAME);
        assert!(!refusal.reason.is_empty() && !refusal.object.is_empty());
        // A CR alone ends a line too (YAML 1.2.2, 5.4). Errors at the end are behind the last line.
        let text = text.replace("\r\n", "\n");
        let lines = text.split(['\n', '\r']).count() as u64 + 1;
        assert!(refusal.line <= lines, "{refusal} of {lines} lines");
    }
    let whole = read.has_mesh && read.objects.refusals.is_empty();
    let _ = Model::build(read.objects.clone(), 1);
    for finding in check(read).findings {
        assert!(!finding.what.is_empty() && !finding.file.is_empty());
    }

    let options = options! { strict_booleans: true, with_snippet: false };
    let Ok(file) = serde_saphyr::from_str_with_options::<MeshFile>(mesh, options.clone()) else {
        // Directives before a document mean nothing here, and are not read.
        assert!(
            !whole || mesh.contains('%'),
            "a file is taken whole that is none"
        );
        return;
    };
    let written = file.to_yaml().expect("what was read can be written");
    let again = serde_saphyr::from_str_with_options::<MeshFile>(&written, options);
    match again {
        Ok(again) => assert_eq!(again, file, "{written}"),
        Err(error) => panic!("{error}: {written}"),
    }
}
