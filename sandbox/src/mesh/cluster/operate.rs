//! What a mesh does with the cluster that it reads.

use std::path::PathBuf;

use anyhow::Context as _;
use weft_proto::names::cluster::{OBSERVER_SERVICE_ACCOUNT, OPERATOR_SERVICE_ACCOUNT};

use super::{Cluster, token_file};
use crate::mesh::Mesh;
use crate::mesh::source::Source;

/// The cluster, where the mesh reads one.
impl Mesh {
    /// The control plane's namespace.
    pub fn control_plane_namespace(&self) -> anyhow::Result<&str> {
        Ok(self.cluster()?.control_plane_namespace())
    }

    /// A file with a token with which the control plane's admin port can be asked: of one who may only
    /// look.
    pub fn observer_token(&self) -> anyhow::Result<PathBuf> {
        self.cluster()?;
        Ok(token_file(self.dir(), OBSERVER_SERVICE_ACCOUNT))
    }

    /// The same, of one who may change things.
    pub fn operator_token(&self) -> anyhow::Result<PathBuf> {
        self.cluster()?;
        Ok(token_file(self.dir(), OPERATOR_SERVICE_ACCOUNT))
    }

    /// The observer's token, where the mesh reads a cluster.
    pub(in crate::mesh) fn shown_token(&self) -> anyhow::Result<Option<String>> {
        let Ok(file) = self.observer_token() else {
            return Ok(None);
        };
        let token = std::fs::read_to_string(&file).context("the observer's token")?;
        Ok(Some(token))
    }

    /// Takes the API server away from the control plane: connections end, new ones are refused. The
    /// mesh itself and whoever else is on the host still reach it.
    pub fn cut_off_cluster(&self) -> anyhow::Result<()> {
        self.cluster()?.cut_off();
        Ok(())
    }

    /// Gives the API server back.
    pub fn reach_cluster(&self) -> anyhow::Result<()> {
        self.cluster()?.reach()
    }

    /// Removes everything that the mesh made in the cluster.
    pub fn leave_cluster(&self) -> anyhow::Result<()> {
        self.cluster()?.leave()
    }

    fn cluster(&self) -> anyhow::Result<&Cluster> {
        match &self.source {
            Source::Cluster(cluster) => Ok(cluster),
            Source::Files(_) => anyhow::bail!("the mesh reads files and no cluster"),
        }
    }
}
