//! Columns of words that fit into a screen.

/// What lines fit into.
pub(crate) const WIDTH: usize = 100;
/// Between columns.
pub(crate) const GAP: usize = 2;
/// No column but the last is wider.
const MAX_COLUMN: usize = 44;

/// Rows of cells, each wrapped inside its column; the last column takes what is left. A line break
/// in a cell stays one.
pub(crate) fn table(indent: usize, rows: &[Vec<String>]) -> Vec<String> {
    self::rows(indent, MAX_COLUMN, rows)
        .into_iter()
        .flatten()
        .collect()
}

/// The same, with the lines of each row by themselves. No column but the last is wider than `widest`.
pub(crate) fn rows(indent: usize, widest: usize, rows: &[Vec<String>]) -> Vec<Vec<String>> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let lines = cells.flat_map(|cell| cell.lines());
            let longest = lines.map(|line| line.chars().count()).max().unwrap_or(0);
            longest.min(widest)
        })
        .collect();
    if let Some((last, rest)) = widths.split_last_mut() {
        let taken: usize = rest.iter().map(|width| width + GAP).sum();
        *last = WIDTH.saturating_sub(indent + taken).max(1);
    }
    rows.iter().map(|row| lines(indent, row, &widths)).collect()
}

/// Words in lines that fit; lines after the first are indented a little more.
pub(crate) fn paragraph(indent: usize, words: &str) -> Vec<String> {
    let lines = wrapped(words, WIDTH - indent - GAP).into_iter().enumerate();
    lines
        .map(|(at, line)| {
            let indent = indent + if at == 0 { 0 } else { GAP };
            format!("{}{line}", " ".repeat(indent))
        })
        .collect()
}

fn lines(indent: usize, row: &[String], widths: &[usize]) -> Vec<String> {
    let cells: Vec<_> = row
        .iter()
        .zip(widths)
        .map(|(cell, width)| wrapped(cell, *width))
        .collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    (0..height)
        .map(|at| {
            let mut line = " ".repeat(indent);
            for (cell, width) in cells.iter().zip(widths) {
                let piece = cell.get(at).map_or("", String::as_str);
                line.push_str(piece);
                line.push_str(&" ".repeat(width + GAP - piece.chars().count().min(*width)));
            }
            line.trim_end().to_owned()
        })
        .collect()
}

/// Words in lines; one that is longer than a line is broken.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        let mut room = width;
        for word in paragraph.split(' ') {
            let word: Vec<char> = word.chars().collect();
            if !line.is_empty() {
                if word.len() + 1 > room {
                    lines.push(std::mem::take(&mut line));
                    room = width;
                } else {
                    line.push(' ');
                    room -= 1;
                }
            }
            for piece in word.chunks(width) {
                if piece.len() > room {
                    lines.push(std::mem::take(&mut line));
                    room = width;
                }
                line.extend(piece);
                room -= piece.len();
            }
        }
        lines.push(line);
    }
    lines
}
