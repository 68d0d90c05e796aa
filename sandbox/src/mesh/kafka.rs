//! A cluster of stand-ins for Kafka: who its brokers are, and where.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Mesh;
use crate::app::kafka::{Broker, Cluster};

/// Kafka.
impl Mesh {
    /// Tells brokers, which are the applications of these workloads, that they are a cluster whose topics
    /// have so many partitions; again after one was started anew, which has forgotten everything. `host`
    /// says what each advertises, such as `kafka-0.kafka.shop.svc`; nothing is its pod's address. Gives
    /// what clients resolve names with.
    ///
    /// # Errors
    /// Where a broker does not answer.
    pub async fn announce_kafka(
        &self,
        workloads: &[&str],
        port: u16,
        partitions: i32,
        host: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<BTreeMap<String, IpAddr>> {
        let mut names = BTreeMap::new();
        let mut brokers = Vec::new();
        for (id, workload) in (0..).zip(workloads) {
            let address = IpAddr::V4(self.pod(workload).v4());
            let host = host(workload).unwrap_or_else(|| address.to_string());
            names.insert(host.clone(), address);
            brokers.push(Broker { id, host, port });
        }
        for (id, workload) in (0..).zip(workloads) {
            let cluster = Cluster {
                id,
                brokers: brokers.clone(),
                partitions,
            };
            self.app(workload).be_broker(&cluster).await?;
        }
        Ok(names)
    }
}
