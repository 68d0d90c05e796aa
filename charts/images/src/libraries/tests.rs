use std::path::PathBuf;

use super::*;

/// This very program, which is a dynamic one.
fn own() -> Vec<u8> {
    fs::read(std::env::current_exe().expect("a path")).expect("a program")
}

/// Writes `new` wherever `old` is.
fn with(mut content: Vec<u8>, old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let mut changed = 0;
    for at in 0..content.len() - old.len() {
        if content[at..].starts_with(old) {
            content[at..at + new.len()].copy_from_slice(new);
            changed += 1;
        }
    }
    assert!(changed > 0, "nothing to change");
    content
}

#[test]
fn a_dynamic_program_gets_its_loader_and_c_library() {
    let own = own();
    let libraries = needed_by(&[("own", &own)]).expect("all are here");
    let (loader, _) = libraries.interpreter.expect("it is dynamic");
    assert!(loader.starts_with("/lib"), "{loader}");
    let names: Vec<_> = libraries.files.keys().collect();
    assert!(
        names.iter().any(|it| it.ends_with("/libc.so.6")),
        "{names:?}"
    );
    let loader = loader.rsplit('/').next().expect("a name");
    assert!(
        !names.iter().any(|it| it.ends_with(loader)),
        "once: {names:?}"
    );
}

#[test]
fn a_library_that_is_nowhere_is_named() {
    let odd = with(own(), b"libc.so.6\0", b"libx.so.6\0");
    let refused = needed_by(&[("odd", &odd)]).expect_err("there is none");
    let said = refused.to_string();
    assert!(
        said.contains("odd needs libx.so.6, which is in none of"),
        "{said}"
    );
}

#[test]
fn another_machine_s_program_is_refused() {
    let own = own();
    let mut other = own.clone();
    // The field of the ELF header: 183 is 64-bit Arm, 243 RISC-V.
    let foreign = if own[18] == 183 { 243 } else { 183 };
    other[18] = foreign;
    let refused = needed_by(&[("own", &own), ("other", &other)]);
    assert!(matches!(refused, Err(LibraryError::OtherMachine { .. })));
    let refused = needed_by(&[("other", &other)]);
    assert!(
        matches!(refused, Err(LibraryError::NotFound { .. })),
        "this machine's libraries are not for it"
    );
    other[18..20].copy_from_slice(&[0xff, 0xff]);
    let refused = needed_by(&[("other", &other)]);
    assert!(matches!(refused, Err(LibraryError::Elf { .. })));
}

#[test]
fn what_is_no_program_is_refused() {
    for content in [&b""[..], b"#!/bin/sh\n", &own()[..100]] {
        let refused = needed_by(&[("script", content)]);
        assert!(matches!(refused, Err(LibraryError::Elf { .. })));
    }
}

#[test]
fn a_program_with_a_search_path_is_refused() {
    let mut elf = Elf::parse(&own()).expect("a program");
    elf.search_paths.push("$ORIGIN/lib".to_owned());
    let refused = plain("own", elf).expect_err("an image has no such folder");
    assert!(refused.to_string().contains("$ORIGIN/lib"), "{refused}");
}

#[test]
fn an_old_c_library_is_refused() {
    let libraries = needed_by(&[("own", &own())]).expect("all are here");
    let mut files = libraries.files.into_iter();
    let (path, content) = files
        .find(|(path, _)| path.ends_with(GLIBC))
        .expect("glibc");
    let path = PathBuf::from(path);
    must_look_up_names(GLIBC, &path, &content)
        .expect("new enough, or this test runs on an old system");
    let old = with(content, GLIBC_WITH_NAMES, b"GLIBC_2.33\0");
    let refused = must_look_up_names(GLIBC, &path, &old).expect_err("too old");
    assert!(refused.to_string().contains("2.34"), "{refused}");
}
