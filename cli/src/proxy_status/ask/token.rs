//! Tokens for the control plane's admin port, where it wants one: in a cluster.
//!
//! One that is given by a file, or by `WEFT_ADMIN_TOKEN_FILE`, is shown to whoever is asked. Without, the
//! control plane is asked first; where it wants a token, its answer says for what. Then one is borrowed of
//! the chart's service accounts, by a TokenRequest to the API server, for 10 minutes and this audience only. A
//! borrowed one is shown to loopback only, where a forwarded port is: it goes in plain text.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;
use weft_proto::names::cluster::{
    ADMIN_AUDIENCE, OBSERVE, OBSERVE_ROLE, OBSERVER_SERVICE_ACCOUNT, OPERATE, OPERATE_ROLE,
    OPERATOR_SERVICE_ACCOUNT,
};

use crate::cluster::{ClusterArgs, described};

/// How long a borrowed token lasts, in seconds; no API server gives shorter ones.
const LIFETIME: i64 = 600;
/// The longest token, in bytes, as the control plane has it.
const MAX_TOKEN: u64 = 16 * 1024;
/// The longest name of a namespace, in bytes.
const MAX_NAMESPACE: usize = 63;

/// Why there is no token to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token file {}: {why}", .file.display())]
    File { file: PathBuf, why: io::Error },
    #[error("the token file {} is no token: one line of at most 16 KiB", .0.display())]
    NoToken(PathBuf),
    #[error(
        "it wants a token, and is not on loopback: forward its port, or give a token of the audience \
         {ADMIN_AUDIENCE} by --token-file"
    )]
    NotLoopback,
    #[error(
        "it wants a token to {verb} the mesh, and none of the service account {namespace}/{account} can \
         be had: {why}; the Role {role} of {namespace} says who may have one, or give one by --token-file"
    )]
    NotGiven {
        verb: &'static str,
        namespace: String,
        account: &'static str,
        role: &'static str,
        why: String,
    },
}

/// For what a control plane wants a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    verb: &'static str,
    namespace: String,
}

/// Where tokens come from, and those that were borrowed.
#[derive(Clone, Debug, Default)]
pub(super) struct Tokens {
    borrowed: Arc<Mutex<Vec<(Wanted, String)>>>,
}

impl Wanted {
    /// Of the challenge that comes with a 401. `None` where it is not Weft's.
    pub(super) fn of(challenge: &str) -> Option<Self> {
        let parameters = challenge.trim().strip_prefix("Bearer ")?;
        let said = |name: &str| {
            parameters.split(',').find_map(|parameter| {
                let (key, value) = parameter.trim().split_once('=')?;
                (key == name).then(|| value.trim_matches('"'))
            })
        };
        if said("realm")? != ADMIN_AUDIENCE {
            return None;
        }
        let verb = [OBSERVE, OPERATE]
            .into_iter()
            .find(|verb| said("verb") == Some(verb))?;
        let namespace = said("namespace")?;
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_name =
            (1..=MAX_NAMESPACE).contains(&namespace.len()) && namespace.bytes().all(allowed);
        is_name.then(|| Self {
            verb,
            namespace: namespace.to_owned(),
        })
    }

    fn account(&self) -> (&'static str, &'static str) {
        match self.verb {
            OBSERVE => (OBSERVER_SERVICE_ACCOUNT, OBSERVE_ROLE),
            _ => (OPERATOR_SERVICE_ACCOUNT, OPERATE_ROLE),
        }
    }
}

impl Tokens {
    /// One that was borrowed for this before, else a new one.
    pub(super) fn borrow(
        &self,
        wanted: &Wanted,
        cluster: &ClusterArgs,
    ) -> Result<String, TokenError> {
        let known = self.borrowed.lock();
        if let Some((_, token)) = known.iter().find(|(it, _)| it == wanted) {
            return Ok(token.clone());
        }
        drop(known);
        let token = request(wanted, cluster)?;
        let mut known = self.borrowed.lock();
        // One for each verb, as only one control plane is asked.
        known.retain(|(it, _)| it.verb != wanted.verb);
        known.push((wanted.clone(), token.clone()));
        Ok(token)
    }

    /// The one for this is not believed any more.
    pub(super) fn forget(&self, wanted: &Wanted) {
        self.borrowed.lock().retain(|(it, _)| it != wanted);
    }
}

/// The token that a file has.
pub(super) fn read(file: &Path) -> Result<String, TokenError> {
    let mut text = String::new();
    let opened = File::open(file);
    let read = opened.and_then(|opened| opened.take(MAX_TOKEN + 2).read_to_string(&mut text));
    read.map_err(|why| TokenError::File {
        file: file.to_owned(),
        why,
    })?;
    let token = text.trim();
    let is_token = !token.is_empty()
        && token.len() as u64 <= MAX_TOKEN
        && token.bytes().all(|b| b.is_ascii_graphic());
    if is_token {
        Ok(token.to_owned())
    } else {
        Err(TokenError::NoToken(file.to_owned()))
    }
}

/// Has the API server make one.
fn request(wanted: &Wanted, cluster: &ClusterArgs) -> Result<String, TokenError> {
    let (account, role) = wanted.account();
    let Wanted { verb, namespace } = wanted.clone();
    // On a thread of its own: whoever asks may be in a runtime.
    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(cluster, &namespace, account));
        asking
            .join()
            .unwrap_or_else(|_| Err("the request ended in a panic".to_owned()))
    });
    asked.map_err(|why| TokenError::NotGiven {
        verb,
        namespace,
        account,
        role,
        why,
    })
}

fn ask(cluster: &ClusterArgs, namespace: &str, account: &str) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let client = cluster.client().await.map_err(|error| error.to_string())?;
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![ADMIN_AUDIENCE.to_owned()],
                expiration_seconds: Some(LIFETIME),
                bound_object_ref: None,
            },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(client, namespace);
        let params = PostParams::default();
        let given = accounts.create_token_request(account, &params, &request);
        let given = given.await.map_err(|error| match &error {
            kube::Error::Api(status) => {
                format!("the API server says {}: {}", status.code, status.message)
            }
            error => described(error),
        })?;
        let status = given.status.ok_or("the answer has no token")?;
        Ok(status.token)
    })
}
