//! Who may call what no policy speaks of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::spec::{AllowEntry, Authorization, AuthorizationMode, Principal, ServiceAccountRef};

/// The mesh's default `authorization`. It holds for workload ports for which neither a service's policy nor
/// the namespace's has one, and bounds nothing: such a policy replaces it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefaultAuthorization {
    /// Everybody whom `mtls` lets in.
    #[default]
    AllowAll,
    /// Every identity of the mesh.
    Authenticated,
    /// Every identity of the workload's own namespace.
    SameNamespace,
    /// Nobody.
    DenyAll,
}

impl DefaultAuthorization {
    /// All of them, as they are written.
    pub const ALL: [Self; 4] = [
        Self::AllowAll,
        Self::Authenticated,
        Self::SameNamespace,
        Self::DenyAll,
    ];

    /// What a policy would say to the same effect; nothing where everybody is let in.
    pub fn authorization(self, trust_domain: &str) -> Option<Authorization> {
        let principal = match self {
            Self::AllowAll => return None,
            Self::Authenticated => Some(Principal {
                service_account: None,
                spiffe_id: Some(format!("spiffe://{trust_domain}/*")),
            }),
            Self::SameNamespace => Some(Principal {
                service_account: Some(ServiceAccountRef {
                    namespace: None,
                    name: "*".to_owned(),
                }),
                spiffe_id: None,
            }),
            Self::DenyAll => None,
        };
        let entry = |principal| AllowEntry {
            principals: vec![principal],
            methods: Vec::new(),
            paths: Vec::new(),
        };
        Some(Authorization {
            mode: AuthorizationMode::Enforce,
            for_services: None,
            allow: principal.map(entry).into_iter().collect(),
        })
    }
}

impl fmt::Display for DefaultAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AllowAll => "AllowAll",
            Self::Authenticated => "Authenticated",
            Self::SameNamespace => "SameNamespace",
            Self::DenyAll => "DenyAll",
        })
    }
}

impl FromStr for DefaultAuthorization {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|it| it.to_string() == text);
        known.ok_or_else(|| {
            let words = Self::ALL.map(|it| it.to_string()).join(", ");
            format!("not one of {words}")
        })
    }
}
