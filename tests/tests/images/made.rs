//! The images that the tests look at: made once, of the programs under test.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{LazyLock, OnceLock};

use weft_images::notices::Packages;
use weft_images::programs::Files;
use weft_images::spec::VERSION;
use weft_images::{Assembled, IMAGES, Image, Reference, assemble};
use weft_sandbox::Sandbox;

/// Where the program of each name is that this package builds.
const UNDER_TEST: &[(&str, &str)] = &[
    ("weft", env!("CARGO_BIN_EXE_weft-under-test")),
    (
        "weft-control-plane",
        env!("CARGO_BIN_EXE_weft-control-plane-under-test"),
    ),
    (
        "weft-injector",
        env!("CARGO_BIN_EXE_weft-injector-under-test"),
    ),
    ("weft-proxy", env!("CARGO_BIN_EXE_weft-proxy-under-test")),
];

static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
static PACKAGES: LazyLock<Packages> = LazyLock::new(|| Packages::read().expect("cargo's answer"));
static MADE: LazyLock<Vec<Made>> = LazyLock::new(|| IMAGES.iter().map(make).collect());

/// An image with its archive.
pub(crate) struct Made {
    pub(crate) image: &'static Image,
    pub(crate) assembled: Assembled,
    pub(crate) archive: PathBuf,
}

/// Says where this run is, and keeps its files.
pub(crate) fn set_sandbox(sandbox: Sandbox) {
    SANDBOX.set(sandbox).expect("said once");
}

/// Where this run is.
pub(crate) fn sandbox() -> &'static Sandbox {
    SANDBOX.get().expect("said in main")
}

/// A folder of this name, for one test alone.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = sandbox().dir().join(name);
    std::fs::create_dir(&folder).expect("a folder of its own");
    folder
}

/// Every image.
pub(crate) fn images() -> &'static [Made] {
    assert!(MADE.len() >= 2, "the sidecar's and the control plane's");
    &MADE
}

/// The image of this name.
pub(crate) fn image(name: &str) -> &'static Made {
    let image = images().iter().find(|made| made.image.name == name);
    image.expect("there is one")
}

/// The programs under test.
pub(crate) fn under_test() -> Files {
    let files = UNDER_TEST.iter().map(|(name, file)| (*name, file.into()));
    files.collect()
}

/// As `cargo image` calls it without being told otherwise.
pub(crate) fn reference(image: &Image) -> Reference {
    Reference::new(image, None, VERSION).expect("a good reference")
}

/// What is said of the licences of its programs' parts.
pub(crate) fn notices(image: &Image) -> String {
    PACKAGES.notices(image).expect("their texts")
}

fn make(image: &'static Image) -> Made {
    let assembled = assemble(image, &under_test(), &notices(image)).expect("an image");
    let archive = folder(&format!("made-{}", image.name)).join("archive.tar");
    let file = File::create(&archive).expect("a file");
    let written = assembled.write_archive(&reference(image), file);
    written.expect("an archive");
    Made {
        image,
        assembled,
        archive,
    }
}
