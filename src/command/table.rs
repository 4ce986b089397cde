//! The table of commands: name, number of arguments, flags, positions of keys, and function.

use super::definition::{Command, Flag, Table};
use super::{admin, hash, key, list, scan, server_info, set, stream, string, txn, walferry, zset};
use std::sync::LazyLock;

const W: u16 = Flag::Write as u16;
const D: u16 = Flag::Write as u16 | Flag::Frees as u16;
const M: u16 = Flag::Write as u16 | Flag::DenyOom as u16;
const R: u16 = Flag::ReadOnly as u16;
const F: u16 = Flag::Fast as u16;
const I: u16 = Flag::Immediate as u16;
const A: u16 = Flag::Admin as u16;
const B: u16 = Flag::Write as u16 | Flag::Blind as u16;
const C: u16 = Flag::Write as u16 | Flag::Copies as u16;
const X: u16 = Flag::Write as u16 | Flag::Multiplies as u16;
const NO_AUTH: u16 = Flag::NoAuth as u16;
const NONE: (i8, i8, i8) = (0, 0, 0);
const ONE: (i8, i8, i8) = (1, 1, 1);
const TWO: (i8, i8, i8) = (1, 2, 1);
const ALL: (i8, i8, i8) = (1, -1, 1);

macro_rules! commands {
    ($($group:literal { $($name:literal $arity:literal $flags:expr, $keys:expr, $run:path, $summary:literal;)* })*) => {
        static COMMANDS: &[Command] = &[
            $($(Command { name: $name, arity: $arity, flags: $flags, keys: $keys, group: $group, summary: $summary, run: $run },)*)*
        ];
    };
}

