//! The platforms' pages: each has the table of what the guide asks, and links to every policy there is.

use super::{PLATFORMS, files, read};

/// Fewer rows are not what a guide asks for.
const LEAST_ROWS: usize = 10;

#[test]
fn they_say_what_does_what() {
    for platform in PLATFORMS {
        let page = read(&platform.folder().join("README.md"));
        let command = format!("weft demo --platform {}", platform.name);
        assert!(page.contains(&command), "{}: no {command}", platform.name);
        let (_, table) = page
            .split_once("| The guide asks | What does it | What shows it |\n|---|---|---|\n")
            .unwrap_or_else(|| panic!("{} has no table", platform.name));
        let rows: Vec<_> = table.lines().take_while(|it| it.starts_with('|')).collect();
        assert!(
            rows.len() >= LEAST_ROWS,
            "{}: {}",
            platform.name,
            rows.len()
        );
        for row in rows {
            let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
            let is_whole = cells.len() == 3 && cells.iter().all(|it| !it.trim().is_empty());
            assert!(is_whole, "{}: {row}", platform.name);
        }
        for file in files(&platform.folder().join("policies")) {
            let name = file.file_name().expect("a name").to_string_lossy();
            let link = format!("](policies/{name})");
            assert!(page.contains(&link), "{}: no {name}", platform.name);
        }
    }
}
