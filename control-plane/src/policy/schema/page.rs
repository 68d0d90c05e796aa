//! The reference page. Written below.
/// x
pub fn page() -> String { String::new() }
