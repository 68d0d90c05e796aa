//! One row of the table, and how it is shown.

/// One connection of a client.
#[derive(Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    /// `{many}`: 101 headers; `{long}`: a header of 70 KB.
    pub(super) sent: &'static str,
    /// Statuses, in order.
    pub(super) answers: &'static [u16],
    /// Whether the connection is good for one more request after them.
    pub(super) open: bool,
    /// `METHOD target body` of each request. One that begins with `?` may come, but not whole.
    pub(super) seen: &'static [&'static str],
    /// What the reference proxy answers; empty where nobody measured it.
    pub(super) envoy: &'static str,
    /// The reason where Weft differs, or what is to be said.
    pub(super) why: &'static str,
}

pub(super) const fn refused(name: &'static str, sent: &'static str, envoy: &'static str) -> Case {
    answered(name, sent, &[400], envoy)
}

/// Answered without the application, and closed.
pub(super) const fn answered(
    name: &'static str,
    sent: &'static str,
    answers: &'static [u16],
    envoy: &'static str,
) -> Case {
    Case {
        name,
        sent,
        answers,
        open: false,
        seen: &[],
        envoy,
        why: "",
    }
}

/// Refused for its host: where it ends is clear, so the connection stays.
pub(super) const fn misdirected(
    name: &'static str,
    sent: &'static str,
    envoy: &'static str,
) -> Case {
    Case {
        open: true,
        ..refused(name, sent, envoy)
    }
}

/// A request that the application gets, on a connection that stays.
pub(super) const fn served(
    name: &'static str,
    sent: &'static str,
    seen: &'static [&'static str],
    envoy: &'static str,
) -> Case {
    Case {
        name,
        sent,
        answers: &[200],
        open: true,
        seen,
        envoy,
        why: "",
    }
}

pub(super) const fn but(case: Case, why: &'static str) -> Case {
    Case { why, ..case }
}

/// A body that breaks off: the head may have reached the application, the end never does.
pub(super) const fn cut(name: &'static str, sent: &'static str, envoy: &'static str) -> Case {
    Case {
        seen: &["?POST /cut"],
        ..refused(name, sent, envoy)
    }
}

impl Case {
    /// The bytes.
    pub(super) fn bytes(&self) -> String {
        let many = || (0..101).fold(String::new(), |all, n| all + &format!("x-{n}: y\r\n"));
        let long = || format!("x: {}\r\n", "y".repeat(70_000));
        self.sent
            .replace("{many}", &many())
            .replace("{long}", &long())
    }

    /// As a row of the page.
    pub(super) fn row(&self) -> String {
        let statuses: Vec<_> = self.answers.iter().map(u16::to_string).collect();
        let end = if self.open { "" } else { ", closes" };
        let seen = match self.seen {
            [] if self.answers == [200] => "the request without the wish".to_owned(),
            [] => "nothing".to_owned(),
            [cut] if cut.starts_with('?') => "nothing, or a request that breaks off".to_owned(),
            all => all
                .iter()
                .map(|one| format!("`{one}`"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let envoy = if self.envoy.is_empty() {
            "–"
        } else {
            self.envoy
        };
        format!(
            "| {} | {envoy} | {}{end} | {seen} | {} |",
            self.name,
            statuses.join(", "),
            self.why
        )
    }
}
