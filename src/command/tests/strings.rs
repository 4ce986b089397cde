//! Strings: options, parts, counters.

use super::{Node, WRONG_TYPE};

#[test]
fn set_takes_its_options() {
    let mut node = Node::new();
    node.check(&[
        ("SET k v", "+OK|"),
        ("SET k w NX", "$-1|"),
        ("SET k w NX GET", "$1|v|"),
        ("SET n w XX", "$-1|"),
        ("SET n w XX GET", "$-1|"),
        ("GET n", "$-1|"),
        ("SET n w NX GET", "$-1|"),
        ("GET n", "$1|w|"),
        ("SET k w EX 100 GET", "$1|v|"),
        ("TTL k", ":100|"),
        ("SET k x KEEPTTL", "+OK|"),
        ("TTL k", ":100|"),
        ("SET k x", "+OK|"),
        ("TTL k", ":-1|"),
        ("SET k x EX 10 PX 10", "-ERR syntax error|"),
        ("SET k x EX 10 KEEPTTL", "-ERR syntax error|"),
        ("SET k x NX XX", "-ERR syntax error|"),
        ("SET k x EX", "-ERR syntax error|"),
        ("SET k x EX 0", "-ERR invalid expire time in 'set' command|"),
        ("SET k x PX 9223372036854775807", "-ERR invalid expire time in 'set' command|"),
        ("SETEX k -1 x", "-ERR invalid expire time in 'setex' command|"),
        ("PSETEX k x x", "-ERR value is not an integer or out of range|"),
        ("SET k y EXAT 1", "+OK|"),
        ("EXISTS k n n missing", ":2|"),
        ("HSET h f v", ":1|"),
        ("SET h x GET", WRONG_TYPE),
        ("SET h x", "+OK|"),
        ("HGET h f", WRONG_TYPE),
    ]);
}

#[test]
fn parts_of_strings() {
    let mut node = Node::new();
    node.check(&[
        ("APPEND k Hello", ":5|"),
        ("APPEND k World", ":10|"),
        ("GETRANGE k 0 4", "$5|Hello|"),
        ("GETRANGE k -5 -1", "$5|World|"),
        ("GETRANGE k -100 100", "$10|HelloWorld|"),
        ("GETRANGE k 5 3", "$0||"),
        ("GETRANGE k -1 -5", "$0||"),
        ("GETRANGE missing 0 -1", "$0||"),
        ("GETRANGE k -9223372036854775808 9223372036854775807", "$10|HelloWorld|"),
        ("SETRANGE k 5 Redis", ":10|"),
        ("SETRANGE k 12 x", ":13|"),
        ("GET k", "$13|HelloRedis\\x00\\x00x|"),
        ("SETRANGE k 0 \"\"", ":13|"),
        ("SETRANGE missing 5 \"\"", ":0|"),
        ("EXISTS missing", ":0|"),
        ("SETRANGE k -1 x", "-ERR offset is out of range|"),
        ("SETRANGE k 536870912 x", "-ERR string exceeds maximum allowed size (proto-max-bulk-len)|"),
        ("STRLEN k", ":13|"),
        ("GETDEL k", "$13|HelloRedis\\x00\\x00x|"),
        ("GETSET k a", "$-1|"),
        ("GETSET k b", "$1|a|"),
        ("INCR k", "-ERR value is not an integer or out of range|"),
        ("INCRBYFLOAT k 1", "-ERR value is not a valid float|"),
        ("INCRBYFLOAT f 0.1", "$3|0.1|"),
        ("INCRBYFLOAT f 0.2", "$3|0.3|"),
        ("INCRBYFLOAT f inf", "-ERR increment would produce NaN or Infinity|"),
        ("INCRBY i 9223372036854775807", ":9223372036854775807|"),
        ("INCR i", "-ERR increment or decrement would overflow|"),
        ("DECRBY i -9223372036854775808", "-ERR decrement would overflow|"),
        ("DECR i", ":9223372036854775806|"),
        ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command|"),
        ("MSET a 1 b 2 a 3", "+OK|"),
        ("MGET a b c", "*3|$1|3|$1|2|$-1|"),
    ]);
}

#[test]
fn counters_keep_their_expiry() {
    let mut node = Node::new();
    node.check(&[
        ("SET n 1 EX 100", "+OK|"),
        ("INCR n", ":2|"),
        ("APPEND n 5", ":2|"),
        ("INCRBYFLOAT n 0.5", "$4|25.5|"),
        ("SETRANGE n 0 3", ":4|"),
        ("TTL n", ":100|"),
        ("GETSET n 0", "$4|35.5|"),
        ("TTL n", ":-1|"),
    ]);
}
