//! `weft top`: what passes now, again and again.
//!
//! Every sidecar is asked for its counts since its start; what is shown is the difference to the last
//! answer. So nothing is lost between two questions, whatever they take. Who does not answer for once is
//! missing from one table and told; the difference to the answer before it comes with the next one.

use std::collections::{HashMap, HashSet};
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use weft_proxy::telemetry::traffic::Summary;

use super::ask::{Answers, Sidecar, Which};
use super::sums::Stat;
use super::{View, difference, text};
use crate::order::{INCOMPLETE, NO_ANSWER};
use crate::paint::{self, Paint};

/// What the first table is of, before there is a difference.
const FIRST_WINDOW: Duration = Duration::from_secs(10);
/// Lines of a terminal that stay free of the table.
const SPARE_ROWS: usize = 2;
/// To the line's begin, and everything below away (ECMA-48: CUU, ED).
const ERASE_BELOW: &str = "\r\x1b[J";

/// What is shown, of what, and how often.
#[derive(Debug, Args)]
#[command(after_help = "\
The same lines as those of weft stat, of what passed since the table before; the busiest first. The
first table is of the last 10 s. On a terminal the table is drawn over and over; elsewhere one follows
the other. Ctrl-C ends it.

One replica of the control plane is asked, on its admin port, which answers on loopback only; it asks
the others. In a cluster, forward the port first:

  kubectl -n weft port-forward deploy/weft-control-plane 15190

Exit codes, where --iterations or --for ends it:
  0   everybody answered at last
  1   a sidecar did not answer at last or is not connected, or a replica did not answer
  2   the control plane cannot be asked
  64  bad command line")]
pub struct Options {
    /// A line for each of what.
    #[arg(value_enum, default_value_t = View::Services)]
    view: View,
    #[command(flatten)]
    which: Which,
    /// From one table to the next, a second at least.
    #[arg(long, value_name = "TIME", default_value = "2s")]
    interval: Every,
    /// Ends after so many tables.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    iterations: Option<u64>,
    /// Ends after so much time.
    #[arg(long = "for", value_name = "TIME")]
    lasting: Option<Every>,
}

/// Some time, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Every(Duration);

/// What sidecars said last, by workload.
#[derive(Default)]
pub(super) struct Memory {
    last: HashMap<String, Summary>,
    asked: Option<Instant>,
}

/// Where tables go.
struct Screen {
    paint: Paint,
    /// Rows of the terminal; `None` elsewhere.
    rows: Option<usize>,
    /// Lines that are on the terminal now.
    drawn: usize,
}

/// Shows what passes until it is told to stop. Exit codes are in the command's help.
pub fn run(options: &Options) -> ExitCode {
    let begun = Instant::now();
    let mut screen = Screen::new();
    let mut memory = Memory::default();
    let mut code = 0;
    for number in 1_u64.. {
        let due = Instant::now() + options.interval.0;
        match next(options, &mut memory) {
            Ok((stat, answers)) => {
                code = if answers.is_whole() { 0 } else { INCOMPLETE };
                screen.show(&stat, &answers);
            }
            Err(error) if number == 1 => {
                eprintln!("weft top: {}: {error}", options.which.server());
                return ExitCode::from(NO_ANSWER);
            }
            // It may come back: the next table is then of all the time between.
            Err(error) => {
                code = NO_ANSWER;
                screen.complain(&format!("{}: {error}", options.which.server()));
            }
        }
        let is_last = options.iterations == Some(number);
        let is_over = options.lasting.is_some_and(|it| due > begun + it.0);
        if is_last || is_over {
            break;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    ExitCode::from(code)
}

/// Asks, and says what passed since the last time.
fn next(
    options: &Options,
    memory: &mut Memory,
) -> Result<(Stat, Answers), crate::proxy_status::ask::AskError> {
    let Options { view, which, .. } = options;
    let is_first = memory.asked.is_none();
    let now = Instant::now();
    let mut answers = which.ask(*view, None)?;
    memory.keep(&mut answers, now);
    if is_first {
        answers = which.ask(*view, Some(FIRST_WINDOW))?;
    }
    Ok((Stat::of(*view, which, &answers), answers))
}

impl Memory {
    /// Remembers answers and leaves of each what passed since the one before. Who is new, and did not
    /// start since the last question, has to be asked twice.
    pub(super) fn keep(&mut self, answers: &mut Answers, now: Instant) {
        let passed = self.asked.map(|asked| now.saturating_duration_since(asked));
        self.asked = Some(now);
        let told = std::mem::take(&mut answers.sidecars);
        for Sidecar { workload, summary } in told {
            let is_young = passed.is_some_and(|it| summary.up_seconds <= it.as_secs_f64());
            let difference = match self.last.get(&workload) {
                Some(before) => Some(difference::since(before, &summary)),
                None => is_young.then(|| summary.clone()),
            };
            self.last.insert(workload.clone(), summary);
            answers
                .sidecars
                .extend(difference.map(|summary| Sidecar { workload, summary }));
        }
        // Who is neither connected nor silent is gone.
        let known = answers.told.answers.iter();
        let known: HashSet<_> = known
            .map(|it| format!("{}/{}", it.namespace, it.name))
            .collect();
        self.last.retain(|workload, _| known.contains(workload));
    }
}

impl Screen {
    fn new() -> Self {
        let out = io::stdout();
        let is_terminal = out.is_terminal() && paint::knows_control_sequences();
        let size = rustix::termios::tcgetwinsize(&out).ok();
        let rows = size.map(|size| usize::from(size.ws_row));
        Self {
            paint: Paint::of(is_terminal),
            rows: rows.filter(|rows| is_terminal && *rows > 2 * SPARE_ROWS),
            drawn: 0,
        }
    }

    /// A table in the place of the one before, or after it.
    fn show(&mut self, stat: &Stat, answers: &Answers) {
        let mut lines = vec![self.paint.strong(&text::sum(stat))];
        lines.extend(text::tables(stat, self.paint));
        lines.extend(text::problems(&answers.told));
        self.draw(lines);
    }

    /// A line below what is there.
    fn complain(&mut self, words: &str) {
        let line = self.paint.bad(&format!("No answer: {words}"));
        self.drawn = 0;
        self.draw(vec![line]);
    }

    fn draw(&mut self, mut lines: Vec<String>) {
        let mut text = match self.drawn {
            0 => String::new(),
            drawn => format!("\x1b[{drawn}A{ERASE_BELOW}"),
        };
        if let Some(rows) = self.rows {
            let room = rows - SPARE_ROWS;
            if lines.len() > room {
                let more = lines.len() - room;
                lines.truncate(room);
                lines.push(self.paint.faint(&format!("and {more} lines more")));
            }
            self.drawn = lines.len();
        }
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        let mut out = io::stdout().lock();
        // Fails only where nobody reads any more.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl Every {
    const MOST: Duration = Duration::from_secs(24 * 3_600);
}

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a time such as 2s, 1m or 1h".to_owned();
        let units = [('s', 1), ('m', 60), ('h', 3_600)];
        let mut units = units.into_iter();
        let found = units.find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
        let (number, seconds) = found.ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let time = Duration::from_secs(number.saturating_mul(seconds));
        if time.is_zero() || time > Self::MOST {
            return Err(wrong());
        }
        Ok(Self(time))
    }
}
