//! What the webhook may do in a cluster: one list, which is printed, put into the chart, and compared
//! with what a whole run really does.
//!
//! * Nothing here is a wildcard, nothing is changed, and of Secrets only the webhook's own can be read.
//! * `list` and `watch` of one object are asked for with a field selector of its name, which is what
//!   lets a rule with `resourceNames` allow them.
//! * A permission that is missing ends nothing: what needs it says so in the log and in `/ready`.

use std::fmt::Write as _;

use weft_proto::names::{INJECTOR_SERVICE_ACCOUNT, cluster};

/// Name of the ClusterRole, the Role, and both bindings.
pub const ROLE: &str = "weft-injector";
const GROUP: &str = "rbac.authorization.k8s.io";

/// Where a permission holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the whole cluster.
    Cluster,
    /// In the webhook's own namespace.
    Own,
}

/// One rule, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it holds.
    pub scope: Scope,
    /// The API group; empty for the core.
    pub group: &'static str,
    /// Plurals.
    pub resources: &'static [&'static str],
    /// The only objects that it holds for; all where it is empty.
    pub names: &'static [&'static str],
    /// What may be done.
    pub verbs: &'static [&'static str],
    /// What for, in a line.
    pub why: &'static str,
}

/// Everything that the webhook needs.
pub const RULES: &[Rule] = &[
    Rule {
        scope: Scope::Cluster,
        group: "",
        resources: &["namespaces"],
        names: &[],
        verbs: &["get", "list", "watch"],
        why: "what namespaces say about the sidecars of their pods",
    },
    Rule {
        scope: Scope::Cluster,
        group: "admissionregistration.k8s.io",
        resources: &["mutatingwebhookconfigurations"],
        names: &[cluster::WEBHOOK_CONFIGURATION],
        verbs: &["list", "watch"],
        why: "what the API server trusts: not ready before it trusts what is served",
    },
    Rule {
        scope: Scope::Cluster,
        group: "",
        resources: &["events"],
        names: &[],
        verbs: &["create"],
        why: "says on the owners of pods why these cannot be made, or have no sidecar",
    },
    Rule {
        scope: Scope::Own,
        group: "",
        resources: &["secrets"],
        names: &[cluster::WEBHOOK_SECRET],
        verbs: &["list", "watch"],
        why: "the certificate to serve with, which the control plane makes and renews",
    },
];

/// ClusterRole, Role, and their bindings to the webhook's service account in `namespace`, as YAML.
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

fn head(text: &mut String, kind: &str, namespace: Option<&str>) {
    line(text, 0, &format!("apiVersion: {GROUP}/v1"));
    line(text, 0, &format!("kind: {kind}"));
    line(text, 0, "metadata:");
    line(text, 1, &format!("name: {ROLE}"));
    if let Some(namespace) = namespace {
        line(text, 1, &format!("namespace: {namespace}"));
    }
}

fn role(text: &mut String, scope: Scope, namespace: &str) {
    let (kind, namespace) = match scope {
        Scope::Cluster => ("ClusterRole", None),
        Scope::Own => ("Role", Some(namespace)),
    };
    head(text, kind, namespace);
    line(text, 0, "rules:");
    for rule in RULES.iter().filter(|rule| rule.scope == scope) {
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
}

fn binding(text: &mut String, scope: Scope, namespace: &str) {
    let (kind, role, of) = match scope {
        Scope::Cluster => ("ClusterRoleBinding", "ClusterRole", None),
        Scope::Own => ("RoleBinding", "Role", Some(namespace)),
    };
    head(text, kind, of);
    line(text, 0, "roleRef:");
    line(text, 1, &format!("apiGroup: {GROUP}"));
    line(text, 1, &format!("kind: {role}"));
    line(text, 1, &format!("name: {ROLE}"));
    line(text, 0, "subjects:");
    line(text, 1, "- kind: ServiceAccount");
    line(text, 2, &format!("name: {INJECTOR_SERVICE_ACCOUNT}"));
    line(text, 2, &format!("namespace: {namespace}"));
}

fn line(text: &mut String, depth: usize, words: &str) {
    let indent = "  ".repeat(depth);
    writeln!(text, "{indent}{words}").expect("strings take everything");
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_printed_is_the_list() {
        let text = print("mesh");
        let documents: Vec<Value> = text
            .split("---\n")
            .map(|text| serde_saphyr::from_str(text).expect("YAML"))
            .collect();
        let kinds: Vec<_> = documents
            .iter()
            .map(|document| document["kind"].as_str().expect("a kind"))
            .collect();
        let expected = ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
        assert_eq!(kinds, expected);
        let printed: Vec<&Value> = documents
            .iter()
            .flat_map(|document| document["rules"].as_array().into_iter().flatten())
            .collect();
        assert_eq!(printed.len(), RULES.len());
        for (rule, printed) in RULES.iter().zip(printed) {
            assert_eq!(printed["apiGroups"], serde_json::json!([rule.group]));
            assert_eq!(printed["resources"], serde_json::json!(rule.resources));
            assert_eq!(printed["verbs"], serde_json::json!(rule.verbs));
            let names = serde_json::json!(rule.names);
            assert_eq!(
                printed
                    .get("resourceNames")
                    .unwrap_or(&serde_json::json!([])),
                &names
            );
        }
        for (index, role) in [(1, 0), (3, 2)] {
            assert_eq!(documents[index]["roleRef"]["kind"], documents[role]["kind"]);
            assert_eq!(documents[index]["subjects"][0]["namespace"], "mesh");
        }
        assert_eq!(documents[2]["metadata"]["namespace"], "mesh");
    }

    #[test]
    fn nothing_is_a_wildcard_and_secrets_are_read_by_name() {
        for rule in RULES {
            let words = [rule.resources, rule.verbs, rule.names].concat();
            assert!(!words.contains(&"*") && !rule.why.is_empty(), "{rule:?}");
            let secrets = rule.resources.contains(&"secrets");
            assert!(!secrets || rule.scope == Scope::Own && !rule.names.is_empty());
        }
    }
}
