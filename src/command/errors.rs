//! Redis' error texts, each with its code, as clients and their test suites compare them (Redis 7.0).
//!
//! Guarantees: a constant is the text that redis-server sends, without the leading `-` and the line end. Texts that
//! repeat a client's input show at most 128 bytes of it, and bytes that are not UTF-8 as U+FFFD.

use crate::command::args::Args;

/// The key holds another type than the command works on.
pub const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
/// An option is unknown, misplaced or incomplete.
pub const SYNTAX: &str = "ERR syntax error";
/// An argument or a stored value is not an integer.
pub const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// An argument or a stored value is not a number.
pub const NOT_A_FLOAT: &str = "ERR value is not a valid float";
/// A hash field's value is not an integer (HINCRBY).
pub const HASH_NOT_AN_INTEGER: &str = "ERR hash value is not an integer";
/// A hash field's value is not a number (HINCRBYFLOAT).
pub const HASH_NOT_A_FLOAT: &str = "ERR hash value is not a float";
/// The result of INCRBY or HINCRBY would leave the range of 64 bits.
pub const OVERFLOW: &str = "ERR increment or decrement would overflow";
/// DECRBY by the smallest 64-bit integer.
pub const DECREMENT_OVERFLOW: &str = "ERR decrement would overflow";
/// The result of INCRBYFLOAT is not finite.
pub const NOT_FINITE: &str = "ERR increment would produce NaN or Infinity";
/// The increment of HINCRBYFLOAT is not finite.
pub const INCREMENT_NOT_FINITE: &str = "ERR value is NaN or Infinity";
/// A sorted set's score would be inf - inf.
pub const SCORE_NOT_A_NUMBER: &str = "ERR resulting score is not a number (NaN)";
/// A bound of a score range is not a number.
pub const MIN_MAX_NOT_A_FLOAT: &str = "ERR min or max is not a float";
/// A bound of a lexical range lacks its bracket.
pub const MIN_MAX_NOT_A_STRING: &str = "ERR min or max not valid string range item";
/// A count is negative.
pub const NOT_POSITIVE: &str = "ERR value is out of range, must be positive";
/// LSET with an index outside the list.
pub const INDEX_OUT_OF_RANGE: &str = "ERR index out of range";
/// SETRANGE with a negative offset.
pub const OFFSET_OUT_OF_RANGE: &str = "ERR offset is out of range";
/// A string would grow beyond `proto-max-bulk-len`.
pub const STRING_TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
/// The command needs an existing key.
pub const NO_SUCH_KEY: &str = "ERR no such key";
/// A SCAN cursor is not a number.
pub const INVALID_CURSOR: &str = "ERR invalid cursor";
/// SELECT of a database that does not exist.
pub const DB_OUT_OF_RANGE: &str = "ERR DB index is out of range";
/// ZADD with XX and NX.
pub const XX_AND_NX: &str = "ERR XX and NX options at the same time are not compatible";
/// ZADD with more than one of GT, LT, NX.
pub const GT_LT_NX: &str = "ERR GT, LT, and/or NX options at the same time are not compatible";
/// A stream id cannot be read.
pub const INVALID_STREAM_ID: &str = "ERR Invalid stream ID specified as stream command argument";
/// XADD with an id not above the stream's last.
pub const STREAM_ID_TOO_SMALL: &str =
    "ERR The ID specified in XADD is equal or smaller than the target stream top item";
/// XADD with the id 0-0.
pub const STREAM_ID_ZERO: &str = "ERR The ID specified in XADD must be greater than 0-0";
/// MULTI within MULTI.
pub const NESTED_MULTI: &str = "ERR MULTI calls can not be nested";
/// EXEC without MULTI.
pub const EXEC_WITHOUT_MULTI: &str = "ERR EXEC without MULTI";
/// DISCARD without MULTI.
pub const DISCARD_WITHOUT_MULTI: &str = "ERR DISCARD without MULTI";
/// WATCH within MULTI.
pub const WATCH_IN_MULTI: &str = "ERR WATCH inside MULTI is not allowed";
/// EXEC after a command was refused while queueing.
pub const EXEC_ABORT: &str = "EXECABORT Transaction discarded because of previous errors.";
/// A write would grow the keys in memory beyond `maxmemory`.
pub const OUT_OF_MEMORY: &str = "OOM command not allowed when used memory > 'maxmemory'.";
/// A write on a replica. The gate of the committer adds the code `READONLY`.
pub const READ_ONLY_REASON: &str = "You can't write against a read only replica.";
/// A command before AUTH.
pub const NO_AUTH: &str = "NOAUTH Authentication required.";
/// HELLO without AUTH where a password is set.
pub const NO_AUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
/// AUTH with a password where none is set.
pub const NO_PASSWORD_SET: &str = "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";
/// AUTH with the wrong password.
pub const WRONG_PASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
/// HELLO with a protocol other than 2 and 3.
pub const NO_PROTO: &str = "NOPROTO unsupported protocol version";
/// HELLO with a protocol that is no number.
pub const PROTO_NOT_AN_INTEGER: &str = "ERR Protocol version is not an integer or out of range";
/// A connection beyond `maxclients`.
pub const MAX_CLIENTS: &str = "ERR max number of clients reached";

