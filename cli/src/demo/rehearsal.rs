//! What tests of every story ask: its files are a mesh, and it speaks of what is in them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use weft_control_plane::index::Name;

use super::pace::Pace;
use super::story::Story;

/// Reads `examples/FOLDER`, and its `policies` at this pace, as a control plane would: nothing is
/// refused, and what the story's traffic is for is there. Answers the names of the workloads.
pub(super) async fn reads_as_a_mesh(folder: &str, story: &Story, pace: Pace) -> Vec<String> {
    let example = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(folder);
    let dir = tempfile::tempdir().expect("a directory");
    for place in [example.clone(), example.join("policies")] {
        let Ok(entries) = fs::read_dir(&place) else {
            continue;
        };
        let paths = entries.map(|entry| entry.expect("an entry").path());
        for path in paths.filter(|path| path.extension().is_some_and(|it| it == "yaml")) {
            let name = path.file_name().expect("an entry has a name");
            let text = fs::read_to_string(&path).expect("a text");
            if name == "compose.yaml" {
                continue;
            }
            let text = if name == "mesh.yaml" {
                text
            } else {
                pace.manifest(&text).expect("manifests")
            };
            fs::write(dir.path().join(name), text).expect("room");
        }
    }
    let end = CancellationToken::new();
    let dir = dir.path().to_owned();
    let models = weft_control_plane::source::files::watch_dir(dir, end.clone())
        .await
        .expect("a mesh");
    let model = Arc::clone(&models.borrow());
    end.cancel();
    assert_eq!(model.refusals(), []);
    let names: Vec<String> = model
        .workloads()
        .map(|workload| {
            let Name { namespace, name } = &workload.name;
            if *namespace == *story.namespace {
                return name.clone();
            }
            format!("{namespace}/{name}")
        })
        .collect();
    for target in story.targets {
        assert!(names.iter().any(|it| it == target.caller), "{target:?}");
        for service in target.backends.iter().chain([&target.service]) {
            let known = model.service(story.namespace, service);
            assert!(known.is_some(), "{service}");
        }
    }
    names
}
