//! Each check on facts that somebody wrote down.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};
use weft_control_plane::check::{Finding, Report, Severity};
use weft_control_plane::policy::schema;
use weft_proto::names::{CONTROL_PLANE_SERVICE_ACCOUNT, cluster};

use super::facts::{Maybe, Trouble};
use super::time::{DAY, moment, span};
use super::*;

/// Saturday, 21 November 2026.
const NOW: i64 = 1_795_219_200;

/// A cluster with Weft in which all is well.
fn good() -> (Common, After) {
    let root = certificate("weft root", -DAY, 3_650 * DAY);
    let bundle = json!({"data": {cluster::TRUST_BUNDLE_KEY: root}});
    let bundles = ["weft", "shop"].map(|name| (name.to_owned(), Ok(Some(bundle.clone()))));
    let leaf = certificate("weft-injector", -3 * DAY, 362 * DAY);
    let common = Common {
        now: NOW,
        namespace: "weft".to_owned(),
        version: Ok(json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})),
        policies: Ok(Some(serde_saphyr::from_str(&schema::crd()).expect("YAML"))),
        routes: ["HTTPRoute", "GRPCRoute"]
            .map(|kind| (kind, Ok(Some(crd("v1")))))
            .into(),
        namespaces: Ok(vec![namespace("weft", &[]), namespace("shop", &[INJECTED])]),
        webhooks: Ok(vec![webhook("ca")]),
        cilium: Ok(None),
    };
    let after = After {
        pods: Ok(vec![
            control_plane("a", true),
            pod("shop", "web", &["app", "weft-proxy:0.1.0"]),
        ]),
        slices: Ok([cluster::CONTROL_PLANE_SERVICE, cluster::WEBHOOK_SERVICE]
            .map(|name| slice(name, true))
            .into()),
        lease: Ok(Some(lease("a", NOW - 3))),
        authority: Ok(Some(standing(NOW - DAY, NOW + 364 * DAY, &json!(null)))),
        webhook_secret: Ok(Some(json!({"data": {
            "tls.crt": STANDARD.encode(leaf), "ca.crt": STANDARD.encode("ca"),
        }}))),
        bundles: bundles.into(),
        objects: vec![(
            "TrafficPolicy",
            Ok(vec![status(&[("Accepted", "True", "Accepted")])]),
        )],
        report: Ok(Report::default()),
    };
    (common, after)
}

const INJECTED: (&str, &str) = ("weft.dev/inject", "enabled");

fn namespace(name: &str, labels: &[(&str, &str)]) -> Value {
    let labels: BTreeMap<_, _> = labels.iter().copied().collect();
    json!({"metadata": {"name": name, "labels": labels}})
}

fn crd(version: &str) -> Value {
    json!({"spec": {"versions": [{"name": version, "served": true}]}})
}

/// Containers are named before their tag.
fn pod(namespace: &str, name: &str, containers: &[&str]) -> Value {
    let containers = containers.iter().map(|image| {
        let name = image.split([':', '@']).next();
        json!({"name": name, "image": format!("registry.test:5000/{image}")})
    });
    json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {}},
        "spec": {"containers": containers.collect::<Vec<_>>()},
        "status": {"phase": "Running"},
    })
}

fn control_plane(name: &str, ready: bool) -> Value {
    let mut pod = pod("weft", name, &["weft-control-plane:0.1.0"]);
    pod["spec"]["serviceAccountName"] = CONTROL_PLANE_SERVICE_ACCOUNT.into();
    let ready = if ready { "True" } else { "False" };
    pod["status"]["conditions"] = json!([{"type": "Ready", "status": ready}]);
    pod
}

fn slice(service: &str, ready: bool) -> Value {
    json!({
        "metadata": {"labels": {"kubernetes.io/service-name": service}},
        "endpoints": [{"conditions": {"ready": ready}}],
    })
}

