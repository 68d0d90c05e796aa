use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn settings() -> Settings {
    Settings::new("weft", "cluster.local", Settings::default_image()).expect("good settings")
}

fn namespace(annotations: &[(&str, &str)]) -> Namespace {
    let map = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    Namespace {
        name: "shop".to_owned(),
        labels: map(&[("weft.dev/inject", "enabled")]),
        annotations: map(annotations),
    }
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "web-5d9-", "labels": {"app": "web"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d9",
                "uid": "owner", "controller": true}],
        },
        "spec": {"containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 8080}]}]},
    })
}

/// As API servers write it, with this pod and what is changed in the request.
fn review(pod: &Value, changes: Value) -> Value {
    let mut request = json!({
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "shop", "operation": "CREATE", "object": pod, "oldObject": null,
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
    });
    let Value::Object(changes) = changes else {
        panic!("changes are an object");
    };
    for (key, value) in changes {
        request[key] = value;
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
}

fn read(review: &Value) -> Request {
    Request::read(review.to_string().as_bytes()).expect("a review")
}

fn patch(answer: &Answer) -> Vec<json_patch::PatchOperation> {
    let response = &answer.review["response"];
    assert_eq!(response["patchType"], "JSONPatch");
    let patch = STANDARD.decode(response["patch"].as_str().expect("a patch"));
    serde_json::from_slice(&patch.expect("base64")).expect("operations")
}

#[test]
fn a_pod_that_is_asked_for_comes_back_patched() {
    let request = read(&review(&pod(), json!({})));
    assert_eq!((&*request.namespace, &*request.name), ("shop", "web-5d9-"));
    let answer = request.judge(&settings(), &namespace(&[]));
    assert!(answer.is_allowed());
    assert_eq!((answer.fate, answer.reason), (Fate::Patched, "asked"));
    assert_eq!(answer.review["apiVersion"], API_VERSION);
    assert_eq!(answer.review["kind"], KIND);
    assert_eq!(
        answer.review["response"]["uid"],
        "705ab4f5-6393-11e8-b7cc-42010a800002"
    );
    assert!(answer.review["response"].get("warnings").is_none());
    assert!(answer.news.is_none() && !answer.is_doubtful);

    let mut patched = pod();
    json_patch::patch(&mut patched, &patch(&answer)).expect("it applies");
    let containers = json::containers(&patched).map(|(_, container)| json::name(container));
    assert_eq!(
        containers.collect::<Vec<_>>(),
        ["weft-init", "weft-proxy", "app"]
    );
    // Asked again, after another webhook.
    let again = read(&review(&patched, json!({}))).judge(&settings(), &namespace(&[]));
    assert_eq!(
        (again.fate, again.reason),
        (Fate::Skipped, "already_injected")
    );
    assert!(again.review["response"].get("patch").is_none() && !again.is_doubtful);
}

#[test]
fn what_is_not_a_pod_being_created_stays_as_it_is() {
    for (changes, reason) in [
        (
            json!({"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}}),
            "not_a_pod",
        ),
        (
            json!({"kind": {"group": "", "version": "v2", "kind": "Pod"}}),
            "not_a_pod",
        ),
        (json!({"subResource": "ephemeralcontainers"}), "not_a_pod"),
        (json!({"operation": "UPDATE"}), "not_created"),
        (
            json!({"operation": "DELETE", "object": null}),
            "not_created",
        ),
        (json!({"object": null}), "not_created"),
    ] {
        let request = read(&review(&pod(), changes.clone()));
        assert_eq!(request.left_alone, Some(reason), "{changes}");
        let answer = request.leave_alone(reason);
        assert!(answer.is_allowed() && answer.review["response"].get("patch").is_none());
        assert_eq!((answer.fate, answer.reason), (Fate::Skipped, reason));
    }
    assert_eq!(
        read(&review(&pod(), json!({"subResource": ""}))).left_alone,
        None
    );
}

#[test]
fn skips_are_allowed_and_surprises_are_told() {
    let labelled = |value: &str| {
        let mut pod = pod();
        pod["metadata"]["labels"]["weft.dev/inject"] = json!(value);
        pod
    };
    let mut on_node = pod();
    on_node["spec"]["hostNetwork"] = json!(true);
    for (pod, reason, warns, doubtful) in [
        (labelled("disabled"), "disabled", false, false),
        (on_node, "host_network", true, false),
    ] {
        let answer = read(&review(&pod, json!({}))).judge(&settings(), &namespace(&[]));
        assert!(answer.is_allowed(), "{reason}");
        assert_eq!((answer.fate, answer.reason), (Fate::Skipped, reason));
        let warnings = json::list(&answer.review, "/response/warnings").len();
        assert_eq!(
            (warnings > 0, answer.news.is_some()),
            (warns, warns),
            "{reason}"
        );
        assert!(answer.news.is_none_or(|news| !news.warning), "{reason}");
        assert_eq!(answer.is_doubtful, doubtful, "{reason}");
    }
}

#[test]
fn nobody_asks_about_pods_that_are_not_labelled_so_that_may_be_out_of_date() {
    let unlabelled = Namespace {
        name: "shop".to_owned(),
        ..Namespace::default()
    };
    let answer = read(&review(&pod(), json!({}))).judge(&settings(), &unlabelled);
    assert_eq!(answer.reason, "not_asked");
    assert!(answer.is_doubtful);
    let mut disabled = unlabelled;
    disabled
        .labels
        .insert(INJECT_LABEL.to_owned(), INJECT_DISABLED.to_owned());
    let answer = read(&review(&pod(), json!({}))).judge(&settings(), &disabled);
    assert!(answer.reason == "disabled" && answer.is_doubtful);
}

#[test]
fn refusals_say_what_is_wrong_and_how_to_mend_it_and_the_owner_is_told() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({"config.weft.dev/log-level": "loud"});
    pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(15190);
    let request = read(&review(&pod, json!({})));
    let answer = request.judge(&settings(), &namespace(&[]));
    assert!(!answer.is_allowed());
    assert_eq!((answer.fate, answer.reason), (Fate::Refused, "invalid"));
    let status = &answer.review["response"]["status"];
    assert_eq!(
        (&status["code"], &status["reason"]),
        (&json!(422), &json!("Invalid"))
    );
    let message = status["message"].as_str().expect("words");
    for words in [
        "declares port 15190",
        "another port",
        "is \"loud\"",
        "give error, warn",
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    let news = answer.news.expect("an event");
    assert_eq!(
        (&*news.regarding.name, &*news.regarding.namespace),
        ("web-5d9", "shop")
    );
    assert!(
        news.warning && news.note.starts_with("pod web-5d9-: "),
        "{news:?}"
    );
    assert!(news.note.contains("15190"));

    let dry = read(&review(&pod, json!({"dryRun": true})));
    let answer = dry.judge(&settings(), &namespace(&[]));
    assert!(
        !answer.is_allowed() && answer.news.is_none(),
        "a dry run leaves nothing behind"
    );
}

#[test]
fn an_unknown_namespace_fails_closed() {
    let request = read(&review(&pod(), json!({})));
    let answer = request.fail("the API server did not answer");
    assert!(!answer.is_allowed());
    assert_eq!(
        (answer.fate, answer.reason),
        (Fate::Failed, "namespace_unknown")
    );
    let status = &answer.review["response"]["status"];
    assert_eq!(status["code"], 403);
    let message = status["message"].as_str().expect("words");
    assert!(
        message.contains("\"shop\"") && message.contains("try again"),
        "{message}"
    );
    assert_eq!(answer.news.expect("an event").reason, "InjectionFailed");
}

#[test]
fn names_come_from_the_request_or_the_pod() {
    let named = json!({"metadata": {"name": "a", "namespace": "of-pod"}, "spec": {}});
    let request = read(&review(
        &named,
        json!({"name": "b", "namespace": "of-request"}),
    ));
    assert_eq!((&*request.name, &*request.namespace), ("b", "of-request"));
    let request = read(&review(&named, json!({"name": "", "namespace": null})));
    assert_eq!((&*request.name, &*request.namespace), ("a", "of-pod"));
    let request = read(&review(&json!({}), json!({"namespace": null})));
    assert_eq!((&*request.name, &*request.namespace), ("", ""));
}

#[test]
fn what_is_no_review_is_an_error_that_says_so() {
    for (text, words) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "is \"\" of \"\""),
        ("7", "cannot be read"),
        ("{}", "is \"\" of \"\""),
        (
            r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{}}"#,
            "\"admission.k8s.io/v1beta1\"; this webhook speaks AdmissionReview of admission.k8s.io/v1 only",
        ),
        (r#"{"apiVersion":"v1","kind":"Pod"}"#, "is \"Pod\""),
        (
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#,
            "cannot be read",
        ),
        (
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"a"}}"#,
            "kind",
        ),
    ] {
        let error = Request::read(text.as_bytes()).expect_err(text).to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(Request::read(deep.as_bytes()).is_err());
}

