use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::timeout;

mod sequences;

use super::*;
use crate::index::{Model, Name};
use crate::policy::MtlsMode;
use crate::source::mesh_file::{
    EndpointEntry, MeshFile, ServiceEntry, ServicePortEntry, WorkloadEntry,
};

const MESH: &str = r#"# A mesh.
trustDomain: weft.local
networks: [10.42.0.0/16, "fd42::/64"]
workloads:
- {name: web-1, namespace: demo, serviceAccount: web, addresses: [10.42.0.5, "fd42::5"], meshed: true, zone: a,
   draining: false, ports: [{port: 8080, protocol: http, probes: [{path: /healthz, method: GET}]}]}
- name: checkout-1
  namespace: demo
  addresses: [10.42.0.6]
services:
- {name: checkout, namespace: demo, clusterIPs: [10.96.0.10, "fd96::10"],
   ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}],
   endpoints: [{workload: checkout-1}, {address: 203.0.113.9}]}
explicitListeners:
- {workload: demo/web-1, listen: "127.0.0.1:18080", service: demo/checkout, port: 80}
"#;

/// A store that is fed texts.
#[derive(Default)]
struct Files {
    texts: BTreeMap<String, String>,
    store: Store,
}

impl Files {
    fn new() -> Self {
        let mut files = Self::default();
        files.write("mesh.yaml", MESH);
        files
    }

    fn write(&mut self, file: &str, text: &str) -> Model {
        self.texts.insert(file.to_owned(), text.to_owned());
        self.update()
    }

    fn remove(&mut self, file: &str) -> Model {
        self.texts.remove(file);
        self.update()
    }

    fn update(&mut self) -> Model {
        let contents = self
            .texts
            .iter()
            .map(|(file, text)| (file.clone(), parse::parse(file, text)))
            .collect();
        self.store.update(&contents);
        Model::build(self.store.objects().expect("there is a mesh"), 1)
    }
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: demo}}\nspec:\n  targetRefs: [{{name: checkout}}]\n  {spec}\n"
    )
}

fn places(model: &Model) -> Vec<String> {
    let refusals = model.refusals().iter();
    refusals
        .map(|refusal| format!("{}:{} {}", refusal.file, refusal.line, refusal.object))
        .collect()
}

fn connect(model: &Model) -> Option<Duration> {
    let service = model.service("demo", "checkout")?;
    let timeouts = model.policy(service, &service.ports[0]).timeouts?;
    timeouts.connect.map(crate::policy::PolicyDuration::get)
}

#[test]
fn a_mesh_is_read() {
    let model = Files::new().update();
    assert_eq!(model.refusals(), &[]);
    assert_eq!(model.trust_domain(), "weft.local");
    let web = model.workload("demo", "web-1").unwrap();
    assert_eq!(web.service_account, "web");
    assert_eq!(web.ports[0].probes[0].path, "/healthz");
    assert!(model.workload("demo", "checkout-1").unwrap().meshed);
    assert_eq!(
        model.service("demo", "checkout").unwrap().endpoints.len(),
        2
    );
    assert_eq!(model.listeners("demo", "web-1").len(), 1);
}

#[test]
fn what_is_written_reads_back() {
    let file = MeshFile {
        trust_domain: Some("weft.local".into()),
        networks: vec![
            "10.42.0.0/16".parse().unwrap(),
            "fd42::/64".parse().unwrap(),
        ],
        workloads: vec![WorkloadEntry {
            name: "a".into(),
            namespace: "demo".into(),
            service_account: "a".into(),
            addresses: vec!["fd42::5".parse().unwrap(), "10.42.0.5".parse().unwrap()],
            meshed: false,
            zone: "b".into(),
            weight: 9,
            draining: true,
            ports: Vec::new(),
        }],
        services: vec![ServiceEntry {
            name: "a".into(),
            namespace: "demo".into(),
            cluster_ips: vec!["fd96::1".parse().unwrap()],
            ports: vec![ServicePortEntry {
                name: "http".into(),
                port: 80,
                target_port: None,
                app_protocol: "grpc".into(),
            }],
            endpoints: vec![
                EndpointEntry::workload("a"),
                EndpointEntry::address("203.0.113.9".parse().unwrap()),
                EndpointEntry {
                    zone: Some("c".into()),
                    weight: Some(2),
                    ..EndpointEntry::address("203.0.113.10".parse().unwrap())
                },
            ],
        }],
        ..MeshFile::default()
    };
    let text = file.to_yaml().unwrap();
    assert_eq!(serde_saphyr::from_str::<MeshFile>(&text).unwrap(), file);
    let model = model_of(&[("mesh.yaml", &text)]);
    assert_eq!(model.refusals(), &[], "{text}");
    let workload = model.workload("demo", "a").unwrap();
    assert!(workload.draining);
    assert_eq!((&*workload.zone, workload.weight), ("b", 9));
}

