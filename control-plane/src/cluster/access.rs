//! What somebody who comes to the admin port may do: whose token it is the API server says
//! (`TokenReview`, for an audience that sidecars' tokens are not for), and so it says what that user may
//! (`SubjectAccessReview`). The resource is one of which there are no objects, so that roles can speak of
//! it and nothing else can.
//!
//! Where the API server does not answer, or may not be asked, nobody is let in, and the answer says why.

use std::time::Duration;

use futures_util::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use weft_proto::names::API_GROUP;
use weft_proto::names::cluster::{ADMIN_AUDIENCE, MESHES};

use super::CallError;
use super::call::call;
use crate::serve::admin::access::{AccessReviewer, Denied, Verb};

/// Reviews at the same time; others wait.
const MAX_REVIEWS: usize = 8;
/// The longest that both questions and the wait for a turn take: whoever asks waits no longer than 15 s.
const LIMIT: Duration = Duration::from_secs(8);

/// Asks the API server.
pub struct AccessReviews {
    client: Client,
    namespace: String,
    places: Semaphore,
}

impl AccessReviews {
    /// Of a control plane in this namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            places: Semaphore::new(MAX_REVIEWS),
        }
    }

    async fn judge(&self, token: &str, verb: Verb) -> Result<String, Denied> {
        let place = self.places.acquire().await;
        let _place = place.map_err(|_| Denied::Unavailable("this process ends".to_owned()))?;
        let user = self.owner(token).await?;
        let name = user.username.clone().unwrap_or_default();
        if self.may(user, verb).await? {
            Ok(name)
        } else {
            Err(Denied::Forbidden { user: name })
        }
    }

    async fn owner(&self, token: &str) -> Result<UserInfo, Denied> {
        let question = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![ADMIN_AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = call(api.create(&PostParams::default(), &question)).await;
        let status = answer
            .map_err(|error| unavailable(&error, "tokenreviews", token))?
            .status
            .unwrap_or_default();
        if status.authenticated != Some(true) {
            return Err(Denied::Invalid(
                "the API server does not believe it: it has ended, is for another audience, or its \
                 service account is gone"
                    .to_owned(),
            ));
        }
        // An API server that knows no audiences believes any token and says none here.
        let mut audiences = status.audiences.iter().flatten();
        if !audiences.any(|audience| audience == ADMIN_AUDIENCE) {
            let why = format!("it is not for the audience {ADMIN_AUDIENCE}");
            return Err(Denied::Invalid(why));
        }
        let user = status.user.unwrap_or_default();
        if user.username.as_deref().is_none_or(str::is_empty) {
            return Err(Denied::Invalid("it is nobody's".to_owned()));
        }
        Ok(user)
    }

    async fn may(&self, user: UserInfo, verb: Verb) -> Result<bool, Denied> {
        let question = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                groups: user.groups,
                uid: user.uid,
                extra: user.extra,
                resource_attributes: Some(ResourceAttributes {
                    group: Some(API_GROUP.to_owned()),
                    resource: Some(MESHES.to_owned()),
                    verb: Some(verb.as_str().to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = call(api.create(&PostParams::default(), &question)).await;
        let answer = answer.map_err(|error| unavailable(&error, "subjectaccessreviews", ""))?;
        match answer.status {
            // A refusal of one authorizer is one, whatever another says.
            Some(status) => Ok(status.allowed && status.denied != Some(true)),
            None => Err(Denied::Unavailable(
                "the API server has answered without a status".to_owned(),
            )),
        }
    }
}

impl AccessReviewer for AccessReviews {
    fn review<'a>(&'a self, token: &'a str, verb: Verb) -> BoxFuture<'a, Result<String, Denied>> {
        Box::pin(async move {
            let judged = timeout(LIMIT, self.judge(token, verb)).await;
            judged.unwrap_or_else(|_| {
                let why = format!("no answer within {} s", LIMIT.as_secs());
                Err(Denied::Unavailable(why))
            })
        })
    }

    fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// Why a question has no answer; without the token, should the answer repeat it.
fn unavailable(error: &CallError, resource: &str, token: &str) -> Denied {
    let words = error.to_string();
    Denied::Unavailable(if !token.is_empty() && words.contains(token) {
        "the answer repeats the token and is not shown".to_owned()
    } else if error.code() == 403 {
        format!("{words}: the control plane's service account may not create {resource}")
    } else {
        words
    })
}

#[cfg(test)]
mod tests;
