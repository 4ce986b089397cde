//! The expected errors and words are those of redis-server 7.0.15, except where a test covers a limit that Redis does
//! not have.

use super::*;
use crate::command::args::OwnedArgs;
use proptest::prelude::*;

const SMALL: Limits = Limits {
    bulk_bytes_max: 100,
    args_max: 10,
    inline_bytes_max: 50,
    query_buffer_bytes_max: 300,
    reserve_bytes_max: 16,
    is_authenticated: true,
};

/// Parses `input` as if it arrived in reads of the given lengths (the last length is repeated). Returns the requests,
/// and the number of bytes left over or the error.
fn requests(input: &[u8], reads: &[usize], limits: &Limits) -> (Vec<OwnedArgs>, Result<usize, ProtocolError>) {
    let (mut request, mut buffer, mut found) = (Request::default(), Vec::new(), Vec::new());
    let mut unread = input;
    let mut reads = reads.iter().copied().chain(std::iter::repeat(reads.last().copied().unwrap_or(usize::MAX)));
    loop {
        match parse(&buffer, limits, &mut request) {
            Ok(Parsed::Incomplete { needed }) => {
                assert!((1..=limits.reserve_bytes_max).contains(&needed));
                if unread.is_empty() {
                    return (found, Ok(buffer.len()));
                }
                let (read, rest) = unread.split_at(reads.next().expect("endless").clamp(1, unread.len()));
                buffer.extend_from_slice(read);
                unread = rest;
            }
            Ok(Parsed::Ignored { consumed }) => drop(buffer.drain(..consumed)),
            Ok(Parsed::Complete { consumed }) => {
                found.push(OwnedArgs::from(request.args(&buffer)));
                assert!(!request.args(&buffer).is_empty());
                buffer.drain(..consumed);
            }
            Err(error) => return (found, Err(error)),
        }
    }
}

/// Returns the arguments of the only request of `input`, which must take the whole input.
fn only(input: &[u8]) -> Vec<Vec<u8>> {
    let (mut found, rest) = requests(input, &[], &Limits::default());
    assert_eq!((found.len(), rest), (1, Ok(0)), "{}", input.escape_ascii());
    found.remove(0).as_args().iter().map(<[u8]>::to_vec).collect()
}

fn error_of(input: &[u8]) -> String {
    let (found, end) = requests(input, &[], &Limits::default());
    assert!(found.is_empty());
    end.expect_err("the input is wrong").to_string()
}