#[test]
fn zones_and_weights_are_checked() {
    let read = |workload: &str, endpoint: &str| {
        let mesh = format!(
            "networks: [10.42.0.0/16]\n\
             workloads: [{{name: a, addresses: [10.42.0.5]{workload}}}]\n\
             services: [{{name: s, ports: [{{port: 80}}], endpoints: [{endpoint}]}}]\n"
        );
        let model = model_of(&[("mesh.yaml", &mesh)]);
        let reasons = model.refusals().iter();
        reasons
            .map(|refusal| refusal.reason.clone())
            .collect::<Vec<_>>()
    };
    let good = "{workload: a}, {address: 203.0.113.9, zone: eu-1.a_b, weight: 1000}";
    assert_eq!(read(", zone: eu-1.a_b, weight: 1000", good), [""; 0]);
    for (workload, endpoint, expected) in [
        (", weight: 0", "", "weight: 0 is not between 1 and 1000"),
        (
            ", weight: 1001",
            "",
            "weight: 1001 is not between 1 and 1000",
        ),
        (", zone: a b", "", "zone: \"a b\" is not a name"),
        ("", "{address: 203.0.113.9, weight: 0}", "weight: 0 is not"),
        (
            "",
            "{address: 203.0.113.9, zone: a/b}",
            "zone: \"a/b\" is not",
        ),
        ("", "{workload: a, weight: 2}", "belong into its own entry"),
        (
            "",
            "{address: 203.0.113.9, weight: 1}, {address: 203.0.113.9, weight: 2}",
            "endpoints: something is there twice",
        ),
    ] {
        let reasons = read(workload, endpoint);
        assert!(
            reasons
                .first()
                .is_some_and(|reason| reason.contains(expected)),
            "{reasons:?} instead of {expected}"
        );
    }
}

#[test]
fn one_bad_policy_is_refused_at_its_line_and_the_last_good_one_stays() {
    let mut files = Files::new();
    let good = policy("slow", "timeouts: {connect: 2s}");
    let model = files.write("policies.yaml", &format!("# first\n---\n{good}"));
    assert_eq!(connect(&model), Some(Duration::from_secs(2)));

    let other = policy("other", "loadBalancer: {policy: Random}");
    let bad = policy("slow", "timeouts: {connect: 2 seconds}");
    let model = files.write("policies.yaml", &format!("{other}---\n{bad}"));
    assert_eq!(places(&model), ["policies.yaml:13 TrafficPolicy demo/slow"]);
    assert!(model.refusals()[0].reason.contains("does not match"));
    assert!(model.refusals()[0].reason.contains("last good version"));
    assert_eq!(connect(&model), Some(Duration::from_secs(2)));
    let service = model.service("demo", "checkout").unwrap();
    assert!(
        model
            .policy(service, &service.ports[0])
            .load_balancer
            .is_some()
    );

    // What the schema's rules refuse stands where the field is, or what it is missing from.
    let bad = policy("slow", "timeouts: {connect: 1ms}");
    let model = files.write("policies.yaml", &format!("{other}---\n# about it\n\n{bad}"));
    assert_eq!(places(&model), ["policies.yaml:15 TrafficPolicy demo/slow"]);
    let bad = policy("slow", "split:\n    sticky:\n      type: Header");
    let model = files.write("policies.yaml", &bad);
    assert_eq!(places(&model), ["policies.yaml:7 TrafficPolicy demo/slow"]);
    assert_eq!(
        model.refusals()[0]
            .reason
            .split(" (")
            .next()
            .unwrap()
            .split(':')
            .nth(1)
            .unwrap(),
        " name is required for Header; its last good version stays in force"
    );
    assert_eq!(connect(&model), Some(Duration::from_secs(2)));

    let model = files.write("policies.yaml", &policy("slow", "timeouts: {connect: 3s}"));
    assert_eq!(
        (places(&model).len(), connect(&model)),
        (0, Some(Duration::from_secs(3)))
    );
    assert_eq!(connect(&files.remove("policies.yaml")), None);
}

