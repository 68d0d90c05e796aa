//! Pods without namespaces: addresses on the host's loopback, where all of 127.0.0.0/8 is local.
//!
//! Nothing is redirected. A pod's sidecar listens at the pod's address, where clients of the
//! application look for it, and the application at an address that only the sidecar is told. A
//! service's address is nobody's: each pod with a sidecar has a listener of its own for each service
//! port, and what the pod connects to is routed there ([`super::Pod::route`]). A pod's own address is
//! dialled as it is, past the caller's sidecar. There is no IPv6.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use weft_proto::names::ports;

/// Second bytes between two meshes' shares.
const SHARE: u8 = 4;
const PODS: u8 = 42;
const LISTENERS: u8 = 43;
const APPS: u8 = 44;
const SERVICES: u8 = 96;
/// Port of a pod's listener for the first service port: one that ordinary users may bind.
const FIRST_LISTENER_PORT: u16 = 20_000;
const NETWORK_BITS: u8 = 16;

/// One mesh's share of 127.0.0.0/8.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    share: u8,
}

impl Block {
    /// The share of the mesh that has this slot.
    ///
    /// # Panics
    /// Above 9, where shares would overlap.
    pub fn of_slot(slot: u8) -> Self {
        assert!(slot < 10, "shares are for 10 meshes");
        Self {
            share: slot * SHARE,
        }
    }

    /// Networks of pods and services.
    pub fn networks(self) -> [IpNet; 2] {
        [PODS, SERVICES].map(|part| IpNet::V4(self.network(part)))
    }

    /// The address of a service by its number, from 0 to 65,535.
    pub fn service(self, number: u16) -> Ipv4Addr {
        self.address(SERVICES, number)
    }

    fn network(self, part: u8) -> Ipv4Net {
        Ipv4Net::new(self.address(part, 0), NETWORK_BITS).expect("16 is a length of a prefix")
    }

    fn address(self, part: u8, host: u16) -> Ipv4Addr {
        let [high, low] = host.to_be_bytes();
        Ipv4Addr::new(127, part + self.share, high, low)
    }
}

/// Service ports that pods can connect to, each with a number that counts from 0.
pub type ServicePorts = Arc<BTreeMap<SocketAddr, u16>>;

/// Where one pod is.
#[derive(Clone, Debug)]
pub struct Place {
    block: Block,
    host: u16,
    has_sidecar: bool,
    services: ServicePorts,
}

impl Place {
    pub(super) fn new(block: Block, host: u16, has_sidecar: bool, services: ServicePorts) -> Self {
        Self {
            block,
            host,
            has_sidecar,
            services,
        }
    }

    /// The pod's address.
    pub fn address(&self) -> Ipv4Addr {
        self.block.address(PODS, self.host)
    }

    /// Where the pod's application listens: at the pod's address, unless a sidecar does.
    pub fn app(&self) -> Ipv4Addr {
        let part = if self.has_sidecar { APPS } else { PODS };
        self.block.address(part, self.host)
    }

    /// The pod's listeners for services: the service's address, the listener's. None without a
    /// sidecar.
    pub fn listeners(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        let services = self.has_sidecar.then_some(&*self.services);
        let services = services.into_iter().flatten();
        services.map(|(service, number)| (*service, self.listener(*number)))
    }

