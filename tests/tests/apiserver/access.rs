//! Who somebody is and what they may do.

use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};
use weft_tests::apiserver::User;

use super::{client, code, config_map, server};

#[tokio::test]
async fn tokens_are_reviewed_with_audience_and_pod() {
    let (server, _) = server().await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "a"}]},
    });
    let pod = server.put(&pod).await.unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let request = json!({"spec": {
        "audiences": ["weft.dev"],
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "a", "uid": uid},
    }});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (code, answer) = server.ask(Method::POST, path, Some(&request)).await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let review = async |token: &str, audience: &str| {
        let review = json!({"spec": {"token": token, "audiences": [audience]}});
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        server.ask(Method::POST, path, Some(&review)).await.1["status"].clone()
    };
    let good = review(&token, "weft.dev").await;
    assert_eq!(good["authenticated"], true);
    assert_eq!(good["audiences"], json!(["weft.dev"]));
    assert_eq!(
        good["user"]["username"],
        "system:serviceaccount:default:default"
    );
    let extra = &good["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["a"]));
    assert_eq!(extra["authentication.kubernetes.io/pod-uid"], json!([uid]));
    for (token, audience) in [(&*token, "other"), ("made up", "weft.dev")] {
        let refused = review(token, audience).await;
        assert_ne!(refused["authenticated"], true, "{refused}");
        assert!(refused["error"].is_string(), "{refused}");
    }
    let short = server.mint_token(("default", "default"), &["weft.dev"], Duration::ZERO, None);
    assert_eq!(
        review(&short, "weft.dev").await["error"],
        "token has expired"
    );
    let pod = "/api/v1/namespaces/default/pods/a?gracePeriodSeconds=0";
    server.ask(Method::DELETE, pod, None).await;
    assert_eq!(
        review(&token, "weft.dev").await["error"],
        "pod has been deleted"
    );
    server.stop().await;
}

#[tokio::test]
async fn roles_decide_once_they_are_asked() {
    let (server, admin) = server().await;
    let hour = Duration::from_secs(3600);
    let token = server.mint_token(("default", "default"), &[], hour, None);
    let pod_client = client(&server.kubeconfig_with_token(&token)).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(pod_client.clone());
    maps.list(&ListParams::default()).await.unwrap();
    server.enforce_roles();
    match maps.list(&ListParams::default()).await.unwrap_err() {
        kube::Error::Api(status) => {
            assert_eq!((status.code, &*status.reason), (403, "Forbidden"));
            let message = "configmaps is forbidden: User \"system:serviceaccount:default:default\" \
                cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"";
            assert_eq!(status.message, message);
        }
        other => panic!("{other}"),
    }
    let group = "rbac.authorization.k8s.io";
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]});
    for manifest in [
        json!({
            "kind": "ClusterRole", "metadata": {"name": "part", "labels": {"to": "reader"}},
            "rules": [rule],
        }),
        json!({
            "kind": "ClusterRole", "metadata": {"name": "reader"}, "rules": [],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "reader"}}]},
        }),
        json!({
            "kind": "RoleBinding", "metadata": {"name": "reader", "namespace": "default"},
            "roleRef": {"kind": "ClusterRole", "name": "reader", "apiGroup": group},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
        }),
    ] {
        let mut manifest = manifest;
        manifest["apiVersion"] = format!("{group}/v1").into();
        server.put(&manifest).await.unwrap();
    }
    maps.list(&ListParams::default()).await.unwrap();
    let denied = maps
        .create(&PostParams::default(), &config_map("a", "1"))
        .await;
    assert_eq!(code(denied).0, 403);
    let all: Api<ConfigMap> = Api::all(pod_client.clone());
    assert_eq!(
        code(all.list(&ListParams::default()).await).0,
        403,
        "not beyond its namespace"
    );
    let asked = json!({"spec": {"namespace": "default"}});
    let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews");
    let request = request.body(serde_json::to_vec(&asked).unwrap()).unwrap();
    let answer: Value = pod_client.request(request).await.unwrap();
    assert_eq!(answer["status"]["resourceRules"], json!([rule]));
    let maps: Api<ConfigMap> = Api::default_namespaced(admin);
    maps.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let named = client(&server.kubeconfig_of(&User::new("jo", &["team"])).unwrap()).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(named);
    assert_eq!(code(maps.list(&ListParams::default()).await).0, 403);
    let stranger = client(&server.kubeconfig_with_token("made up")).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(stranger);
    assert_eq!(
        code(maps.list(&ListParams::default()).await),
        (401, "Unauthorized".to_owned())
    );
    server.stop().await;
}
