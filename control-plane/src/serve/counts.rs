//! How many sidecars run which policy.

use std::collections::BTreeMap;

use crate::index::Name;

/// Refusals that are kept of a policy, for its status.
pub const MAX_REFUSED: usize = 3;

/// By policy.
pub type Counts = BTreeMap<Name, Count>;

/// The sidecars that hold something compiled from a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The generation that is compiled here; `None` where the policy has none, as in files.
    pub generation: Option<i64>,
    /// Sidecars that confirmed the newest version of everything that they hold of it.
    pub acknowledged: u32,
    /// Sidecars that hold anything of it.
    pub total: u32,
    /// Sidecars that refused a version of it that is still the newest, and why; at most
    /// [`MAX_REFUSED`].
    pub refused: Vec<(Name, String)>,
}
