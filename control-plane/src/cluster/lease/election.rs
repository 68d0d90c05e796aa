//! Who leads, decided from what was seen of the lease and when: pure.
//!
//! Replicas need no common time. A holder counts from the moment before it *asked* for its last write
//! that succeeded, and leads for the renew deadline. Everybody else counts from the moment at which
//! they *saw* the record change, which is after it was written, and waits for the whole lease, which is
//! longer. So two never lead at once, however far their clocks are apart, as long as they do not run at
//! very different speeds: by half, with the standard timing.
//!
//! A lease that vanishes counts as held until it would have run out for whoever has seen it. Somebody
//! who begins at that moment cannot know: deleting the lease by hand is the one way to two leaders, for
//! as long as the former one takes to notice, which is one retry.

use std::time::Duration;

use tokio::time::Instant;

use super::Timing;

/// What of a lease's record decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Who holds it; empty where nobody does.
    pub(super) holder: String,
    /// How long its holder may go without renewing it.
    pub(super) lease: Duration,
    /// Another one after every write.
    pub(super) version: String,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Somebody else holds it.
    Wait,
    /// There is none: make it, with this candidate as its holder.
    Create,
    /// Write this candidate into this version of it, and into no other.
    Replace(String),
}

/// One candidate's view.
#[derive(Debug)]
pub(super) struct Election {
    me: String,
    timing: Timing,
    seen: Option<Seen>,
    leads_until: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    holder: String,
    lease: Duration,
    /// `None` since it vanished.
    version: Option<String>,
    /// When it was seen to be so, at first.
    since: Instant,
}

impl Election {
    /// `me` must be another name than that of any other process, before and after.
    pub(super) fn new(me: String, timing: Timing) -> Self {
        Self {
            me,
            timing,
            seen: None,
            leads_until: None,
        }
    }

    /// The lease was read, and the answer is there since `now`.
    pub(super) fn saw(&mut self, record: Option<Record>, now: Instant) {
        let Some(record) = record else {
            if let Some(seen) = &mut self.seen {
                seen.version = None;
            }
            return;
        };
        if record.holder != self.me {
            self.leads_until = None;
        }
        let known = self.seen.as_ref().and_then(|seen| seen.version.as_ref());
        if known != Some(&record.version) {
            self.seen = Some(Seen {
                holder: record.holder,
                lease: record.lease,
                version: Some(record.version),
                since: now,
            });
        }
    }

    /// This candidate was written into the lease, which was asked for at `asked` and made this version.
    pub(super) fn wrote(&mut self, version: String, asked: Instant) {
        self.seen = Some(Seen {
            holder: self.me.clone(),
            lease: self.timing.lease,
            version: Some(version),
            since: asked,
        });
        self.leads_until = Some(asked + self.timing.renew_deadline);
    }

    /// What to do at `now`, for somebody who wants to lead.
    pub(super) fn act(&self, now: Instant) -> Act {
        let Some(seen) = &self.seen else {
            return Act::Create;
        };
        let free = seen.holder.is_empty() || seen.holder == self.me;
        if !free && now < seen.since + seen.lease {
            return Act::Wait;
        }
        seen.version.clone().map_or(Act::Create, Act::Replace)
    }

    pub(super) fn leads(&self, now: Instant) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }

    /// When leading ends unless the lease is renewed.
    pub(super) fn leads_until(&self) -> Option<Instant> {
        self.leads_until
    }

    /// When somebody else's lease runs out unless it is renewed; `None` where nobody else holds it.
    pub(super) fn runs_out(&self) -> Option<Instant> {
        let seen = self.seen.as_ref()?;
        let is_held = !seen.holder.is_empty() && seen.holder != self.me;
        is_held.then(|| seen.since + seen.lease)
    }

    /// Who holds it, as far as is known.
    pub(super) fn holder(&self) -> Option<&str> {
        self.seen.as_ref().map(|seen| seen.holder.as_str())
    }

    /// Leads no longer, from now on. The version to release, where there is something to release.
    pub(super) fn resign(&mut self) -> Option<String> {
        self.leads_until = None;
        let seen = self.seen.as_ref()?;
        (seen.holder == self.me).then(|| seen.version.clone())?
    }
}