#[test]
fn a_document_that_is_no_yaml_keeps_what_it_held() {
    let mut files = Files::new();
    let (slow, other) = (
        policy("slow", "timeouts: {connect: 2s}"),
        policy("other", "loadBalancer: {policy: Random}"),
    );
    files.write("policies.yaml", &format!("{slow}---\n{other}"));
    let model = files.write(
        "policies.yaml",
        &format!("kind: [TrafficPolicy\n---\n{other}"),
    );
    assert_eq!(model.refusals().len(), 1, "{:?}", model.refusals());
    assert_eq!(model.refusals()[0].object, "YAML document");
    assert!((1..=3).contains(&model.refusals()[0].line));
    assert_eq!(connect(&model), Some(Duration::from_secs(2)));
    // Once it can be read again, what is not in it is gone.
    assert_eq!(connect(&files.write("policies.yaml", &other)), None);
}

#[test]
fn entries_of_the_mesh_are_refused_one_by_one() {
    let mut files = Files::new();
    let broken = MESH
        .replace("addresses: [10.42.0.6]", "addresses: [10.42.0.666]")
        .replace("port: 80, targetPort", "port: 81, colour: red, targetPort");
    let model = files.write("mesh.yaml", &broken);
    assert_eq!(
        places(&model),
        [
            "mesh.yaml:7 Workload demo/checkout-1",
            "mesh.yaml:11 Service demo/checkout"
        ]
    );
    assert_eq!(model.service("demo", "checkout").unwrap().ports[0].port, 80);
    assert!(model.workload("demo", "checkout-1").is_some());

    // The same at the start: nothing good is known of either.
    let model = model_of(&[("mesh.yaml", &broken)]);
    assert!(model.workload("demo", "web-1").is_some());
    assert!(model.workload("demo", "checkout-1").is_none());
    assert!(model.service("demo", "checkout").is_none());

    // No mesh.yaml, an empty one, two documents, a field that nobody knows: everything stays.
    for text in [
        "",
        "# nothing\n",
        "networks: [10.0.0.0/8]\n---\n{}\n",
        "nets: []\n",
        "a: [",
    ] {
        let model = files.write("mesh.yaml", text);
        assert!(model.workload("demo", "web-1").is_some(), "{text}");
        assert_eq!(model.refusals().len(), 1, "{text}: {:?}", model.refusals());
    }
    let model = files.remove("mesh.yaml");
    assert!(model.workload("demo", "web-1").is_some());
    let model = files.write("mesh.yaml", "networks: [10.0.0.0/8]\n");
    assert!(model.workload("demo", "web-1").is_none());
}

#[test]
fn without_a_last_good_version_security_closes() {
    let service_policy = |model: &Model| {
        let service = model.service("demo", "checkout").unwrap();
        model.policy(service, &service.ports[0])
    };
    let mut files = Files::new();
    let bad = policy(
        "p",
        "authorization: {allow: []}\n  mtls: {mode: Disabled}\n  timeouts: {connect: 2s}",
    );
    let model = files.write("p.yaml", &bad);
    let stanzas = service_policy(&model);
    assert_eq!(stanzas.mtls, Some(MtlsMode::Strict));
    assert!(stanzas.authorization.unwrap().allow.is_empty());
    assert!(stanzas.timeouts.is_none());

    // It stays closed while the document cannot even be parsed.
    let model = files.write("p.yaml", "kind: [");
    assert!(service_policy(&model).authorization.is_some());
    // A stanza that is only about traffic closes nothing.
    let model = files.write("p.yaml", &policy("p", "timeouts: {connect: 1}"));
    let stanzas = service_policy(&model);
    assert!(stanzas.authorization.is_none() && stanzas.mtls.is_none());
}

#[test]
fn every_violation_stands_at_its_field() {
    let text = "\
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata:
  name: p
  namespace: demo
spec:
  targetRefs: [{name: checkout}]
  timeout: {request: 1s}
  split:
    backends:
    - name: one
      weight: -1
    - {name: two,
       matches: [{}]}
    - name: two
  circuitBreaker:
    openDuration: 5s
  rules:
  - name: r
    matches: [{}]
    timeouts:
      request: 1s
      perTry: 2s
";
    let read = parse::parse("p.yaml", text);
    let bad = read.entries[0].outcome.as_ref().unwrap_err();
    let places: Vec<_> = bad
        .problems
        .iter()
        .map(|problem| (problem.line, problem.reason.split(": ").next().unwrap()))
        .collect();
    assert_eq!(
        places,
        [
            (8, "spec.timeout"),
            (12, "spec.split.backends[0].weight"),
            (14, "spec.split.backends[1].matches[0]"),
            (15, "spec.split.backends[2]"),
            (16, "spec.circuitBreaker"),
            (23, "spec.rules[0].timeouts.perTry"),
        ],
        "{bad:?}"
    );
    assert!(bad.problems.iter().all(|problem| !problem.mend.is_empty()));
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in "(\\PC|[\n:{}\\[\\] -]){0,120}") {
        let policy = format!("apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nspec:\n {text}");
        parse::parse("p.yaml", &text);
        parse::parse("p.yaml", &policy);
    }
}

