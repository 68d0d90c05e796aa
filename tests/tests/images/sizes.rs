//! How big the images are.

use std::fs;

use weft_images::{Assembled, IMAGES, assemble, programs};

use crate::made::{images, notices};
use crate::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![the_sidecar_s_image_is_small];

/// The sidecar's image is on every node; more than this is a mistake. Bytes.
const MAX_PROXY: u64 = 30_000_000;

fn the_sidecar_s_image_is_small() {
    for made in images() {
        let archive = fs::metadata(&made.archive).expect("the archive").len();
        print("programs under test", &made.assembled);
        if made.image.name == "weft-proxy" {
            assert!(archive < MAX_PROXY, "{archive} bytes");
            assert!(archive > MAX_PROXY / 100, "{archive} bytes: of what?");
        }
    }
    // The profile of releases takes minutes to build.
    if std::env::var_os("WEFT_SOAK").is_some() {
        released_images_are_small();
    }
}

fn released_images_are_small() {
    let all: Vec<_> = IMAGES.iter().collect();
    let files = programs::build(&all, "dist").expect("programs");
    for image in all {
        let assembled = assemble(image, &files, &notices(image)).expect("an image");
        print("profile dist", &assembled);
        if image.name == "weft-proxy" {
            assert!(assembled.compressed() < MAX_PROXY);
            assert!(assembled.unpacked() < MAX_PROXY);
        }
    }
}

fn print(which: &str, image: &Assembled) {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "image {} of the {which}: {:.1} MB compressed, {:.1} MB unpacked",
        image.image.name,
        megabytes(image.compressed()),
        megabytes(image.unpacked())
    );
}