#[test]
fn warnings_fit_into_headers_and_are_bounded() {
    let mut pod = pod();
    for index in 0..40 {
        let key = format!("config.weft.dev/unknown-{index}");
        pod["metadata"]["annotations"][key] = json!("x");
    }
    let answer = read(&review(&pod, json!({}))).judge(&settings(), &namespace(&[]));
    let warnings = json::list(&answer.review, "/response/warnings");
    assert_eq!(warnings.len(), MAX_WARNINGS);
    assert_eq!(warnings[MAX_WARNINGS - 1], "weft: and 25 more warnings");
    for warning in warnings {
        let warning = warning.as_str().expect("text");
        assert!(
            warning.len() <= MAX_WARNING && warning.starts_with("weft: "),
            "{warning}"
        );
    }
}

proptest! {
    #[test]
    fn shortened_text_is_whole_letters_without_control(text in any::<String>(), bytes in 3_usize..64) {
        let short = shortened(text.clone(), bytes);
        prop_assert!(short.len() <= bytes.max(3));
        prop_assert!(!short.contains(char::is_control));
        if text.len() <= bytes && !text.contains(char::is_control) {
            prop_assert_eq!(short, text);
        }
    }

    /// Whatever is in it, a review is answered, or refused as none.
    #[test]
    fn reading_and_judging_never_panics(pod in json(), uid in any::<String>()) {
        let review = review(&pod, json!({"uid": uid}));
        if let Ok(request) = Request::read(review.to_string().as_bytes()) {
            let answer = request.judge(&settings(), &namespace(&[]));
            prop_assert_eq!(&answer.review["response"]["uid"], &json!(uid));
        }
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("metadata".to_owned()),
        Just("spec".to_owned()),
        Just("containers".to_owned()),
        Just("initContainers".to_owned()),
        Just("annotations".to_owned()),
        Just("labels".to_owned()),
        Just("ports".to_owned()),
        Just("name".to_owned()),
    ];
    leaf.prop_recursive(5, 48, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}
