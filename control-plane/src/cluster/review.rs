//! Believes tokens of service accounts: the API server says whose they are.
//!
//! A token is believed where it was made for [`TOKEN_AUDIENCE`], so that no service which gets tokens for
//! itself can be the sidecar of its callers; and where it is bound to a pod, so that it ends with the pod
//! and nobody can make one up for a workload that does not exist. The API server looks at signature, end,
//! account and pod, the pod by its uid; every one is looked at anew. Answers are not kept: sidecars come
//! once per half a certificate's life, and an answer that was kept would outlive a pod that was deleted.
//!
//! Tokens appear in no log and no error.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use weft_proto::names::cluster::TOKEN_AUDIENCE;

use super::call::call;
use crate::identity::{ReviewError, TokenReviewer, WorkloadIdentity};
use crate::index::Model;

/// Reviews at the same time; others wait. A whole cluster may come at once, after an outage.
const MAX_REVIEWS: usize = 32;
/// The longest that a review waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// The longest token that is shown to the API server, in bytes: its own have about 1 KiB.
const MAX_TOKEN_LEN: usize = 16 * 1024;
/// The longest of the API server's reasons that is logged, in characters.
const MAX_REASON_LEN: usize = 300;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Asks the API server.
pub struct TokenReviews {
    api: Api<TokenReview>,
    models: watch::Receiver<Arc<Model>>,
    places: Semaphore,
}

impl TokenReviews {
    /// Believes tokens of pods that the model knows.
    pub fn new(client: Client, models: watch::Receiver<Arc<Model>>) -> Self {
        Self {
            api: Api::all(client),
            models,
            places: Semaphore::new(MAX_REVIEWS),
        }
    }

    async fn ask(&self, token: &str) -> Result<TokenReviewStatus, ReviewError> {
        let place = timeout(MAX_WAIT, self.places.acquire()).await;
        let _place = place.map_err(|_| {
            ReviewError::Unavailable("too many tokens are being reviewed".to_owned())
        })?;
        let question = TokenReview {
            metadata: ObjectMeta::default(),
            spec: TokenReviewSpec {
                audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            status: None,
        };
        let answer = call(self.api.create(&PostParams::default(), &question)).await;
        let answer = answer.map_err(|error| {
            ReviewError::Unavailable(match error.code() {
                403 => format!(
                    "{error}: the control plane's service account may not create tokenreviews"
                ),
                _ => without(token, error.to_string()),
            })
        })?;
        answer.status.ok_or_else(|| {
            ReviewError::Unavailable("the API server has answered without a status".to_owned())
        })
    }

    /// Whether the pod is known, and runs as this account.
    fn is_known(&self, identity: &WorkloadIdentity) -> bool {
        let model = self.models.borrow();
        let workload = model.workload(&identity.namespace, &identity.workload);
        // A pod keeps its account for life. Where another one is known, the token is that of a younger
        // pod of this name, which the model has not seen yet.
        workload.is_some_and(|known| known.service_account == identity.service_account)
    }
}

impl TokenReviewer for TokenReviews {
    fn review<'a>(
        &'a self,
        token: &'a str,
    ) -> BoxFuture<'a, Result<WorkloadIdentity, ReviewError>> {
        Box::pin(async move {
            if token.is_empty() {
                return Err(ReviewError::Invalid("it is empty"));
            }
            if token.len() > MAX_TOKEN_LEN {
                return Err(ReviewError::Invalid("it is longer than 16 KiB"));
            }
            let status = self.ask(token).await?;
            if let Some(reason) = status.error.clone().filter(|reason| !reason.is_empty()) {
                let reason: String = without(token, reason)
                    .chars()
                    .take(MAX_REASON_LEN)
                    .collect();
                tracing::info!(reason, "the API server does not believe a token");
            }
            let identity = identity(status)?;
            if self.is_known(&identity) {
                return Ok(identity);
            }
            Err(ReviewError::UnknownWorkload {
                namespace: identity.namespace,
                workload: identity.workload,
            })
        })
    }
}

