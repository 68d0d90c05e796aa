//! One authority, made once.

use std::time::Duration;

use crate::common::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::json;
use tokio::sync::watch;
use weft_control_plane::cluster::authority::{self, AuthorityError};
use weft_control_plane::identity::Authority;
use weft_tests::apiserver::Outage;

#[tokio::test]
async fn however_many_race_there_is_one_authority() {
    let server = server().await;
    // Worse than leases allow: all of them believe that they lead.
    let opening = (0..8).map(|_| async {
        let client = client(&server).await;
        authority::open(client, HOME, always_leading())
            .await
            .unwrap()
    });
    let opened: Vec<Authority> = futures_util::future::join_all(opening).await;
    let roots: Vec<_> = opened
        .iter()
        .map(|one| one.bundle().borrow().clone())
        .collect();
    assert!(roots.iter().all(|root| *root == roots[0]));
    let secret = at(&server, &format!("{SECRETS}/weft-authority"))
        .await
        .unwrap();
    assert_eq!(secret["type"], "Opaque");
    let again = authority::open(client(&server).await, HOME, watch::channel(false).1).await;
    assert_eq!(*again.unwrap().bundle().borrow(), roots[0], "and it stays");
    server.stop().await;
}

#[tokio::test]
async fn who_does_not_lead_waits_for_the_authority() {
    let server = server().await;
    let (lead, leading) = watch::channel(false);
    let client = client(&server).await;
    server.set_outage(Outage::Failing(503));
    let opening = tokio::spawn(authority::open(client, HOME, leading));
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.set_outage(Outage::None);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!opening.is_finished());
    assert_eq!(server.count("create", "secrets"), 0, "it makes none");
    lead.send_replace(true);
    tokio::time::timeout(PATIENCE, opening)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(server.count("create", "secrets"), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_lost_or_broken_secret_is_refused_and_left_as_it_is() {
    let server = server().await;
    let client = client(&server).await;
    let first = authority::open(client.clone(), HOME, always_leading())
        .await
        .unwrap();
    let bundle = |text: String| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "weft-trust-bundle", "namespace": "weft"},
            "data": {"trust-bundle.pem": text},
        })
    };
    let pem = first.bundle().borrow().to_pem();
    server.put(&bundle(pem)).await.unwrap();
    let path = format!("{SECRETS}/weft-authority");
    let kept = at(&server, &path).await.unwrap();
    authority::open(client.clone(), HOME, always_leading())
        .await
        .unwrap();

    server.ask(Method::DELETE, &path, None).await;
    let lost = authority::open(client.clone(), HOME, always_leading()).await;
    assert!(matches!(lost, Err(AuthorityError::SecretLost { .. })));
    assert!(at(&server, &path).await.is_none(), "it was not made again");

    let mut broken = kept.clone();
    broken["metadata"] = json!({"name": "weft-authority", "namespace": "weft"});
    let mut restored = broken.clone();
    broken["data"]["authority.pem"] = STANDARD.encode("nothing").into();
    server.put(&broken).await.unwrap();
    let refused = authority::open(client.clone(), HOME, always_leading()).await;
    assert!(matches!(refused, Err(AuthorityError::Corrupt { .. })));

    let state = Authority::make_state("cluster.local", std::time::SystemTime::now()).unwrap();
    let mut other = restored.clone();
    other["data"]["authority.pem"] = STANDARD.encode(&state).into();
    server.put(&other).await.unwrap();
    let refused = authority::open(client.clone(), HOME, always_leading()).await;
    assert!(matches!(refused, Err(AuthorityError::OtherBundle { .. })));

    // What was mended works.
    restored["data"] = kept["data"].clone();
    server.put(&restored).await.unwrap();
    let back = authority::open(client, HOME, always_leading())
        .await
        .unwrap();
    assert_eq!(*back.bundle().borrow(), *first.bundle().borrow());
    server.stop().await;
}
