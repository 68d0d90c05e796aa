//! Asks the API server which permissions are there.
//!
//! Those of the own namespace come from one review of all rules that hold there, unless the API server
//! says that it cannot list them all. A rule that holds in the namespace may hold there only: what is
//! needed in the whole cluster is asked for one by one. While something is missing it is asked again
//! soon, and else now and then, so that what is shown stays true.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, ResourceRule, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
    SelfSubjectRulesReview, SelfSubjectRulesReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::sleep;

use super::{Permission, Scope, permissions};
use crate::source::progress::Progress;

/// Questions on the way at once.
const AT_ONCE: usize = 4;
/// Time between two rounds of questions while something is missing or nobody answers.
const SOON: Duration = Duration::from_secs(30);
/// Time between two rounds while nothing is missing.
const LATER: Duration = Duration::from_secs(600);

/// Keeps `progress` told what the process may not do in the cluster, where `namespace` is its own. Never
/// ends.
pub async fn ask(client: Client, namespace: String, progress: Progress) {
    let mut told = BTreeMap::new();
    let mut silent = false;
    loop {
        let wait = match answers(&client, &namespace).await {
            Ok(answers) => {
                silent = false;
                let missing = answers.values().any(|granted| !granted);
                tell(&told, &answers);
                told = answers;
                for (permission, granted) in &told {
                    progress.permitted(
                        permission.verb,
                        permission.resource_and_group(),
                        permission.name,
                        *granted,
                    );
                }
                if missing { SOON } else { LATER }
            }
            Err(error) => {
                if !std::mem::replace(&mut silent, true) {
                    tracing::warn!(%error, "nobody says what this process may do in the cluster");
                }
                SOON
            }
        };
        sleep(wait.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
    }
}

/// Whether each permission is there.
pub(super) async fn answers(
    client: &Client,
    namespace: &str,
) -> Result<BTreeMap<Permission, bool>, kube::Error> {
    let rules = rules(client, namespace).await?;
    let asked = stream::iter(permissions()).map(|permission| {
        let listed = rules.as_deref().filter(|_| permission.scope == Scope::Own);
        let listed = listed.map(|rules| rules.iter().any(|rule| covers(rule, permission)));
        async move {
            let granted = match listed {
                Some(granted) => granted,
                None => may(client, namespace, permission).await?,
            };
            Ok((permission, granted))
        }
    });
    asked.buffer_unordered(AT_ONCE).try_collect().await
}

/// What holds in a namespace; `None` where the API server cannot say all of it.
async fn rules(client: &Client, namespace: &str) -> Result<Option<Vec<ResourceRule>>, kube::Error> {
    let review = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec {
            namespace: Some(namespace.to_owned()),
        },
        ..SelfSubjectRulesReview::default()
    };
    let api = Api::<SelfSubjectRulesReview>::all(client.clone());
    let status = api.create(&PostParams::default(), &review).await?.status;
    Ok(status
        .filter(|status| !status.incomplete)
        .map(|status| status.resource_rules))
}

/// Whether a rule of a review allows it.
pub(super) fn covers(rule: &ResourceRule, permission: Permission) -> bool {
    let has = |list: Option<&Vec<String>>, value: &str| {
        list.is_some_and(|list| list.iter().any(|one| one == "*" || one == value))
    };
    let names = rule
        .resource_names
        .as_ref()
        .filter(|names| !names.is_empty());
    has(Some(&rule.verbs), permission.verb)
        && has(rule.api_groups.as_ref(), permission.group)
        && has(rule.resources.as_ref(), permission.resource)
        && names.is_none_or(|names| names.iter().any(|name| name == permission.name))
}

async fn may(
    client: &Client,
    namespace: &str,
    permission: Permission,
) -> Result<bool, kube::Error> {
    let (resource, sub) = match permission.resource.split_once('/') {
        Some((resource, sub)) => (resource, Some(sub.to_owned())),
        None => (permission.resource, None),
    };
    let namespace = (permission.scope == Scope::Own).then(|| namespace.to_owned());
    let name = (!permission.name.is_empty()).then(|| permission.name.to_owned());
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(permission.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: sub,
                verb: Some(permission.verb.to_owned()),
                namespace,
                name,
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api = Api::<SelfSubjectAccessReview>::all(client.clone());
    let status = api.create(&PostParams::default(), &review).await?.status;
    Ok(status.is_some_and(|status| status.allowed))
}

/// Names what is missing now and was not, and what is there again.
fn tell(before: &BTreeMap<Permission, bool>, now: &BTreeMap<Permission, bool>) {
    for (permission, granted) in now {
        let before = before.get(permission).copied().unwrap_or(true);
        let (verb, resource) = (permission.verb, permission.resource_and_group());
        let (name, scope) = (permission.name, permission.scope);
        if before && !granted {
            tracing::warn!(
                verb,
                resource,
                name,
                ?scope,
                "a permission is missing: compare its roles with weft-control-plane --print-rbac"
            );
        } else if !before && *granted {
            tracing::info!(verb, resource, name, ?scope, "a permission is there now");
        }
    }
}
