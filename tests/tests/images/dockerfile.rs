//! The Dockerfile, which cannot be built without a daemon and a registry: whether it says the same as
//! `cargo image`, and whether what it copies is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use weft_images::command::Arguments;
use weft_images::spec::{IMAGES, PROGRAM_DIR, UID};

use crate::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![
    each_target_is_the_image_of_its_name,
    the_build_is_pinned_and_runs_the_assembler,
    the_context_is_what_cargo_reads,
];

const DOCKERFILE: &str = "charts/images/Dockerfile";
/// Where the build stage leaves each image's files.
const ROOTS: &str = "/roots";

/// A stage: what it is from, its name, and its other instructions.
struct Stage {
    from: String,
    name: String,
    instructions: Vec<(String, String)>,
}

impl Stage {
    /// What follows the one instruction of this name.
    fn only(&self, instruction: &str) -> &str {
        let mut found = self.instructions.iter().filter(|(it, _)| it == instruction);
        let (_, rest) = found
            .next()
            .unwrap_or_else(|| panic!("{}: no {instruction}", self.name));
        assert!(found.next().is_none(), "{}: {instruction} twice", self.name);
        rest
    }
}

fn each_target_is_the_image_of_its_name() {
    let stages = stages();
    let names: Vec<_> = stages.iter().map(|stage| stage.name.as_str()).collect();
    let images: Vec<_> = IMAGES.iter().map(|image| image.name).collect();
    assert_eq!(names[0], "build");
    assert_eq!(names[1..], images);
    for (stage, image) in stages[1..].iter().zip(IMAGES) {
        assert_eq!(stage.from, "scratch", "nothing but what is copied");
        let kinds: BTreeSet<_> = stage
            .instructions
            .iter()
            .map(|(it, _)| it.as_str())
            .collect();
        let expected = ["COPY", "ENTRYPOINT", "ENV", "LABEL", "USER"];
        assert_eq!(kinds, BTreeSet::from(expected), "{}", stage.name);
        let copied = format!("--from=build {ROOTS}/{}/ /", image.name);
        assert_eq!(stage.only("COPY"), copied);
        assert_eq!(stage.only("USER"), format!("{UID}:{UID}"));
        assert_eq!(stage.only("ENV"), format!("PATH={PROGRAM_DIR}"));
        let entrypoint = format!("[\"{}\"]", image.entrypoint());
        assert_eq!(stage.only("ENTRYPOINT"), entrypoint);
        let labels = labels(stage.only("LABEL"));
        assert_eq!(labels, BTreeMap::from(image.labels()));
    }
}

fn the_build_is_pinned_and_runs_the_assembler() {
    let stages = stages();
    let build = &stages[0];
    let rust = env!("CARGO_PKG_RUST_VERSION");
    assert_eq!(build.from, format!("rust:{rust}.0-slim-bookworm"));
    let kinds: Vec<_> = build
        .instructions
        .iter()
        .map(|(it, _)| it.as_str())
        .collect();
    assert_eq!(
        kinds,
        ["WORKDIR", "COPY", "RUN"],
        "no argument and no secret"
    );
    let run = build.only("RUN");
    let words: Vec<_> = run.split_whitespace().collect();
    let (mounts, command): (Vec<&str>, Vec<&str>) =
        words.into_iter().partition(|it| it.starts_with("--mount="));
    assert!(
        mounts
            .iter()
            .all(|it| it.starts_with("--mount=type=cache,"))
    );
    assert_eq!(command[..2], ["cargo", "image"]);
    // The alias is there, and takes these arguments.
    let aliases = fs::read_to_string(repository().join(".cargo/config.toml")).expect("aliases");
    assert!(aliases.contains("image = \"run --package weft-images --\""));
    Arguments::try_parse_from(&command[1..]).expect("good arguments");
    assert_eq!(command[2..], ["--profile", "dist", "--roots", ROOTS]);
    // A cache is not in the image: what later stages copy must not be under one.
    assert!(mounts.iter().all(|it| !it.contains(ROOTS)), "{mounts:?}");
}

fn the_context_is_what_cargo_reads() {
    let ignored = repository().join(format!("{DOCKERFILE}.dockerignore"));
    let text = fs::read_to_string(ignored).expect("what is ignored");
    let lines: Vec<_> = text.lines().filter(|it| !it.starts_with('#')).collect();
    assert_eq!(lines[0], "*", "everything but what is named");
    let named = lines[1..]
        .iter()
        .map(|line| line.strip_prefix('!').expect("named"));
    let named: BTreeSet<_> = named.collect();
    for path in &named {
        assert!(repository().join(path).exists(), "{path} is not there");
    }
    let manifest = fs::read_to_string(repository().join("Cargo.toml")).expect("the workspace");
    let (_, members) = manifest.split_once("members = [").expect("members");
    let (members, _) = members.split_once(']').expect("their end");
    let folders = members.split('"').skip(1).step_by(2);
    let folders = folders.map(|member| member.split('/').next().expect("a folder"));
    let others = [
        ".cargo",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "docs",
        "examples",
    ];
    assert_eq!(named, folders.chain(others).collect());
}

fn stages() -> Vec<Stage> {
    let text = fs::read_to_string(repository().join(DOCKERFILE)).expect("a Dockerfile");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let whole = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let mut stages: Vec<Stage> = Vec::new();
    for line in whole.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        if let ["FROM", from, "AS", name] = words[..] {
            stages.push(Stage {
                from: from.to_owned(),
                name: name.to_owned(),
                instructions: Vec::new(),
            });
            continue;
        }
        let (instruction, rest) = line.split_once(' ').expect("an instruction");
        let stage = stages.last_mut().expect("FROM is first");
        let rest = rest.trim().to_owned();
        stage.instructions.push((instruction.to_owned(), rest));
    }
    stages
}

/// `NAME="VALUE"`, several of them.
fn labels(text: &str) -> BTreeMap<&str, &str> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((name, more)) = rest.split_once("=\"") {
        let (value, more) = more.split_once('"').expect("the value's end");
        labels.insert(name.trim(), value);
        rest = more;
    }
    assert_eq!(rest, "", "nothing else");
    labels
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
