//! What a test lets a sidecar know, without a control plane.

use std::net::SocketAddr;

use super::table::MAX_SUBSCRIPTIONS;
use super::{Discovery, Introduction, Shared};
use crate::policy::{EndpointInfo, InboundPolicy, MeshInfo, OutboundTarget, ServiceRef};

impl Discovery {
    /// Knows nothing but what the test tells.
    pub(crate) fn untold() -> Self {
        let introduction = Introduction {
            workload: "test".to_owned(),
            zone: String::new(),
            version: "test".to_owned(),
        };
        let (shared, _) = Shared::new(introduction, MAX_SUBSCRIPTIONS);
        Self(shared)
    }

    pub(crate) fn tell_mesh(&self, mesh: MeshInfo) {
        self.mesh().store(mesh);
    }

    pub(crate) fn tell_outbound(&self, destination: SocketAddr, target: OutboundTarget) {
        self.outbound(destination).store(target);
    }

    pub(crate) fn tell_authority(&self, authority: &str, target: OutboundTarget) {
        self.authority(authority).store(target);
    }

    pub(crate) fn tell_endpoints(&self, service: &ServiceRef, endpoints: Vec<EndpointInfo>) {
        self.endpoints(service).store(endpoints);
    }

    pub(crate) fn tell_inbound(&self, port: u16, policy: InboundPolicy) {
        self.inbound(port).store(policy);
    }
}
