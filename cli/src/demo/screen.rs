//! Where the demo's words go: lines that stay, and below them, on a terminal, a table that is drawn
//! over and over. Elsewhere the table is a line now and then.
//!
//! A failed write is no error: the story goes on when nobody reads it any more.

use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

use super::live::{self, Size, View};
use crate::paint;
pub(super) use crate::paint::Paint;

/// How often a line stands for the table where there is no terminal.
const PROGRESS_EVERY: Duration = Duration::from_secs(3);
/// Rows that a terminal must have beyond the table's own.
const SPARE_ROWS: u16 = 3;
/// To the line's begin, and everything below away (ECMA-48: CUU, ED).
const ERASE_BELOW: &str = "\r\x1b[J";

/// The place for words.
#[derive(Debug)]
pub(super) struct Screen {
    out: Out,
    paint: Paint,
    is_live: bool,
    /// Lines of the table that is on the terminal now.
    drawn: usize,
    table: Vec<String>,
    next_progress: Instant,
}

#[derive(Debug)]
enum Out {
    Stdout(io::Stdout),
    Stderr(io::Stderr),
}

impl Screen {
    /// On standard output, or on standard error where standard output is for machines. `table` is what
    /// the table needs.
    pub(super) fn new(stdout_is_for_machines: bool, table: Size) -> Self {
        let out = if stdout_is_for_machines {
            Out::Stderr(io::stderr())
        } else {
            Out::Stdout(io::stdout())
        };
        let terminal = out.terminal_size();
        Self {
            paint: Paint::of(terminal.is_some()),
            is_live: terminal.is_some_and(|(columns, rows)| {
                usize::from(columns) >= table.width && rows >= table.height + SPARE_ROWS
            }),
            out,
            drawn: 0,
            table: Vec::new(),
            next_progress: Instant::now(),
        }
    }

    /// How words are coloured here.
    pub(super) fn paint(&self) -> Paint {
        self.paint
    }

    /// A line that stays.
    pub(super) fn say(&mut self, line: &str) {
        let mut text = self.erasure();
        text.push_str(line);
        text.push('\n');
        self.write(text);
    }

    /// The table as it is now.
    pub(super) fn show(&mut self, view: &View) {
        if self.is_live {
            self.table = live::table(view, self.paint);
            let text = self.erasure();
            self.write(text);
            return;
        }
        let now = Instant::now();
        if now >= self.next_progress {
            self.next_progress = now + PROGRESS_EVERY;
            self.say(&self.paint.faint(&live::line(view)));
        }
    }

    /// Takes the table away.
    pub(super) fn clear(&mut self) {
        self.table.clear();
        let text = self.erasure();
        self.write(text);
    }

    /// What goes to the table's first line and erases the table.
    fn erasure(&mut self) -> String {
        let text = match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A{ERASE_BELOW}"),
        };
        self.drawn = 0;
        text
    }

    /// Writes `text`, and the table below it.
    fn write(&mut self, mut text: String) {
        for line in &self.table {
            text.push_str(line);
            text.push('\n');
        }
        self.drawn = self.table.len();
        let _ = match &mut self.out {
            Out::Stdout(out) => out.write_all(text.as_bytes()).and_then(|()| out.flush()),
            Out::Stderr(out) => out.write_all(text.as_bytes()).and_then(|()| out.flush()),
        };
    }
}

impl Out {
    /// Columns and rows, where it is a terminal that understands control sequences.
    fn terminal_size(&self) -> Option<(u16, u16)> {
        let (is_terminal, size) = match self {
            Self::Stdout(out) => (out.is_terminal(), rustix::termios::tcgetwinsize(out)),
            Self::Stderr(out) => (out.is_terminal(), rustix::termios::tcgetwinsize(out)),
        };
        let size = size
            .ok()
            .filter(|_| is_terminal && paint::knows_control_sequences())?;
        Some((size.ws_col, size.ws_row))
    }
}
