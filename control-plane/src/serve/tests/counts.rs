//! Counting at the size that one replica is meant for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{InboundKey, OutboundKey, ResourceKey, Version};

use super::harness::{objects, sourced, workload};
use crate::compile::Client;
use crate::identity::TrustBundle;
use crate::index::{Model, Name, Objects, Service, ServiceEndpoint, ServicePort};
use crate::policy::TrafficPolicy;
use crate::serve::Metrics;
use crate::serve::counts::Counter;
use crate::serve::memo::Memo;
use crate::serve::streams::{Acknowledgement, Introduction, Membership, Streams};

const SERVICES: u16 = 1_000;
const STREAMS: u16 = 1_000;
const RESOURCES: u16 = 20;
/// Without optimisation and beside other tests; optimised it takes a tenth of this at most.
const BOUND: Duration = Duration::from_millis(500);

/// Services with a policy each and one of the namespace.
fn many() -> Objects {
    let mut objects = objects();
    objects.services.clear();
    let policy = |name: String, target: serde_json::Value| {
        let policy = TrafficPolicy::read(json!({
            "apiVersion": "weft.dev/v1alpha1",
            "kind": "TrafficPolicy",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"targetRefs": [target], "retries": {"attempts": 1}, "mtls": {"mode": "Strict"}},
        }));
        sourced(Arc::new(policy.unwrap()))
    };
    for number in 0..STREAMS {
        objects
            .workloads
            .push(workload(&format!("w-{number}"), "web", 0));
        let last = objects.workloads.last_mut().unwrap();
        let [high, low] = number.to_be_bytes();
        last.object.addresses = vec![[10, 1, high, low].into()];
    }
    for number in 0..SERVICES {
        let name = format!("s-{number}");
        let [high, low] = number.to_be_bytes();
        objects.services.push(sourced(Service {
            name: Name::new("shop", &*name),
            cluster_ips: vec![[10, 96, high, low].into()],
            ports: vec![ServicePort {
                name: "http".to_owned(),
                port: 80,
                target_port: 8080,
                exceptions: Default::default(),
                app_protocol: String::new(),
            }],
            endpoints: vec![ServiceEndpoint::Workload(format!("w-{number}"))],
            idle: Default::default(),
            last_resort: false,
        }));
        if number % 2 == 0 {
            let target = json!({"kind": "Service", "name": name});
            objects.policies.push(policy(name, target));
        }
    }
    let target = json!({"kind": "Namespace", "name": "shop"});
    objects.policies.push(policy("whole".to_owned(), target));
    objects
}

/// What the sidecar of a workload holds: 19 services, and its own port.
fn keys(stream: u16) -> Vec<ResourceKey> {
    let outbounds = (1..RESOURCES).map(|step| {
        let [high, low] = ((stream + step) % SERVICES).to_be_bytes();
        let ip = vec![10, 96, high, low];
        Kind::Outbound(OutboundKey { ip, port: 80 })
    });
    let inbound = Kind::Inbound(InboundKey { port: 8080 });
    let kinds = outbounds.chain([inbound]);
    kinds.map(|kind| ResourceKey { kind: Some(kind) }).collect()
}

fn confirm(membership: &Membership, memo: &Memo, stream: u16) {
    let client = Client {
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
        workload: format!("w-{stream}"),
        zone: "a".to_owned(),
    };
    for key in keys(stream) {
        let (newest, revision) = memo.resource(&client, &key);
        let version = Version {
            content_hash: newest.hash.to_vec(),
            source_revision: revision,
            created_at: None,
        };
        let refused = None;
        membership.acknowledged(key, Acknowledgement { version, refused });
    }
}

#[tokio::test]
async fn a_thousand_streams_are_counted_quickly() {
    let (models, watched) = watch::channel(Arc::new(Model::build(many(), 1)));
    let (_bundle, bundle) = watch::channel(TrustBundle {
        roots: Arc::new([]),
    });
    let memo = Memo::new(watched, bundle);
    let streams = Arc::new(Streams::new(Arc::new(Metrics::new())));
    let mut members = Vec::new();
    for number in 0..STREAMS {
        let introduction = Introduction {
            workload: Name::new("shop", format!("w-{number}")),
            service_account: "web".to_owned(),
            zone: "a".to_owned(),
            proxy_version: "0.1.0".to_owned(),
        };
        let (membership, commands) = streams.join(introduction).unwrap();
        confirm(&membership, &memo, number);
        members.push((membership, commands));
    }
    let whole = Name::new("shop", "whole");
    let one = Name::new("shop", "s-10");

    let mut counter = Counter::default();
    let mut measured = Vec::new();
    for _ in 0..2 {
        let begin = Instant::now();
        let standing = streams.standing();
        let counted = counter.count(&memo, &standing, |_, _| false).await;
        measured.push(begin.elapsed());
        // Every other service has the namespace's policy only, at 19 clients and itself.
        assert_eq!(counted.counts[&whole].total, u32::from(STREAMS));
        let of_one = &counted.counts[&one];
        assert_eq!((of_one.acknowledged, of_one.total), (20, 20));
        assert_eq!(counted.workloads.len(), usize::from(STREAMS));
    }
    println!("first count {:?}, next {:?}", measured[0], measured[1]);
    assert!(measured[1] < BOUND, "{measured:?}");

    // What changes is unconfirmed at those who hold it, and the rest stays confirmed.
    let mut objects = many();
    let changed = objects
        .policies
        .iter_mut()
        .find(|policy| policy.object.metadata.name == "s-10");
    let changed = Arc::make_mut(&mut changed.unwrap().object);
    changed.spec.retries.as_mut().unwrap().attempts = 2;
    models.send_replace(Arc::new(Model::build(objects, 2)));
    let counted = counter
        .count(&memo, &streams.standing(), |_, _| false)
        .await;
    let of_one = &counted.counts[&one];
    // Its own workload holds the inbound side, which is as it was.
    assert_eq!((of_one.acknowledged, of_one.total), (1, 20));
    let other = &counted.counts[&Name::new("shop", "s-600")];
    assert_eq!((other.acknowledged, other.total), (20, 20));
}
