//! Kinds that are there only where their definitions were installed.
//!
//! While a kind is missing, the API server's discovery is asked every few seconds, which every account
//! may do; definitions themselves are not watched, so that no permission of theirs is needed. While it is
//! there, its own watch says when it is gone, and nothing is asked.
//!
//! What a kind's objects say is forgotten only after the kind's own list was not found and discovery,
//! asked [`MISSES`] times, has not had it: one odd answer takes no policy away.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use tokio::time::sleep;

use super::event::Event;
use super::hearing::hearing;
use super::kind::{Defined, Kind};
use super::watch::{Ended, Told, Trimming, follow_defined};

/// How long after one question the next one is asked, at least.
const PERIOD: Duration = Duration::from_secs(2);
/// The same where questions fail, at most.
const MAX_PERIOD: Duration = Duration::from_secs(30);
/// How often in a row a kind that was there has to be missing to be gone.
pub(super) const MISSES: u32 = 2;

/// Why it is not known whether a kind is there.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unknown {
    /// The API server did not say.
    #[error("the API server does not say which kinds it has: {0}")]
    Unsaid(#[from] kube::Error),
    /// It says something that no API server would.
    #[error("the API server claims to have no kinds at all")]
    Implausible,
}

/// What is believed of a kind: pure.
#[derive(Debug, Default)]
pub(super) struct Presence {
    was_there: bool,
    misses: u32,
}

impl Presence {
    pub(super) fn there(&mut self) {
        self.was_there = true;
        self.misses = 0;
    }

    /// Whether to believe that it is not there.
    pub(super) fn missed(&mut self) -> bool {
        self.misses = self.misses.saturating_add(1);
        let gone = !self.was_there || self.misses >= MISSES;
        self.was_there &= !gone;
        gone
    }
}

/// Follows a kind whenever it is there, until nobody wants its changes.
pub(super) async fn follow_when_there<T>(
    client: Client,
    kind: Kind,
    trimming: Trimming<DynamicObject, T>,
    told: Told,
) {
    let Some(defined) = kind.defined() else {
        return;
    };
    let word = kind.word();
    let heard = hearing(client.clone(), kind, told.progress.clone());
    let mut presence = Presence::default();
    let mut period = PERIOD;
    loop {
        let event = match version(&client, defined).await {
            Ok(Some(version)) => {
                presence.there();
                period = PERIOD;
                if told.progress.served(word) {
                    tracing::info!(kind = word, version, "the API server has this kind now");
                }
                let gvk = GroupVersionKind::gvk(defined.group, version, word);
                let resource = ApiResource::from_gvk_with_plural(&gvk, defined.plural);
                let api = Api::all_with(heard.clone(), &resource);
                match follow_defined(&api, kind, &trimming, &told).await {
                    Ended::Unwanted => return,
                    Ended::NotFound => None,
                }
            }
            Ok(None) => {
                period = PERIOD;
                let gone = presence.missed();
                if gone && told.progress.absent(word) {
                    tell_absent(kind, defined);
                }
                gone.then_some(Event::Absent)
            }
            Err(error) => {
                period = (period * 2).min(MAX_PERIOD);
                let forbidden = is_forbidden(&error) && kind.may_be_forbidden();
                let error = error.to_string();
                if told.progress.failed(word, error.clone()) {
                    tracing::warn!(
                        kind = word,
                        error,
                        "it is not known whether the API server has this kind; what is known stays \
                         in force"
                    );
                }
                forbidden.then_some(Event::Forbidden)
            }
        };
        if let Some(event) = event {
            if matches!(event, Event::Absent)
                && let Some(status) = kind.with_status()
            {
                told.observed.keep_only(status, &[].into());
            }
            if told.changes.send((trimming.change)(event)).await.is_err() {
                return;
            }
        }
        // Several kinds and replicas do not ask at once.
        sleep(period.mul_f64(1.0 + fastrand::f64() / 2.0)).await;
    }
}

fn tell_absent(kind: Kind, defined: Defined) {
    let (kind, group) = (kind.word(), defined.group);
    if group == weft_proto::names::API_GROUP {
        tracing::warn!(
            kind,
            group,
            "the API server does not have this kind: {}",
            defined.without
        );
    } else {
        tracing::info!(
            kind,
            group,
            "the API server does not have this kind: {}",
            defined.without
        );
    }
}

/// The version by which the API server has a kind; `None` where it has none that is read.
pub(super) async fn version(
    client: &Client,
    defined: Defined,
) -> Result<Option<&'static str>, Unknown> {
    let groups = client.list_api_groups().await?;
    if groups.groups.is_empty() {
        return Err(Unknown::Implausible);
    }
    for version in served(&groups, defined) {
        let path = format!("{}/{version}", defined.group);
        let resources = client.list_api_group_resources(&path).await?;
        if has(&resources, defined) {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

pub(super) fn served(
    groups: &APIGroupList,
    defined: Defined,
) -> impl Iterator<Item = &'static str> {
    let group = groups.groups.iter().find(|it| it.name == defined.group);
    let versions = defined.versions.iter().copied();
    versions.filter(move |version| {
        let served = group.into_iter().flat_map(|group| &group.versions);
        served.into_iter().any(|served| served.version == *version)
    })
}

fn has(resources: &APIResourceList, defined: Defined) -> bool {
    resources
        .resources
        .iter()
        .any(|it| it.name == defined.plural)
}

pub(super) fn is_forbidden(error: &Unknown) -> bool {
    matches!(error, Unknown::Unsaid(kube::Error::Api(status)) if status.code == 403)
}
