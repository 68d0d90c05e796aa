//! Label values that come from closed lists, and the bounds on those that do not.

use std::collections::HashSet;
use std::hash::Hash;

use http::Method;

/// What stands for every label value past a bound.
pub const OVERFLOW: &str = "overflow";
/// What stands for every peer past [`MAX_PEERS`].
pub const OTHER_PEER: &str = "other";
/// Distinct `peer` labels of a process.
pub const MAX_PEERS: usize = 100;
/// What stands for every server name past [`MAX_SERVER_NAMES`].
pub const OTHER_SERVER_NAME: &str = "other";
/// Distinct `sni` labels of a process.
pub const MAX_SERVER_NAMES: usize = 100;
/// Distinct scopes (sets of labels resolved before) of a process, per kind of scope.
pub const MAX_SCOPES: usize = 2_000;
/// Distinct names of bounds that were hit.
pub const MAX_LIMITS: usize = 64;

/// How the bytes between two sidecars, or to the application, were protected: the `tls` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tls {
    /// Not at all: the workload called itself, past the mesh.
    Local,
    /// Mesh TLS, both identities verified.
    Mutual,
    /// Plaintext (or the application's own TLS, of which a sidecar knows nothing).
    None,
}

impl Tls {
    /// How many there are.
    pub(super) const COUNT: usize = 3;

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Mutual => "mutual",
            Self::None => "none",
        }
    }
}

/// The well-known methods (RFC 9110 section 9.3 and PATCH); everything else is `OTHER`.
const METHODS: [&str; 10] = [
    "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE", "OTHER",
];

/// Index into [`METHODS`].
pub(super) fn method_index(method: &Method) -> u8 {
    match *method {
        Method::GET => 0,
        Method::POST => 1,
        Method::PUT => 2,
        Method::DELETE => 3,
        Method::HEAD => 4,
        Method::OPTIONS => 5,
        Method::PATCH => 6,
        Method::CONNECT => 7,
        Method::TRACE => 8,
        _ => 9,
    }
}

/// The `method` label of an index.
pub(super) fn method_word(index: u8) -> &'static str {
    METHODS[usize::from(index)]
}

/// A set that stops growing at a bound.
#[derive(Debug)]
pub(super) struct Bounded<K> {
    known: HashSet<K>,
    bound: usize,
}

impl<K: Eq + Hash> Bounded<K> {
    /// An empty set.
    pub(super) fn new(bound: usize) -> Self {
        Self {
            known: HashSet::new(),
            bound,
        }
    }

    /// Whether `key` is in the set, or finds room now.
    pub(super) fn admits(&mut self, key: K) -> bool {
        if self.known.contains(&key) {
            return true;
        }
        self.known.len() < self.bound && self.known.insert(key)
    }
}
