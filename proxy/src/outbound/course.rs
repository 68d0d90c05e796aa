//! How far the tries of one request have come, and what is left of it for another one.
//!
//! The body is kept where somebody may need it again: the next try, a fallback's backend, a copy. Whoever
//! asks for it gets it whole, or not at all.

use std::sync::Arc;

use ::bytes::Bytes;
use ::http::HeaderName;
use ::http::request::Parts;
use hyper::body::Incoming;
use smallvec::SmallVec;

use super::endpoint::Endpoint;
use crate::bounds::KeptBytes;
use crate::http::body::RequestBody;
use crate::http::replay::{Copied, ReplayHandle, ReplayState, replayable};
use crate::outcome::{Failure, Outcome};
use crate::policy::Route;
use crate::resilience::balance::ProbeEligibility;
use crate::resilience::retry;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Bytes of a request that are kept for a fallback's backend where the route does not retry.
const FALLBACK_BODY_LIMIT: usize = 64 * 1024;

/// How far the tries of one request have come.
pub(crate) struct Course {
    /// Of the try to come; `None` while one is being made.
    pub(super) body: Option<RequestBody>,
    /// Makes the bodies of further tries.
    replay: Option<ReplayHandle>,
    /// Has the body for a copy where no further try may have it.
    copying: Option<ReplayHandle>,
    pub(super) tried: SmallVec<[Arc<Endpoint>; 4]>,
    /// Of the try to come, from 1; the free one is not counted.
    pub(super) attempt: u32,
    /// The free try after a failed probe: it goes to a closed endpoint.
    pub(super) free: bool,
    pub(super) free_used: bool,
    pub(super) idempotent: bool,
    pub(super) idempotency_key: bool,
    /// The last try would have been repeated, but attempts or budget were spent.
    pub(super) exhausted: bool,
}

impl Course {
    /// The body is kept where the route retries, or another backend may have to answer, or a copy of so
    /// many bytes is to be made. A request without a body can always be sent again.
    ///
    /// What all requests together keep is bounded by `room`.
    pub(crate) fn new(
        route: &Route,
        head: &Parts,
        body: Incoming,
        copied: Option<usize>,
        room: &Arc<KeptBytes>,
    ) -> Self {
        let policy = route.retries.as_ref();
        let idempotency_key = head.headers.contains_key(&IDEMPOTENCY_KEY);
        let retried = policy.filter(|policy| policy.attempts > 0);
        let fallback = route.fallback.as_ref();
        let kept = retried.map(|policy| policy.body_limit_bytes).or_else(|| {
            fallback
                .filter(|fallback| fallback.asks_a_backend())
                .map(|_| FALLBACK_BODY_LIMIT)
        });
        let (mut replay, mut copying) = (None, None);
        let body = match (kept, copied) {
            (None, None) => RequestBody::from(body),
            (Some(limit), _) => {
                let (body, handle) = replayable(body, limit, room);
                replay = Some(handle);
                body
            }
            // What is kept for a copy alone makes no difference to tries.
            (None, Some(limit)) => {
                let (body, handle) = replayable(body, limit, room);
                copying = Some(handle);
                body
            }
        };
        if matches!(body, RequestBody::Empty) {
            replay = Some(ReplayHandle::whole(Bytes::new()));
        }
        Self {
            body: Some(body),
            replay,
            copying,
            tried: SmallVec::new(),
            attempt: 1,
            free: false,
            free_used: false,
            idempotent: retry::is_idempotent(policy, &head.method, idempotency_key),
            idempotency_key,
            exhausted: false,
        }
    }

    /// A copy of the body, as soon as it is whole. To be asked for before the first try.
    pub(crate) fn copied(&self) -> impl Future<Output = Copied> + Send + use<> {
        let kept = self.copying.as_ref().or(self.replay.as_ref());
        let copied = kept.map(ReplayHandle::copied);
        async move {
            match copied {
                Some(copied) => copied.await,
                None => Copied::TooBig,
            }
        }
    }

    /// Whether the last try would have been repeated, if attempts and budget had not been spent.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Readies the request for another backend, as if nothing had been tried; false where its body
    /// is gone.
    pub(crate) fn restart(&mut self) -> bool {
        let another = || self.replay.as_ref().and_then(ReplayHandle::another);
        let Some(body) = self.body.take().or_else(another) else {
            return false;
        };
        self.body = Some(body);
        self.tried.clear();
        self.attempt = 1;
        (self.free, self.free_used, self.exhausted) = (false, false, false);
        true
    }

    /// Which probes the try to come may be.
    pub(super) fn probe(&self) -> ProbeEligibility {
        if self.free_used {
            ProbeEligibility::No
        } else if self.idempotent && self.can_repeat() {
            ProbeEligibility::Yes
        } else {
            ProbeEligibility::Late
        }
    }

    /// Whether another try's body could be made now.
    pub(super) fn can_repeat(&self) -> bool {
        let state = self.replay.as_ref().map(ReplayHandle::state);
        matches!(
            state,
            Some(ReplayState::Replayable | ReplayState::InProgress { .. })
        )
    }

    /// Readies the try to come, free or counted, with the body that the last one never wrote or, where
    /// it was written, another.
    pub(super) fn go_on(
        &mut self,
        unwritten: Option<RequestBody>,
        free: bool,
    ) -> Result<(), Failure> {
        let another = || self.replay.as_ref().and_then(ReplayHandle::another);
        let Some(body) = unwritten.or_else(another) else {
            let lost = "the client broke off while its request was tried again";
            return Err(Failure::maybe(Outcome::ClientGone, lost));
        };
        self.body = Some(body);
        self.free = free;
        if free {
            self.free_used = true;
        } else {
            self.attempt += 1;
        }
        Ok(())
    }
}
