//! Who may ask the control plane's admin port: two service accounts with their rights, and Roles for those
//! who may borrow their tokens, which are bound to nobody.

use serde_json::{Value, json};
use weft_proto::names::API_GROUP;
use weft_proto::names::cluster::{
    MESHES, OBSERVE, OBSERVE_ROLE, OBSERVER_SERVICE_ACCOUNT, OPERATE, OPERATE_ROLE,
    OPERATOR_SERVICE_ACCOUNT,
};

const GROUP: &str = "rbac.authorization.k8s.io";
const API: &str = "rbac.authorization.k8s.io/v1";

/// The objects, with the accounts in `namespace`.
pub fn operators(namespace: &str) -> Vec<Value> {
    let observer = (OBSERVE_ROLE, OBSERVER_SERVICE_ACCOUNT, &[OBSERVE][..]);
    let operator = (
        OPERATE_ROLE,
        OPERATOR_SERVICE_ACCOUNT,
        &[OBSERVE, OPERATE][..],
    );
    let both = [observer, operator];
    let accounts = both.iter().map(|(_, account, _)| {
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": namespace},
            "automountServiceAccountToken": false,
        })
    });
    let roles = both.iter().map(|(role, _, verbs)| {
        json!({
            "apiVersion": API, "kind": "ClusterRole", "metadata": {"name": role},
            "rules": [{"apiGroups": [API_GROUP], "resources": [MESHES], "verbs": verbs}],
        })
    });
    let bindings = both.iter().map(|(role, account, _)| {
        json!({
            "apiVersion": API, "kind": "ClusterRoleBinding", "metadata": {"name": role},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        })
    });
    let borrowed = [
        (OBSERVE_ROLE, vec![OBSERVER_SERVICE_ACCOUNT]),
        (
            OPERATE_ROLE,
            vec![OBSERVER_SERVICE_ACCOUNT, OPERATOR_SERVICE_ACCOUNT],
        ),
    ];
    let borrowers = borrowed.iter().map(|(role, accounts)| {
        json!({
            "apiVersion": API, "kind": "Role",
            "metadata": {"name": role, "namespace": namespace},
            "rules": [
                {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
                {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create"]},
                {"apiGroups": [""], "resources": ["serviceaccounts/token"],
                    "resourceNames": accounts, "verbs": ["create"]},
            ],
        })
    });
    accounts
        .chain(roles)
        .chain(bindings)
        .chain(borrowers)
        .collect()
}