fn lease(holder: &str, renewed: i64) -> Value {
    let renewed = k8s_openapi::jiff::Timestamp::from_second(renewed).expect("a moment");
    json!({"spec": {
        "holderIdentity": holder, "leaseDurationSeconds": 15,
        "renewTime": format!("{renewed:.6}"),
    }})
}

fn webhook(ca: &str) -> Value {
    json!({
        "metadata": {"name": cluster::WEBHOOK_CONFIGURATION},
        "webhooks": [{"name": "a.weft.dev", "clientConfig": {"caBundle": STANDARD.encode(ca)}}],
    })
}

fn status(conditions: &[(&str, &str, &str)]) -> Value {
    let conditions = conditions.iter().map(|(kind, status, reason)| {
        json!({"type": kind, "status": status, "reason": reason, "message": "so it is"})
    });
    json!({
        "metadata": {"name": "p", "namespace": "shop"},
        "status": {"conditions": conditions.collect::<Vec<_>>()},
    })
}

/// One that begins and ends so long from now.
fn certificate(name: &str, begins: i64, ends: i64) -> String {
    let at = |seconds: i64| {
        let since = Duration::from_secs((NOW + seconds) as u64);
        std::time::UNIX_EPOCH + since
    };
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = at(begins).into();
    params.not_after = at(ends).into();
    let key = KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a certificate").pem()
}

fn one(lines: &[Line], check: &str) -> Line {
    let mut found = lines.iter().filter(|line| line.check == check);
    let line = found
        .next()
        .unwrap_or_else(|| panic!("no {check} in {lines:#?}"));
    line.clone()
}

/// How a check ends after a change of the good cluster.
fn after(check: &str, change: impl FnOnce(&mut Common, &mut After)) -> Line {
    let (mut common, mut after) = good();
    change(&mut common, &mut after);
    one(&judge_after(&common, &after), check)
}

/// The same before installing.
fn before(check: &str, change: impl FnOnce(&mut Common, &mut Before)) -> Line {
    let (mut common, _) = good();
    let mut before = Before {
        creatable: vec![
            ("services".to_owned(), Ok(true)),
            ("roles".to_owned(), Ok(true)),
        ],
    };
    change(&mut common, &mut before);
    one(&judge_before(&common, &before), check)
}

#[test]
fn a_good_cluster_has_nothing_to_mend() {
    let (common, after) = good();
    for lines in [
        judge_after(&common, &after),
        judge_before(
            &common,
            &Before {
                creatable: Vec::new(),
            },
        ),
    ] {
        for line in &lines {
            assert_eq!(
                (line.state, line.hint.as_str()),
                (State::Ok, ""),
                "{line:#?}"
            );
        }
    }
}

/// Whatever is not known: no check panics, none says that it is well, and what failed has a hint.
#[test]
fn what_is_not_known_is_never_well() {
    for (trouble, state) in [
        (Trouble::Forbidden, State::Skipped),
        (Trouble::Failed("away".to_owned()), State::Failed),
    ] {
        let (mut common, mut after) = good();
        let maybe = || Maybe::Err(trouble.clone());
        common.policies = maybe();
        common.routes = vec![("HTTPRoute", maybe())];
        common.namespaces = Err(trouble.clone());
        common.webhooks = Err(trouble.clone());
        common.cilium = maybe();
        after.pods = Err(trouble.clone());
        after.slices = Err(trouble.clone());
        after.lease = maybe();
        after.authority = maybe();
        after.webhook_secret = maybe();
        after.bundles = [("weft".to_owned(), maybe())].into();
        after.objects = vec![("TrafficPolicy", Err(trouble.clone()))];
        after.report = Err(trouble.clone());
        let lines = judge_after(&common, &after);
        assert!(lines.len() > 15);
        for line in lines
            .iter()
            .filter(|line| !["api-server", "version"].contains(&line.check))
        {
            // What hangs on another check is skipped.
            assert!([state, State::Skipped].contains(&line.state), "{line:#?}");
            assert!(
                line.state != State::Failed || !line.hint.is_empty(),
                "{line:#?}"
            );
        }
    }
}

