//! What `tests/README.md` names is there.

use std::fs;
use std::path::Path;

/// Fewer names than this are not the table that it is.
const LEAST: usize = 30;

#[test]
fn every_test_and_file_that_the_table_names_is_there() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(here.join("README.md")).expect("the table");
    let suites = fs::read_dir(here.join("tests/mesh")).expect("the suites");
    let code: String = suites
        .map(|file| fs::read_to_string(file.expect("a file").path()).expect("its text"))
        .collect();
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
