//! What an image is called: as people write it, and in full, as container runtimes keep it.

use std::fmt;

use crate::spec::Image;

/// Letters of a prefix: a bound of ours, well below what registries allow.
const MAX_PREFIX: usize = 255;
/// Letters of a tag, as the distribution specification has it.
const MAX_TAG: usize = 128;
/// Where images without a registry's name are looked for by every runtime.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Its folder for names without one.
const DEFAULT_FOLDER: &str = "library";

/// An image's name with a tag; displayed as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    prefix: Option<String>,
    name: &'static str,
    tag: String,
}

/// What is wrong with a reference's parts.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The prefix.
    #[error(
        "{0:?} is no prefix of images: it is a registry with folders, such as registry.example:5000/mesh"
    )]
    Prefix(String),
    /// The tag.
    #[error(
        "{0:?} is no tag of an image: it has at most {MAX_TAG} letters, digits, `_`, `.` and `-`, and begins with neither of the last two"
    )]
    Tag(String),
}

impl Reference {
    /// The reference `PREFIX/NAME:TAG`.
    ///
    /// # Errors
    /// When a part is none; see [`ReferenceError`].
    pub fn new(image: &Image, prefix: Option<&str>, tag: &str) -> Result<Self, ReferenceError> {
        let prefix = prefix.map(|it| it.strip_suffix('/').unwrap_or(it));
        if let Some(prefix) = prefix
            && !is_prefix(prefix)
        {
            return Err(ReferenceError::Prefix(prefix.to_owned()));
        }
        if !is_tag(tag) {
            return Err(ReferenceError::Tag(tag.to_owned()));
        }
        Ok(Self {
            prefix: prefix.map(str::to_owned),
            name: image.name,
            tag: tag.to_owned(),
        })
    }

    /// The tag alone.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// With the registry and folder that runtimes add where none is named: a pod's `weft:1` is
    /// `docker.io/library/weft:1` to containerd.
    pub fn in_full(&self) -> String {
        let (name, tag) = (self.name, &self.tag);
        match &self.prefix {
            None => format!("{DEFAULT_REGISTRY}/{DEFAULT_FOLDER}/{name}:{tag}"),
            Some(prefix) if begins_with_registry(prefix) => format!("{prefix}/{name}:{tag}"),
            Some(folder) => format!("{DEFAULT_REGISTRY}/{folder}/{name}:{tag}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(prefix) = &self.prefix {
            write!(f, "{prefix}/")?;
        }
        write!(f, "{}:{}", self.name, self.tag)
    }
}

/// Whether the first part is a host rather than a folder of the default registry.
fn begins_with_registry(prefix: &str) -> bool {
    let first = prefix.split('/').next().unwrap_or_default();
    first == "localhost" || first.contains(['.', ':'])
}

fn is_prefix(text: &str) -> bool {
    let mut parts = text.split('/');
    let first = parts.next().unwrap_or_default();
    let folder_first = if begins_with_registry(text) {
        let (host, port) = first.split_once(':').unwrap_or((first, "443"));
        is_folder(host) && !port.is_empty() && port.parse::<u16>().is_ok()
    } else {
        is_folder(first)
    };
    text.len() <= MAX_PREFIX && folder_first && parts.all(is_folder)
}

/// Small letters and digits, with single separators between them.
fn is_folder(text: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    text.starts_with(plain)
        && text.ends_with(plain)
        && text
            .chars()
            .all(|it| plain(it) || matches!(it, '.' | '-' | '_'))
        && !text.contains("..")
}

fn is_tag(text: &str) -> bool {
    let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.len() <= MAX_TAG
        && text.starts_with(word)
        && text.chars().all(|it| word(it) || matches!(it, '.' | '-'))
}

#[cfg(test)]
mod tests;
