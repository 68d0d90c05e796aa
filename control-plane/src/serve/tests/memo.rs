//! Contents are compiled and encoded once, and keep their version while they stay the same.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{InboundKey, ResourceKey};

use super::harness::{cart, endpoints_of, objects, trust_bundle, workload};
use crate::compile::Client;
use crate::identity::TrustBundle;
use crate::index::{Model, Objects};
use crate::serve::memo::Memo;

struct Fixture {
    models: watch::Sender<Arc<Model>>,
    bundle: watch::Sender<TrustBundle>,
    memo: Memo,
}

impl Fixture {
    fn new() -> Self {
        let models = watch::Sender::new(Arc::new(Model::build(objects(), 1)));
        let bundle = watch::Sender::new(bundle(1));
        let memo = Memo::new(models.subscribe(), bundle.subscribe());
        Self {
            models,
            bundle,
            memo,
        }
    }

    fn change(&self, revision: u64, objects: Objects) {
        self.models
            .send_replace(Arc::new(Model::build(objects, revision)));
    }
}

fn bundle(content: u8) -> TrustBundle {
    TrustBundle {
        roots: vec![CertificateDer::from(vec![content])].into(),
    }
}

fn client(workload: &str, zone: &str) -> Client {
    Client {
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
        workload: workload.to_owned(),
        zone: zone.to_owned(),
    }
}

#[test]
fn clients_of_one_namespace_and_zone_share() {
    let Fixture { memo, .. } = Fixture::new();
    let key = endpoints_of("cart");
    let (one, _) = memo.resource(&client("web-1", "a"), &key);
    let (other, _) = memo.resource(&client("web-2", "a"), &key);
    assert!(Arc::ptr_eq(&one, &other));
    let (elsewhere, _) = memo.resource(&client("web-3", "b"), &key);
    assert!(!Arc::ptr_eq(&one, &elsewhere));

    let inbound = ResourceKey {
        kind: Some(Kind::Inbound(InboundKey { port: 80 })),
    };
    let (one, _) = memo.resource(&client("web-1", "a"), &inbound);
    let (other, _) = memo.resource(&client("cart-1", "a"), &inbound);
    assert!(!Arc::ptr_eq(&one, &other));
}

#[test]
fn what_stays_the_same_keeps_its_version() {
    let fixture = Fixture::new();
    let (client, key) = (client("web-1", "a"), endpoints_of("cart"));
    let (before, revision) = fixture.memo.resource(&client, &key);
    assert_eq!(revision, 1);

    let mut objects = objects();
    objects.workloads.push(workload("new", "new", 77));
    fixture.change(2, objects.clone());
    let (after, revision) = fixture.memo.resource(&client, &key);
    assert_eq!(revision, 2);
    assert!(Arc::ptr_eq(&before, &after));

    objects.services[0].object.endpoints.push(cart(4));
    fixture.change(3, objects);
    let (changed, _) = fixture.memo.resource(&client, &key);
    assert_ne!(changed.hash, before.hash);
    assert_eq!(
        changed.delta.as_ref().map(|delta| delta.from),
        Some(before.hash)
    );
}

#[test]
fn the_bundle_changes_without_the_model() {
    let fixture = Fixture::new();
    let client = client("web-1", "a");
    let (before, _) = fixture.memo.resource(&client, &trust_bundle());
    let (same, _) = fixture.memo.resource(&client, &trust_bundle());
    assert!(Arc::ptr_eq(&before, &same));
    fixture.bundle.send_replace(bundle(2));
    let (after, _) = fixture.memo.resource(&client, &trust_bundle());
    assert_ne!(before.hash, after.hash);
}
