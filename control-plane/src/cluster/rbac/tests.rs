//! The list against itself, against the chart, and against reviews.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use k8s_openapi::api::authorization::v1::ResourceRule;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::ask::{answers, covers};
use super::*;

/// Verbs that the API server knows.
const VERBS: [&str; 7] = [
    "create", "delete", "get", "list", "patch", "update", "watch",
];

#[test]
fn rules_are_least_privilege() {
    for rule in RULES {
        let words = rule.verbs.iter().chain(rule.resources).chain([&rule.group]);
        assert!(
            words.into_iter().all(|word| !word.contains('*')),
            "{rule:?}"
        );
        assert!(
            rule.verbs.iter().all(|verb| VERBS.contains(verb)),
            "{rule:?}"
        );
        assert!(!rule.why.is_empty() && rule.why.len() <= 96, "{rule:?}");
        let secrets = rule.resources.contains(&"secrets");
        assert!(!secrets || rule.scope == Scope::Own, "{rule:?}");
        // What changes an object changes one of ours, or a status.
        let changes = ["update", "delete", "patch"];
        let is_free = rule.names.is_empty() && rule.verbs.iter().any(|verb| changes.contains(verb));
        let mut resources = rule.resources.iter();
        let may_be = resources.all(|it| it.ends_with("/status") || *it == "events");
        assert!(!is_free || may_be, "{rule:?}");
        assert!(
            !rule.verbs.contains(&"create") || rule.names.is_empty(),
            "{rule:?}"
        );
    }
    let all: Vec<_> = permissions().collect();
    let distinct: BTreeSet<_> = all
        .iter()
        .map(|one| (one.verb, one.resource_and_group(), one.name))
        .collect();
    assert_eq!(all.len(), distinct.len(), "each permission is there once");
}

#[test]
fn what_is_printed_is_the_list() {
    let all = manifests("mesh");
    let kinds: Vec<_> = all.iter().map(|it| it["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]
    );
    let rules = |role: &Value| role["rules"].as_array().unwrap().clone();
    let expected = |scope| -> Vec<Value> {
        let rules = RULES.iter().filter(|rule| rule.scope == scope);
        let rules = rules.map(|rule| {
            let mut object = json!({
                "apiGroups": [rule.group], "resources": rule.resources, "verbs": rule.verbs,
            });
            if !rule.names.is_empty() {
                object["resourceNames"] = json!(rule.names);
            }
            object
        });
        rules.collect()
    };
    assert_eq!(rules(&all[0]), expected(Scope::Cluster));
    assert_eq!(rules(&all[2]), expected(Scope::Own));
    assert_eq!(
        all[2]["metadata"],
        json!({"name": "weft-control-plane", "namespace": "mesh"})
    );
    let subjects = json!([
        {"kind": "ServiceAccount", "name": "control-plane", "namespace": "mesh"},
    ]);
    for (binding, role) in [(&all[1], "ClusterRole"), (&all[3], "Role")] {
        assert_eq!(binding["subjects"], subjects);
        assert_eq!(binding["roleRef"]["kind"], role);
        assert_eq!(binding["roleRef"]["name"], "weft-control-plane");
    }
    for rule in RULES {
        assert!(print("mesh").contains(&format!("  # {}\n  - ", rule.why)));
    }
}

/// A file of the chart as Helm would render it, as objects.
fn rendered(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../charts/weft/templates")
        .join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("{{ .Release.Namespace }}", "mesh");
    let is_labels = |line: &&str| {
        line.trim_start()
            .starts_with(r#"{{- include "weft.labels" "#)
    };
    let lines = text.lines().filter(|line| !is_labels(line));
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    assert!(
        !text.contains("{{"),
        "an expression that this test does not know:\n{text}"
    );
    let documents = text.split("\n---\n");
    documents
        .map(|text| serde_saphyr::from_str(text).unwrap())
        .collect()
}

#[test]
fn the_chart_has_the_list() {
    let mut chart = rendered("control-plane/rbac.yaml");
    for object in &mut chart {
        // These say who installed it.
        object["metadata"].as_object_mut().unwrap().remove("labels");
    }
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "control-plane", "namespace": "mesh"},
    });
    let wanted = [vec![account], manifests("mesh")].concat();
    assert_eq!(
        chart, wanted,
        "charts/weft/templates/control-plane/rbac.yaml is not what weft-control-plane --print-rbac \
         --namespace '{{{{ .Release.Namespace }}}}' prints under its service account"
    );
}

#[test]
fn the_chart_has_the_operators() {
    let mut chart = rendered("control-plane/operators.yaml");
    for object in &mut chart {
        object["metadata"].as_object_mut().unwrap().remove("labels");
    }
    assert_eq!(chart, operators("mesh"));
}

