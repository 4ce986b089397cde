//! Splits an inline command into words. People use this form when they type commands into a bare connection.
//!
//! Guarantees: Redis' rules for quotes and escapes; time linear in the length of the line; arbitrary bytes never cause
//! a panic. The caller finds the line and bounds its length.

use crate::command::args::Span;

/// Splits `line` as Redis' `sdssplitargs` does. Blanks separate words. `"..."` knows the escapes `\xHH`, `\n`, `\r`,
/// `\t`, `\b`, `\a` and takes any other escaped byte as the byte itself; `'...'` knows only `\'`. A closing quote ends
/// the word and must be followed by a blank or the end of the line. Returns `None` if a quote is not closed, or is
/// closed within a word.
///
/// Appends the bytes of the words to `words`, and the place of each word in `words` to `spans`.
pub(super) fn split_words(line: &[u8], words: &mut Vec<u8>, spans: &mut Vec<Span>) -> Option<()> {
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

/// Reports whether C's `isspace` accepts the byte.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Appends the word that `rest` starts with to `words`. Returns the bytes behind the word, or `None` if its quotes are
/// unbalanced.
fn unquote_word<'l>(mut rest: &'l [u8], words: &mut Vec<u8>) -> Option<&'l [u8]> {
    loop {
        let after_quotes = match rest {
            // A vertical tab and a form feed separate words, but do not end a word: inside a word they belong to the
            // word.
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

/// Appends the bytes up to the closing double quote to `words`. Returns the bytes behind the quote, or `None` without a
/// closing quote.
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

/// Appends the bytes up to the closing single quote to `words`. Returns the bytes behind the quote, or `None` without a
/// closing quote.
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
