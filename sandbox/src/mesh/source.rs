//! Where a mesh's control plane reads what there is: a directory of files, or a cluster.
//!
//! [`Source::write`] makes the source say what the [`State`] says; everything else about it is here
//! because a directory and a cluster differ in it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use super::Common;
use super::cluster::Cluster;
use super::files::Files;
use super::member::Member;
use super::spec::{Endpoint, Service};
use crate::process::Program;

/// What the mesh is made of now; keys are `namespace/name`.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) members: BTreeMap<String, Arc<Member>>,
    pub(super) services: Services,
}

pub(super) type Services = BTreeMap<String, RunningService>;

#[derive(Debug)]
pub(super) struct RunningService {
    pub(super) spec: Service,
    pub(super) namespace: String,
    pub(super) v4: Ipv4Addr,
    /// Not the service's where [`Self::has_v6`] is false: then nobody has it.
    pub(super) v6: Ipv6Addr,
    pub(super) has_v6: bool,
}

impl RunningService {
    /// Takes over the addresses that somebody else chose.
    ///
    /// # Errors
    /// Where none of them is IPv4.
    pub(super) fn set_addresses(&mut self, addresses: &[IpAddr]) -> anyhow::Result<()> {
        let mut v4 = None;
        self.has_v6 = false;
        for address in addresses {
            match address {
                IpAddr::V4(address) => v4 = Some(*address),
                IpAddr::V6(address) => (self.v6, self.has_v6) = (*address, true),
            }
        }
        let name = &self.spec.name;
        self.v4 = v4.ok_or_else(|| anyhow::anyhow!("{name} has no IPv4 address of its own"))?;
        Ok(())
    }

    /// The workloads behind it that there are, and the addresses.
    pub(super) fn behind<'a>(
        &'a self,
        members: &'a BTreeMap<String, Arc<Member>>,
    ) -> impl Iterator<Item = Behind<'a>> {
        self.spec
            .endpoints
            .iter()
            .filter_map(move |endpoint| match endpoint {
                Endpoint::Workload(name) => {
                    let member = members.get(&format!("{}/{name}", self.namespace))?;
                    Some(Behind::Member(member))
                }
                Endpoint::Address(address) => Some(Behind::Address(*address)),
            })
    }
}

/// What stands behind a service.
pub(super) enum Behind<'a> {
    Member(&'a Member),
    Address(IpAddr),
}

/// See the module.
#[derive(Debug)]
pub(super) enum Source {
    Files(Files),
    Cluster(Box<Cluster>),
}

impl Source {
    /// Makes a manifest, or replaces the one with the same name.
    pub(super) fn apply_policy(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        match self {
            Self::Files(files) => files.apply_policy(name, yaml),
            Self::Cluster(cluster) => cluster.apply_policy(name, yaml),
        }
    }

    /// Removes a manifest.
    pub(super) fn remove_policy(&self, name: &str) -> anyhow::Result<()> {
        match self {
            Self::Files(files) => files.remove_policy(name),
            Self::Cluster(cluster) => cluster.remove_policy(name),
        }
    }

    /// Says what the state says; services get the addresses that the source gives them.
    pub(super) fn write(&self, state: &mut State, common: &Common) -> anyhow::Result<()> {
        match self {
            Self::Files(files) => files.write(state, common),
            Self::Cluster(cluster) => cluster.write(state),
        }
    }

    /// The control plane's program with what makes it read this source, and its environment.
    pub(super) fn control_plane(&self, common: &Common) -> (Program, Vec<(String, String)>) {
        match self {
            Self::Files(files) => (files.control_plane(common), Vec::new()),
            Self::Cluster(cluster) => cluster.control_plane(common),
        }
    }

    /// What a sidecar proves itself with: the token.
    pub(super) fn token(&self, member: &Member) -> anyhow::Result<String> {
        match self {
            Self::Files(files) => files.token(member),
            Self::Cluster(cluster) => cluster.token(member),
        }
    }

    /// The file with the roots that a sidecar believes the control plane by.
    pub(super) fn trust_bundle(&self, member: &Member) -> anyhow::Result<PathBuf> {
        match self {
            Self::Files(files) => Ok(files.trust_bundle()),
            Self::Cluster(cluster) => cluster.trust_bundle(member),
        }
    }
}
