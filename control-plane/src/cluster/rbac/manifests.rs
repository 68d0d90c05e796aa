//! The list as manifests. They are written by hand, line by line, so that each rule stands under its
//! reason and the chart can have the very same text.

use std::fmt::Write as _;

use serde_json::Value;
use weft_proto::names::CONTROL_PLANE_SERVICE_ACCOUNT;

use super::{RULES, Rule, Scope};

/// Name of the ClusterRole, the Role, and both bindings.
pub const ROLE: &str = "weft-control-plane";
const GROUP: &str = "rbac.authorization.k8s.io";

/// ClusterRole, Role, and their bindings to the control plane's service account in `namespace`, as YAML.
/// The namespace is written as it comes: a chart's expression is one too.
pub fn print(namespace: &str) -> String {
    let mut text = String::new();
    for scope in [Scope::Cluster, Scope::Own] {
        role(&mut text, scope, namespace);
        text.push_str("---\n");
        binding(&mut text, scope, namespace);
        if scope == Scope::Cluster {
            text.push_str("---\n");
        }
    }
    text
}

/// The same, with the service account in front.
pub fn with_service_account(namespace: &str) -> String {
    let mut text = String::new();
    head(
        &mut text,
        "v1",
        "ServiceAccount",
        CONTROL_PLANE_SERVICE_ACCOUNT,
        Some(namespace),
    );
    text + "---\n" + &print(namespace)
}

/// The same as [`print`], as objects.
pub fn manifests(namespace: &str) -> Vec<Value> {
    let text = print(namespace);
    let documents = text.split("---\n");
    documents
        .map(|text| serde_saphyr::from_str(text).expect("what is printed is YAML"))
        .collect()
}

fn head(text: &mut String, api_version: &str, kind: &str, name: &str, namespace: Option<&str>) {
    line(text, 0, &format!("apiVersion: {api_version}"));
    line(text, 0, &format!("kind: {kind}"));
    line(text, 0, "metadata:");
    line(text, 1, &format!("name: {name}"));
    if let Some(namespace) = namespace {
        line(text, 1, &format!("namespace: {namespace}"));
    }
}

fn role(text: &mut String, scope: Scope, namespace: &str) {
    let (kind, namespace) = match scope {
        Scope::Cluster => ("ClusterRole", None),
        Scope::Own => ("Role", Some(namespace)),
    };
    head(text, &format!("{GROUP}/v1"), kind, ROLE, namespace);
    line(text, 0, "rules:");
    for rule in RULES.iter().filter(|rule| rule.scope == scope) {
        self::rule(text, rule);
    }
}

fn rule(text: &mut String, rule: &Rule) {
    let quoted = |words: &[&str]| {
        let words: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
        words.join(", ")
    };
    line(text, 1, &format!("# {}", rule.why));
    line(text, 1, &format!("- apiGroups: [{:?}]", rule.group));
    line(text, 2, &format!("resources: [{}]", quoted(rule.resources)));
    if !rule.names.is_empty() {
        line(text, 2, &format!("resourceNames: [{}]", quoted(rule.names)));
    }
    line(text, 2, &format!("verbs: [{}]", quoted(rule.verbs)));
}

fn binding(text: &mut String, scope: Scope, namespace: &str) {
    let (kind, role, of) = match scope {
        Scope::Cluster => ("ClusterRoleBinding", "ClusterRole", None),
        Scope::Own => ("RoleBinding", "Role", Some(namespace)),
    };
    head(text, &format!("{GROUP}/v1"), kind, ROLE, of);
    line(text, 0, "roleRef:");
    line(text, 1, &format!("apiGroup: {GROUP}"));
    line(text, 1, &format!("kind: {role}"));
    line(text, 1, &format!("name: {ROLE}"));
    line(text, 0, "subjects:");
    line(text, 1, "- kind: ServiceAccount");
    line(text, 2, &format!("name: {CONTROL_PLANE_SERVICE_ACCOUNT}"));
    line(text, 2, &format!("namespace: {namespace}"));
}

fn line(text: &mut String, depth: usize, words: &str) {
    let indent = "  ".repeat(depth);
    writeln!(text, "{indent}{words}").expect("strings take everything");
}