#[test]
fn an_api_server_that_does_not_answer_is_all_there_is_to_say() {
    let (mut common, _) = good();
    common.version = Err(Trouble::Failed("connection refused".to_owned()));
    let lines = judge_before(
        &common,
        &Before {
            creatable: Vec::new(),
        },
    );
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert_eq!(lines[0].state, State::Failed);
    assert!(lines[0].what.contains("connection refused") && !lines[0].hint.is_empty());
}

#[test]
fn versions_without_native_sidecars_fail() {
    for (minor, state) in [
        ("28", State::Failed),
        ("29", State::Ok),
        ("31+", State::Ok),
        ("x", State::Warning),
    ] {
        let line = before("version", |common, _| {
            common.version = Ok(json!({"major": "1", "minor": minor}));
        });
        assert_eq!(line.state, state, "{minor}: {line:#?}");
    }
}

#[test]
fn what_may_not_be_created_is_named() {
    let line = before("permissions", |_, before| before.creatable[1].1 = Ok(false));
    assert_eq!(
        (line.state, line.list),
        (State::Failed, vec!["roles".to_owned()])
    );
    let line = before("permissions", |_, before| {
        before.creatable[1].1 = Err(Trouble::Forbidden);
    });
    assert_eq!(line.state, State::Skipped);
}