/// Who may do what with policies, by the cluster's own roles.
#[test]
fn users_roles_have_policies() {
    let roles = rendered("aggregated-roles.yaml");
    let verbs_of = |role: &str| -> BTreeSet<String> {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{role}");
        let roles = roles
            .iter()
            .filter(|it| it["metadata"]["labels"][&label] == "true");
        let rules = roles.flat_map(|role| role["rules"].as_array().unwrap());
        let mut verbs = BTreeSet::new();
        for rule in rules {
            assert_eq!(rule["apiGroups"], json!(["weft.dev"]));
            assert_eq!(rule["resources"], json!(["trafficpolicies"]), "no status");
            let words = rule["verbs"].as_array().unwrap();
            verbs.extend(words.iter().map(|verb| verb.as_str().unwrap().to_owned()));
        }
        verbs
    };
    let view = BTreeSet::from(["get", "list", "watch"].map(str::to_owned));
    let change = ["create", "delete", "deletecollection", "patch", "update"].map(str::to_owned);
    // The cluster's own edit and admin have no part of its view.
    let edit: BTreeSet<_> = view.iter().cloned().chain(change).collect();
    assert_eq!(verbs_of("view"), view);
    assert_eq!(verbs_of("edit"), edit);
    assert_eq!(verbs_of("admin"), edit);
}

#[test]
fn reviews_are_understood() {
    let rule = |names: &[&str]| ResourceRule {
        verbs: vec!["get".to_owned(), "update".to_owned()],
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["secrets".to_owned()]),
        resource_names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
    };
    let wanted = Permission {
        scope: Scope::Own,
        group: "",
        resource: "secrets",
        name: "ours",
        verb: "get",
    };
    assert!(covers(&rule(&[]), wanted) && covers(&rule(&["x", "ours"]), wanted));
    assert!(!covers(&rule(&["x"]), wanted));
    assert!(!covers(&rule(&["ours"]), Permission { name: "", ..wanted }));
    assert!(!covers(
        &rule(&[]),
        Permission {
            verb: "list",
            ..wanted
        }
    ));
    assert!(!covers(
        &rule(&[]),
        Permission {
            group: "apps",
            ..wanted
        }
    ));
    let everything = ResourceRule {
        verbs: vec!["*".to_owned()],
        api_groups: Some(vec!["*".to_owned()]),
        resources: Some(vec!["*".to_owned()]),
        resource_names: None,
    };
    assert!(covers(&everything, wanted));
}

/// Allows everything but one resource, and says so of the own namespace or leaves it open.
#[derive(Clone)]
struct Reviewer {
    refused: &'static str,
    incomplete: bool,
    /// About single permissions.
    questions: Arc<AtomicUsize>,
}

impl Reviewer {
    fn status(&self, path: &str, review: &Value) -> Value {
        if path.ends_with("/selfsubjectrulesreviews") {
            let all = ["leases", "secrets"].into_iter();
            let all: Vec<_> = all.filter(|it| *it != self.refused).collect();
            let rules = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": all}]);
            let rules = if self.incomplete { json!([]) } else { rules };
            return json!({
                "resourceRules": rules, "nonResourceRules": [], "incomplete": self.incomplete,
            });
        }
        self.questions.fetch_add(1, Ordering::Relaxed);
        let about = &review["spec"]["resourceAttributes"];
        json!({"allowed": about["resource"] != self.refused})
    }
}

impl tower_service::Service<Request<Body>> for Reviewer {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Self::Response, kube::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), kube::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let reviewer = self.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await?.to_bytes();
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            review["status"] = reviewer.status(&path, &review);
            Ok(Response::new(Body::from(review.to_string().into_bytes())))
        })
    }
}

/// Which permissions are there, and how many questions about single ones that took.
async fn asked(refused: &'static str, incomplete: bool) -> (BTreeMap<Permission, bool>, usize) {
    let questions = Arc::new(AtomicUsize::new(0));
    let reviewer = Reviewer {
        refused,
        incomplete,
        questions: Arc::clone(&questions),
    };
    let client = Client::new(reviewer, "default");
    let answers = answers(&client, "mesh").await.unwrap();
    (answers, questions.load(Ordering::Relaxed))
}

#[tokio::test]
async fn what_a_review_of_rules_leaves_open_is_asked_one_by_one() {
    let wide = permissions()
        .filter(|it| it.scope == Scope::Cluster)
        .count();
    for refused in ["pods", "leases", "secrets", "none"] {
        let (complete, few) = asked(refused, false).await;
        let (open, many) = asked(refused, true).await;
        assert_eq!(complete, open, "{refused}");
        assert_eq!((few, many), (wide, permissions().count()), "{refused}");
        for (permission, granted) in complete {
            assert_eq!(granted, permission.resource != refused, "{permission:?}");
        }
    }
}
