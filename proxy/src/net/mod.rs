//! Addresses, sockets and closing: what every direction stands on.
//!
//! * [`age`]: how old connections between sidecars may become.
//! * [`app`]: connections to the own application.
//! * [`certified`]: connections that stand on certificates.
//! * [`closing`]: the phases in which a sidecar ends.
//! * [`io`]: the one stream type of the data path.
//! * [`own`]: the workload's own addresses, and its application behind them.
//! * [`shortage`]: what this machine lacks for one more connection.
//! * [`socket`]: listening, dialling, original destinations.

pub mod age;
pub mod app;
pub mod certified;
pub mod closing;
pub mod io;
pub mod own;
pub mod shortage;
pub mod socket;

pub use app::AppDialer;
pub use io::{Io, Rewind, Stream};
pub use own::OwnAddresses;
pub use shortage::Shortage;
pub use socket::{Dialer, OriginalDestination, Redirected};

use std::net::{IpAddr, SocketAddr};

/// An IPv4 address that came in as IPv4-mapped IPv6 (`::ffff:a.b.c.d`) is the IPv4 address.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical_ip(address.ip()), address.port())
}

/// See [`canonical`].
pub fn canonical_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
