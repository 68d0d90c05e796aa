//! One of the replicas leads: by a Lease, as Kubernetes' own components do it.
//!
//! `election` decides; what is here reads and writes the lease. Promises:
//!
//! * [`Leading`] is false before another replica may lead, also where the API server does not answer:
//!   it ends by the clock, not by an answer.
//! * At an orderly end the lease is given back, and the next replica takes it at its next look. After a
//!   kill, it takes it when the lease has run out.
//! * A process that was stopped as a whole (not only its network) finds out when it runs again, up to a
//!   timer's turn late. What leaders write is therefore written over the version that they read.
//!
//! A holder is called by its pod and a random part: a container that starts again in the same pod is
//! another candidate.

mod election;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use metrics::Gauge;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use weft_proto::names::cluster::LEASE;

use super::Leading;
use super::call::{CallError, call};
use election::{Act, Election, Record};

/// How long a lease holds where nothing else is asked.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(15);
/// The shortest one: it is counted in whole seconds.
pub const MIN_LEASE: Duration = Duration::from_secs(2);
/// The longest one: so long nobody leads after a kill. Records that say more are taken for this.
pub const MAX_LEASE: Duration = Duration::from_secs(300);
/// How long giving back may take, and what was being written before that.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);
/// Candidates wait up to this part longer, so that they do not look all at once.
const JITTER: f64 = 0.2;

/// How long what takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long others wait for a holder that does not renew.
    lease: Duration,
    /// How long a holder leads without renewing: two thirds of the lease.
    renew_deadline: Duration,
    /// How often holders renew: seven times in a lease. Candidates look twice as often, as they count from
    /// when they see a renewal.
    retry: Duration,
}

/// A replica that wants to lead.
pub struct Candidate {
    leases: Api<Lease>,
    election: Election,
    timing: Timing,
    me: String,
    /// As it was last read or written, with what others have put into it.
    lease: Option<Lease>,
    office: Office,
}

/// What everybody else looks at. False when its holder is gone, however that went.
struct Office {
    leading: watch::Sender<bool>,
    gauge: Gauge,
}

impl Timing {
    /// That of a lease of whole seconds between [`MIN_LEASE`] and [`MAX_LEASE`]; others are rounded and
    /// cut to that.
    pub fn of(lease: Duration) -> Self {
        let lease = Duration::from_secs(lease.as_secs()).clamp(MIN_LEASE, MAX_LEASE);
        Self {
            lease,
            renew_deadline: lease * 2 / 3,
            retry: lease * 2 / 15,
        }
    }
}

impl Candidate {
    /// A candidate for the lease in the control plane's namespace. `leader` is a gauge: 1 while it leads.
    pub fn new(
        client: Client,
        namespace: &str,
        pod: &str,
        timing: Timing,
        leader: Gauge,
    ) -> (Self, Leading) {
        let me = format!("{pod}_{:016x}", fastrand::u64(..));
        let (leading, receiver) = watch::channel(false);
        leader.set(0.0);
        let candidate = Self {
            leases: Api::namespaced(client, namespace),
            election: Election::new(me.clone(), timing),
            timing,
            me,
            lease: None,
            office: Office {
                leading,
                gauge: leader,
            },
        };
        (candidate, receiver)
    }

    /// Runs for it, and leads where it can, until `end`. Then it gives the lease back.
    pub async fn run(mut self, end: CancellationToken) {
        let mut trouble = false;
        while !end.is_cancelled() {
            let Some(result) = self.round_until(&end).await else {
                break;
            };
            match result {
                Err(error) if !trouble => {
                    trouble = true;
                    tracing::warn!(%error, lease = LEASE, "the lease can be neither read nor renewed");
                }
                Err(error) => tracing::debug!(%error, lease = LEASE, "still no lease"),
                Ok(()) => trouble = false,
            }
            self.show();
            tokio::select! {
                () = self.pause() => {}
                () = end.cancelled() => break,
            }
            self.show();
        }
        self.release().await;
    }

    /// One round, in time to lead by it; `None` at the `end`.
    async fn round_until(&mut self, end: &CancellationToken) -> Option<Result<(), CallError>> {
        let deadline = self.election.leads_until();
        let mut round = pin!(async {
            match deadline {
                // An answer after that would be too late to lead by.
                Some(deadline) => timeout_at(deadline, self.round())
                    .await
                    .unwrap_or(Err(CallError::TimedOut)),
                None => self.round().await,
            }
        });
        tokio::select! {
            result = &mut round => return Some(result),
            () = end.cancelled() => {}
        }
        // What it is writing is to be given back, and only the answer says what that is.
        let _ = timeout(RELEASE_TIMEOUT, round).await;
        None
    }

