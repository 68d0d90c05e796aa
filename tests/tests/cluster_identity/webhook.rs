//! What webhooks are trusted by.

use std::time::{Duration, Instant};

use crate::common::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use weft_control_plane::cluster::webhook::{self, Webhook};
use weft_control_plane::serve::Metrics;
use weft_tests::apiserver::ApiServer;

pub(crate) fn webhooks(count: usize) -> Value {
    let webhooks: Vec<Value> = (0..count)
        .map(|index| {
            json!({
                "name": format!("injector-{index}.weft.dev"),
                "clientConfig": {"service": {"name": "weft-injector", "namespace": "weft", "path": "/"}},
                "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
                "rules": [],
            })
        })
        .collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "weft-injector"}, "webhooks": webhooks,
    })
}

pub(crate) const CONFIGURATION: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector";

/// The roots that every webhook trusts, base64; `None` where they do not agree.
pub(crate) async fn ca_bundle(server: &ApiServer) -> Option<String> {
    let configuration = at(server, CONFIGURATION).await?;
    let webhooks = configuration["webhooks"].as_array()?;
    let first = webhooks[0]["clientConfig"]["caBundle"].as_str()?;
    let all = webhooks
        .iter()
        .all(|one| one["clientConfig"]["caBundle"] == first);
    all.then(|| first.to_owned())
}

#[tokio::test]
async fn the_webhooks_trust_what_the_secret_says() {
    let server = server().await;
    let (lead, leading) = watch::channel(false);
    let timing = webhook::Timing {
        period: Duration::from_millis(100),
        ..webhook::Timing::default()
    };
    let expiry = Metrics::new().gauge("expiry", "");
    let webhook = Webhook::new(client(&server).await, "weft", timing, leading, expiry);
    let task = tokio::spawn(webhook.run());
    let path = format!("{SECRETS}/weft-injector-certificate");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(
        at(&server, &path).await.is_none(),
        "who does not lead writes nothing"
    );
    lead.send_replace(true);
    until("a certificate", async || at(&server, &path).await.is_some()).await;
    let secret = at(&server, &path).await.unwrap();
    assert_eq!(secret["type"], "kubernetes.io/tls");
    let root = secret["data"]["ca.crt"].as_str().unwrap().to_owned();

    // The configuration appears later, is changed by somebody, loses one, gains one.
    let trusts = async |root: &str| ca_bundle(&server).await.as_deref() == Some(root);
    server.put(&webhooks(2)).await.unwrap();
    until("both trust it", async || trusts(&root).await).await;
    server.put(&webhooks(3)).await.unwrap();
    until("all three trust it", async || trusts(&root).await).await;
    let resource = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
    let patches = server.count("patch", resource);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        server.count("patch", resource),
        patches,
        "on difference only"
    );

    // A Secret that is spoiled or deleted is made anew.
    let spoiled = json!({"data": {"tls.crt": STANDARD.encode("nothing")}});
    server.ask(Method::PATCH, &path, Some(&spoiled)).await;
    until("made anew", async || {
        let bundle = ca_bundle(&server).await;
        bundle.is_some_and(|bundle| bundle != root)
    })
    .await;
    // One that somebody else keeps is published and not touched.
    let foreign =
        json!({"metadata": {"labels": null}, "data": {"ca.crt": STANDARD.encode("theirs")}});
    server.ask(Method::PATCH, &path, Some(&foreign)).await;
    until("theirs is trusted", async || {
        trusts(&STANDARD.encode("theirs")).await
    })
    .await;
    server.ask(Method::DELETE, &path, None).await;
    until("ours again", async || {
        let secret = at(&server, &path).await;
        let root = secret.and_then(|secret| secret["data"]["ca.crt"].as_str().map(str::to_owned));
        ca_bundle(&server)
            .await
            .is_some_and(|bundle| Some(bundle) == root)
    })
    .await;
    task.abort();
    server.stop().await;
}

/// At every moment of several renewals, what is served is of a root that is trusted, and what is about to
/// be served was trusted for the time that API servers need.
#[tokio::test]
async fn renewals_leave_no_moment_without_trust() {
    let server = server().await;
    server.put(&webhooks(2)).await.unwrap();
    let timing = webhook::Timing {
        life: Duration::from_secs(9),
        settle: Duration::from_millis(700),
        period: Duration::from_millis(100),
    };
    let expiry = Metrics::new().gauge("expiry", "");
    let webhook = Webhook::new(
        client(&server).await,
        "weft",
        timing,
        always_leading(),
        expiry,
    );
    let task = tokio::spawn(webhook.run());
    let path = format!("{SECRETS}/weft-injector-certificate");
    until("published", async || ca_bundle(&server).await.is_some()).await;

    let pem = |text: &str| String::from_utf8(STANDARD.decode(text).unwrap()).unwrap();
    let mut served = Vec::new();
    let mut most_roots = 0;
    let started = Instant::now();
    while served.len() < 3 {
        assert!(started.elapsed() < PATIENCE, "{} renewals", served.len());
        // The Secret first: by when the roots are read they may only be more.
        let secret = at(&server, &path).await.unwrap();
        let bundle = pem(&ca_bundle(&server).await.unwrap());
        let certificate = pem(secret["data"]["tls.crt"].as_str().unwrap());
        assert!(is_vouched_for(&certificate, &bundle));
        most_roots = most_roots.max(bundle.matches("BEGIN").count());
        if served.last() != Some(&certificate) {
            served.push(certificate);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(most_roots >= 2, "old and new together");
    task.abort();
    server.stop().await;
}

/// Whether one of these roots has signed the certificate.
fn is_vouched_for(certificate: &str, roots: &str) -> bool {
    use x509_parser::pem::Pem;
    let parsed = |text: &str| -> Vec<Pem> {
        Pem::iter_from_buffer(text.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap()
    };
    let (leaf, roots) = (parsed(certificate), parsed(roots));
    let leaf = leaf[0].parse_x509().unwrap();
    let key_of = |pem: &Pem| {
        let root = pem.parse_x509().unwrap();
        let key = root.public_key().subject_public_key.data.to_vec();
        aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
            key,
        )
    };
    let signed = leaf.tbs_certificate.as_ref();
    let signature = &leaf.signature_value.data;
    roots
        .iter()
        .any(|root| key_of(root).verify(signed, signature).is_ok())
}
