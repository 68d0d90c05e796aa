//! Webhooks that change what is created.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};

use super::{code, read, server};

/// A webhook that gives everything a label, over TLS of its own; and how often it was asked.
async fn webhook() -> (std::net::SocketAddr, String, Arc<Mutex<Vec<Value>>>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["injector.weft.svc".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let told = Arc::clone(&told);
            let service = hyper::service::service_fn(
                move |request: http::Request<hyper::body::Incoming>| {
                    let told = Arc::clone(&told);
                    async move {
                        let body = request.into_body().collect().await?.to_bytes();
                        let review: Value = serde_json::from_slice(&body).unwrap();
                        let request = &review["request"];
                        let is_bad = request["object"]["metadata"]["name"] == "bad";
                        let patch = json!([{"op": "add", "path": "/metadata/labels/injected", "value": "yes"}]);
                        let mut response = json!({"uid": request["uid"], "allowed": !is_bad});
                        if is_bad {
                            response["status"] = json!({"message": "no such pod"});
                        } else {
                            response["patchType"] = "JSONPatch".into();
                            response["patch"] = STANDARD.encode(patch.to_string()).into();
                        }
                        let answer = json!({
                            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response,
                        });
                        told.lock().push(review);
                        Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::from(
                            answer.to_string(),
                        ))))
                    }
                },
            );
            let serving = hyper::server::conn::http1::Builder::new();
            let _ = serving
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    });
    (address, cert.pem(), asked)
}

#[tokio::test]
async fn webhooks_change_pods_and_refuse_them() {
    let (server, client) = server().await;
    let (address, bundle, asked) = webhook().await;
    let configuration = |policy: &str, bundle: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "injector"},
            "webhooks": [{
                "name": "inject.weft.dev", "failurePolicy": policy, "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "namespaceSelector": {"matchLabels": {"weft.dev/inject": "enabled"}},
                "objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]},
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
                    "operations": ["CREATE"],
                }],
                "clientConfig": {
                    "caBundle": STANDARD.encode(bundle),
                    "service": {"namespace": "weft", "name": "injector", "path": "/inject"},
                },
            }],
        })
    };
    server.put(&configuration("Fail", &bundle)).await.unwrap();
    server.route_webhook(("weft", "injector"), address);
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop", "labels": {"weft.dev/inject": "enabled"}},
    });
    server.put(&namespace).await.unwrap();
    let pod = |name: &str, labels: Value| -> Pod {
        read(json!({
            "metadata": {"name": name, "labels": labels}, "spec": {"containers": [{"name": "a"}]},
        }))
    };
    let shop: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let elsewhere: Api<Pod> = Api::default_namespaced(client);
    let post = PostParams::default();
    let injected = |pod: Pod| pod.metadata.labels.unwrap().contains_key("injected");
    assert!(injected(
        shop.create(&post, &pod("a", json!({"app": "a"})))
            .await
            .unwrap()
    ));
    assert!(!injected(
        shop.create(&post, &pod("b", json!({"skip": "1"})))
            .await
            .unwrap()
    ));
    assert!(!injected(
        elsewhere
            .create(&post, &pod("a", json!({"app": "a"})))
            .await
            .unwrap()
    ));
    match shop
        .create(&post, &pod("bad", json!({"app": "a"})))
        .await
        .unwrap_err()
    {
        kube::Error::Api(status) => {
            assert_eq!(status.code, 403);
            let message = "admission webhook \"inject.weft.dev\" denied the request: no such pod";
            assert_eq!(status.message, message);
        }
        other => panic!("{other}"),
    }
    assert_eq!(asked.lock().len(), 2);
    assert_eq!(asked.lock()[0]["request"]["operation"], "CREATE");
    // A bundle that does not vouch for it is a failure, which may be ignored.
    server
        .put(&configuration("Fail", &server.ca()))
        .await
        .unwrap();
    assert_eq!(
        code(shop.create(&post, &pod("c", json!({"app": "a"}))).await).0,
        500
    );
    server
        .put(&configuration("Ignore", &server.ca()))
        .await
        .unwrap();
    assert!(!injected(
        shop.create(&post, &pod("c", json!({"app": "a"})))
            .await
            .unwrap()
    ));
    assert_eq!(asked.lock().len(), 2);
    server.stop().await;
}
