//! Words in lines.

/// Words in lines of at most `width` letters, under a heading. A word that is longer than a line is
/// broken. There is one line at least.
pub(crate) fn wrapped(words: &str, head: &str, width: usize) -> Vec<String> {
    let width = width - head.len();
    let mut lines = vec![String::new()];
    let mut room = width;
    for word in words.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        let begins = room == width;
        if !begins && word.len() + 1 > room {
            lines.push(String::new());
            room = width;
        } else if !begins {
            word.insert(0, ' ');
        }
        for piece in word.chunks(width) {
            if piece.len() > room {
                lines.push(String::new());
                room = width;
            }
            if let Some(line) = lines.last_mut() {
                line.extend(piece);
            }
            room -= piece.len();
        }
    }
    let blank = " ".repeat(head.len());
    let lines = lines.into_iter().enumerate();
    lines
        .map(|(at, line)| format!("{}{line}", if at == 0 { head } else { &blank }))
        .collect()
}
