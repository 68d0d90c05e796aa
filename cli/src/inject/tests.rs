use proptest::prelude::*;

use super::*;

const SHOP: &str = "\
# The shop.
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
spec:
  ports:
  - port: 80
---
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
spec:
  zebra: first
  selector: {matchLabels: {app: web}}
  template:
    spec:
      containers:
      - name: app
        image: app:1
        args: ['on', 'yes', '0644', '8080', '1e3', 'null', '~', '']
        livenessProbe:
          tcpSocket: {port: 8080}
      volumes:
      - name: scripts
        configMap: {name: scripts, defaultMode: 0644}
  alpha: last
";

fn settings() -> Settings {
    Settings::new("weft", "cluster.local", Settings::default_image()).expect("good settings")
}

fn injected(text: &str) -> Injected {
    inject_all(&settings(), documents(text).expect("YAML")).expect("a patch that fits")
}

#[test]
fn objects_keep_their_order_and_what_is_no_pod() {
    let out = injected(SHOP);
    assert_eq!(out.said, "Deployment shop/web: injected\n");
    let before = documents(SHOP).expect("YAML");
    let after = documents(&out.yaml).expect("YAML");
    assert_eq!(after.len(), 2);
    assert_eq!(after[0], before[0]);
    let places = ["zebra: first", "selector:", "template:", "alpha: last"];
    let places = places.map(|field| out.yaml.find(field).expect(field));
    assert!(places.is_sorted(), "{}", out.yaml);
    let after = serde_json::to_value(&after[1]).expect("JSON");
    let spec = &after["spec"]["template"]["spec"];
    let names = |list: &str| -> Vec<String> {
        let list = spec[list].as_array().expect("a list");
        let names = list.iter().filter_map(|item| item["name"].as_str());
        names.map(str::to_owned).collect()
    };
    assert_eq!(names("initContainers"), ["weft-init", "weft-proxy"]);
    assert_eq!(names("containers"), ["app"]);
    assert_eq!(
        names("volumes"),
        ["scripts", "weft-token", "weft-trust-bundle"]
    );
    assert_eq!(spec["volumes"][0]["configMap"]["defaultMode"], 0o644);
    let args = serde_json::json!(["on", "yes", "0644", "8080", "1e3", "null", "~", ""]);
    assert_eq!(spec["containers"][0]["args"], args);
    let probe = serde_json::json!({"httpGet": {"path": "/probe/8080", "port": 15190}});
    assert_eq!(spec["containers"][0]["livenessProbe"], probe);
}

#[test]
fn a_second_time_changes_nothing() {
    let once = injected(SHOP);
    let twice = injected(&once.yaml);
    assert_eq!(twice.yaml, once.yaml);
    assert_eq!(
        twice.said,
        "Deployment shop/web: skipped: the pod has a sidecar already\n"
    );
}

#[test]
fn a_namespace_among_the_manifests_has_its_word() {
    let with = |head: &str| {
        let namespace = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  {head}\n---\n{SHOP}"
        );
        injected(&namespace)
    };
    let disabled = with("labels: {weft.dev/inject: disabled}");
    assert!(
        disabled
            .said
            .contains("skipped: label weft.dev/inject says disabled")
    );
    let debug = with("annotations: {config.weft.dev/log-level: debug}");
    assert!(debug.yaml.contains("value: debug"), "{}", debug.yaml);
}

#[test]
fn refusals_say_where_and_what_to_do() {
    let text = SHOP.replace("image: app:1", "securityContext: {runAsUser: 2140}");
    let out = injected(&text);
    assert!(out.is_refused);
    assert!(
        out.said
            .starts_with("Deployment shop/web: refused: container app runs as uid 2140")
    );
    assert!(out.said.contains("set another securityContext.runAsUser"));
    let bare = injected("apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\n");
    assert_eq!(bare.said, "Job j: refused: it has no pod template\n");
    assert!(bare.is_refused);
}

#[test]
fn what_is_no_yaml_is_an_error() {
    assert!(documents("a: [").is_err());
    assert_eq!(documents("---\n---\n").expect("nothing"), []);
}

proptest! {
    /// Scripts, numbers in quotes, words of other YAML versions: what is no pod means what it meant.
    #[test]
    fn text_is_read_as_it_was_written(
        texts in prop::collection::vec("[ -~\n\té]{0,120}|on|0x1f|1_000|0o17|.5|=|<<|y|2026-11-21|1:30", 1..4)
    ) {
        let map = Tree::Map(texts.into_iter().enumerate().map(|(at, text)| {
            (format!("key{at}"), Tree::List(vec![Tree::Text(text)]))
        }).collect());
        let yaml = inject_all(&settings(), vec![map.clone()]).expect("no pod").yaml;
        prop_assert_eq!(documents(&yaml).expect("YAML"), vec![map], "{}", yaml);
    }
}