#[test]
fn definitions_are_compared_with_this_version() {
    let line = |crd| after("traffic-policy", |common, _| common.policies = Ok(crd));
    assert_eq!(line(None).state, State::Failed);
    assert_eq!(line(Some(crd("v1beta9"))).state, State::Failed);
    assert_eq!(line(Some(crd("v1alpha1"))).state, State::Warning);
    let absent = before("traffic-policy", |common, _| common.policies = Ok(None));
    assert_eq!(absent.state, State::Ok);

    // As an API server gives it back: without what is empty, and with whole numbers.
    let mut stored: Value = serde_saphyr::from_str(&schema::crd()).expect("YAML");
    stored["spec"]["conversion"] = json!({"strategy": "None"});
    stored["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["nothing"] = json!([]);
    assert_eq!(line(Some(stored.clone())).state, State::Ok);
    let schema = &mut stored["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["properties"]["spec"]["required"] = json!(["targetRefs", "other"]);
    assert_eq!(line(Some(stored)).state, State::Warning);

    let line = before("gateway-api", |common, _| {
        common.routes = vec![
            ("HTTPRoute", Ok(Some(crd("v1beta1")))),
            ("GRPCRoute", Ok(None)),
        ];
    });
    assert_eq!(line.state, State::Warning);
    assert_eq!(
        line.list,
        ["HTTPRoute: v1 is not served", "GRPCRoute: not defined"]
    );
}

#[test]
fn cilium_must_leave_pods_alone() {
    for (config, state) in [
        (json!({"kube-proxy-replacement": "true"}), State::Failed),
        (json!({"kube-proxy-replacement": "strict"}), State::Failed),
        (json!({"bpf-lb-sock": "true"}), State::Failed),
        (
            json!({"bpf-lb-sock": "true", "bpf-lb-sock-hostns-only": "true"}),
            State::Ok,
        ),
        (
            json!({"kube-proxy-replacement": "false", "bpf-lb-sock": "false"}),
            State::Ok,
        ),
        (json!(null), State::Ok),
    ] {
        let line = before("socket-load-balancing", |common, _| {
            common.cilium = Ok(Some(json!({"data": config})));
        });
        assert_eq!(line.state, state, "{line:#?}");
        assert_eq!(
            line.hint.contains("hostNamespaceOnly"),
            state == State::Failed
        );
    }
}

#[test]
fn namespaces_that_refuse_or_are_of_two_meshes() {
    let enforced = ("pod-security.kubernetes.io/enforce", "restricted");
    let line = before("pod-security", |common, _| {
        common.namespaces = Ok(vec![
            namespace("a", &[INJECTED, enforced]),
            namespace("b", &[enforced]),
            namespace("c", &[INJECTED, (enforced.0, "privileged")]),
        ]);
    });
    assert_eq!(
        (line.state, line.list),
        (State::Failed, vec!["a: enforces restricted".to_owned()])
    );

    let mut linkerd = namespace("b", &[INJECTED]);
    linkerd["metadata"]["annotations"] = json!({"linkerd.io/inject": "enabled"});
    let line = before("other-meshes", |common, _| {
        common.namespaces = Ok(vec![
            namespace("a", &[INJECTED, ("istio-injection", "enabled")]),
            linkerd,
            namespace("c", &[("istio-injection", "enabled")]),
        ]);
    });
    assert_eq!(
        (line.state, line.list),
        (State::Warning, vec!["a: Istio".into(), "b: Linkerd".into()])
    );
    let other = json!({"metadata": {"name": "istio-sidecar-injector"}});
    let line = before("other-meshes", |common, _| {
        common.webhooks = Ok(vec![other.clone()]);
    });
    assert_eq!(line.list, ["istio-sidecar-injector"]);
    let line = after("other-meshes", |common, _| {
        common.webhooks = Ok(vec![other]);
    });
    assert_eq!(line.state, State::Ok);
}

#[test]
fn a_control_plane_that_is_not_ready() {
    let with = |pods: Vec<Value>| after("pods", |_, after| after.pods = Ok(pods));
    assert_eq!(with(Vec::new()).state, State::Failed);
    let half = with(vec![control_plane("a", true), control_plane("b", false)]);
    assert_eq!(
        (half.state, half.list),
        (State::Warning, vec!["b".to_owned()])
    );
    assert_eq!(with(vec![control_plane("b", false)]).state, State::Failed);
    let mut over = control_plane("c", false);
    over["status"]["phase"] = "Succeeded".into();
    assert_eq!(with(vec![control_plane("a", true), over]).state, State::Ok);

    let line = after("service", |_, after| {
        after.slices = Ok(vec![slice(cluster::CONTROL_PLANE_SERVICE, false)]);
    });
    assert_eq!(line.state, State::Failed);
}

#[test]
fn a_lease_that_nobody_renews() {
    let with = |lease| after("lease", |_, after| after.lease = Ok(lease));
    assert_eq!(with(None).state, State::Failed);
    assert_eq!(with(Some(lease("", NOW))).state, State::Failed);
    assert_eq!(with(Some(lease("a", NOW - 15))).state, State::Ok);
    let stale = with(Some(lease("a", NOW - 16)));
    assert_eq!(stale.state, State::Failed);
    assert!(
        stale.what.contains("16 s ago, by a, and lasts 15 s"),
        "{stale:#?}"
    );
}

#[test]
fn a_webhook_that_cannot_be_called() {
    let none = |common: &mut Common, _: &mut After| common.webhooks = Ok(Vec::new());
    assert_eq!(after("configuration", none).state, State::Failed);
    assert_eq!(after("ca-bundle", none).state, State::Skipped);
    assert_eq!(after("endpoints", none).state, State::Skipped);
    let line = after("endpoints", |_, after| after.slices = Ok(Vec::new()));
    assert_eq!(line.state, State::Failed);

    let with = |ca: &str| {
        after("ca-bundle", |common, _| {
            common.webhooks = Ok(vec![webhook(ca)]);
        })
    };
    assert_eq!(
        with("old\nca\n").state,
        State::Ok,
        "two of them while they are changed"
    );
    let wrong = with("other");
    assert_eq!(
        (wrong.state, wrong.list),
        (State::Failed, vec!["a.weft.dev".to_owned()])
    );
    assert_eq!(with("").state, State::Failed);
    let line = after("ca-bundle", |_, after| after.webhook_secret = Ok(None));
    assert_eq!(line.state, State::Failed);
}

#[test]
fn certificates_that_end() {
    let with = |begins, ends| {
        after("webhook", |_, after| {
            let leaf = STANDARD.encode(certificate("x", begins, ends));
            after.webhook_secret = Ok(Some(json!({"data": {"tls.crt": leaf}})));
        })
    };
    let well = with(-10 * DAY, 90 * DAY);
    assert_eq!(well.state, State::Ok);
    assert_eq!(
        well.what,
        "the webhook's certificate is 10 days old and ends in 90 days"
    );
    assert_eq!(with(-76 * DAY, 24 * DAY).state, State::Warning);
    assert_eq!(with(-76 * DAY, -60).state, State::Failed);
    let line = after("webhook", |_, after| {
        after.webhook_secret = Ok(Some(json!({})));
    });
    assert_eq!(line.state, State::Failed);

    let roots = |ends: &[i64]| {
        let roots: String = ends
            .iter()
            .map(|ends| certificate("r", -DAY, *ends))
            .collect();
        after("roots", |_, after| {
            let bundle = json!({"data": {cluster::TRUST_BUNDLE_KEY: roots}});
            after.bundles.insert("weft".to_owned(), Ok(Some(bundle)));
        })
    };
    assert_eq!(roots(&[61 * DAY]).state, State::Ok);
    assert_eq!(roots(&[59 * DAY]).state, State::Warning);
    assert_eq!(roots(&[-60]).state, State::Failed);
    assert_eq!(
        roots(&[-60, 400 * DAY]).state,
        State::Ok,
        "while they are rotated"
    );
    assert_eq!(roots(&[]).state, State::Failed);
}

#[test]
fn trust_bundles_that_differ() {
    let (_, well) = good();
    let line = after("trust-bundles", |common, after| {
        let names = ["shop", "bank", "lab"];
        common.namespaces = Ok(names.map(|name| namespace(name, &[INJECTED])).into());
        let other = json!({"data": {cluster::TRUST_BUNDLE_KEY: "another"}});
        after.bundles = well.bundles.clone();
        after.bundles.insert("bank".to_owned(), Ok(Some(other)));
        after.bundles.insert("lab".to_owned(), Ok(None));
    });
    assert_eq!(line.state, State::Failed);
    assert_eq!(line.list, ["bank: another one", "lab: none"]);
}

#[test]
fn pods_without_their_sidecar() {
    let labelled = |mut pod: Value, value: &str| {
        pod["metadata"]["labels"]["weft.dev/inject"] = value.into();
        pod
    };
    let plain = |namespace: &str, name: &str| pod(namespace, name, &["app"]);
    let mut host = plain("shop", "host");
    host["spec"]["hostNetwork"] = true.into();
    let mut over = plain("shop", "job");
    over["status"]["phase"] = "Succeeded".into();
    let mut native = plain("shop", "native");
    native["spec"]["initContainers"] = json!([{"name": "weft-proxy", "image": "weft-proxy:0.1.0"}]);
    let line = after("injected", |_, after| {
        after.pods = Ok(vec![
            plain("shop", "missed"),
            labelled(plain("shop", "left-out"), "disabled"),
            labelled(plain("lab", "asked-for"), "enabled"),
            plain("lab", "other"),
            host,
            over,
            native,
        ]);
    });
    assert_eq!(
        (line.state, line.list),
        (
            State::Warning,
            vec!["shop/missed".into(), "lab/asked-for".into()]
        )
    );
    let many = (0..25).map(|at| plain("shop", &format!("p{at}")));
    let many: Vec<_> = many.collect();
    let line = after("injected", |_, after| after.pods = Ok(many));
    assert_eq!(line.list.len(), 11);
    assert_eq!(line.list[10], "and 15 more");
}

#[test]
fn sidecars_of_other_versions() {
    let line = after("versions", |_, after| {
        after.pods = Ok(vec![
            pod("shop", "a", &["weft-proxy:v0.1.0"]),
            pod("shop", "b", &["weft-proxy:0.0.9@sha256:00"]),
            pod("shop", "c", &["weft-proxy"]),
        ]);
    });
    assert_eq!(line.state, State::Warning);
    assert_eq!(line.list, ["shop/c: no tag", "shop/b: 0.0.9"]);
}

#[test]
fn statuses_that_say_no() {
    let with = |kind: &'static str, object: Value| {
        after("status", |_, after| {
            after.objects = vec![(kind, Ok(vec![object]))];
        })
    };
    let refused = with(
        "TrafficPolicy",
        status(&[("Accepted", "False", "Conflicted")]),
    );
    assert_eq!(refused.state, State::Failed);
    assert_eq!(
        refused.list,
        ["TrafficPolicy shop/p: Accepted is False (Conflicted): so it is"]
    );
    let overridden = status(&[
        ("Accepted", "True", "Accepted"),
        ("Programmed", "False", "Overridden"),
    ]);
    assert_eq!(with("TrafficPolicy", overridden).state, State::Warning);
    let mut route = status(&[]);
    let conditions =
        json!([{"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound"}]);
    route["status"]["parents"] = json!([{"conditions": conditions}]);
    let line = with("HTTPRoute", route);
    assert_eq!(
        line.list,
        ["HTTPRoute shop/p: ResolvedRefs is False (BackendNotFound)"]
    );
    let absent = after("status", |_, after| {
        after.objects.push(("HTTPRoute", Err(Trouble::Absent)));
    });
    assert_eq!(absent.state, State::Ok);
}

#[test]
fn findings_are_lines() {
    let finding = Finding {
        file: "cluster".to_owned(),
        line: 0,
        severity: Severity::Warning,
        check: "not-idempotent",
        object: "TrafficPolicy shop/p".to_owned(),
        what: "methods has POST".to_owned(),
        why: "it may be done twice".to_owned(),
        mend: "leave it out".to_owned(),
    };
    let line = after("not-idempotent", |_, after| {
        after.report = Ok(Report {
            findings: vec![finding],
            ..Report::default()
        });
    });
    assert_eq!(line.state, State::Warning);
    assert_eq!(
        line.what,
        "TrafficPolicy shop/p: methods has POST; it may be done twice"
    );
    assert_eq!(line.hint, "leave it out");
}

#[test]
fn lines_fit_and_are_counted() {
    let long = "word ".repeat(60) + &"x".repeat(250);
    let lines = [
        line::Check("a", "one").ok("good"),
        line::Check("a", "two")
            .failed(&*long, &*long)
            .listing(vec![long.clone()]),
        line::Check("b", "three").warning("doubtful", "think"),
    ];
    let printed = print::text(&lines, Paint::plain());
    assert!(
        printed.lines().all(|line| line.chars().count() <= 100),
        "{printed}"
    );
    assert!(
        printed.starts_with("a\n  ok      good\n  failed  word"),
        "{printed}"
    );
    let end =
        "\nb\n  warning doubtful\n          hint  think\n\n3 checks: 1 failed, 1 warning, 1 ok.\n";
    assert!(printed.ends_with(end), "{printed}");
    let object = print::object(&lines, true);
    assert_eq!(
        (&object["failed"], &object["when"]),
        (&json!(1), &json!("before"))
    );
    assert_eq!(
        object["checks"][0],
        json!({"category": "a", "check": "one", "state": "ok", "what": "good"})
    );
}

#[test]
fn moments_and_spans() {
    assert_eq!(
        moment(&json!("2026-11-21T08:00:00.000000Z")),
        Some(1_795_248_000)
    );
    assert_eq!(moment(&json!(null)), None);
    for (seconds, text) in [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (2 * 3600, "2 h"),
        (47 * 3600, "47 h"),
        (2 * DAY, "2 days"),
    ] {
        assert_eq!(span(seconds), text);
    }
}

/// The authority's Secret, as far as it is read.
fn standing(begin: i64, end: i64, phase: &Value) -> Value {
    let said = json!({
        "issuerNotBefore": begin, "issuerNotAfter": end,
        "rotation": phase.as_str().map(|_| "root"), "phase": phase, "since": NOW - 300,
    });
    json!({"metadata": {"annotations": {cluster::STANDING: said.to_string()}}})
}

/// What is said of a rotation that has lasted for so many seconds.
fn rotation_line(lasts: i64, waiting_for: &Value) -> (State, String) {
    let mut secret = standing(NOW - 65 * DAY, NOW + 300 * DAY, &json!("publish"));
    let annotations = &mut secret["metadata"]["annotations"];
    let said = annotations[cluster::STANDING].as_str().unwrap();
    let mut said: Value = serde_json::from_str(said).unwrap();
    said["since"] = json!(NOW - lasts);
    annotations[cluster::STANDING] = json!(said.to_string());
    annotations[cluster::WAITING_FOR] = json!(waiting_for.to_string());
    let (common, mut after) = good();
    after.authority = Ok(Some(secret));
    let lines = judge_after(&common, &after);
    let mut lines = lines.into_iter().filter(|line| line.check == "issuer");
    let line = lines.next().unwrap();
    (line.state, line.what)
}

#[test]
fn whom_a_rotation_waits_for_is_named() {
    let begin = "the issuer ends in 300 days; a rotation of the root is in phase publish since ";
    let two = json!({"bundle": false, "replicas": [], "sidecars": 2,
        "sidecarNames": ["shop/web-1", "shop/web-2"]});
    assert_eq!(
        rotation_line(60, &two),
        (
            State::Ok,
            format!("{begin}60 s, waiting for 2 sidecars (shop/web-1, shop/web-2)")
        )
    );
    assert_eq!(
        rotation_line(600, &two),
        (
            State::Warning,
            format!("{begin}10 min, waiting for 2 sidecars (shop/web-1, shop/web-2)")
        )
    );
    let many: Vec<String> = (0..10).map(|number| format!("shop/web-{number}")).collect();
    let all = json!({"bundle": true, "replicas": ["control-plane-1"], "sidecars": 40,
        "sidecarNames": many});
    assert_eq!(
        rotation_line(3600, &all),
        (
            State::Warning,
            format!(
                "{begin}60 min, waiting for the trust bundle in every namespace, 1 replica \
                 (control-plane-1), 40 sidecars ({}, and 30 more)",
                many.join(", ")
            )
        )
    );
    // Nobody, and what is no JSON of ours.
    for nobody in [
        json!({}),
        json!("x"),
        json!({"sidecars": 0, "replicas": []}),
    ] {
        let (state, what) = rotation_line(3600, &nobody);
        assert_eq!((state, what), (State::Ok, format!("{begin}60 min")));
    }
}

#[test]
fn issuers_and_rotations_are_told() {
    let told = |secret: Value| {
        let (common, mut after) = good();
        after.authority = Ok(Some(secret));
        let lines = judge_after(&common, &after);
        let line = lines
            .into_iter()
            .find(|line| line.check == "issuer")
            .unwrap();
        (line.state, line.what)
    };
    let year = |left: i64| (NOW - (365 - left) * DAY, NOW + left * DAY);
    let cases = [
        (
            year(300),
            json!(null),
            State::Ok,
            "the issuer ends in 300 days",
        ),
        (
            year(300),
            json!("publish"),
            State::Ok,
            "the issuer ends in 300 days; a rotation of the root is in phase publish since 5 min",
        ),
        (
            year(80),
            json!(null),
            State::Warning,
            "the issuer ends in 80 days",
        ),
        (
            year(-2),
            json!(null),
            State::Failed,
            "the issuer ended 2 days ago: no certificate is given",
        ),
    ];
    for ((begin, end), phase, state, words) in cases {
        assert_eq!(
            told(standing(begin, end, &phase)),
            (state, words.to_owned())
        );
    }
    // One that was made by a build that says nothing.
    assert_eq!(told(json!({})).0, State::Skipped);
}
