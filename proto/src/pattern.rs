//! What a regular expression of a policy means: the same in the control plane, which refuses bad ones,
//! and in the sidecars, which match by them.
//!
//! A pattern is matched against the whole text, in time that grows with the product of both lengths:
//! no pattern makes a sidecar hang. It is compiled once, within [`SIZE_LIMIT`].

use std::fmt;

use regex_lite::{Regex, RegexBuilder};

/// Bytes that a compiled pattern may take.
pub const SIZE_LIMIT: usize = 64 * 1024;

/// A compiled pattern. Equal where the text is.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Box<str>,
    regex: Regex,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a regular expression: {0}")]
pub struct PatternError(String);

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// The text is no regular expression, or compiled it is larger than [`SIZE_LIMIT`].
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let compile = |text: &str| {
            let built = RegexBuilder::new(text).size_limit(SIZE_LIMIT).build();
            built.map_err(|why| PatternError(why.to_string()))
        };
        // Alone first: what closes a group that it did not open must not reach out of ours.
        compile(text)?;
        Ok(Self {
            text: text.into(),
            regex: compile(&format!(r"\A(?:{text})\z"))?,
        })
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_must_match() {
        let pattern = Pattern::new("/orders/[0-9]+|/carts").unwrap();
        for (text, expected) in [
            ("/orders/17", true),
            ("/carts", true),
            ("/orders/17/lines", false),
            ("/x/carts", false),
            ("/carts\n", false),
        ] {
            assert_eq!(pattern.matches(text), expected, "{text:?}");
        }
    }

    #[test]
    fn bad_ones_are_refused() {
        for text in [
            "(",
            "a)(?:b",
            "[a-",
            "(?=x)",
            "((((a{100}){100}){100}){100})",
        ] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
