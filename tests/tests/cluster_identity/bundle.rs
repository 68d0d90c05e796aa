//! Where the trust bundle is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::common::*;
use http::Method;
use serde_json::json;
use tokio::sync::watch;
use weft_control_plane::cluster::authority::{self};
use weft_control_plane::cluster::bundle::{Bundles, Reached};
use weft_tests::apiserver::Outage;

#[tokio::test]
async fn the_trust_bundle_follows_the_namespaces_that_want_sidecars() {
    let server = server().await;
    for name in ["shop", "bank", "plain"] {
        namespace(&server, name, name != "plain").await;
    }
    let client = client(&server).await;
    let authority = authority::open(client.clone(), HOME, always_leading())
        .await
        .unwrap();
    let pem = authority.bundle().borrow().to_pem();
    let set = |names: &[&str]| Arc::new(names.iter().map(|name| (*name).to_owned()).collect());
    let (injected, following) = watch::channel::<Arc<BTreeSet<String>>>(set(&["shop", "ending"]));
    let (lead, leading) = watch::channel(false);
    let bundles = Bundles {
        client,
        namespace: "weft".to_owned(),
        bundle: authority.bundle(),
        injected: following,
        leading,
        reached: watch::channel(Reached::default()).0,
        period: Duration::from_millis(300),
    };
    let task = tokio::spawn(bundles.run());
    let path =
        |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps/weft-trust-bundle");
    let holds = async |namespace: &str| {
        let map = at(&server, &path(namespace)).await?;
        map["data"]["trust-bundle.pem"]
            .as_str()
            .map(|text| text == pem)
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        holds("shop").await,
        None,
        "who does not lead writes nothing"
    );
    assert_eq!(server.count("list", "configmaps"), 0);

    // A namespace that is not there (any more) holds up no other.
    lead.send_replace(true);
    for name in ["shop", "weft"] {
        until(name, async || holds(name).await == Some(true)).await;
    }
    assert_eq!(holds("bank").await, None);
    injected.send_replace(set(&["shop", "bank"]));
    until("bank", async || holds("bank").await == Some(true)).await;

    // On difference only.
    let written = || {
        let verbs = ["create", "update", "patch", "delete"];
        verbs
            .map(|verb| server.count(verb, "configmaps"))
            .iter()
            .sum::<u64>()
    };
    let before = written();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(written(), before);

    // Changed by somebody, with what else they put there; and deleted by somebody.
    let spoil = json!({"data": {"trust-bundle.pem": "nothing", "more": "theirs"}});
    server.ask(Method::PATCH, &path("shop"), Some(&spoil)).await;
    until("corrected", async || holds("shop").await == Some(true)).await;
    let map = at(&server, &path("shop")).await.unwrap();
    assert_eq!(map["data"]["more"], "theirs");
    server.ask(Method::DELETE, &path("bank"), None).await;
    until("made again", async || holds("bank").await == Some(true)).await;

    // One that is not ours stays where it is not wanted.
    let foreign = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"trust-bundle.pem": "theirs"},
        "metadata": {"name": "weft-trust-bundle", "namespace": "plain"},
    });
    server.put(&foreign).await.unwrap();
    injected.send_replace(set(&["bank"]));
    until("taken away", async || holds("shop").await.is_none()).await;
    assert_eq!(holds("plain").await, Some(false));

    // After the API server was away, what was missed meanwhile is done.
    server.set_outage(Outage::Away);
    injected.send_replace(set(&["shop", "bank"]));
    tokio::time::sleep(Duration::from_millis(700)).await;
    server.set_outage(Outage::None);
    until("made up for", async || holds("shop").await == Some(true)).await;
    task.abort();
    server.stop().await;
}