/// Bytes of a name, and of all arguments together, that an error text repeats.
const PREVIEW_BYTES_MAX: usize = 128;

/// Makes the error for a wrong number of arguments. `command` is in lower case, with a subcommand after `|`: `get`,
/// `object|encoding`.
#[must_use]
pub fn wrong_arity(command: &str) -> String {
    format!("ERR wrong number of arguments for '{command}' command")
}

/// Makes the error for an expiry that is not positive or too far in the future. `command` is in lower case.
#[must_use]
pub fn invalid_expire(command: &str) -> String {
    format!("ERR invalid expire time in '{command}' command")
}

/// Makes the error for a command or transaction whose effects exceed `max-commit-bytes`.
#[must_use]
pub fn commit_too_large(bytes_max: u64) -> String {
    format!(
        "ERR nothing was changed: that would have more effects than max-commit-bytes allows for one commit, {bytes_max} bytes \
         (a hash field, a set member or a stream entry counts with its key's name). Do it in several steps, or raise \
         max-commit-bytes"
    )
}

/// Makes the error for an unknown command `request[0]`. The text repeats the name and the first arguments.
#[must_use]
pub fn unknown_command(request: Args<'_>) -> String {
    let mut preview = Vec::new();
    for arg in request.from(1).iter() {
        if preview.len() >= PREVIEW_BYTES_MAX {
            break;
        }
        let shown = head(arg, PREVIEW_BYTES_MAX - preview.len());
        preview.push(b'\'');
        preview.extend_from_slice(shown);
        preview.extend_from_slice(b"' ");
    }
    let name = head(request.try_get(0).unwrap_or_default(), PREVIEW_BYTES_MAX);
    format!(
        "ERR unknown command '{}', with args beginning with: {}",
        String::from_utf8_lossy(name),
        String::from_utf8_lossy(&preview)
    )
}

/// Makes the error for an unknown subcommand of `command`, which is in upper case.
#[must_use]
pub fn unknown_subcommand(command: &str, subcommand: &[u8]) -> String {
    let name = String::from_utf8_lossy(head(subcommand, PREVIEW_BYTES_MAX));
    format!("ERR unknown subcommand '{name}'. Try {command} HELP.")
}

/// Returns the part of `bytes` that C's `%.*s` prints: up to the first NUL, and at most `len_max` bytes.
fn head(bytes: &[u8], len_max: usize) -> &[u8] {
    let bytes = &bytes[..bytes.len().min(len_max)];
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::args::OwnedArgs;

    fn unknown(request: &[&[u8]]) -> String {
        unknown_command(request.iter().collect::<OwnedArgs>().as_args())
    }

    #[test]
    fn unknown_commands_are_repeated_as_redis_does() {
        assert_eq!(unknown(&[b"foo"]), "ERR unknown command 'foo', with args beginning with: ");
        assert_eq!(unknown(&[b"foo", b"a", b"b"]), "ERR unknown command 'foo', with args beginning with: 'a' 'b' ");
        let long = "y".repeat(128);
        assert_eq!(
            unknown(&[&[b'y'; 200], &[b'y'; 200], b"c"]),
            format!("ERR unknown command '{long}', with args beginning with: '{long}' ")
        );
        let mut request = vec![&b"foo"[..]];
        request.extend([&b"0123456789"[..]; 20]);
        assert!(unknown(&request).ends_with(&"'0123456789' ".repeat(10)));
        assert_eq!(unknown(&request).matches("'0123456789'").count(), 10);
        assert_eq!(unknown(&[b"a\0b", b"\xff"]), "ERR unknown command 'a', with args beginning with: '\u{fffd}' ");
        assert_eq!(unknown(&[]), "ERR unknown command '', with args beginning with: ");
    }

    #[test]
    fn built_texts_are_those_of_redis() {
        assert_eq!(wrong_arity("object|encoding"), "ERR wrong number of arguments for 'object|encoding' command");
        assert_eq!(invalid_expire("setex"), "ERR invalid expire time in 'setex' command");
        assert_eq!(unknown_subcommand("CONFIG", b"foo"), "ERR unknown subcommand 'foo'. Try CONFIG HELP.");
    }
}