    /// Looks at the lease, and takes or renews it where that is due.
    async fn round(&mut self) -> Result<(), CallError> {
        // A holder knows what it has written. Only where that has changed it must look, once more.
        let mut look = !self.election.leads(Instant::now());
        for _ in 0..2 {
            if look {
                self.lease = call(self.leases.get_opt(LEASE)).await?;
                let record = self.lease.as_ref().map(|lease| record(lease, self.timing));
                let before = self.election.holder().map(str::to_owned);
                self.election.saw(record, Instant::now());
                let holder = self.election.holder().filter(|holder| !holder.is_empty());
                if let Some(holder) = holder.filter(|now| Some(*now) != before.as_deref()) {
                    tracing::info!(holder, "this replica leads");
                }
            }
            let asked = Instant::now();
            let params = PostParams::default();
            let written = match self.election.act(asked) {
                Act::Wait => return Ok(()),
                Act::Create => {
                    let lease = self.draft(None);
                    call(self.leases.create(&params, &lease)).await
                }
                Act::Replace(version) => {
                    let lease = self.draft(Some(version));
                    call(self.leases.replace(LEASE, &params, &lease)).await
                }
            };
            match written {
                Ok(lease) => {
                    let version = lease.metadata.resource_version.clone();
                    self.election.wrote(version.unwrap_or_default(), asked);
                    self.lease = Some(lease);
                    return Ok(());
                }
                Err(error) if error.is_conflict() || error.is_missing() => look = true,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The lease with this candidate as its holder.
    fn draft(&self, version: Option<String>) -> Lease {
        let mut lease = match &version {
            Some(_) => self.lease.clone().unwrap_or_default(),
            None => Lease::default(),
        };
        let former = lease.spec.take().unwrap_or_default();
        let same = former.holder_identity.as_ref() == Some(&self.me);
        let transitions = former.lease_transitions.unwrap_or(0);
        let now = Some(MicroTime(Timestamp::now()));
        lease.metadata = ObjectMeta {
            name: Some(LEASE.to_owned()),
            resource_version: version,
            ..lease.metadata
        };
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(self.timing.lease.as_secs()).ok(),
            acquire_time: if same {
                former.acquire_time
            } else {
                now.clone()
            },
            renew_time: now,
            lease_transitions: Some(transitions.saturating_add(i32::from(!same))),
            ..former
        });
        lease
    }

    /// Until the next round is due, leading ends, or somebody else's lease runs out.
    async fn pause(&self) {
        let now = Instant::now();
        match self.election.leads_until() {
            Some(until) if now < until => {
                tokio::select! {
                    () = sleep(self.timing.retry) => {}
                    () = sleep_until(until) => {}
                }
            }
            _ => {
                let pause = self.timing.retry / 2;
                let look = now + pause.mul_f64(1.0 + JITTER * fastrand::f64());
                let free = self.election.runs_out().filter(|free| *free > now);
                sleep_until(free.map_or(look, |free| free.min(look))).await;
            }
        }
    }

    /// Tells everybody what is so now.
    fn show(&self) {
        self.office.show(self.election.leads(Instant::now()));
    }

    async fn release(mut self) {
        let version = self.election.resign();
        self.show();
        let Some(version) = version else {
            return;
        };
        let mut lease = self.draft(Some(version));
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        let params = PostParams::default();
        let put = self.leases.replace(LEASE, &params, &lease);
        match timeout(RELEASE_TIMEOUT, put).await {
            Ok(Ok(_)) => tracing::info!("the lease is given back"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease was not given back; it runs out"),
            Err(_) => tracing::warn!("the lease was not given back in time; it runs out"),
        }
    }
}

impl Office {
    fn show(&self, leads: bool) {
        let changed = self.leading.send_if_modified(|known| {
            let changed = *known != leads;
            *known = leads;
            changed
        });
        if changed {
            self.gauge.set(if leads { 1.0 } else { 0.0 });
            tracing::info!(leads, "leadership has changed");
        }
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        self.show(false);
    }
}

/// What of a lease decides. A record that says no duration, or one that nobody of ours would write, has
/// that of this replica, or the longest.
fn record(lease: &Lease, timing: Timing) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.map(u64::try_from);
    let duration = match seconds {
        Some(Ok(seconds)) if seconds > 0 => Duration::from_secs(seconds).min(MAX_LEASE),
        _ => timing.lease,
    };
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        lease: duration,
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}
