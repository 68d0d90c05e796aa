//! Who may ask what of the admin listener.
//!
//! * Health and metrics are everybody's.
//! * Where the source is a directory, everything else is for loopback only: whoever has a shell there has
//!   the files too.
//! * Where it is a cluster, whoever may forward a port comes from loopback too. So everything else wants a
//!   token, from wherever it is asked, and whoever the token is must have the right for it: [`Verb`].
//!
//! Nothing is ever allowed for want of an answer: while nobody can say whose a token is, the answer is 503.
//! Tokens appear in no log and no answer.

mod recent;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::sync::watch;
use weft_proto::discovery::command::Kind;
use weft_proto::names::cluster::{
    ADMIN_AUDIENCE, OBSERVE, OBSERVE_ROLE, OBSERVER_SERVICE_ACCOUNT, OPERATE, OPERATE_ROLE,
    OPERATOR_SERVICE_ACCOUNT,
};

use self::recent::Recent;
use super::respond;

/// What everybody may see.
const PUBLIC: [&str; 4] = ["/live", "/ready", "/health", "/metrics"];
/// The longest token that is looked at, in bytes: an API server's own have about 1 KiB.
const MAX_TOKEN_LEN: usize = 16 * 1024;

/// What somebody gets who is not let in.
pub(super) type Refusal = Box<Response<Full<Bytes>>>;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Looks; nothing changes. What a sidecar knows is looked at too: it has no key in it and nothing
    /// that the cluster's objects do not say. What users send is not: that is [`Self::Operate`].
    Observe,
    /// Changes something, or sees what users send.
    Operate,
}

/// Says what the owner of a token may do.
pub trait AccessReviewer: Send + Sync + 'static {
    /// The user's name, where the token is good and its owner has the verb. May wait for a network.
    fn review<'a>(&'a self, token: &'a str, verb: Verb) -> BoxFuture<'a, Result<String, Denied>>;
    /// The control plane's own namespace, where the accounts are whose tokens people borrow.
    fn namespace(&self) -> &str;
}

/// Why somebody may not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The token proves nothing. Why is for the caller, whose token it is.
    #[error("the token is not valid: {0}")]
    Invalid(String),
    /// It is good, and its owner has not the right.
    #[error("{user} has not the right")]
    Forbidden {
        /// Its owner.
        user: String,
    },
    /// Nobody can say.
    #[error("nobody can say whose the token is, or what its owner may do: {0}")]
    Unavailable(String),
}

/// How it is decided who may ask.
#[derive(Clone)]
pub enum Gate {
    /// Loopback only.
    Loopback,
    /// Whoever has the right; nobody until there is a reviewer.
    Reviewed(Arc<Reviewed>),
}

/// The rights of whoever asks, as a reviewer says; what it said a moment ago holds.
pub struct Reviewed {
    reviewer: watch::Receiver<Option<Arc<dyn AccessReviewer>>>,
    recent: Mutex<Recent>,
}

impl Verb {
    /// What reading a page of this path, or posting to it, takes; `None` where everybody may. Of
    /// commands, [`Self::of_command`] says it.
    pub(super) fn of(method: &Method, path: &str) -> Option<Self> {
        let reads = method == Method::GET || method == Method::HEAD;
        match (reads, PUBLIC.contains(&path)) {
            (_, true) => None,
            (true, false) => Some(Self::Observe),
            (false, false) => Some(Self::Operate),
        }
    }

    /// What a command to sidecars takes. What is not known to look only, changes.
    pub(super) fn of_command(kind: Option<&Kind>) -> Self {
        match kind {
            Some(
                Kind::BreakerList(_)
                | Kind::ConfigDump(_)
                | Kind::MetricsDump(_)
                | Kind::Traffic(_),
            ) => Self::Observe,
            // Empty, it asks which one it is.
            Some(Kind::LogLevel(level)) if level.is_empty() => Self::Observe,
            _ => Self::Operate,
        }
    }

    /// As roles have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => OBSERVE,
            Self::Operate => OPERATE,
        }
    }

    fn role(self) -> &'static str {
        match self {
            Self::Observe => OBSERVE_ROLE,
            Self::Operate => OPERATE_ROLE,
        }
    }

    fn account(self) -> &'static str {
        match self {
            Self::Observe => OBSERVER_SERVICE_ACCOUNT,
            Self::Operate => OPERATOR_SERVICE_ACCOUNT,
        }
    }
}

