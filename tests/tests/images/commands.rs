//! Whether the commands that pods give are programs of their images: what starts in the sandbox's pods
//! comes from elsewhere, and would not show it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use weft_images::Image;
use weft_proto::names::CONTROL_PLANE_IMAGE;

use crate::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![the_chart_s_commands_are_in_the_image];

/// How a container's command begins in the chart.
const COMMAND: &str = "command: [";

fn the_chart_s_commands_are_in_the_image() {
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/weft/templates");
    let mut commands = BTreeSet::new();
    collect(&templates, &mut commands);
    let image = Image::named(CONTROL_PLANE_IMAGE).expect("there is one");
    let programs: BTreeSet<_> = image.programs.iter().map(|it| it.name.to_owned()).collect();
    // The chart runs each of them: none is in the image for nothing either.
    assert_eq!(commands, programs);
}

/// The first words of all commands in the files under a folder.
fn collect(folder: &Path, commands: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("the chart") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, commands);
            continue;
        }
        let text = fs::read_to_string(&path).expect("a template");
        for (_, command) in text
            .match_indices(COMMAND)
            .map(|(at, it)| text.split_at(at + it.len()))
        {
            let program = command.split([',', ']']).next().expect("the first part");
            commands.insert(program.trim().to_owned());
        }
    }
}
