use serde_json::json;

use super::*;

fn settings() -> Settings {
    Settings::new("weft", "cluster.local", Settings::default_image()).expect("good settings")
}

fn namespace(name: &str, label: Option<&str>) -> Namespace {
    Namespace {
        name: name.to_owned(),
        labels: label
            .map(|value| (INJECT_LABEL.to_owned(), value.to_owned()))
            .into_iter()
            .collect(),
        annotations: BTreeMap::new(),
    }
}

fn decided(pod: &Value) -> Decision {
    decide(&settings(), &namespace("shop", Some("enabled")), pod).0
}

#[test]
fn the_pods_label_goes_over_the_namespaces() {
    let inject = Decision::Inject;
    let disabled = Decision::Skip(Skip::Disabled);
    let not_asked = Decision::Skip(Skip::NotAsked);
    for (of_namespace, of_pod, expected, warnings) in [
        (Some("enabled"), None, &inject, 0),
        (Some("enabled"), Some("enabled"), &inject, 0),
        (Some("enabled"), Some("disabled"), &disabled, 0),
        (Some("disabled"), Some("enabled"), &inject, 0),
        (None, Some("enabled"), &inject, 0),
        (Some("disabled"), None, &disabled, 0),
        (Some("disabled"), Some("disabled"), &disabled, 0),
        (None, None, &not_asked, 0),
        (None, Some("disabled"), &disabled, 0),
        (Some("enabled"), Some("yes"), &inject, 1),
        (Some("yes"), None, &not_asked, 1),
        (Some("Enabled"), Some("true"), &not_asked, 2),
    ] {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "app"}]}});
        if let Some(label) = of_pod {
            pod["metadata"]["labels"] = json!({INJECT_LABEL: label});
        }
        let (decision, told) = decide(&settings(), &namespace("shop", of_namespace), &pod);
        assert_eq!(&decision, expected, "{of_namespace:?} {of_pod:?}");
        assert_eq!(told.len(), warnings, "{told:?}");
    }
}

#[test]
fn what_can_have_no_sidecar_is_skipped_for_a_reason() {
    let pod = |spec: Value| {
        let mut pod = json!({"spec": {"containers": [{"name": "app"}]}});
        for (key, value) in spec.as_object().expect("an object") {
            pod["spec"][key] = value.clone();
        }
        pod
    };
    let mut cases = vec![
        (pod(json!({"hostNetwork": true})), Skip::HostNetwork),
        (pod(json!({"os": {"name": "windows"}})), Skip::Windows),
        (
            pod(json!({"nodeSelector": {"kubernetes.io/os": "windows"}})),
            Skip::Windows,
        ),
        (
            pod(json!({"containers": [{"name": "app"}, {"name": PROXY_CONTAINER}]})),
            Skip::AlreadyInjected,
        ),
        (
            pod(json!({"initContainers": [{"name": PROXY_CONTAINER}]})),
            Skip::AlreadyInjected,
        ),
    ];
    for name in OTHER_SIDECARS {
        cases.push((
            pod(json!({"containers": [{"name": "app"}, {"name": name}]})),
            Skip::OtherMesh(name.to_owned()),
        ));
    }
    let mut mirror = pod(json!({}));
    mirror["metadata"] = json!({"annotations": {"kubernetes.io/config.mirror": "x"}});
    cases.push((mirror, Skip::MirrorPod));
    for (pod, expected) in cases {
        assert_eq!(decided(&pod), Decision::Skip(expected), "{pod}");
    }
    assert_eq!(
        decided(&pod(json!({"hostNetwork": false}))),
        Decision::Inject
    );
    for name in ["kube-system", "weft"] {
        let (decision, _) = decide(
            &settings(),
            &namespace(name, Some("enabled")),
            &pod(json!({})),
        );
        let expected = Skip::SystemNamespace(name.to_owned());
        assert_eq!(decision, Decision::Skip(expected));
    }
}

#[test]
fn what_would_get_around_the_sidecar_is_refused_with_a_mend() {
    let app = |extra: Value| json!({"spec": {"containers": [extra]}});
    for (pod, named) in [
        (
            app(json!({"name": "a", "securityContext": {"runAsUser": 2140}})),
            "uid 2140",
        ),
        (
            json!({"spec": {"securityContext": {"runAsUser": 2140}, "containers": [{"name": "a"}]}}),
            "uid 2140",
        ),
        (
            json!({"spec": {"containers": [{"name": "a"}],
                   "initContainers": [{"name": "i", "securityContext": {"runAsUser": 2140}}]}}),
            "container i",
        ),
        (
            app(json!({"name": "a", "ports": [{"containerPort": 15190}]})),
            "port 15190",
        ),
        (app(json!({"name": INIT_CONTAINER})), INIT_CONTAINER),
        (
            json!({"spec": {"containers": [{"name": "a"}], "volumes": [{"name": TOKEN_VOLUME}]}}),
            TOKEN_VOLUME,
        ),
        (json!({"spec": {"containers": []}}), "spec.containers"),
        (json!({}), "spec.containers"),
        (
            json!({"metadata": {"annotations": "x"}, "spec": {"containers": [{"name": "a"}]}}),
            "metadata.annotations",
        ),
    ] {
        let Decision::Refuse(wrong) = decided(&pod) else {
            panic!("not refused: {pod}");
        };
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].reason.contains(named), "{wrong:?}");
        assert!(!wrong[0].mend.is_empty());
    }
    for fine in [
        json!({"spec": {"securityContext": {"runAsUser": 2140},
               "containers": [{"name": "a", "securityContext": {"runAsUser": 1000}}]}}),
        app(json!({"name": "a", "ports": [{"containerPort": 15190, "protocol": "UDP"}]})),
    ] {
        assert_eq!(decided(&fine), Decision::Inject, "{fine}");
    }
}
