//! Words of others (a database's message quotes what a client has written) on a terminal and in a
//! log: they can neither move a cursor nor look like a line that Prism has written.

use std::io::{self, Write};

/// With control characters written out, but line ends and tabs left in: for texts of several lines.
pub(crate) fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if is_unseen(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// On one line, with a blank for what is no visible character.
pub(crate) fn printable(text: &str) -> String {
    let blank = |c| if is_unseen(c) { ' ' } else { c };
    text.chars().map(blank).collect()
}

/// Control characters, and those that make a text be shown in another order than it is written.
fn is_unseen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// A log whose events begin at the start of a line, and nothing else does. (The subscriber makes the
/// text of an event harmless, but not its fields.)
pub(crate) struct Indented<W> {
    pub(crate) to: W,
    /// The subscriber writes colours: these, and no other sequences, are left as they are.
    pub(crate) colours: bool,
}

impl<W: Write> Write for Indented<W> {
    /// An event is written at once, with its line end.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (text, end) = match text.strip_suffix('\n') {
            Some(text) => (text, "\n"),
            None => (&*text, ""),
        };
        let mut out = String::with_capacity(event.len());
        for (at, c) in text.char_indices() {
            match c {
                '\n' => out.push_str("\n    "),
                '\u{1b}' if self.colours && is_colour(&text[at + 1..]) => out.push(c),
                '\t' => out.push(c),
                c if is_unseen(c) => out.extend(c.escape_unicode()),
                c => out.push(c),
            }
        }
        out.push_str(end);
        self.to.write_all(out.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// `[1;31m`
fn is_colour(behind_escape: &str) -> bool {
    let rest = behind_escape.strip_prefix('[').unwrap_or_default();
    rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';')
        .starts_with('m')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const HOSTILE: &str =
        "Key (name)=(\u{1b}[2J\u{9b}31m\r\u{202E}ä\n2026-01-01T00:00:00Z  INFO all is well) exists";

    #[test]
    fn words_of_others_do_not_move_the_cursor() {
        for text in [harmless(HOSTILE), printable(HOSTILE)] {
            let hidden = text.chars().filter(|c| is_unseen(*c) && *c != '\n');
            assert_eq!(hidden.count(), 0, "{text:?}");
            assert!(text.contains('ä'));
        }
        assert!(harmless(HOSTILE).contains("\\u{1b}[2J"));
        assert_eq!(printable(HOSTILE).lines().count(), 1);
    }

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("a lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn words_of_others_are_no_line_of_the_log() {
        for colours in [false, true] {
            let kept = Kept::default();
            let to = kept.clone();
            let log = tracing_subscriber::fmt()
                .with_writer(move || Indented {
                    to: to.clone(),
                    colours,
                })
                .with_ansi(colours)
                .with_target(false)
                .finish();
            tracing::subscriber::with_default(log, || {
                tracing::warn!(error = %HOSTILE, "alarm raised: {HOSTILE}");
                tracing::warn!("the next");
            });
            let text = String::from_utf8(kept.0.lock().expect("a lock").clone()).expect("UTF-8");
            assert!(!text.contains("\u{1b}[2J"), "{text:?}");
            assert!(!text.contains(['\u{9b}', '\u{202E}', '\r']), "{text:?}");
            assert_eq!(text.contains("\u{1b}["), colours, "{text:?}");
            let begin = |line: &&str| !line.starts_with("    ");
            assert_eq!(text.lines().filter(begin).count(), 2, "{text}");
            assert!(text.ends_with("the next\n"));
        }
    }
}
