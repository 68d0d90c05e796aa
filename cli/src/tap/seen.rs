//! What sidecars told, and what is missing of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::order::Told;

/// Everything that was told since the beginning, in numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    sidecars: BTreeMap<String, Sidecar>,
    /// Who did not answer last, and why.
    problems: Vec<String>,
    /// Whose answer was missing once or is.
    silent: BTreeSet<String>,
}

/// What is missing, and of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) sidecars: usize,
    /// Those that did not answer once or more.
    pub(super) silent: usize,
    pub(super) records: u64,
    pub(super) over_rate: u64,
    pub(super) no_room: u64,
    /// Told by a sidecar in an answer that did not come.
    pub(super) lost: u64,
}

/// One sidecar's session, which begins anew where the sidecar does.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sidecar {
    opened: u64,
    /// Of this session.
    now: Sum,
    /// Of those before.
    before: Sum,
}

/// As a sidecar answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Batch {
    opened: u64,
    handed: u64,
    over_rate: u64,
    no_room: u64,
    records: Vec<Record>,
}

/// One exchange.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// Whose sidecar, as `NAMESPACE/NAME`.
    #[serde(default)]
    pub(super) workload: String,
    /// When the request came, in UTC.
    pub(super) time: String,
    /// `inbound` or `outbound`.
    pub(super) direction: String,
    pub(super) http_version: String,
    pub(super) method: String,
    pub(super) authority: String,
    pub(super) path: String,
    pub(super) user_agent: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) trace_id: Option<String>,
    pub(super) service: String,
    pub(super) route: String,
    pub(super) backend: String,
    pub(super) endpoint: Option<String>,
    pub(super) peer: String,
    pub(super) tls: String,
    pub(super) status: u16,
    pub(super) grpc_status: Option<u8>,
    pub(super) outcome: String,
    pub(super) duration_seconds: f64,
    pub(super) retries: u32,
    pub(super) response_bytes: Option<u64>,
    pub(super) fallback: bool,
    /// Of another request, mirrored.
    pub(super) copy: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) headers: Option<Vec<(String, String)>>,
}

impl Tally {
    /// Counts what all sidecars told in answer to one poll, and returns it in the order of time.
    pub(super) fn take(&mut self, told: &Told) -> Vec<Record> {
        let mut all = Vec::new();
        self.problems = told.problems();
        for answer in &told.answers {
            let workload = format!("{}/{}", answer.namespace, answer.name);
            if answer.error.is_some() {
                self.silent.insert(workload);
                continue;
            }
            let batch = match Batch::deserialize(&answer.payload) {
                Ok(batch) => batch,
                Err(error) => {
                    let why = format!("the answer is not of a sidecar that we know: {error}");
                    self.problems.push(format!("{workload}: {why}"));
                    self.silent.insert(workload);
                    continue;
                }
            };
            let sidecar = self.sidecars.entry(workload.clone()).or_default();
            sidecar.take(&batch);
            let records = batch.records.into_iter();
            all.extend(records.map(|record| Record {
                workload: workload.clone(),
                ..record
            }));
        }
        all.sort_by(|a, b| a.time.cmp(&b.time));
        all
    }

    /// Sidecars that have answered.
    pub(super) fn sidecars(&self) -> usize {
        self.sidecars.len()
    }

    /// Who did not answer last, and why; a sentence each.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Whether everybody has answered always, and there was somebody.
    pub(super) fn is_whole(&self) -> bool {
        self.problems.is_empty() && self.silent.is_empty() && !self.sidecars.is_empty()
    }

    pub(super) fn sum(&self) -> Sum {
        let mut sum = Sum {
            sidecars: self.sidecars.len(),
            silent: self.silent.len(),
            ..Sum::default()
        };
        for sidecar in self.sidecars.values() {
            sum.add(sidecar.now);
            sum.add(sidecar.before);
        }
        sum
    }
}

impl Sidecar {
    fn take(&mut self, batch: &Batch) {
        if batch.opened != self.opened {
            self.before.add(std::mem::take(&mut self.now));
            self.opened = batch.opened;
        }
        let records = self.now.records + batch.records.len() as u64;
        self.now = Sum {
            records,
            over_rate: batch.over_rate,
            no_room: batch.no_room,
            lost: batch.handed.saturating_sub(records),
            ..Sum::default()
        };
    }
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.over_rate += other.over_rate;
        self.no_room += other.no_room;
        self.lost += other.lost;
    }
}
