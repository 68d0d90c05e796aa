//! What is in the images: what should be, as it should be, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use weft_images::elf::Elf;

use crate::layout::{Layout, Listed, listed, output};
use crate::made::{folder, images};
use crate::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![
    nothing_but_what_is_needed,
    owners_modes_and_times,
    programs_are_stripped_and_executable,
    users_and_names_are_known,
    licences_are_with_what_they_are_of,
];

/// Where files may be beside [`the named ones`](nothing_but_what_is_needed): libraries, which the
/// loader's own list names, and licences.
const LIBRARY_FOLDERS: [&str; 4] = ["lib/", "lib64/", "usr/lib/", "usr/lib64/"];
const LICENCE_FOLDERS: [&str; 2] = ["usr/share/doc/", "usr/share/licenses/"];

fn nothing_but_what_is_needed() {
    for made in images() {
        let layout = Layout::unpack(&made.archive, folder(&format!("what-{}", made.image.name)));
        let entries = all(&layout);
        let files: BTreeSet<_> = entries
            .iter()
            .filter(|entry| !entry.path.ends_with('/'))
            .map(|entry| entry.path.as_str())
            .collect();
        let mut named: BTreeSet<String> = ["etc/group", "etc/nsswitch.conf", "etc/passwd"]
            .map(str::to_owned)
            .into();
        for program in made.image.programs {
            named.insert(format!("usr/bin/{}", program.name));
        }
        named.extend(["LICENSE", "NOTICES"].map(|it| format!("usr/share/doc/weft/{it}")));
        for name in &named {
            assert!(files.contains(name.as_str()), "{name} in {files:?}");
        }
        let begins = |path: &str, folders: &[&str]| folders.iter().any(|it| path.starts_with(it));
        let rest = files.iter().filter(|path| !named.contains(**path));
        let (libraries, others): (Vec<&str>, Vec<&str>) =
            rest.partition(|path| begins(path, &LIBRARY_FOLDERS));
        for path in others {
            assert!(begins(path, &LICENCE_FOLDERS), "{path} is for nothing");
        }
        // What the loader of this machine says that the programs need, it and no more.
        let wanted: BTreeSet<String> = made
            .image
            .programs
            .iter()
            .flat_map(|it| loaded_by(&crate::made::under_test()[it.name]))
            .collect();
        let found = libraries.iter().map(|path| name_of(path));
        assert_eq!(found.collect::<BTreeSet<_>>(), wanted);
    }
}

fn owners_modes_and_times() {
    for made in images() {
        let layout = Layout::unpack(&made.archive, folder(&format!("modes-{}", made.image.name)));
        let entries = all(&layout);
        assert!(entries.len() > 10, "{entries:?}");
        for Listed {
            mode,
            owner,
            time,
            path,
        } in &entries
        {
            // No set-user-id, no link and no device is among these.
            let expected = match path {
                path if path.ends_with('/') => "drwxr-xr-x",
                path if path.starts_with("usr/bin/") => "-rwxr-xr-x",
                path if name_of(path).starts_with("ld-") => "-rwxr-xr-x",
                _ => "-rw-r--r--",
            };
            assert_eq!(mode, expected, "{path}");
            assert_eq!(owner, "0/0", "{path}: no program may change its image");
            assert_eq!(time, "1970-01-01 00:00:00", "{path}");
            let is_inside = !path.starts_with('/') && !path.split('/').any(|part| part == "..");
            assert!(is_inside, "{path} leads out");
        }
        for layer in layout.layers() {
            let paths: Vec<_> = listed(&layer).into_iter().map(|it| it.path).collect();
            assert!(paths.is_sorted(), "{paths:?}");
        }
    }
}

fn programs_are_stripped_and_executable() {
    for made in images() {
        let root = folder(&format!("programs-{}", made.image.name));
        made.assembled.write_root(&root).expect("a root");
        for program in made.image.programs {
            let content = fs::read(root.join("usr/bin").join(program.name)).expect("a program");
            let elf = Elf::parse(&content).expect("a program");
            assert!(!elf.has_symbols, "{} has symbols", program.name);
            let interpreter = elf.interpreter.expect("a dynamic program");
            assert!(root.join(interpreter.trim_start_matches('/')).is_file());
        }
    }
}

fn users_and_names_are_known() {
    for made in images() {
        let root = folder(&format!("users-{}", made.image.name));
        made.assembled.write_root(&root).expect("a root");
        let read = |path: &str| fs::read_to_string(root.join(path)).expect(path);
        let passwd = read("etc/passwd");
        let user: Vec<_> = passwd.lines().filter(|it| it.contains(":2140:")).collect();
        assert_eq!(user, ["weft:x:2140:2140:Weft:/:/usr/sbin/nologin"]);
        assert!(read("etc/group").lines().any(|it| it == "weft:x:2140:"));
        assert!(read("etc/nsswitch.conf").contains("hosts: files dns\n"));
        assert!(read("usr/share/doc/weft/LICENSE").contains("Apache License"));
    }
}

fn licences_are_with_what_they_are_of() {
    for made in images() {
        let root = folder(&format!("licences-{}", made.image.name));
        made.assembled.write_root(&root).expect("a root");
        let notices = root.join("usr/share/doc/weft/NOTICES");
        let notices = fs::read_to_string(notices).expect("notices");
        let (packages, texts) = notices.split_once("\n----").expect("texts");
        // In every program of ours; one that only tests use is in none.
        for package in ["aws-lc-sys", "rustls", "tokio"] {
            let line = format!("\n{package} ");
            assert!(packages.contains(&line), "{package} in {packages}");
            assert!(texts.contains(&format!("{package} ")), "{package}'s text");
        }
        assert!(!packages.contains("\nproptest "), "{packages}");
        assert!(!packages.contains("\nweft"), "{packages}");
        let kube = packages.contains("\nkube ");
        assert_eq!(kube, made.image.name == "weft", "{packages}");
    }
}

/// Everything in all layers.
fn all(layout: &Layout) -> Vec<Listed> {
    let layers = layout.layers();
    layers.iter().flat_map(|layer| listed(layer)).collect()
}

/// Names of the libraries that this machine's own loader would load for a program, itself included.
fn loaded_by(program: &Path) -> Vec<String> {
    let content = fs::read(program).expect("a program");
    let loader = Elf::parse(&content).expect("a program").interpreter;
    let loader = loader.expect("a dynamic program");
    let list = output(
        std::process::Command::new(&loader)
            .arg("--list")
            .arg(program),
    );
    // The kernel's own page, which is no file, has no slash.
    let paths = list.lines().filter(|line| line.contains('/'));
    let names = paths.map(|line| {
        let name = line.split_whitespace().next().expect("a name");
        name_of(name)
    });
    names.collect()
}

/// The last part of a path.
fn name_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}
