//! Links, addresses and routes of the network namespace that the calling thread is in, over
//! rtnetlink, without the `ip` program.
//!
//! Each function is one change: it has happened when the function returns, or the error names it
//! and gives the kernel's reason. Nothing here undoes anything: a namespace takes its links along
//! when the last thread and the last handle of it are gone (a veth pair goes with either end).
//!
//! It is tested by the target `kernel` of `weft-tests`.

mod namespace;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use weft_proxy::netlink::{self, Message, Socket, flags};

pub use namespace::unshare_net;

/// rtnetlink's message types (linux/rtnetlink.h).
mod kind {
    pub(super) const NEWLINK: u16 = 16;
    pub(super) const DELLINK: u16 = 17;
    pub(super) const SETLINK: u16 = 19;
    pub(super) const NEWADDR: u16 = 20;
    pub(super) const NEWROUTE: u16 = 24;
}

/// Attribute types (linux/if_link.h, veth.h, if_addr.h, rtnetlink.h).
mod attribute {
    pub(super) const IFLA_ADDRESS: u16 = 1;
    pub(super) const IFLA_IFNAME: u16 = 3;
    pub(super) const IFLA_MASTER: u16 = 10;
    pub(super) const IFLA_LINKINFO: u16 = 18;
    pub(super) const IFLA_NET_NS_FD: u16 = 28;
    pub(super) const IFLA_INFO_KIND: u16 = 1;
    pub(super) const IFLA_INFO_DATA: u16 = 2;
    pub(super) const VETH_INFO_PEER: u16 = 1;
    pub(super) const IFA_ADDRESS: u16 = 1;
    pub(super) const IFA_LOCAL: u16 = 2;
    pub(super) const IFA_FLAGS: u16 = 8;
    pub(super) const RTA_OIF: u16 = 4;
    pub(super) const RTA_GATEWAY: u16 = 5;
}

/// Of every bridge: locally administered. One that nobody sets is the lowest of the ports', and another
/// one as soon as that port is gone: until its neighbours ask again, seconds later, nothing they send
/// to the bridge itself arrives.
const BRIDGE_ADDRESS: [u8; 6] = [0x02, 0x57, 0x45, 0x46, 0x54, 0x01];
const IFF_UP: u32 = 1;
/// No duplicate address detection: an IPv6 address is usable at once, not a second later.
const IFA_F_NODAD: u32 = 2;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A change that the kernel did not make.
#[derive(Debug, thiserror::Error)]
#[error("{change}: {source}")]
pub struct NetError {
    change: String,
    source: netlink::Error,
}

impl NetError {
    /// The kernel's reason, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        self.source.errno()
    }
}

impl From<NetError> for io::Error {
    fn from(error: NetError) -> Self {
        let kind = error.errno().map_or(io::ErrorKind::Other, Errno::kind);
        Self::new(kind, error)
    }
}

/// Where a default route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop<'a> {
    /// A neighbour, for its own address family.
    Gateway(IpAddr),
    /// Everything is a neighbour on this link, in both address families.
    Device(&'a str),
}

impl From<IpAddr> for NextHop<'_> {
    fn from(gateway: IpAddr) -> Self {
        Self::Gateway(gateway)
    }
}

impl<'a> From<&'a str> for NextHop<'a> {
    fn from(device: &'a str) -> Self {
        Self::Device(device)
    }
}

/// Makes a bridge, which is down and has no ports. Link names have at most 15 bytes.
pub fn create_bridge(name: &str) -> Result<(), NetError> {
    let mut message = new_link(name);
    message.attribute(attribute::IFLA_ADDRESS, &BRIDGE_ADDRESS);
    message.nested(attribute::IFLA_LINKINFO, |info| {
        info.string(attribute::IFLA_INFO_KIND, "bridge");
    });
    change(|| format!("create bridge {name}"), |_| Ok(message))
}

/// Makes a pair of links, `name` here and `peer_name` in the namespace `peer_netns`, both down.
pub fn create_veth(
    name: &str,
    peer_name: &str,
    peer_netns: BorrowedFd<'_>,
) -> Result<(), NetError> {
    let mut message = new_link(name);
    message.nested(attribute::IFLA_LINKINFO, |info| {
        info.string(attribute::IFLA_INFO_KIND, "veth");
        info.nested(attribute::IFLA_INFO_DATA, |data| {
            data.nested(attribute::VETH_INFO_PEER, |peer| {
                peer.raw(&link_header(0, 0));
                peer.string(attribute::IFLA_IFNAME, peer_name);
                peer.u32(
                    attribute::IFLA_NET_NS_FD,
                    peer_netns.as_raw_fd().cast_unsigned(),
                );
            });
        });
    });
    change(
        || format!("create veth {name} with peer {peer_name}"),
        |_| Ok(message),
    )
}

