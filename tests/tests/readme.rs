//! What `tests/README.md` names is there, and what `weft check` finds is in its page.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Fewer names than this are not the table that it is.
const LEAST: usize = 30;
const LEAST_CHECKS: usize = 20;

#[test]
fn every_test_and_file_that_the_table_names_is_there() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(here.join("README.md")).expect("the table");
    let suites = ["tests/mesh", "tests/cluster", "tests/install"];
    let code = suites.map(|suite| texts_under(&here.join(suite))).concat();
    let named: Vec<_> = table.split('`').skip(1).step_by(2).collect();
    let tests = named.iter().filter(|name| name.contains("::"));
    let is_rust = |name: &str| Path::new(name).extension().is_some_and(|it| it == "rs");
    let files = named.iter().filter(|name| is_rust(name));
    let mut found = 0;
    for name in tests {
        assert!(code.contains(&format!("\"{name}\"")), "no test {name}");
        found += 1;
    }
    for file in files {
        let path = here.join("..").join(file);
        assert!(path.is_file(), "no file {file}");
        found += 1;
    }
    assert!(found >= LEAST, "only {found} names were found");
}

/// Everything that is written in the files of a folder and of those in it.
fn texts_under(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("the suites");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .map(|path| {
            if path.is_dir() {
                texts_under(&path)
            } else {
                fs::read_to_string(path).expect("its text")
            }
        })
        .collect()
}

#[test]
fn every_check_is_in_the_table_of_the_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/file-mode.md")).expect("the page");
    let (_, table) = page.split_once("| Check |").expect("the table");
    let code = root.join("control-plane/src/check");
    let mut found = BTreeSet::new();
    for file in [fs::read_dir(&code), fs::read_dir(code.join("tests"))]
        .into_iter()
        .flat_map(|files| files.expect("the code"))
        .map(|file| file.expect("a file").path())
        .filter(|path| path.is_file())
    {
        let text = fs::read_to_string(file).expect("its text");
        // Where it is found, and where a test wants it.
        for before in ["check: \"", "\"warning ", "\"error "] {
            let names = text.split(before).skip(1);
            found.extend(names.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
    assert!(found.len() >= LEAST_CHECKS, "only {found:?}");
    for check in found {
        assert!(table.contains(&format!("`{check}`")), "no row for {check}");
    }
}
