//! What holds of every platform.

use std::collections::BTreeSet;

use super::*;
use crate::demo::pace::Pace;
use crate::demo::rehearsal::reads_as_a_mesh;

#[test]
fn every_story_has_a_name_of_its_own_and_plays_something() {
    let names: BTreeSet<_> = names().into_iter().collect();
    assert_eq!(names.len(), STORIES.len());
    for name in names {
        let story = story(name).expect("a story");
        assert!(
            !story.acts.is_empty() && !story.targets.is_empty(),
            "{name}"
        );
        assert!(list().contains(&format!("{name:<14}  {}", story.about)));
        for door in story.doors {
            assert!(door.target < story.targets.len(), "{name}");
        }
    }
    assert!(story("quickstart").is_none());
}

/// Policies are accepted with the guide's durations and with divided ones.
#[tokio::test]
async fn examples_are_meshes_at_every_pace() {
    for story in STORIES {
        let folder = story.name.expect("platforms have names");
        for pace in [Pace::REAL, Pace::QUICK] {
            let workloads = reads_as_a_mesh(folder, story, pace).await;
            assert!(!workloads.is_empty(), "{folder}");
        }
    }
}

#[test]
fn meshes_can_be_cast() {
    for story in STORIES {
        let _ = (story.mesh)(Pace::QUICK);
    }
}
