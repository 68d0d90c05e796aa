//! What a mesh does with the cluster that it reads.

use super::Cluster;
use crate::mesh::Mesh;
use crate::mesh::source::Source;

/// The cluster, where the mesh reads one.
impl Mesh {
    /// The control plane's namespace.
    pub fn control_plane_namespace(&self) -> anyhow::Result<&str> {
        Ok(self.cluster()?.control_plane_namespace())
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