    /// Where a connection of this pod to `to` has to go. `127.0.0.1` means the pod itself.
    pub(super) fn route(&self, to: SocketAddr) -> io::Result<SocketAddr> {
        let IpAddr::V4(ip) = to.ip() else {
            return Err(no_ipv6());
        };
        if ip == Ipv4Addr::LOCALHOST {
            // The admin port is the sidecar's, everything else the application's.
            let own = match to.port() {
                ports::ADMIN => self.address(),
                _ => self.app(),
            };
            return Ok(SocketAddr::new(own.into(), to.port()));
        }
        if !self.block.network(SERVICES).contains(&ip) {
            return Ok(to);
        }
        match self.services.get(&to) {
            Some(number) if self.has_sidecar => Ok(self.listener(*number)),
            // As in a network namespace: nobody has a service's address.
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// Where the pod listens when it is told to listen at `on`: what comes to its own address goes
    /// to the sidecar first.
    pub(super) fn bind(&self, on: SocketAddr) -> io::Result<SocketAddr> {
        let own = [self.address(), Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED];
        match on.ip() {
            IpAddr::V4(ip) if own.contains(&ip) => {
                Ok(SocketAddr::new(self.app().into(), on.port()))
            }
            IpAddr::V4(_) => Ok(on),
            IpAddr::V6(ip) if ip.is_unspecified() => {
                Ok(SocketAddr::new(self.app().into(), on.port()))
            }
            IpAddr::V6(_) => Err(no_ipv6()),
        }
    }

    fn listener(&self, number: u16) -> SocketAddr {
        let address = self.block.address(LISTENERS, self.host);
        SocketAddr::new(address.into(), FIRST_LISTENER_PORT + number)
    }
}

fn no_ipv6() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "no IPv6 on explicit listeners on loopback",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 46, 1, 2);
    const APP: Ipv4Addr = Ipv4Addr::new(127, 48, 1, 2);

    fn place(has_sidecar: bool) -> Place {
        let block = Block::of_slot(1);
        let services = [(80, 0), (90, 1)]
            .map(|(port, number)| (SocketAddr::from((block.service(10), port)), number));
        Place::new(block, 0x102, has_sidecar, Arc::new(services.into()))
    }

    fn route(place: &Place, to: &str) -> Result<String, io::ErrorKind> {
        let routed = place.route(to.parse().unwrap());
        routed
            .map(|to| to.to_string())
            .map_err(|error| error.kind())
    }

    #[test]
    fn shares_do_not_overlap() {
        let networks: Vec<Ipv4Net> = (0..10)
            .map(Block::of_slot)
            .flat_map(|block| [PODS, LISTENERS, APPS, SERVICES].map(|part| block.network(part)))
            .collect();
        for (number, network) in networks.iter().enumerate() {
            assert!(network.addr().is_loopback(), "{network}");
            assert!(!networks[..number].contains(network), "{network}");
        }
    }

    #[test]
    fn services_are_reached_through_the_sidecar_only() {
        let meshed = place(true);
        assert_eq!((meshed.address(), meshed.app()), (ADDRESS, APP));
        assert_eq!(
            route(&meshed, "127.100.0.10:90").unwrap(),
            "127.47.1.2:20001"
        );
        let refused = Err(io::ErrorKind::ConnectionRefused);
        assert_eq!(route(&meshed, "127.100.0.10:81"), refused);
        assert_eq!(meshed.listeners().count(), 2);
        let stranger = place(false);
        assert_eq!((stranger.address(), stranger.app()), (ADDRESS, ADDRESS));
        assert_eq!(route(&stranger, "127.100.0.10:90"), refused);
        assert_eq!(stranger.listeners().count(), 0);
        for place in [meshed, stranger] {
            // Other pods, other meshes and the world are where they say they are.
            for to in ["127.46.0.9:8080", "127.96.0.10:80", "192.0.2.1:80"] {
                assert_eq!(route(&place, to).unwrap(), to);
            }
            let ipv6 = route(&place, "[::1]:80");
            assert_eq!(ipv6, Err(io::ErrorKind::Unsupported));
        }
    }

    #[test]
    fn localhost_is_the_pod() {
        let meshed = place(true);
        assert_eq!(
            route(&meshed, "127.0.0.1:15190").unwrap(),
            "127.46.1.2:15190"
        );
        assert_eq!(route(&meshed, "127.0.0.1:9900").unwrap(), "127.48.1.2:9900");
        for on in [
            "127.46.1.2:8080",
            "127.0.0.1:8080",
            "0.0.0.0:8080",
            "[::]:8080",
        ] {
            let bound = meshed.bind(on.parse().unwrap()).unwrap();
            assert_eq!(bound, SocketAddr::from((APP, 8080)), "{on}");
        }
    }
}
