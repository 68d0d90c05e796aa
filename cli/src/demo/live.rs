//! The table of what happens now: pure, from a [`View`] to lines of at most [`WIDTH`] columns.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::screen::Paint;
use super::text::{grouped, share, short};

/// Columns that the table needs, where names of services are short.
pub(super) const WIDTH: usize = 100;
/// Rows that it needs beside those of services: a rule, a head, the state of things.
const MORE_ROWS: u16 = 3;
/// Columns of a service's name, at least.
const NAME_WIDTH: usize = 11;

/// What the table of so many services with names of such lengths needs of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// Columns.
    pub(super) width: usize,
    /// Rows.
    pub(super) height: u16,
}

impl Size {
    /// For a row for each of these services.
    pub(super) fn of<'a>(services: impl Iterator<Item = &'a str>) -> Self {
        let (mut rows, mut name) = (MORE_ROWS, NAME_WIDTH);
        for service in services {
            rows = rows.saturating_add(1);
            name = name.max(service.chars().count());
        }
        Self {
            width: WIDTH + name - NAME_WIDTH,
            height: rows,
        }
    }
}

/// What happens now.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Number and title of the act.
    pub(super) act: String,
    /// Since the demo began.
    pub(super) elapsed: Duration,
    /// A row for each service.
    pub(super) rows: Vec<Row>,
    /// Age of the sidecar's configuration in seconds; `None` where nobody has told yet.
    pub(super) config_age: Option<f64>,
}

/// One service as its clients see it, in the current act.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) service: &'static str,
    pub(super) requests: u64,
    pub(super) success_percent: f64,
    /// Median and 99th percentile; `None` before an answer.
    pub(super) latencies: Option<[Duration; 2]>,
    /// Shares of the versions in percent: wanted by policy, and observed in answers.
    pub(super) split: Option<Split>,
    pub(super) retries: u64,
    pub(super) breakers: Breakers,
    /// Share of the requests that went over mutual TLS; `None` without any.
    pub(super) mtls_percent: Option<f64>,
}

/// Shares of v1 and v2 in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Split {
    pub(super) wanted: [u32; 2],
    pub(super) observed: Option<[f64; 2]>,
}

/// Circuit breakers by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Breakers {
    pub(super) closed: usize,
    pub(super) half_open: usize,
    pub(super) open: usize,
}

/// The table's lines, of as many columns as [`Size`] says.
pub(super) fn table(view: &View, paint: Paint) -> Vec<String> {
    let width = Size::of(view.rows.iter().map(|row| row.service)).width;
    let name = NAME_WIDTH + width - WIDTH;
    let title = format!("── {} · {:.0} s ", view.act, view.elapsed.as_secs_f64());
    let rule = "─".repeat(width.saturating_sub(title.chars().count()));
    let mut lines = vec![
        paint.strong(&title) + &paint.faint(&rule),
        paint.faint(&columns(
            name,
            [
                "service", "requests", "success", "p50", "p99", "wanted", "observed", "retries",
                "breakers", "mTLS",
            ],
        )),
    ];
    lines.extend(view.rows.iter().map(|row| row.line(name, paint)));
    let age = match view.config_age {
        None => "unknown".to_owned(),
        Some(age) if age > 0.0 => paint.bad(&format!("last known to be current {age:.1} s ago")),
        Some(_) => "current".to_owned(),
    };
    lines.push(paint.faint("configuration: ") + &age);
    lines
}

/// The same in one line.
pub(super) fn line(view: &View) -> String {
    let mut line = format!("  {:3.0} s", view.elapsed.as_secs_f64());
    for row in &view.rows {
        let (requests, success) = (grouped(row.requests), share(row.success_percent));
        // Writing to a string cannot fail.
        let _ = write!(line, " · {} {requests} {success}", row.service);
        if let Some(observed) = row.split.and_then(|split| split.observed) {
            let _ = write!(line, " {}", Split::observed_text(observed));
        }
        if row.breakers.open + row.breakers.half_open > 0 {
            let _ = write!(line, " {}", row.breakers.text());
        }
    }
    if let Some(age) = view.config_age.filter(|age| *age > 0.0) {
        let _ = write!(line, " · config {age:.1} s old");
    }
    line
}

impl Row {
    /// For machines.
    pub(super) fn json(&self) -> Value {
        let millis = |latency: Duration| latency.as_secs_f64() * 1000.0;
        let [p50, p99] = match self.latencies {
            None => [None, None],
            Some(latencies) => latencies.map(|latency| Some(millis(latency))),
        };
        json!({
            "service": self.service,
            "requests": self.requests,
            "successPercent": self.success_percent,
            "p50Millis": p50,
            "p99Millis": p99,
            "retries": self.retries,
            "mtlsPercent": self.mtls_percent,
        })
    }

