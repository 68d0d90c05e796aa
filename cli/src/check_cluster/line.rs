//! What a check says: one line, with a hint where something is to be done.

use serde::Serialize;

use super::facts::Trouble;

/// Names that one line lists at most.
const MAX_LISTED: usize = 10;

/// How a check ended, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// It could not be looked at, which is said and counts as nothing.
    Skipped,
    /// It works, and may not do what somebody expects.
    Warning,
    /// It does not work.
    Failed,
}

/// Which check it is: its category, and a stable word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Check(pub(super) &'static str, pub(super) &'static str);

/// What one check says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub(super) category: &'static str,
    pub(super) check: &'static str,
    pub(super) state: State,
    /// What was found, and what it means.
    pub(super) what: String,
    /// Whom it is about; the rest of a long list is counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) list: Vec<String>,
    /// How to mend it; empty where there is nothing to mend.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) hint: String,
}

impl Check {
    pub(super) fn ok(self, what: impl Into<String>) -> Line {
        self.line(State::Ok, what, "")
    }

    pub(super) fn skipped(self, what: impl Into<String>, hint: impl Into<String>) -> Line {
        self.line(State::Skipped, what, hint)
    }

    pub(super) fn warning(self, what: impl Into<String>, hint: impl Into<String>) -> Line {
        self.line(State::Warning, what, hint)
    }

    pub(super) fn failed(self, what: impl Into<String>, hint: impl Into<String>) -> Line {
        self.line(State::Failed, what, hint)
    }

    /// Where the cluster did not say what is asked for.
    pub(super) fn untold(self, asked: &str, trouble: &Trouble) -> Line {
        match trouble {
            Trouble::Forbidden => self.skipped(
                format!("{asked} may not be read by this user"),
                "run it again as somebody who may",
            ),
            Trouble::Absent => self.skipped(
                format!("{asked}: the API server does not know this kind of object"),
                "",
            ),
            Trouble::Failed(why) => self.failed(
                format!("{asked} could not be read: {why}"),
                "try again; where it stays, look at the API server's own logs",
            ),
        }
    }

    fn line(self, state: State, what: impl Into<String>, hint: impl Into<String>) -> Line {
        let Self(category, check) = self;
        Line {
            category,
            check,
            state,
            what: what.into(),
            list: Vec::new(),
            hint: hint.into(),
        }
    }
}

impl Line {
    /// With those that it is about.
    pub(super) fn listing(mut self, all: impl IntoIterator<Item = String>) -> Self {
        let mut all = all.into_iter();
        self.list = all.by_ref().take(MAX_LISTED).collect();
        let more = all.count();
        if more > 0 {
            self.list.push(format!("and {more} more"));
        }
        self
    }
}

pub(super) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
