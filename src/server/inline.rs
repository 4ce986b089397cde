//! The words of an inline command, the form in which people type commands into a bare connection.
//!
//! Guarantees: Redis' rules for quotes and escapes; time linear in the line; arbitrary bytes never panic.
//! Not done here: finding the line and bounding its length.

use crate::command::args::Span;

/// Splits `line` as Redis' `sdssplitargs` does: words between blanks; `"..."` knows the escapes `\xHH`, `\n`, `\r`,
/// `\t`, `\b`, `\a` and takes any other escaped byte as it is; `'...'` knows only `\'`. A closing quote ends the word
/// and must be followed by a blank or the end; `None` if not, or if there is none.
///
/// The words' bytes are appended to `words`, their places to `spans`.
pub fn split_words(line: &[u8], words: &mut Vec<u8>, spans: &mut Vec<Span>) -> Option<()> {
    let mut rest = line;
    loop {
        while let [blank, tail @ ..] = rest
            && is_space(*blank)
        {
            rest = tail;
        }
        if rest.is_empty() {
            return Some(());
        }
        let start = words.len();
        rest = unquote_word(rest, words)?;
        spans.push(Span { start, end: words.len() });
    }
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Appends the word `rest` starts with to `words`; returns what follows it, `None` if its quotes are unbalanced.
fn unquote_word<'l>(mut rest: &'l [u8], words: &mut Vec<u8>) -> Option<&'l [u8]> {
    loop {
        let after_quotes = match rest {
            // Fewer bytes end a word than separate words: vertical tab and form feed belong to it.
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Some(rest),
            [b'"', tail @ ..] => unquote_double(tail, words)?,
            [b'\'', tail @ ..] => unquote_single(tail, words)?,
            [byte, tail @ ..] => {
                words.push(*byte);
                rest = tail;
                continue;
            }
        };
        return after_quotes.first().is_none_or(|byte| is_space(*byte)).then_some(after_quotes);
    }
}

/// Appends what stands up to the closing double quote; returns what follows the quote.
fn unquote_double<'l>(mut rest: &'l [u8], words: &mut Vec<u8>) -> Option<&'l [u8]> {
    let hex = |digit: u8| char::from(digit).to_digit(16);
    loop {
        let (byte, tail) = match rest {
            [] => return None,
            [b'"', tail @ ..] => return Some(tail),
            [b'\\', b'x', high, low, tail @ ..] if hex(*high).is_some() && hex(*low).is_some() => {
                ((hex(*high)? << 4 | hex(*low)?) as u8, tail)
            }
            [b'\\', escaped, tail @ ..] => (
                match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                },
                tail,
            ),
            [byte, tail @ ..] => (*byte, tail),
        };
        words.push(byte);
        rest = tail;
    }
}

/// Appends what stands up to the closing single quote; returns what follows the quote.
fn unquote_single<'l>(mut rest: &'l [u8], words: &mut Vec<u8>) -> Option<&'l [u8]> {
    loop {
        let (byte, tail) = match rest {
            [] => return None,
            [b'\'', tail @ ..] => return Some(tail),
            [b'\\', b'\'', tail @ ..] => (b'\'', tail),
            [byte, tail @ ..] => (*byte, tail),
        };
        words.push(byte);
        rest = tail;
    }
}