    fn line(&self, name: usize, paint: Paint) -> String {
        let (wanted, observed) = match self.split {
            None => (String::new(), String::new()),
            Some(Split { wanted, observed }) => (
                format!("{}/{}", wanted[0], wanted[1]),
                observed.map(Split::observed_text).unwrap_or_default(),
            ),
        };
        let [p50, p99] = match self.latencies {
            None => [String::new(), String::new()],
            Some(latencies) => latencies.map(short),
        };
        let line = columns(
            name,
            [
                self.service,
                &grouped(self.requests),
                &share(self.success_percent),
                &p50,
                &p99,
                &wanted,
                &observed,
                &grouped(self.retries),
                &self.breakers.text(),
                &self.mtls_percent.map(share).unwrap_or_default(),
            ],
        );
        if self.success_percent < 100.0 {
            return paint.bad(&line);
        }
        line
    }
}

impl Split {
    fn observed_text(observed: [f64; 2]) -> String {
        format!("{:.1}/{:.1}", observed[0], observed[1])
    }
}

impl Breakers {
    fn text(self) -> String {
        let Self {
            closed,
            half_open,
            open,
        } = self;
        let all = closed + half_open + open;
        match (open, half_open) {
            _ if all == 0 => String::new(),
            (0, 0) => format!("{closed} closed"),
            (0, half_open) => format!("{half_open}/{all} half-open"),
            (open, _) => format!("{open}/{all} open"),
        }
    }
}

fn columns(name: usize, cells: [&str; 10]) -> String {
    let [
        service,
        requests,
        success,
        p50,
        p99,
        wanted,
        observed,
        retries,
        breakers,
        mtls,
    ] = cells;
    format!(
        "{service:<name$}  {requests:>8}  {success:>7}  {p50:>7}  {p99:>7}  {wanted:>6}  {observed:>9}  \
         {retries:>7}  {breakers:>13}  {mtls:>6}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View {
            act: "2/7 Canary 90/10".to_owned(),
            elapsed: Duration::from_millis(12_300),
            rows: vec![
                Row {
                    service: "checkout",
                    requests: 1_234_567,
                    success_percent: 100.0,
                    latencies: Some([1_240, 999_400].map(Duration::from_micros)),
                    split: Some(Split {
                        wanted: [90, 10],
                        observed: Some([89.96, 10.04]),
                    }),
                    mtls_percent: Some(100.0),
                    ..Row::default()
                },
                Row {
                    service: "inventory",
                    requests: 10,
                    success_percent: 90.0,
                    retries: 3,
                    breakers: Breakers {
                        closed: 2,
                        half_open: 1,
                        open: 0,
                    },
                    mtls_percent: Some(99.999),
                    ..Row::default()
                },
                Row {
                    service: "web",
                    success_percent: 100.0,
                    ..Row::default()
                },
            ],
            config_age: Some(4.25),
        }
    }

    #[test]
    fn the_table_fits() {
        let lines = table(&view(), Paint::plain());
        let services = ["checkout", "inventory", "web"];
        let size = Size::of(services.into_iter());
        assert_eq!(lines.len(), usize::from(size.height));
        assert_eq!(size.width, WIDTH);
        for line in &lines {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        let expected = [
            "service      requests  success      p50      p99  wanted   observed  retries       breakers    mTLS",
            "checkout     1,234,567     100%  1.24 ms   999 ms   90/10  90.0/10.0        0                   100%",
            "inventory          10   90.00%                                             3  1/3 half-open  99.99%",
            "web                 0     100%                                             0                       ",
        ];
        assert_eq!(lines[1..5], expected);
        assert_eq!(
            lines[5],
            "configuration: last known to be current 4.2 s ago"
        );
    }

    #[test]
    fn long_names_make_a_wider_table() {
        let mut view = view();
        view.rows[2].service = "telematics-service";
        let lines = table(&view, Paint::plain());
        let size = Size::of(view.rows.iter().map(|row| row.service));
        assert_eq!(size.width, WIDTH + 7);
        for line in &lines {
            assert!(line.chars().count() <= size.width, "{line}");
        }
    }

    #[test]
    fn json_has_what_the_row_has() {
        let [checkout, inventory, _] = &view().rows[..] else {
            panic!("three rows");
        };
        let expected = json!({
            "service": "checkout", "requests": 1_234_567, "successPercent": 100.0,
            "p50Millis": 1.24, "p99Millis": 999.4, "retries": 0, "mtlsPercent": 100.0,
        });
        assert_eq!(checkout.json(), expected);
        assert!(inventory.json()["p50Millis"].is_null());
    }

    #[test]
    fn a_line_says_what_matters() {
        assert_eq!(
            line(&view()),
            "   12 s · checkout 1,234,567 100% 90.0/10.0 · inventory 10 90.00% 1/3 half-open · web 0 100% \
             · config 4.2 s old"
        );
    }

    #[test]
    fn open_breakers_come_first() {
        let states = [(0, 0, 0), (3, 0, 0), (1, 1, 1)].map(|(closed, half_open, open)| {
            let breakers = Breakers {
                closed,
                half_open,
                open,
            };
            breakers.text()
        });
        assert_eq!(states, ["", "3 closed", "1/3 open"]);
    }
}
