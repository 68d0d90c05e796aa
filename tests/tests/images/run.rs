//! Whether the programs run where nothing is but their image.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use weft_images::spec::{IMAGES, VERSION};
use weft_sandbox::{Mode, net};

use crate::layout::{Layout, output};
use crate::made::{self, folder, image, images};
use crate::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![
    every_program_runs_as_the_image_s_user,
    entrypoints_run,
    the_init_container_redirects,
];

/// Where systems have `chroot`; ordinary users' `PATH` may not name it.
const CHROOT: [&str; 3] = ["/usr/sbin/chroot", "/usr/bin/chroot", "/sbin/chroot"];

/// What each program is asked, and what its answer holds.
const QUESTIONS: &[(&str, &[&str], &str)] = &[
    ("weft-proxy", &["--version"], VERSION),
    ("weft-proxy", &["init", "--print"], "table ip6 weft"),
    ("weft", &["version"], VERSION),
    ("weft", &["internal", "crd"], "trafficpolicies.weft.dev"),
    (
        "weft-control-plane",
        &["--help"],
        "Usage: weft-control-plane",
    ),
    ("weft-injector", &["--help"], "Usage: weft-injector"),
];

/// An image unpacked as a program's root.
pub(crate) struct Rooted {
    folder: PathBuf,
    config: Value,
}

/// Who a program runs as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// Whom the image names.
    Images,
    /// Root with every capability in its own network namespace, as an init container may be.
    Root,
}

impl Rooted {
    /// Unpacks an image's archive for one test alone.
    pub(crate) fn new(name: &str, test: &str) -> Self {
        let archive = &image(name).archive;
        let layout = Layout::unpack(archive, folder(&format!("{test}-{name}-layout")));
        let folder = folder(&format!("{test}-{name}-root"));
        layout.unpack_root(&folder);
        let (_, image) = layout.image();
        Self {
            folder,
            config: image["config"].clone(),
        }
    }

    /// The root's folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A command that runs `program` with the image as its root and the image's environment. A name
    /// without a slash is looked for by the image's `PATH`, as a container's command is.
    pub(crate) fn command(&self, user: User, program: &str) -> Command {
        let is_numbers = |text: &str| text.split(':').all(|it| it.parse::<u32>().is_ok());
        let images_user = self.config["User"].as_str().expect("a user");
        assert!(is_numbers(images_user), "runAsNonRoot needs a number");
        let (uid, gid) = images_user.split_once(':').expect("with a group");
        let mut command = match user {
            User::Root => Command::new(chroot()),
            User::Images => as_user(uid, gid),
        };
        command.arg(&self.folder);
        command.arg(program).env_clear();
        for variable in self.config["Env"].as_array().expect("an environment") {
            let variable = variable.as_str().expect("a text");
            let (name, value) = variable.split_once('=').expect("NAME=VALUE");
            command.env(name, value);
        }
        command
    }
}

fn every_program_runs_as_the_image_s_user() {
    let asked: BTreeSet<_> = QUESTIONS.iter().map(|(program, ..)| *program).collect();
    for made in images() {
        let root = Rooted::new(made.image.name, "programs");
        for program in made.image.programs {
            assert!(
                asked.contains(program.name),
                "{} is not asked",
                program.name
            );
        }
        let ours = |program: &str| made.image.programs.iter().any(|it| it.name == program);
        for (program, arguments, answer) in QUESTIONS.iter().filter(|(it, ..)| ours(it)) {
            let said = output(root.command(User::Images, program).args(*arguments));
            assert!(said.contains(answer), "{program} {arguments:?}: {said}");
        }
    }
}

fn entrypoints_run() {
    for image in IMAGES {
        let root = Rooted::new(image.name, "entrypoint");
        let entrypoint = root.config["Entrypoint"].as_array().expect("a command");
        let [program] = &entrypoint[..] else {
            panic!("a program alone: {entrypoint:?}");
        };
        let program = program.as_str().expect("a path");
        let said = output(root.command(User::Images, program).arg("--version"));
        assert_eq!(said, format!("{} {VERSION}\n", image.name));
        // Nothing else: there is no shell to be found.
        for shell in ["sh", "/bin/sh", "bash", "busybox"] {
            let ended = root.command(User::Images, shell).output().expect("starts");
            assert!(!ended.status.success(), "{shell} runs");
            let why = String::from_utf8_lossy(&ended.stderr);
            assert!(why.contains("No such file"), "{shell}: {why}");
        }
    }
}

fn the_init_container_redirects() {
    let test = || {
        let root = Rooted::new("weft-proxy", "init");
        net::unshare_net().expect("a network namespace");
        let run =
            |arguments: &[&str]| output(root.command(User::Root, "weft-proxy").args(arguments));
        // It reads back what the kernel has, and fails where that is not what it wrote.
        run(&["init"]);
        run(&["init"]);
        run(&["init", "--undo"]);
        let mut as_user = root.command(User::Images, "weft-proxy");
        let refused = as_user.arg("init").output().expect("starts");
        assert!(!refused.status.success(), "without the capability");
        let why = String::from_utf8_lossy(&refused.stderr);
        assert!(why.contains("NET_ADMIN"), "{why}");
    };
    if let Err(panic) = std::thread::spawn(test).join() {
        std::panic::resume_unwind(panic);
    }
}

/// A command that takes a root's folder, a program and its arguments, and runs it as this user.
fn as_user(uid: &str, gid: &str) -> Command {
    if let Mode::Root { .. } = made::sandbox().mode() {
        let mut command = Command::new(chroot());
        command.arg(format!("--userspec={uid}:{gid}"));
        return command;
    }
    // A user namespace in which there is this user alone: it has no capability.
    let mut command = Command::new("unshare");
    command
        .arg("--user")
        .arg(format!("--map-user={uid}"))
        .arg(format!("--map-group={gid}"))
        .arg("--root");
    command
}

fn chroot() -> &'static str {
    let mut found = CHROOT.into_iter().filter(|it| Path::new(it).exists());
    found.next().expect("chroot, of every system's basics")
}
