//! Whose a token is.

use std::sync::Arc;
use std::time::Duration;

use crate::common::*;
use http::Method;
use serde_json::json;
use tokio::sync::watch;
use weft_control_plane::cluster::review::TokenReviews;
use weft_control_plane::identity::{ReviewError, TokenReviewer as _, WorkloadIdentity};
use weft_control_plane::index::{
    MeshSettings, Model, Name, Objects, Origin, Publisher, Sourced, Workload,
};
use weft_tests::apiserver::{ApiServer, Outage};

fn model(workloads: &[(&str, &str, &str)]) -> Objects {
    let workload = |&(namespace, name, account): &(&str, &str, &str)| Sourced {
        origin: Origin {
            file: "cluster".into(),
            line: 0,
        },
        object: Workload {
            name: Name::new(namespace, name),
            owner: name.to_owned(),
            service_account: account.to_owned(),
            addresses: Vec::new(),
            meshed: true,
            zone: String::new(),
            weight: 1,
            draining: false,
            ended: false,
            ports: Vec::new(),
        },
    };
    Objects {
        settings: MeshSettings {
            trust_domain: "cluster.local".to_owned(),
            networks: Vec::new(),
            server_first_ports: Vec::new(),
            minimum_mtls: None,
            default_authorization: weft_control_plane::policy::DefaultAuthorization::AllowAll,
        },
        listeners: Vec::new(),
        workloads: workloads.iter().map(workload).collect(),
        services: Vec::new(),
        policies: Vec::new(),
        broken: Vec::new(),
        routes: Vec::new(),
        grants: Vec::new(),
        refusals: Vec::new(),
    }
}

/// A namespace with an account and a pod of it. The pod's uid.
async fn pod(server: &ApiServer, name: &str, account: &str) -> String {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"serviceAccountName": account, "containers": [{"name": "app", "image": "app"}]},
    });
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": account, "namespace": "shop"},
    });
    server.put(&account).await.unwrap();
    let pod = server.put(&pod).await.unwrap();
    pod["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// What a reviewer says, in a word.
fn said(result: &Result<WorkloadIdentity, ReviewError>) -> &'static str {
    match result {
        Ok(_) => "good",
        Err(ReviewError::Invalid(_)) => "invalid",
        Err(ReviewError::UnknownWorkload { .. }) => "unknown",
        Err(ReviewError::Unavailable(_)) => "unavailable",
    }
}

#[tokio::test]
async fn a_token_is_believed_for_what_it_proves() {
    let server = server().await;
    namespace(&server, "shop", true).await;
    let web = pod(&server, "web", "frontend").await;
    let late = pod(&server, "late", "frontend").await;
    let other = pod(&server, "moved", "backend").await;
    let known = [
        ("shop", "web", "frontend"),
        // As a pod of that name was before it was made anew with another account.
        ("shop", "moved", "frontend"),
    ];
    let (publisher, models): (Publisher, watch::Receiver<Arc<Model>>) =
        Publisher::start(model(&known));
    let reviews = TokenReviews::new(client(&server).await, models);

    let mint = |account: &str, audience: &str, life: Duration, pod: Option<(&str, &str)>| {
        server.mint_token(("shop", account), &[audience], life, pod)
    };
    let good = mint("frontend", "weft.dev", HOUR, Some(("web", &web)));
    let owner = reviews.review(&good).await.unwrap();
    assert_eq!(
        (&*owner.namespace, &*owner.service_account, &*owner.workload),
        ("shop", "frontend", "web")
    );

    // Another cluster, with a pod and an account of the very same names.
    let elsewhere = self::server().await;
    namespace(&elsewhere, "shop", true).await;
    let namesake = pod(&elsewhere, "web", "frontend").await;
    let of_another_cluster = elsewhere.mint_token(
        ("shop", "frontend"),
        &["weft.dev"],
        HOUR,
        Some(("web", &namesake)),
    );
    let wrong = [
        ("of another cluster", of_another_cluster),
        (
            "of this cluster, for another's pod",
            mint("frontend", "weft.dev", HOUR, Some(("web", &namesake))),
        ),
        (
            "a pod that is not there",
            mint("frontend", "weft.dev", HOUR, Some(("nobody", &web))),
        ),
        (
            "its claims alone",
            good[..good.rfind('.').unwrap()].to_owned(),
        ),
        ("a line break behind it", format!("{good}\n")),
        (
            "a join token",
            format!("weft-join/shop/web/{}", "0".repeat(64)),
        ),
        (
            "another audience",
            mint("frontend", "other", HOUR, Some(("web", &web))),
        ),
        (
            "the API server's audience",
            server.mint_token(("shop", "frontend"), &[], HOUR, None),
        ),
        ("no pod", mint("frontend", "weft.dev", HOUR, None)),
        (
            "expired",
            mint("frontend", "weft.dev", Duration::ZERO, Some(("web", &web))),
        ),
        (
            "an account that is gone",
            mint("gone", "weft.dev", HOUR, Some(("web", &web))),
        ),
        (
            "another pod's uid",
            mint("frontend", "weft.dev", HOUR, Some(("web", "1-2-3"))),
        ),
        ("garbage", "garbage".to_owned()),
        ("nothing", String::new()),
        ("too long", "x".repeat(20 * 1024)),
        ("17 KiB", format!("{good}{}", "0".repeat(17 * 1024))),
        ("spoiled", format!("{good}0")),
    ];
    for (what, token) in &wrong {
        let result = reviews.review(token).await;
        assert_eq!(said(&result), "invalid", "{what}: {result:?}");
    }
    let (_, unbound) = wrong.iter().find(|(what, _)| *what == "no pod").unwrap();
    let unbound = reviews.review(unbound).await.unwrap_err().to_string();
    assert!(
        unbound.contains("projected volume"),
        "how to mend it: {unbound}"
    );

    // Good, and not known yet: an account that does not fit is a younger pod's.
    let early = mint("frontend", "weft.dev", HOUR, Some(("late", &late)));
    let moved = mint("backend", "weft.dev", HOUR, Some(("moved", &other)));
    for token in [&early, &moved] {
        let result = reviews.review(token).await;
        assert_eq!(said(&result), "unknown", "{result:?}");
    }
    publisher.publish(model(&[
        ("shop", "late", "frontend"),
        ("shop", "web", "frontend"),
    ]));
    assert_eq!(said(&reviews.review(&early).await), "good");

    let asked = server.count("create", "tokenreviews.authentication.k8s.io");
    assert_eq!(said(&reviews.review(&good).await), "good");
    let again = server.count("create", "tokenreviews.authentication.k8s.io");
    assert_eq!(again, asked + 1, "every token is looked at anew");

    // While the API server is away nobody is refused for good, and nothing shows the token.
    for outage in [Outage::Away, Outage::Failing(500), Outage::Hang] {
        server.set_outage(outage);
        let result = reviews.review(&good).await;
        assert_eq!(said(&result), "unavailable", "{outage:?}: {result:?}");
        assert!(!format!("{result:?}").contains(&good));
    }
    server.set_outage(Outage::None);
    assert_eq!(said(&reviews.review(&good).await), "good");
    let gone = "/api/v1/namespaces/shop/pods/web?gracePeriodSeconds=0";
    server.ask(Method::DELETE, gone, None).await;
    assert_eq!(
        said(&reviews.review(&good).await),
        "invalid",
        "its pod is gone"
    );
    elsewhere.stop().await;
    server.stop().await;
}