#[test]
fn what_lost_its_name_or_moved_is_still_known() {
    let mut files = Files::new();
    files.write("a.yaml", &policy("p", "timeouts: {connect: 2s}"));
    let nameless = policy("p", "timeouts: {connect: 2s}").replace("{name: p", "{nam: p");
    let model = files.write("a.yaml", &nameless);
    assert_eq!(model.refusals()[0].object, "TrafficPolicy without a name");
    assert_eq!(connect(&model), Some(Duration::from_secs(2)));

    // Bad, then in another file, then not even YAML.
    files.texts.remove("a.yaml");
    let moved = files.write("b.yaml", &policy("p", "timeouts: {connect: 2}"));
    assert_eq!(connect(&moved), Some(Duration::from_secs(2)));
    let model = files.write("b.yaml", "kind: [");
    assert_eq!(connect(&model), Some(Duration::from_secs(2)));
    assert_eq!(connect(&files.remove("b.yaml")), None);
}

/// A policy that only lost its name still says what it closes, unless it may be one that is known.
#[test]
fn a_policy_without_a_name_closes_what_it_names() {
    let is_denied = |model: &Model| {
        let service = model.service("demo", "checkout").unwrap();
        let authorization = model.policy(service, &service.ports[0]).authorization;
        authorization.is_some_and(|it| it.allow.is_empty())
    };
    let good = policy(
        "p",
        "authorization: {allow: [{principals: [{serviceAccount: {name: web}}]}]}",
    );
    let nameless = good.replace("{name: p", "{nam: p");
    let model = Files::new().write("p.yaml", &nameless);
    assert!(is_denied(&model));
    let reason = &model.refusals()[0].reason;
    assert!(
        reason.ends_with("; its target is denied until this is mended"),
        "{reason}"
    );

    let mut files = Files::new();
    files.write("p.yaml", &good);
    let model = files.write("p.yaml", &nameless);
    assert!(!is_denied(&model));
    let reason = &model.refusals()[0].reason;
    assert!(
        reason.ends_with("; what it was before stays in force"),
        "{reason}"
    );

    // Mended, moved in its file, or unreadable altogether.
    let mut files = Files::new();
    files.write("p.yaml", &nameless);
    assert!(is_denied(
        &files.write("p.yaml", &format!("# moved\n{nameless}"))
    ));
    let model = files.write("p.yaml", "kind: [");
    assert!(is_denied(&model));
    let reason = &model.refusals()[0].reason;
    assert!(
        reason.ends_with("; what it held stays in force"),
        "{reason}"
    );
    assert!(!is_denied(&files.write("p.yaml", &good)));
}

/// What does not say what it is for cannot close anything, and that is told.
#[test]
fn what_names_no_target_closes_nothing() {
    let spec = "authorization: {allow: []}";
    let good = policy("p", spec);
    for (change, to) in [
        ("namespace: demo", "namespace: [demo]"),
        ("[{name: checkout}]", "[{nam: checkout}]"),
        ("[{name: checkout}]", "[]"),
        ("  targetRefs: [{name: checkout}]\n", ""),
    ] {
        let model = Files::new().write("p.yaml", &good.replace(change, to));
        let service = model.service("demo", "checkout").unwrap();
        let stanzas = model.policy(service, &service.ports[0]);
        assert!(stanzas.authorization.is_none(), "{to}");
        let reason = &model.refusals()[0].reason;
        let told = "; what it is for cannot be read, so it closes nothing";
        assert!(reason.ends_with(told), "{to}: {reason}");
    }
    let model = Files::new().write("p.yaml", &format!("{good}  - ]"));
    let reason = &model.refusals()[0].reason;
    let told = "; nothing that it says is in force, and nothing is closed by it";
    assert!(reason.ends_with(told), "{reason}");

    // A target without its list, or a kind that is misspelt, can be read.
    for (change, to) in [
        ("[{name: checkout}]", "{name: checkout}"),
        ("kind: TrafficPolicy", "kind: TraficPolicy"),
    ] {
        let mut files = Files::new();
        let bad = good.replace(change, to);
        let model = files.write("p.yaml", &bad);
        let service = model.service("demo", "checkout").unwrap();
        let stanzas = model.policy(service, &service.ports[0]);
        assert!(stanzas.authorization.is_some(), "{to}");
        // And is known for what it was.
        files.write("p.yaml", &policy("p", "timeouts: {connect: 2s}"));
        assert_eq!(
            connect(&files.write("p.yaml", &bad)),
            Some(Duration::from_secs(2))
        );
    }
}

