//! The workload's own addresses, and where its application is to be found behind them.
//!
//! Where connections are redirected the application listens at the address that clients dial. Where
//! nothing is redirected the sidecar itself listens there, and the application elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::canonical_ip;

/// What is this workload's own. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OwnAddresses {
    addresses: Arc<[IpAddr]>,
    /// Address that clients dial, address of the application. An application has few ports.
    apps: Arc<[(SocketAddr, SocketAddr)]>,
}

impl OwnAddresses {
    /// The workload's `addresses`, and the application's places behind those that the sidecar holds
    /// itself: (address that clients dial, address of the application). The former are own ones too.
    pub fn new(addresses: &[IpAddr], apps: &[(SocketAddr, SocketAddr)]) -> Self {
        let held = apps.iter().map(|(dialled, _)| dialled.ip());
        Self {
            addresses: addresses.iter().copied().chain(held).collect(),
            apps: apps.into(),
        }
    }

    /// The first of them; `None` where no address was told.
    pub fn first(&self) -> Option<IpAddr> {
        self.addresses.first().copied()
    }

    /// Whether `address` is the workload's.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.addresses.contains(&canonical_ip(address))
    }

    /// [`Self::contains`], loopback counted among them.
    pub fn contains_or_loopback(&self, address: IpAddr) -> bool {
        canonical_ip(address).is_loopback() || self.contains(address)
    }

    /// Where the application takes what clients dial at `address`.
    pub fn app(&self, address: SocketAddr) -> SocketAddr {
        let known = self.apps.iter().find(|(dialled, _)| *dialled == address);
        known.map_or(address, |(_, app)| *app)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_sidecar_holds_is_own_and_leads_to_the_application() {
        let dialled = "10.0.0.7:8080".parse().unwrap();
        let app = "127.0.0.1:8081".parse().unwrap();
        let own = OwnAddresses::new(&[], &[(dialled, app)]);
        assert!(own.contains(dialled.ip()));
        assert_eq!(own.first(), Some(dialled.ip()));
        assert_eq!(own.app(dialled), app);
        let other = "10.0.0.7:9090".parse().unwrap();
        assert_eq!(own.app(other), other);
    }

    #[test]
    fn loopback_is_own_for_what_comes_in_only() {
        let own = OwnAddresses::new(&["10.0.0.7".parse().unwrap()], &[]);
        for (address, contains, or_loopback) in [
            ("10.0.0.7", true, true),
            ("::ffff:10.0.0.7", true, true),
            ("127.0.0.1", false, true),
            ("::ffff:127.0.0.1", false, true),
            ("10.0.0.8", false, false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(own.contains(address), contains, "{address}");
            assert_eq!(own.contains_or_loopback(address), or_loopback, "{address}");
        }
    }
}
