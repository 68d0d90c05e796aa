//! Every file of every corpus, and changes of them, by ordinary tests: what a fuzzer has found once stays
//! found.
//!
//! `WEFT_FUZZ_MUTATIONS` sets how many changed inputs each target gets, `WEFT_FUZZ_SEED` where they begin.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

use weft_fuzz::TARGETS;
use weft_fuzz::mutate::Mutator;

/// Files of one corpus, at most, and bytes of each: it stays readable, and replaying it short.
const MAX_FILES: usize = 100;
const MAX_LEN: usize = 4 * 1024;
/// Changed inputs per target.
const MUTATIONS: u64 = 2_000;
const SEED: u64 = 0x57ef_7000;

thread_local! {
    /// Panics of this thread, those in tasks that a runtime catches included: targets start no threads.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let entries = std::fs::read_dir(&folder).expect("every target has a corpus");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    let read = |path: PathBuf| (path.clone(), std::fs::read(path).expect("a file"));
    files.into_iter().map(read).collect()
}

fn setting(name: &str, default: u64) -> u64 {
    let said = std::env::var(name).ok();
    said.map_or(default, |said| said.parse().expect("a number"))
}

fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            print(panic);
        }));
    });
}

/// Fails where `target` panics, or anything that it started does.
fn survive(target: fn(&[u8]), bytes: &[u8], what: &str) {
    let before = PANICS.get();
    let result = catch_unwind(AssertUnwindSafe(|| target(bytes)));
    let shown = bytes.escape_ascii();
    assert!(result.is_ok(), "{what}: {shown}");
    assert_eq!(PANICS.get(), before, "a task panicked in {what}: {shown}");
}

fn replay(name: &str) {
    count_panics();
    let (_, target) = TARGETS
        .into_iter()
        .find(|(found, _)| *found == name)
        .expect("a target");
    let files = corpus(name);
    assert!(
        (5..=MAX_FILES).contains(&files.len()),
        "{} files for {name}",
        files.len()
    );
    for (path, bytes) in &files {
        assert!(bytes.len() <= MAX_LEN, "{} is too long", path.display());
        survive(target, bytes, &path.display().to_string());
    }
    let inputs: Vec<_> = files.into_iter().map(|(_, bytes)| bytes).collect();
    let mut mutator = Mutator::new(setting("WEFT_FUZZ_SEED", SEED));
    for number in 0..setting("WEFT_FUZZ_MUTATIONS", MUTATIONS) {
        let bytes = mutator.next(&inputs);
        survive(target, &bytes, &format!("{name}, mutation {number}"));
    }
}

macro_rules! replayed {
    ($($name:ident)*) => {
        $(#[test] fn $name() { replay(stringify!($name)); })*
        const REPLAYED: &[&str] = &[$(stringify!($name)),*];
    };
}

replayed! {
    certificate client_hello detection headers http1 http1_answers http2_frames init_args mesh_yaml
    route spiffe traffic_policy
}

/// Each target is replayed, has a corpus and a program for libFuzzer; nothing else has.
#[test]
fn nothing_is_left_out() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(here.join(folder)).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let stems = paths.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
        stems.collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let replayed: BTreeSet<String> = REPLAYED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(replayed, targets);
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("libfuzzer/fuzz_targets"), targets);
    let manifest = std::fs::read_to_string(here.join("libfuzzer/Cargo.toml")).expect("a file");
    for target in &targets {
        assert!(
            manifest.contains(&format!("name = \"{target}\"")),
            "{target}"
        );
    }
}