/// Switches a link on.
pub fn set_up(name: &str) -> Result<(), NetError> {
    let mut message = Message::new(kind::SETLINK, 0, &link_header(IFF_UP, IFF_UP));
    message.string(attribute::IFLA_IFNAME, name);
    change(|| format!("set {name} up"), |_| Ok(message))
}

/// Switches `lo` on, which gives it 127.0.0.1 and ::1.
pub fn set_loopback_up() -> Result<(), NetError> {
    set_up("lo")
}

/// Makes a link a port of a bridge.
pub fn set_master(name: &str, bridge: &str) -> Result<(), NetError> {
    change(
        || format!("add {name} to bridge {bridge}"),
        |socket| {
            let mut message = Message::new(kind::SETLINK, 0, &link_header(0, 0));
            message.string(attribute::IFLA_IFNAME, name);
            message.u32(attribute::IFLA_MASTER, index(socket, bridge)?);
            Ok(message)
        },
    )
}

/// Gives a link an address, and with it the route to the `prefix` that it is in. It is usable at
/// once where the link is up.
pub fn add_address(name: &str, address: IpAddr, prefix: u8) -> Result<(), NetError> {
    change(
        || format!("add {address}/{prefix} to {name}"),
        |socket| {
            let [i0, i1, i2, i3] = index(socket, name)?.to_ne_bytes();
            // struct ifaddrmsg: family, prefix length, flags, scope, index
            let header = [family(address), prefix, 0, 0, i0, i1, i2, i3];
            let flags = flags::CREATE | flags::EXCLUSIVE;
            let mut message = Message::new(kind::NEWADDR, flags, &header);
            message.attribute(attribute::IFA_LOCAL, &octets(address));
            message.attribute(attribute::IFA_ADDRESS, &octets(address));
            if address.is_ipv6() {
                message.u32(attribute::IFA_FLAGS, IFA_F_NODAD);
            }
            Ok(message)
        },
    )
}

/// Adds a default route, through a gateway (for its family) or a link (for both families; for
/// IPv4 alone where the kernel has no IPv6).
pub fn add_default_route<'a>(next_hop: impl Into<NextHop<'a>>) -> Result<(), NetError> {
    match next_hop.into() {
        NextHop::Gateway(gateway) => change(
            || format!("add default route through {gateway}"),
            |_| {
                let mut message = new_default_route(family(gateway), RT_SCOPE_UNIVERSE);
                message.attribute(attribute::RTA_GATEWAY, &octets(gateway));
                Ok(message)
            },
        ),
        NextHop::Device(name) => {
            add_device_route(name, AF_INET)?;
            match add_device_route(name, AF_INET6) {
                Err(error) if error.errno() == Some(Errno::OPNOTSUPP) => Ok(()),
                result => result,
            }
        }
    }
}

/// Removes a link, with its peer where it is one of a pair.
pub fn delete_link(name: &str) -> Result<(), NetError> {
    let mut message = Message::new(kind::DELLINK, 0, &link_header(0, 0));
    message.string(attribute::IFLA_IFNAME, name);
    change(|| format!("delete {name}"), |_| Ok(message))
}

fn add_device_route(name: &str, family: u8) -> Result<(), NetError> {
    change(
        || format!("add default route through {name}"),
        |socket| {
            let mut message = new_default_route(family, RT_SCOPE_LINK);
            message.u32(attribute::RTA_OIF, index(socket, name)?);
            Ok(message)
        },
    )
}

/// Builds a message, sends it and waits for the acknowledgement.
fn change(
    description: impl FnOnce() -> String,
    build: impl FnOnce(&Socket) -> Result<Message, netlink::Error>,
) -> Result<(), NetError> {
    let send = || {
        let mut socket = Socket::route()?;
        let message = build(&socket)?;
        socket.request(message)
    };
    match send() {
        Ok(_) => Ok(()),
        Err(source) => Err(NetError {
            change: description(),
            source,
        }),
    }
}

fn index(socket: &Socket, name: &str) -> Result<u32, netlink::Error> {
    rustix::net::netdevice::name_to_index(socket, name).map_err(netlink::Error::Socket)
}

fn new_link(name: &str) -> Message {
    let flags = flags::CREATE | flags::EXCLUSIVE;
    let mut message = Message::new(kind::NEWLINK, flags, &link_header(0, 0));
    message.string(attribute::IFLA_IFNAME, name);
    message
}

/// `struct ifinfomsg` without an index: the link is named by an attribute.
fn link_header(flags: u32, mask: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&mask.to_ne_bytes());
    header
}

/// `struct rtmsg` for a destination of no bits.
fn new_default_route(family: u8, scope: u8) -> Message {
    let header = [
        family,
        0, // destination's prefix length
        0, // source's prefix length
        0, // type of service
        RT_TABLE_MAIN,
        RTPROT_STATIC,
        scope,
        RTN_UNICAST,
        0,
        0,
        0,
        0, // flags
    ];
    let flags = flags::CREATE | flags::EXCLUSIVE;
    Message::new(kind::NEWROUTE, flags, &header)
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
