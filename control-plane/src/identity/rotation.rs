//! When a rotation may go on: a pure state machine, which takes the time and what was heard.
//!
//! * **publish**: the new root is trusted beside the old one, which signs. It ends when everybody who is
//!   connected, and every replica, has confirmed the bundle with both for a while without a break; at the
//!   latest when every leaf of before has expired, as whoever has a valid one then has been connected
//!   since. It never ends before the bundle is where sidecars boot from.
//! * **sign**: the new one signs, both are trusted. It ends when the last leaf of the old one has expired
//!   by every clock, and every replica signs with the new one.
//!
//! An issuer has no first phase: nobody trusts issuers, their certificate comes with each leaf.
//!
//! Clocks may be [`CLOCK_SLACK`] apart, those of any two processes. Time in the state is wall-clock time,
//! as it has to outlive the process.

use std::fmt;
use std::time::{Duration, SystemTime};

/// How far clocks may be apart.
pub const CLOCK_SLACK: Duration = Duration::from_secs(600);
/// How long everybody must have been in step without a break before signing with a new root begins:
/// whoever is just starting has read the bundle from where it boots, which kubelets renew once a minute.
const SETTLE: Duration = Duration::from_secs(120);
/// Half of how far ahead the end of the old leaves is put while a replica may still sign with it.
const LEAST_MARGIN: Duration = Duration::from_secs(10);

/// What is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The issuer, under the same root.
    Issuer,
    /// The root, and with it the issuer.
    Root,
}

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The old signs, both are trusted.
    Publish,
    /// The new signs, both are trusted.
    Sign,
}

/// A rotation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// What is replaced.
    pub kind: Kind,
    /// How far it is.
    pub phase: Phase,
    /// Since when it is in this phase.
    pub since: SystemTime,
    /// When the last leaf of the old one expires, as far as known; the epoch while that still signs.
    pub old_until: SystemTime,
}

/// How long is waited for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The longest life of a leaf that may be out there.
    pub leaf: Duration,
    /// For clocks that are apart: [`CLOCK_SLACK`], or the life of a leaf where that is shorter.
    pub slack: Duration,
    /// How long everybody must have been in step.
    pub settle: Duration,
    /// How far ahead the end of old leaves is put while somebody may still sign them.
    pub margin: Duration,
}

/// What is known of the others, by whoever leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The bundle is where sidecars boot from.
    pub published: Published,
    /// Since when, without a break, sidecars and replicas all have confirmed it; `None` while one has not.
    pub in_step_for: Option<Duration>,
    /// Every replica signs with the signer of the state.
    pub all_sign: bool,
    /// When the last leaf expires that a replica has signed with another one.
    pub former_until: Option<SystemTime>,
}

/// How far the bundle has come to where sidecars boot from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Published {
    /// Not tried, or not at all.
    #[default]
    No,
    /// With places where it failed.
    Partly,
    /// Everywhere.
    Everywhere,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing yet.
    Wait,
    /// [`Phase::Sign`] begins; old leaves expire at this time at the latest.
    Sign(SystemTime),
    /// Old leaves live until then: it is to be written down.
    Extend(SystemTime),
    /// The rotation ends: the old is forgotten.
    Retire,
}

impl Timing {
    /// That of leaves with this life.
    pub fn of(leaf: Duration) -> Self {
        Self {
            leaf,
            slack: CLOCK_SLACK.min(leaf),
            settle: SETTLE.min(leaf / 4),
            margin: (leaf / 20).clamp(LEAST_MARGIN, CLOCK_SLACK / 2),
        }
    }

    /// Until when a leaf may be good that somebody signs now, or a moment later.
    pub fn leaf_end(&self, now: SystemTime) -> SystemTime {
        now + self.leaf + self.margin
    }
}

impl Rotation {
    /// The first phase of a root's.
    pub fn publish(since: SystemTime) -> Self {
        Self {
            kind: Kind::Root,
            phase: Phase::Publish,
            since,
            old_until: SystemTime::UNIX_EPOCH,
        }
    }

    /// The second phase.
    pub fn sign(kind: Kind, since: SystemTime, old_until: SystemTime) -> Self {
        Self {
            kind,
            phase: Phase::Sign,
            since,
            old_until,
        }
    }

    /// When this phase ends at the latest where everybody is reached: of the first one no later than that,
    /// of the second one no sooner.
    pub fn ends(&self, timing: &Timing) -> SystemTime {
        match self.phase {
            Phase::Publish => self.since + timing.leaf + timing.slack,
            Phase::Sign => self.old_until + timing.slack,
        }
    }

    /// What is to be done now.
    pub fn next(&self, now: SystemTime, heard: &Heard, timing: &Timing) -> Next {
        match self.phase {
            Phase::Publish => self.next_of_publish(now, heard, timing),
            Phase::Sign => self.next_of_sign(now, heard, timing),
        }
    }

    fn next_of_publish(&self, now: SystemTime, heard: &Heard, timing: &Timing) -> Next {
        let in_step = heard
            .in_step_for
            .is_some_and(|since| since >= timing.settle);
        let may = match heard.published {
            Published::No => false,
            Published::Partly => now >= self.ends(timing),
            Published::Everywhere => in_step || now >= self.ends(timing),
        };
        if may {
            Next::Sign(timing.leaf_end(now))
        } else {
            Next::Wait
        }
    }

    fn next_of_sign(&self, now: SystemTime, heard: &Heard, timing: &Timing) -> Next {
        let said = heard.former_until.unwrap_or(SystemTime::UNIX_EPOCH);
        // Whoever does not sign with the new one signs with the old one.
        let may_be_signed =
            !heard.all_sign && now + timing.leaf + timing.margin / 2 > self.old_until;
        if may_be_signed {
            return Next::Extend(timing.leaf_end(now).max(said));
        }
        if said > self.old_until {
            return Next::Extend(said);
        }
        if heard.all_sign && now >= self.ends(timing) {
            Next::Retire
        } else {
            Next::Wait
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Issuer => "issuer",
            Self::Root => "root",
        })
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "issuer" => Ok(Self::Issuer),
            "root" => Ok(Self::Root),
            _ => Err(format!("{text:?} is neither issuer nor root")),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Sign => "sign",
        })
    }
}
