//! The machine that pods are plugged into: one more namespace, with a bridge; or the host's loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::loopback::{Block, Place, ServicePorts};
use super::{DEVICE, Pod};
use crate::net;

const BRIDGE: &str = "weft0";
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, 1);
const PREFIX_V4: u8 = 16;
const PREFIX_V6: u8 = 64;
/// Pods that one node takes over its life, well inside 10.42.0.0/16.
const MAX_PODS: u16 = 4096;

/// A bridge that connects pods. They have 10.42.0.0/16 and fd42::/64 addresses, and a default route
/// through the bridge, which forwards nothing: addresses of services have a route, so that a
/// connection to them can be made, but only redirection makes it arrive.
///
/// Without namespaces there is no bridge: pods have [addresses on the host's loopback](Place).
#[derive(Debug)]
pub struct Node {
    kind: Kind,
    pods: AtomicU16,
}

#[derive(Debug)]
enum Kind {
    /// The node's own place.
    Bridge(Pod),
    Loopback(Block, ServicePorts),
}

impl Node {
    /// Makes the namespace and the bridge.
    pub fn new(name: &str) -> io::Result<Self> {
        let node = Pod::new(&format!("{name}-node"), GATEWAY_V4, GATEWAY_V6)?;
        node.run(|| {
            net::create_bridge(BRIDGE)?;
            net::add_address(BRIDGE, IpAddr::V4(GATEWAY_V4), PREFIX_V4)?;
            net::add_address(BRIDGE, IpAddr::V6(GATEWAY_V6), PREFIX_V6)?;
            net::set_up(BRIDGE)
        })?;
        Ok(Self {
            kind: Kind::Bridge(node),
            pods: AtomicU16::new(0),
        })
    }

    /// The host's loopback. Pods with a sidecar reach `services`.
    pub fn on_loopback(block: Block, services: ServicePorts) -> Self {
        Self {
            kind: Kind::Loopback(block, services),
            pods: AtomicU16::new(0),
        }
    }

    /// Makes a pod without sidecar: the first has 10.42.0.2 and fd42::2, and so on.
    pub fn pod(&self, name: &str) -> io::Result<Pod> {
        self.make(name, false)
    }

    /// As [`Self::pod`], and there will be a sidecar.
    pub fn pod_with_sidecar(&self, name: &str) -> io::Result<Pod> {
        self.make(name, true)
    }

    /// The node's own place on the bridge, at which what pods send to no pod arrives: where a kubelet
    /// asks its probes and addresses of services can be made. `None` without namespaces.
    pub fn place(&self) -> Option<&Pod> {
        match &self.kind {
            Kind::Bridge(node) => Some(node),
            Kind::Loopback(..) => None,
        }
    }

    fn make(&self, name: &str, has_sidecar: bool) -> io::Result<Pod> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        if number >= MAX_PODS {
            return Err(io::Error::other("a node has room for 4096 pods"));
        }
        let host = number + 2;
        let [high, low] = host.to_be_bytes();
        let v6 = Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, host);
        match &self.kind {
            Kind::Bridge(node) => {
                let pod = Pod::new(name, Ipv4Addr::new(10, 42, high, low), v6)?;
                attach(node, &pod, &format!("weft{host}"))?;
                Ok(pod)
            }
            Kind::Loopback(block, services) => {
                let place = Place::new(*block, host, has_sidecar, Arc::clone(services));
                Pod::on_loopback(name, place, v6)
            }
        }
    }
}

/// Plugs the pod into the bridge.
fn attach(node: &Pod, pod: &Pod, port: &str) -> io::Result<()> {
    let namespace = pod.namespace()?;
    let port = port.to_owned();
    node.run(move || {
        net::create_veth(&port, DEVICE, namespace.as_fd())?;
        net::set_master(&port, BRIDGE)?;
        net::set_up(&port)
    })?;
    let (v4, v6) = (pod.v4(), pod.v6());
    pod.run(move || {
        net::add_address(DEVICE, v4.into(), PREFIX_V4)?;
        net::add_address(DEVICE, v6.into(), PREFIX_V6)?;
        net::set_up(DEVICE)?;
        net::add_default_route(IpAddr::V4(GATEWAY_V4))?;
        net::add_default_route(IpAddr::V6(GATEWAY_V6))
    })?;
    Ok(())
}