commands! {
    "connection" {
        "auth" -2 F | NO_AUTH, NONE, server_info::auth, "Authenticates the connection.";
        "client" -2 A, NONE, server_info::client, "Shows and names client connections.";
        "echo" 2 F, NONE, server_info::echo, "Returns the given string.";
        "hello" -1 F | NO_AUTH, NONE, server_info::hello, "Handshakes with the server.";
        "ping" -1 F, NONE, server_info::ping, "Returns the server's liveliness response.";
        "quit" -1 F | NO_AUTH | I, NONE, server_info::quit, "Closes the connection.";
        "reset" 1 F | NO_AUTH | I, NONE, server_info::reset, "Resets the connection.";
        "select" 2 F, NONE, server_info::select, "Changes the selected database.";
    }
    "server" {
        "bgsave" -1 A, NONE, admin::bgsave, "Publishes a base in the background.";
        "command" -1 R, NONE, server_info::command, "Returns detailed information about all commands.";
        "config" -2 A, NONE, admin::config, "Reads and changes settings.";
        "dbsize" 1 R | F, NONE, key::dbsize, "Returns the number of keys.";
        "flushall" -1 D, NONE, key::flush, "Removes all keys.";
        "flushdb" -1 D, NONE, key::flush, "Removes all keys of the database.";
        "info" -1 R, NONE, admin::info, "Returns information and statistics about the server.";
        "lastsave" 1 F, NONE, admin::lastsave, "Returns the Unix timestamp of the last successful save.";
        "replicaof" 3 A, NONE, admin::replicaof, "Makes a replica a primary: REPLICAOF NO ONE.";
        "role" 1 R | F, NONE, admin::role, "Returns the replication role.";
        "shutdown" -1 A, NONE, admin::shutdown, "Syncs the logs and stops the server.";
        "slaveof" 3 A, NONE, admin::replicaof, "Makes a replica a primary: SLAVEOF NO ONE.";
        "time" 1 F, NONE, server_info::time, "Returns the server time.";
        "walferry" -2 A, NONE, walferry::walferry, "Shows watermarks, publishes bases, sets marks and promotes.";
    }
    "transactions" {
        "discard" 1 F | I, NONE, txn::discard, "Discards a transaction.";
        "exec" 1 I | Flag::Exec as u16 | Flag::Locks as u16, NONE, txn::exec, "Executes all commands in a transaction.";
        "multi" 1 F | I, NONE, txn::multi, "Starts a transaction.";
        "unwatch" 1 F, NONE, txn::unwatch, "Forgets about watched keys.";
        "watch" -2 F | I | Flag::Locks as u16, ALL, txn::watch, "Monitors changes to keys to determine the execution of a transaction.";
    }
    "generic" {
        "del" -2 D, ALL, key::del, "Deletes one or more keys.";
        "exists" -2 R | F, ALL, key::exists, "Determines whether one or more keys exist.";
        "expire" -3 D | C | F, ONE, key::expire, "Sets the expiration time of a key in seconds.";
        "expireat" -3 D | C | F, ONE, key::expireat, "Sets the expiration time of a key to a Unix timestamp.";
        "expiretime" 2 R | F, ONE, key::expiretime, "Returns the expiration time of a key as a Unix timestamp.";
        "keys" 2 R, NONE, key::keys, "Returns all key names that match a pattern.";
        "persist" 2 C | F, ONE, key::persist, "Removes the expiration time of a key.";
        "pexpire" -3 D | C | F, ONE, key::pexpire, "Sets the expiration time of a key in milliseconds.";
        "pexpireat" -3 D | C | F, ONE, key::pexpireat, "Sets the expiration time of a key to a Unix milliseconds timestamp.";
        "pexpiretime" 2 R | F, ONE, key::pexpiretime, "Returns the expiration time of a key as a Unix milliseconds timestamp.";
        "pttl" 2 R | F, ONE, key::pttl, "Returns the expiration time in milliseconds of a key.";
        "rename" 3 X, TWO, key::rename, "Renames a key and overwrites the destination.";
        "renamenx" 3 X, TWO, key::renamenx, "Renames a key only when the target key name doesn't exist.";
        "scan" -2 R, NONE, scan::scan, "Iterates over the key names in the database.";
        "ttl" 2 R | F, ONE, key::ttl, "Returns the expiration time in seconds of a key.";
        "type" 2 R | F, ONE, key::type_of, "Determines the type of value stored at a key.";
        "unlink" -2 D | F, ALL, key::del, "Deletes one or more keys.";
    }
    "string" {
        "append" 3 C | F, ONE, string::append, "Appends a string to the value of a key.";
        "decr" 2 W | F, ONE, string::decr, "Decrements the integer value of a key by one.";
        "decrby" 3 W | F, ONE, string::decrby, "Decrements a number from the integer value of a key.";
        "get" 2 R | F, ONE, string::get, "Returns the string value of a key.";
        "getdel" 2 D | F, ONE, string::getdel, "Returns the string value of a key after deleting the key.";
        "getrange" 4 R, ONE, string::getrange, "Returns a substring of the string stored at a key.";
        "getset" 3 W | F, ONE, string::getset, "Returns the previous string value of a key after setting it to a new value.";
        "incr" 2 W | F, ONE, string::incr, "Increments the integer value of a key by one.";
        "incrby" 3 W | F, ONE, string::incrby, "Increments the integer value of a key by a number.";
        "incrbyfloat" 3 W | F, ONE, string::incrbyfloat, "Increments the floating point value of a key by a number.";
        "mget" -2 R | F, ALL, string::mget, "Returns the string values of one or more keys.";
        "mset" -3 B, (1, -1, 2), string::mset, "Creates or modifies the string values of one or more keys.";
        "psetex" 4 B, ONE, string::psetex, "Sets both string value and expiration time in milliseconds of a key.";
        "set" -3 B, ONE, string::set, "Sets the string value of a key.";
        "setex" 4 B, ONE, string::setex, "Sets the string value and expiration time of a key.";
        "setnx" 3 W | F, ONE, string::setnx, "Sets the string value of a key only when the key doesn't exist.";
        "setrange" 4 X, ONE, string::setrange, "Overwrites a part of a string value with another by an offset.";
        "strlen" 2 R | F, ONE, string::strlen, "Returns the length of a string value.";
    }
    "hash" {
        "hdel" -3 D | F, ONE, hash::hdel, "Deletes one or more fields and their values from a hash.";
        "hexists" 3 R | F, ONE, hash::hexists, "Determines whether a field exists in a hash.";
        "hget" 3 R | F, ONE, hash::hget, "Returns the value of a field in a hash.";
        "hgetall" 2 R, ONE, hash::hgetall, "Returns all fields and values in a hash.";
        "hincrby" 4 W | F, ONE, hash::hincrby, "Increments the integer value of a field in a hash by a number.";
        "hincrbyfloat" 4 W | F, ONE, hash::hincrbyfloat, "Increments the floating point value of a field by a number.";
        "hkeys" 2 R, ONE, hash::hkeys, "Returns all fields in a hash.";
        "hlen" 2 R | F, ONE, hash::hlen, "Returns the number of fields in a hash.";
        "hmget" -3 R | F, ONE, hash::hmget, "Returns the values of all fields in a hash.";
        "hmset" -4 W | F, ONE, hash::hmset, "Sets the values of multiple fields.";
        "hscan" -3 R, ONE, scan::hscan, "Iterates over fields and values of a hash.";
        "hset" -4 W | F, ONE, hash::hset, "Creates or modifies the value of a field in a hash.";
        "hsetnx" 4 W | F, ONE, hash::hsetnx, "Sets the value of a field in a hash only when the field doesn't exist.";
        "hvals" 2 R, ONE, hash::hvals, "Returns all values in a hash.";
    }
    "set" {
        "sadd" -3 W | F, ONE, set::sadd, "Adds one or more members to a set.";
        "scard" 2 R | F, ONE, set::scard, "Returns the number of members in a set.";
        "sismember" 3 R | F, ONE, set::sismember, "Determines whether a member belongs to a set.";
        "smembers" 2 R, ONE, set::smembers, "Returns all members of a set.";
        "spop" -2 D | X | F, ONE, set::spop, "Returns one or more random members from a set after removing them.";
        "srem" -3 D | F, ONE, set::srem, "Removes one or more members from a set.";
        "sscan" -3 R, ONE, scan::sscan, "Iterates over members of a set.";
    }
    "list" {
        "lindex" 3 R, ONE, list::lindex, "Returns an element from a list by its index.";
        "linsert" 5 M, ONE, list::linsert, "Inserts an element before or after another element in a list.";
        "llen" 2 R | F, ONE, list::llen, "Returns the length of a list.";
        "lmove" 5 M | X, TWO, list::lmove, "Returns an element after popping it from one list and pushing it to another.";
        "lpop" -2 D | F, ONE, list::lpop, "Returns the first elements in a list after removing it.";
        "lpush" -3 M | F, ONE, list::lpush, "Prepends one or more elements to a list.";
        "lpushx" -3 M | F, ONE, list::lpushx, "Prepends one or more elements to a list only when the list exists.";
        "lrange" 4 R, ONE, list::lrange, "Returns a range of elements from a list.";
        "lrem" 4 D | X, ONE, list::lrem, "Removes elements from a list.";
        "lset" 4 M, ONE, list::lset, "Sets the value of an element in a list by its index.";
        "ltrim" 4 D, ONE, list::ltrim, "Removes elements from both ends a list.";
        "rpop" -2 D | F, ONE, list::rpop, "Returns and removes the last elements of a list.";
        "rpoplpush" 3 M | X, TWO, list::rpoplpush, "Returns the last element of a list after removing and pushing it to another list.";
        "rpush" -3 M | F, ONE, list::rpush, "Appends one or more elements to a list.";
        "rpushx" -3 M | F, ONE, list::rpushx, "Appends an element to a list only when the list exists.";
    }
    "sorted-set" {
        "zadd" -4 M | F, ONE, zset::zadd, "Adds one or more members to a sorted set, or updates their scores.";
        "zcard" 2 R | F, ONE, zset::zcard, "Returns the number of members in a sorted set.";
        "zcount" 4 R | F, ONE, zset::zcount, "Returns the count of members in a sorted set that have scores within a range.";
        "zincrby" 4 M | F, ONE, zset::zincrby, "Increments the score of a member in a sorted set.";
        "zpopmax" -2 D | F, ONE, zset::zpopmax, "Returns the highest-scoring members from a sorted set after removing them.";
        "zpopmin" -2 D | F, ONE, zset::zpopmin, "Returns the lowest-scoring members from a sorted set after removing them.";
        "zrange" -4 R, ONE, zset::zrange, "Returns members in a sorted set within a range of indexes, scores or names.";
        "zrangebylex" -4 R, ONE, zset::zrangebylex, "Returns members in a sorted set within a lexicographical range.";
        "zrangebyscore" -4 R, ONE, zset::zrangebyscore, "Returns members in a sorted set within a range of scores.";
        "zrank" 3 R | F, ONE, zset::zrank, "Returns the index of a member in a sorted set ordered by ascending scores.";
        "zrem" -3 D | F, ONE, zset::zrem, "Removes one or more members from a sorted set.";
        "zremrangebyrank" 4 D, ONE, zset::zremrangebyrank, "Removes members in a sorted set within a range of indexes.";
        "zremrangebyscore" 4 D, ONE, zset::zremrangebyscore, "Removes members in a sorted set within a range of scores.";
        "zrevrange" -4 R, ONE, zset::zrevrange, "Returns members in a sorted set within a range of indexes in reverse order.";
        "zrevrangebyscore" -4 R, ONE, zset::zrevrangebyscore, "Returns members in a sorted set within a range of scores in reverse order.";
        "zrevrank" 3 R | F, ONE, zset::zrevrank, "Returns the index of a member in a sorted set ordered by descending scores.";
        "zscore" 3 R | F, ONE, zset::zscore, "Returns the score of a member in a sorted set.";
    }
    "stream" {
        "xadd" -5 X | F, ONE, stream::xadd, "Appends a new message to a stream.";
        "xdel" -3 D | F, ONE, stream::xdel, "Returns the number of messages after removing them from a stream.";
        "xlen" 2 R | F, ONE, stream::xlen, "Returns the number of messages in a stream.";
        "xrange" -4 R, ONE, stream::xrange, "Returns the messages from a stream within a range of IDs.";
        "xread" -4 R, NONE, stream::xread, "Returns messages from multiple streams with IDs greater than the ones requested.";
        "xrevrange" -4 R, ONE, stream::xrevrange, "Returns the messages from a stream within a range of IDs in reverse order.";
        "xtrim" -4 D | X, ONE, stream::xtrim, "Deletes messages from the beginning of a stream.";
    }
}

/// Every command.
pub static TABLE: Table = Table {
    commands: COMMANDS,
    by_name: LazyLock::new(|| COMMANDS.iter().map(|command| (command.name.as_bytes(), command)).collect()),
};