#[test]
fn only_the_first_of_two_definitions_counts() {
    let mut files = Files::new();
    files.write("a.yaml", &policy("p", "timeouts: {connect: 1s}"));
    let model = files.write("b.yaml", &policy("p", "timeouts: {connect: 2s}"));
    assert_eq!(places(&model), ["b.yaml:1 TrafficPolicy demo/p"]);
    assert!(model.refusals()[0].reason.contains("a.yaml:1"));
    assert_eq!(connect(&model), Some(Duration::from_secs(1)));
    assert_eq!(
        connect(&files.remove("a.yaml")),
        Some(Duration::from_secs(2))
    );
}

#[test]
fn other_kinds_are_named() {
    let model = Files::new().write(
        "x.yaml",
        "---\n\nkind: HTTPRoute\nmetadata: {name: r, namespace: demo}\n...\n",
    );
    assert_eq!(places(&model), ["x.yaml:3 HTTPRoute demo/r"]);
}

proptest! {
    #[test]
    fn no_text_makes_parsing_panic(text in "(---\n|\\.\\.\\.\n|kind: TrafficPolicy\n|spec: \\{|[a-z:\\[\\]{}&*#|> \n-]{0,8}){0,12}") {
        parse::parse("p.yaml", &text);
        parse::parse("mesh.yaml", &text);
    }
}

async fn next(models: &mut watch::Receiver<Arc<Model>>) -> Arc<Model> {
    timeout(Duration::from_secs(5), models.changed())
        .await
        .expect("a change is seen")
        .expect("the directory is watched");
    Arc::clone(&models.borrow_and_update())
}

fn write(dir: &Path, file: &str, text: &str) {
    fs::write(dir.join(file), text).expect("the directory can be written to");
}

#[tokio::test]
async fn a_directory_is_watched() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("mesh");
    fs::create_dir(&dir).unwrap();
    let shutdown = CancellationToken::new();
    let unready = watch_dir(dir.clone(), shutdown.clone()).await;
    assert!(matches!(unready, Err(SourceError::NoMesh { .. })));
    let nowhere = watch_dir(root.path().join("nowhere"), shutdown.clone()).await;
    assert!(matches!(nowhere, Err(SourceError::Unreadable { .. })));

    write(&dir, "mesh.yaml", MESH);
    let mut models = watch_dir(dir.clone(), shutdown.clone()).await.unwrap();
    let first = Arc::clone(&models.borrow_and_update());
    assert!(first.workload("demo", "web-1").is_some());
    assert!(first.revision() > 1_600_000_000_000_000);

    write(&dir, "p.yaml", &policy("p", "timeouts: {connect: 2s}"));
    let second = next(&mut models).await;
    assert_eq!(connect(&second), Some(Duration::from_secs(2)));
    assert!(second.revision() > first.revision());
    // The same size, and perhaps the same time.
    write(&dir, "p.yaml", &policy("p", "timeouts: {connect: 3s}"));
    let third = next(&mut models).await;
    assert_eq!(connect(&third), Some(Duration::from_secs(3)));

    // Without its directory the mesh goes on; when it is back without the policy, that is gone.
    fs::rename(&dir, root.path().join("away")).unwrap();
    tokio::time::sleep(POLL * 2).await;
    assert!(!models.has_changed().unwrap());
    fs::remove_file(root.path().join("away/p.yaml")).unwrap();
    fs::rename(root.path().join("away"), &dir).unwrap();
    assert_eq!(connect(&*next(&mut models).await), None);

    shutdown.cancel();
    let ended = timeout(Duration::from_secs(5), models.changed()).await;
    assert!(ended.unwrap().is_err());
    assert_eq!(Name::new("a", "b").to_string(), "a/b");
}