/// Whose token it is, by the API server's answer.
fn identity(status: TokenReviewStatus) -> Result<WorkloadIdentity, ReviewError> {
    if status.authenticated != Some(true) {
        return Err(ReviewError::Invalid(
            "the API server does not believe it: it has ended, is not for the audience weft.dev, or its \
             pod or service account is gone; mount a projected serviceAccountToken with that audience",
        ));
    }
    // An API server that knows no audiences believes any token and says none here.
    let audiences = status.audiences.unwrap_or_default();
    if !audiences.iter().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(ReviewError::Invalid("it is not for the audience weft.dev"));
    }
    let user = status.user.unwrap_or_default();
    let username = user.username.unwrap_or_default();
    let Some((namespace, service_account)) = account(&username) else {
        return Err(ReviewError::Invalid("it is not a service account's"));
    };
    let extra = user.extra.unwrap_or_default();
    let said = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    let (Some(workload), Some(_)) = (said(POD_NAME), said(POD_UID)) else {
        return Err(ReviewError::Invalid(
            "it is not bound to a pod: it must come from a projected volume of the pod, and not from a \
             Secret or from kubectl create token without --bound-object-kind=Pod",
        ));
    };
    Ok(WorkloadIdentity {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        workload,
    })
}

/// Namespace and name out of `system:serviceaccount:NAMESPACE:NAME`.
fn account(username: &str) -> Option<(&str, &str)> {
    let rest = username.strip_prefix("system:serviceaccount:")?;
    let (namespace, name) = rest.split_once(':')?;
    let is_name = |name: &str| {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        !name.is_empty() && name.bytes().all(allowed)
    };
    (is_name(namespace) && is_name(name)).then_some((namespace, name))
}

/// What somebody else has said, unless it repeats the token.
fn without(token: &str, text: String) -> String {
    if text.contains(token) {
        "the answer repeats the token and is not shown".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn good() -> TokenReviewStatus {
        let extra = [(POD_NAME, "web-1"), (POD_UID, "11-22")];
        let extra = extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()]));
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
            user: Some(UserInfo {
                username: Some("system:serviceaccount:shop:frontend".to_owned()),
                extra: Some(extra.into()),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    #[test]
    fn a_bound_token_of_the_audience_is_its_pods() {
        let owner = identity(good()).unwrap();
        assert_eq!(owner.namespace, "shop");
        assert_eq!(owner.service_account, "frontend");
        assert_eq!(owner.workload, "web-1");
    }

    #[test]
    fn everything_else_is_refused() {
        fn user(status: &mut TokenReviewStatus) -> &mut UserInfo {
            status.user.get_or_insert_default()
        }
        fn extra(
            status: &mut TokenReviewStatus,
        ) -> &mut std::collections::BTreeMap<String, Vec<String>> {
            user(status).extra.get_or_insert_default()
        }
        type Spoil = fn(&mut TokenReviewStatus);
        let refusals: [(&str, Spoil); 9] = [
            ("does not believe", |s| s.authenticated = Some(false)),
            ("does not believe", |s| s.authenticated = None),
            ("audience", |s| s.audiences = None),
            ("audience", |s| s.audiences = Some(vec!["weft".to_owned()])),
            ("not a service account's", |s| s.user = None),
            ("bound to a pod", |s| drop(extra(s).remove(POD_NAME))),
            ("bound to a pod", |s| drop(extra(s).remove(POD_UID))),
            ("bound to a pod", |s| user(s).extra = None),
            ("bound to a pod", |s| {
                extra(s)
                    .entry(POD_NAME.to_owned())
                    .or_default()
                    .push("web-2".to_owned());
            }),
        ];
        for (words, spoil) in refusals {
            let mut status = good();
            spoil(&mut status);
            let refused = identity(status).unwrap_err();
            assert!(matches!(refused, ReviewError::Invalid(_)));
            assert!(refused.to_string().contains(words), "{words}: {refused}");
        }
    }

    #[test]
    fn accounts_have_exactly_their_form() {
        assert_eq!(
            account("system:serviceaccount:shop:web"),
            Some(("shop", "web"))
        );
        for wrong in [
            "",
            "admin",
            "system:serviceaccount:shop",
            "system:serviceaccount::web",
            "system:serviceaccount:shop:",
            "system:serviceaccount:shop:web:x",
            "system:serviceaccount:shop/x:web",
            "x:system:serviceaccount:shop:web",
            "system:node:shop:web",
        ] {
            assert_eq!(account(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_is_in_no_words() {
        assert!(!without("secret", "what is secret?".to_owned()).contains("secret"));
        assert_eq!(without("secret", "bad gateway".to_owned()), "bad gateway");
    }
}
