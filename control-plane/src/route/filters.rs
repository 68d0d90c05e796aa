//! What routes change of requests and responses.

use super::BackendRef;

/// What is changed on the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    /// Of requests.
    pub request_headers: HeaderEdits,
    /// Of responses.
    pub response_headers: HeaderEdits,
    /// The sidecar answers instead of any server. Never together with `rewrite`.
    pub redirect: Option<Redirect>,
    /// Requests ask for something else.
    pub rewrite: Option<Rewrite>,
    /// Who gets copies.
    pub mirror: Option<Mirror>,
}

/// Changes of a head: what is set, then what is added, then what is removed. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replaced as a whole.
    pub set: Vec<(String, String)>,
    /// One more line.
    pub add: Vec<(String, String)>,
    /// Taken away.
    pub remove: Vec<String>,
}

/// A redirect: the request's own URL but for these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathEdit>,
    /// The port.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A rewrite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathEdit>,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// It is replaced.
    Full(String),
    /// The prefix that matched is replaced.
    Prefix(String),
}

/// A backend that gets copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Who it is.
    pub reference: BackendRef,
    /// Of how many of the requests, 0 to `out_of`.
    pub share: u32,
    /// What the share is a part of, at least 1.
    pub out_of: u32,
}

impl HeaderEdits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

impl Filters {
    /// Whether the prefix that matched is part of what is done.
    pub fn edit_prefix(&self) -> bool {
        let of_redirect = self.redirect.as_ref().and_then(|it| it.path.as_ref());
        let of_rewrite = self.rewrite.as_ref().and_then(|it| it.path.as_ref());
        let path = of_redirect.or(of_rewrite);
        matches!(path, Some(PathEdit::Prefix(_)))
    }
}