fn encode<T: AsRef<[u8]>>(request: &[T]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", request.len()).into_bytes();
    for arg in request.iter().map(AsRef::as_ref) {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

#[test]
fn requests_are_arrays_of_bulk_strings() {
    assert_eq!(only(b"*1\r\n$4\r\nPING\r\n"), [b"PING"]);
    assert_eq!(only(b"*2\r\n$4\r\nECHO\r\n$4\r\na\r\nb\r\n"), [&b"ECHO"[..], b"a\r\nb"]);
    assert_eq!(only(b"*1\r\n$0\r\n\r\n"), [b""]);
    assert_eq!(only(b"*1\r\n$4\r\nPINGxx"), [b"PING"]);
    assert_eq!(only(b"*1\rx$4\rxPING\r\n"), [b"PING"]);
}

#[test]
fn empty_requests_are_ignored() {
    for empty in [&b"*0\r\n"[..], b"*-1\r\n", b"*-5\r\n", b"\r\n", b"\n", b"   \r\n"] {
        assert_eq!(only(&[empty, b"PING\r\n"].concat()), [b"PING"], "{}", empty.escape_ascii());
    }
}

#[test]
fn inline_commands_are_split_as_redis_does() {
    let table: &[(&[u8], &[&[u8]])] = &[
        (b"PING\r\n", &[b"PING"]),
        (b"PING\n", &[b"PING"]),
        (b"  SET  k\tv \r\n", &[b"SET", b"k", b"v"]),
        (b"ECHO \"a\\x41\\n\\t\\b\\a\\r\\q\\\"\"\r\n", &[b"ECHO", b"aA\n\t\x08\x07\rq\""]),
        (b"ECHO 'it\\'s \\n'\r\n", &[b"ECHO", b"it's \\n"]),
        (b"ECHO foo\"bar baz\"\r\n", &[b"ECHO", b"foobar baz"]),
        (b"ECHO a\\x41\r\n", &[b"ECHO", b"a\\x41"]),
        (b"ECHO \"\\xzz\"\r\n", &[b"ECHO", b"xzz"]),
        (b"ECHO \"\\xfF\"\r\n", &[b"ECHO", b"\xff"]),
        (b"ECHO \"\"\r\n", &[b"ECHO", b""]),
        (b"ECHO a\x0bb\r\n", &[b"ECHO", b"a\x0bb"]),
        (b"\x0bECHO a\r\n", &[b"ECHO", b"a"]),
        (b"ECHO \"a\"\x0b\r\n", &[b"ECHO", b"a"]),
        (b"PING\rX\r\n", &[b"PING", b"X"]),
    ];
    for (line, words) in table {
        assert_eq!(only(line), *words, "{}", line.escape_ascii());
    }
    for line in [&b"ECHO \"a\r\n"[..], b"ECHO 'a\r\n", b"ECHO \"a\"b\r\n", b"ECHO 'a'b\r\n", b"ECHO \"\\\"\r\n"] {
        assert_eq!(error_of(line), "ERR Protocol error: unbalanced quotes in request", "{}", line.escape_ascii());
    }
}

#[test]
fn errors_have_the_words_of_redis() {
    let long = [b'1'; INLINE_BYTES_MAX + 1];
    let table: &[(&[u8], &str)] = &[
        (b"*a\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*1\r\nfoo\r\n", "expected '$', got 'f'"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$a\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (&long, "too big inline request"),
        (&[b"*", &long[..]].concat(), "too big mbulk count string"),
        (&[b"*1\r\n$", &long[..]].concat(), "too big bulk count string"),
    ];
    for (input, message) in table {
        assert_eq!(error_of(input), format!("ERR Protocol error: {message}"));
    }
    // The writer of replies turns the CR into the blank that Redis shows.
    assert_eq!(error_of(b"*1\r\n\r\n"), "ERR Protocol error: expected '$', got '\r'");
}

#[test]
fn limits_hold_to_the_byte() {
    let ends = |input: &[u8]| requests(input, &[], &SMALL).1;
    assert_eq!(ends(&[b'a'; 50]), Ok(50));
    assert_eq!(ends(&[b'a'; 51]), Err(ProtocolError::InlineTooBig));
    let count = |digits: usize| [&b"*"[..], &vec![b'1'; digits], b"\r\n"].concat();
    assert_eq!(ends(&count(49)), Err(ProtocolError::MultibulkLength));
    assert_eq!(ends(&count(50)), Err(ProtocolError::MultibulkCountTooBig));
    let length = |digits: usize| [&b"*1\r\n$"[..], &vec![b'1'; digits], b"\r\n"].concat();
    assert_eq!(ends(&length(49)), Err(ProtocolError::BulkLength));
    assert_eq!(ends(&length(50)), Err(ProtocolError::BulkCountTooBig));
    assert_eq!(ends(&encode(&["a"; 10])), Ok(0));
    assert_eq!(ends(&encode(&["a"; 11])), Err(ProtocolError::MultibulkLength));
    assert_eq!(ends(&encode(&["a".repeat(100)])), Ok(0));
    assert_eq!(ends(&encode(&["a".repeat(101)])), Err(ProtocolError::BulkLength));
    let fits = ["a".repeat(100), "a".repeat(100), "a".repeat(73)];
    assert_eq!((encode(&fits).len(), ends(&encode(&fits))), (300, Ok(0)));
    let too_big = ["a".repeat(100), "a".repeat(100), "a".repeat(74)];
    assert_eq!(ends(&encode(&too_big)), Err(ProtocolError::RequestTooBig));
}

#[test]
fn announced_lengths_take_no_memory() {
    let mut request = Request::default();
    let limits = Limits::default();
    let parsed = parse(b"*1048576\r\n$536870912\r\n", &limits, &mut request);
    assert_eq!(parsed, Ok(Parsed::Incomplete { needed: RESERVE_BYTES_MAX }));
    assert_eq!(request.spans.capacity(), 0);
    let parsed = parse(b"*1048576\r\n$536870912\r\nabc", &limits, &mut request);
    assert_eq!(parsed, Ok(Parsed::Incomplete { needed: RESERVE_BYTES_MAX }));
    let parsed = parse(b"*1\r\n$10\r\nabc", &limits, &mut Request::default());
    assert_eq!(parsed, Ok(Parsed::Incomplete { needed: 9 }));
}

#[test]
fn a_large_request_does_not_hold_its_memory_for_ever() {
    let mut request = Request::default();
    parse(&encode(&["a"; 5000]), &Limits::default(), &mut request).expect("the request is well-formed");
    assert_eq!(request.spans.len(), 5000);
    parse(b"PING\r\n", &Limits::default(), &mut request).expect("the request is well-formed");
    assert!(request.spans.capacity() < 5000);
}

/// Goal: the bytes of an incomplete value are not read twice, so that a change of them goes unnoticed.
#[test]
fn an_incomplete_value_is_not_read_again() {
    let mut input = encode(&["SET".to_owned(), "k".to_owned(), "v".repeat(1000)]);
    let mut request = Request::default();
    let limits = Limits::default();
    assert!(matches!(parse(&input[..500], &limits, &mut request), Ok(Parsed::Incomplete { .. })));
    input[..26].fill(b'!');
    assert_eq!(parse(&input, &limits, &mut request), Ok(Parsed::Complete { consumed: input.len() }));
    assert_eq!(request.args(&input).get(2), "v".repeat(1000).as_bytes());
}

/// Pieces of which inputs are made that get far into the parser.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let request = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..6).prop_map(|args| encode(&args));
    let noise = prop::collection::vec(
        prop::sample::select(vec![
            &b"*"[..],
            b"$",
            b"1",
            b"2",
            b"0",
            b"-1",
            b"\r\n",
            b"\r",
            b"\n",
            b"PING",
            b" ",
            b"\"",
            b"'",
            b"\\",
            b"\\x4",
            b"\0",
        ]),
        0..12,
    )
    .prop_map(|pieces| pieces.concat());
    let line = "[a-z ]{0,60}\r\n".prop_map(String::into_bytes);
    let count = "(\\*1\r\n\\$|\\*)0{45,55}1\r\n".prop_map(String::into_bytes);
    let piece =
        prop_oneof![4 => request, 2 => noise, 2 => line, 1 => count, 1 => prop::collection::vec(any::<u8>(), 0..40)];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_split_into_reads_gives_the_same_requests(
        input in input(),
        reads in prop::collection::vec(1_usize..30, 1..10),
        small: bool,
    ) {
        let limits = if small { SMALL } else { Limits::default() };
        let whole = requests(&input, &[], &limits);
        prop_assert_eq!(&requests(&input, &reads, &limits), &whole);
        prop_assert_eq!(&requests(&input, &[1], &limits), &whole);
    }

    #[test]
    fn requests_survive_the_wire(
        sent in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8), 0..8),
        reads in prop::collection::vec(1_usize..500, 1..10),
    ) {
        let input: Vec<u8> = sent.iter().flat_map(|request| encode(request)).collect();
        let (found, end) = requests(&input, &reads, &Limits::default());
        prop_assert_eq!(end, Ok(0));
        prop_assert_eq!(found, sent.iter().map(|request| request.iter().collect()).collect::<Vec<OwnedArgs>>());
    }

    #[test]
    fn inline_words_survive_quoting(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..6)) {
        let quoted = |word: &Vec<u8>| format!("\"{}\"", word.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>());
        let line = words.iter().map(quoted).collect::<Vec<_>>().join(" ") + "\r\n";
        prop_assert_eq!(only(line.as_bytes()), words);
    }
}

#[test]
fn who_has_not_authenticated_may_ask_for_little() {
    let limits = Limits { is_authenticated: false, ..Limits::default() };
    let ended = |input: &[u8], limits: &Limits| requests(input, &[usize::MAX], limits).1;
    for (input, error) in [
        (&b"*11\r\n"[..], ProtocolError::UnauthenticatedMultibulkLength),
        (b"*2\r\n$4\r\nAUTH\r\n$16385\r\n", ProtocolError::UnauthenticatedBulkLength),
        (b"*1048577\r\n", ProtocolError::MultibulkLength),
        (b"*1\r\n$536870913\r\n", ProtocolError::BulkLength),
    ] {
        assert_eq!(ended(input, &limits), Err(error), "{}", input.escape_ascii());
    }
    for input in [&b"*10\r\n"[..], b"*2\r\n$4\r\nAUTH\r\n$16384\r\n"] {
        assert!(ended(input, &limits).is_ok(), "{}", input.escape_ascii());
    }
    assert!(ended(b"*11\r\n$16385\r\n", &Limits::default()).is_ok());
}
