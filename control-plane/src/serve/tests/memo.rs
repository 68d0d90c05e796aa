//! Contents are compiled and encoded once, and keep their version while they stay the same.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{AuthorityKey, InboundKey, ResourceKey};

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
fn contents_are_shared_by_whom_they_are_the_same_for() {
    let Fixture { memo, .. } = Fixture::new();
    let of = |namespace: &str, workload: &str| Client {
        namespace: namespace.to_owned(),
        ..client(workload, "a")
    };
    let shared = |key: &ResourceKey, other: &Client| {
        let (one, _) = memo.resource(&of("shop", "web-1"), key);
        let (other, _) = memo.resource(other, key);
        Arc::ptr_eq(&one, &other)
    };
    let endpoints = endpoints_of("cart");
    assert!(shared(&endpoints, &client("web-2", "b")));
    assert!(shared(&endpoints, &of("ops", "web-2")));

    let authority = "cart:80".to_owned();
    let authority = ResourceKey {
        kind: Some(Kind::Authority(AuthorityKey { authority })),
    };
    assert!(shared(&authority, &client("web-2", "b")));
    assert!(!shared(&authority, &of("ops", "web-2")));

    let inbound = ResourceKey {
        kind: Some(Kind::Inbound(InboundKey { port: 80 })),
    };
    assert!(shared(&inbound, &client("web-1", "a")));
    assert!(!shared(&inbound, &client("cart-1", "a")));
}

#[test]
fn what_no_stream_has_is_forgotten() {
    let Fixture { memo, .. } = Fixture::new();
    let client = client("web-1", "a");
    let (held, _) = memo.resource(&client, &endpoints_of("cart"));
    for index in 0..5000 {
        memo.resource(&client, &endpoints_of(&format!("none-{index}")));
    }
    assert!(memo.len() < 3000, "{}", memo.len());
    let (again, _) = memo.resource(&client, &endpoints_of("cart"));
    assert!(Arc::ptr_eq(&held, &again));
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
