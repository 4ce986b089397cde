//! Redis' glob patterns on bytes: `*`, `?`, `[a-z]`, `[^a-z]`, and `\` before a byte that stands for itself.
//!
//! Guarantees: the answers are those of redis-server, including its odd cases (a class that is not closed ends with the
//! pattern, `[z-a]` is `[a-z]`). A match takes at most pattern length times text length steps, whatever the pattern.

/// Reports whether `pattern` matches all of `text`.
#[must_use]
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Place to continue at if the bytes after the last `*` do not match. The bytes that earlier `*`s took never need to
    // change.
    let mut retry = None;
    while let Some(&byte) = text.get(seen) {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            retry = Some((at, seen));
            continue;
        }
        match match_one(&pattern[at..], byte) {
            Some(rest) => {
                at = pattern.len() - rest.len();
                seen += 1;
            }
            None => {
                let Some((after_star, taken)) = &mut retry else { return false };
                *taken += 1;
                (at, seen) = (*after_star, *taken);
            }
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// Reports whether `pattern` matches every text.
#[must_use]
pub(super) fn matches_all(pattern: &[u8]) -> bool {
    pattern == b"*"
}

/// Matches `byte` with the first element of the pattern, which is not `*`. Returns the rest of the pattern, or `None`
/// if the byte does not match.
fn match_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (&first, rest) = pattern.split_first()?;
    let (is_match, rest) = match first {
        b'?' => (true, rest),
        b'[' => match_class(rest, byte),
        b'\\' if !rest.is_empty() => (rest[0] == byte, &rest[1..]),
        _ => (first == byte, rest),
    };
    is_match.then_some(rest)
}

/// Reports whether the class whose content starts `pattern` contains `byte`, and returns the pattern behind the class.
fn match_class(mut pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    let is_negated = pattern.first() == Some(&b'^');
    if is_negated {
        pattern = &pattern[1..];
    }
    let mut found = false;
    loop {
        (found, pattern) = match pattern {
            [] => break,
            [b']', rest @ ..] => {
                pattern = rest;
                break;
            }
            [b'\\', escaped, rest @ ..] => (found || *escaped == byte, rest),
            [low, b'-', high, rest @ ..] => (found || (*low.min(high)..=*low.max(high)).contains(&byte), rest),
            [single, rest @ ..] => (found || *single == byte, rest),
        };
    }
    (found != is_negated, pattern)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Redis' own matcher (`stringmatchlen` of util.c, 7.0), which takes exponential time.
    fn redis(mut pattern: &[u8], mut text: &[u8]) -> bool {
        while !pattern.is_empty() && !text.is_empty() {
            if pattern[0] == b'*' {
                return pattern.len() == 1
                    || (0..text.len()).any(|from| redis(&pattern[1..], &text[from..]))
                    || pattern.iter().all(|&byte| byte == b'*');
            }
            let Some(rest) = match_one(pattern, text[0]) else { return false };
            (pattern, text) = (rest, &text[1..]);
        }
        text.is_empty() && pattern.iter().all(|&byte| byte == b'*')
    }

    proptest! {
        #[test]
        fn stars_match_as_trying_everything_does(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), redis(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(pattern: Vec<u8>, text: Vec<u8>) {
            let _ = matches(&pattern, &text);
        }
    }

    #[test]
    fn elements_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            (r"h\*llo", "h*llo", true),
            (r"h\*llo", "hello", false),
            (r"[\]]", "]", true),
            (r"[\^a]", "^", true),
            ("[]", "a", false),
            ("[^]", "a", true),
            ("[abc", "c", true),
            ("[", "[", false),
            ("[^", "x", true),
            ("[a-]", "^", true),
            (r"a\", r"a\", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "a", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*ab", "aab", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        assert!(!matches(format!("{}b", "a*".repeat(500)).as_bytes(), &[b'a'; 5000]));
    }
}