impl Gate {
    /// Where a reviewer says who may.
    pub fn reviewed(reviewer: watch::Receiver<Option<Arc<dyn AccessReviewer>>>) -> Self {
        Self::Reviewed(Arc::new(Reviewed {
            reviewer,
            recent: Mutex::default(),
        }))
    }

    /// Whether somebody who comes from there may come in at all, before anything is read. Where rights are
    /// reviewed that is decided by [`Self::admit`].
    pub(super) fn lets_in(&self, peer: SocketAddr) -> Result<(), Refusal> {
        match self {
            Self::Loopback if !is_loopback(peer) => Err(refusal(
                StatusCode::FORBIDDEN,
                "from loopback only\n".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Whether somebody may do this, or what is answered instead.
    pub(super) async fn admit(
        &self,
        peer: SocketAddr,
        headers: &HeaderMap,
        verb: Verb,
        what: &str,
    ) -> Result<(), Refusal> {
        self.lets_in(peer)?;
        let Self::Reviewed(reviewed) = self else {
            return Ok(());
        };
        let reviewer = reviewed.reviewer.borrow().clone();
        let Some(reviewer) = reviewer else {
            let why = "this replica does not serve yet\n".to_owned();
            return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, why));
        };
        let namespace = reviewer.namespace();
        let Some(token) = bearer(headers) else {
            return Err(unknown("this takes a token", verb, namespace));
        };
        if token.len() > MAX_TOKEN_LEN {
            let why = "the token is longer than 16 KiB";
            return Err(unknown(why, verb, namespace));
        }
        let judged = reviewed.review(&*reviewer, token, verb).await;
        match judged {
            Ok(user) => {
                if verb == Verb::Operate {
                    tracing::info!(user, %peer, what, "the mesh is operated");
                }
                Ok(())
            }
            Err(Denied::Invalid(why)) => Err(unknown(
                &format!("the token is not valid: {why}"),
                verb,
                namespace,
            )),
            Err(Denied::Forbidden { user }) => {
                tracing::info!(user, %peer, what, verb = verb.as_str(), "refused for want of a right");
                Err(forbidden(&user, verb))
            }
            Err(denied @ Denied::Unavailable(_)) => {
                tracing::warn!(%denied, "nobody is let in to the admin pages");
                let why = format!("{denied}; try again\n");
                Err(refusal(StatusCode::SERVICE_UNAVAILABLE, why))
            }
        }
    }
}

impl Reviewed {
    async fn review(
        &self,
        reviewer: &dyn AccessReviewer,
        token: &str,
        verb: Verb,
    ) -> Result<String, Denied> {
        let key = recent::key(token, verb);
        if let Some(known) = self.recent.lock().find(&key, Instant::now()) {
            return known;
        }
        let judged = reviewer.review(token, verb).await;
        self.recent.lock().keep(key, &judged, Instant::now());
        judged
    }
}

fn is_loopback(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

/// The token that a request comes with.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// 401, with what a program needs to get a token: the verb and the namespace of the accounts.
fn unknown(why: &str, verb: Verb, namespace: &str) -> Refusal {
    let (account, word) = (verb.account(), verb.as_str());
    let text = format!(
        "{why}; {word} takes one of the audience {ADMIN_AUDIENCE}: kubectl -n {namespace} create token \
         {account} --audience {ADMIN_AUDIENCE}, for weft's --token-file\n"
    );
    let mut answer = refusal(StatusCode::UNAUTHORIZED, text);
    let challenge =
        format!("Bearer realm=\"{ADMIN_AUDIENCE}\", verb=\"{word}\", namespace=\"{namespace}\"");
    // A namespace is a DNS label, which every header takes.
    if let Ok(challenge) = HeaderValue::from_str(&challenge) {
        answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    answer
}

fn forbidden(user: &str, verb: Verb) -> Refusal {
    let text = format!(
        "{user} may not {} the mesh: that takes the verb {} on meshes.weft.dev, which the ClusterRole {} \
         has; bind it to {user}, or come with a token of the service account {}\n",
        verb.as_str(),
        verb.as_str(),
        verb.role(),
        verb.account(),
    );
    refusal(StatusCode::FORBIDDEN, text)
}

fn refusal(code: StatusCode, text: String) -> Refusal {
    Box::new(respond(code, "text/plain", text))
}
