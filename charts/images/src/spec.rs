//! Which images there are, and what is in each: the one list that the assembler, its tests and the test
//! of the Dockerfile read.

use weft_proto::names::{CONTROL_PLANE_IMAGE, PROXY_IMAGE, PROXY_UID};

/// User and group that every image's programs run as, unless a pod says otherwise.
pub const UID: u32 = PROXY_UID;
/// Its name in the image's user database.
pub const USER_NAME: &str = "weft";
/// Folder of the programs; the images' `PATH`, so that a container's command may be a program's name.
pub const PROGRAM_DIR: &str = "/usr/bin";
/// Of Weft and of its images.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// SPDX expression of Weft's own licence.
pub const LICENCE: &str = env!("CARGO_PKG_LICENSE");

/// An image of Weft.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// The last part of its reference.
    pub name: &'static str,
    /// For people: its label.
    pub title: &'static str,
    /// For people: its label.
    pub description: &'static str,
    /// What is in it; the first is its entrypoint.
    pub programs: &'static [Program],
}

/// A program in an image, and where cargo finds it.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its file's name.
    pub name: &'static str,
    /// The package that builds it.
    pub package: &'static str,
}

/// Every image.
pub const IMAGES: &[Image] = &[
    Image {
        name: PROXY_IMAGE,
        title: "Weft proxy",
        description: "Weft's sidecar, which also redirects a pod's connections to itself",
        programs: &[Program {
            name: "weft-proxy",
            package: "weft-proxy",
        }],
    },
    Image {
        name: CONTROL_PLANE_IMAGE,
        title: "Weft",
        description: "Weft's control plane, its admission webhook and the weft command",
        programs: &[
            Program {
                name: "weft",
                package: "weft-cli",
            },
            Program {
                name: "weft-control-plane",
                package: "weft-control-plane",
            },
            Program {
                name: "weft-injector",
                package: "weft-injector",
            },
        ],
    },
];

impl Image {
    /// The image of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        IMAGES.iter().find(|image| image.name == name)
    }

    /// The program that runs where a container names none.
    pub fn entrypoint(&self) -> String {
        self.programs[0].path()
    }

    /// Labels of the image and annotations of its manifest, by name.
    pub fn labels(&self) -> [(&'static str, &'static str); 4] {
        [
            ("org.opencontainers.image.description", self.description),
            ("org.opencontainers.image.licenses", LICENCE),
            ("org.opencontainers.image.title", self.title),
            ("org.opencontainers.image.version", VERSION),
        ]
    }
}

impl Program {
    /// Where it is in the image.
    pub fn path(&self) -> String {
        format!("{PROGRAM_DIR}/{}", self.name)
    }
}
