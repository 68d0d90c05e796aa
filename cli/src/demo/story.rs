//! What a story is: its mesh, the traffic in it, its policies and its acts. Data only, so that every
//! story plays on the same stage.
//!
//! * The first target is what people look at: its caller's sidecar is the one whose age of
//!   configuration the table shows and whose admin port `--keep` opens.
//! * Policies are read, divided by the story's [`Pace`] and written for the control plane; one that is
//!   none breaks the story off before anything starts.

use futures_util::future::LocalBoxFuture;
use weft_sandbox::Mesh;
use weft_sandbox::load::{Protocol, Shot};
use weft_sandbox::mesh::Builder;

use super::alerts::Watched;
use super::pace::Pace;
use super::stage::Stage;

/// An act: it does one thing to the mesh while traffic flows, and tells what it measured. It fails
/// where it cannot do what it wants to do; what turns out otherwise than expected is no failure.
pub(super) type Play = for<'a> fn(&'a mut Stage) -> LocalBoxFuture<'a, anyhow::Result<()>>;

/// A story.
#[derive(Debug)]
pub(super) struct Story {
    /// How it is called on the command line; nothing for the one that needs no name.
    pub(super) name: Option<&'static str>,
    /// What it is about, in one line.
    pub(super) about: &'static str,
    /// What is started, as an object of that verb.
    pub(super) cast: &'static str,
    /// The namespace of its services.
    pub(super) namespace: &'static str,
    /// What gets traffic all along, in the order of the table's rows; at least one.
    pub(super) targets: &'static [Target],
    /// The mesh without [`Self::policies`].
    pub(super) mesh: fn(Pace) -> Builder,
    /// Policies with the durations of their source, by the names under which
    /// [`Mesh::apply_policy`] and [`Stage::before_and_after`] know them.
    pub(super) policies: &'static [Policy],
    /// What a Prometheus is to have, where the machine has one.
    pub(super) watched: Option<Watched>,
    /// What is made before traffic flows and stays to the end, for [`super::world::World::props`].
    pub(super) props: Option<Props>,
    /// The acts, in order.
    pub(super) acts: &'static [Play],
    /// What can be called under `--keep`.
    pub(super) doors: &'static [Door],
}

/// Makes what a story needs beside its mesh: servers, a Prometheus. Whatever it is ends when dropped.
pub(super) type Props =
    for<'a> fn(&'a Mesh, Pace) -> LocalBoxFuture<'a, anyhow::Result<Box<dyn std::any::Any>>>;

/// A policy as it stands in a file, with the file's durations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// Its name here.
    pub(super) name: &'static str,
    /// The file's text.
    pub(super) yaml: &'static str,
}

/// A service that gets traffic, and where it comes from.
#[derive(Debug)]
pub(super) struct Target {
    /// The service.
    pub(super) service: &'static str,
    /// Its port, and that of its backends.
    pub(super) port: u16,
    /// Services that its requests end up at.
    pub(super) backends: &'static [&'static str],
    /// The workload that calls it.
    pub(super) caller: &'static str,
    /// Requests per second.
    pub(super) rate: f64,
    /// The most requests that are under way at once.
    pub(super) clients: usize,
    /// What its caller speaks.
    pub(super) protocol: Protocol,
    /// The versions whose shares the table shows.
    pub(super) versions: Option<[&'static str; 2]>,
    /// Kinds of requests, which take turns.
    pub(super) shots: fn(&Mesh) -> Vec<Shot>,
}

/// A target that can be called from outside under `--keep`.
#[derive(Debug)]
pub(super) struct Door {
    /// Index into [`Story::targets`].
    pub(super) target: usize,
    /// Paths to try, and what they show.
    pub(super) paths: &'static [(&'static str, &'static str)],
}

impl Story {
    /// The caller whose sidecar is the one to look at.
    pub(super) fn lead(&self) -> &'static str {
        self.targets[0].caller
    }
}
