//! Expiry of keys: how commands give, set and show the times at which keys expire.
//!
//! Guarantees: the effect of an expiry carries its absolute time; a key that gets an expiry in the past is deleted at
//! once.

use super::args::Args;
use super::definition::{Ctx, Done, Fail};
use super::errors;
use super::number::{integer, parse_i64};
use super::reply::Out;

/// How a command gives an expiry: the unit, and whether it is relative to the present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Expiry {
    unit_ms: i64,
    is_relative: bool,
}

/// Seconds from the present.
pub(super) const EX: Expiry = Expiry { unit_ms: 1000, is_relative: true };
/// Milliseconds from the present.
pub(super) const PX: Expiry = Expiry { unit_ms: 1, is_relative: true };
/// Seconds since the Unix epoch.
pub(super) const EXAT: Expiry = Expiry { unit_ms: 1000, is_relative: false };
/// Milliseconds since the Unix epoch.
pub(super) const PXAT: Expiry = Expiry { unit_ms: 1, is_relative: false };

impl Expiry {
    /// Returns the form of expiry that an option of SET stands for.
    pub(super) fn of_option(option: &[u8]) -> Option<Self> {
        let named = [("EX", EX), ("PX", PX), ("EXAT", EXAT), ("PXAT", PXAT)];
        named.into_iter().find(|(name, _)| option.eq_ignore_ascii_case(name.as_bytes())).map(|(_, expiry)| expiry)
    }

    /// Converts a time given as text to milliseconds since the Unix epoch; negative for a time before it.
    fn absolute(self, text: &[u8], command: &str, now_ms: u64) -> Result<i64, Fail> {
        let given = integer(text)?;
        let base = if self.is_relative { now_ms as i64 } else { 0 };
        let at_ms = given.checked_mul(self.unit_ms).and_then(|ms| ms.checked_add(base));
        at_ms.ok_or_else(|| errors::invalid_expire(command).into())
    }

    /// Converts a time as the SET family does: a given time of 0 or less is an error.
    pub(super) fn deadline(self, text: &[u8], command: &str, now_ms: u64) -> Result<u64, Fail> {
        let at_ms = self.absolute(text, command, now_ms)?;
        if parse_i64(text).is_none_or(|given| given <= 0) {
            return Err(errors::invalid_expire(command).into());
        }
        Ok(at_ms as u64)
    }
}

// ---- setting ----

/// Conditions under which EXPIRE and similar commands change an expiry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Conditions {
    /// NX: the key has no expiry.
    none: bool,
    /// XX: the key has an expiry.
    some: bool,
    /// GT: the new expiry is later.
    later: bool,
    /// LT: the new expiry is earlier.
    earlier: bool,
}

impl Conditions {
    fn parse(args: Args<'_>) -> Result<Self, Fail> {
        let mut conditions = Self::default();
        for option in args.iter() {
            let flag = match option.to_ascii_lowercase().as_slice() {
                b"nx" => &mut conditions.none,
                b"xx" => &mut conditions.some,
                b"gt" => &mut conditions.later,
                b"lt" => &mut conditions.earlier,
                _ => return Err(format!("ERR Unsupported option {}", String::from_utf8_lossy(option)).into()),
            };
            *flag = true;
        }
        if conditions.none && (conditions.some || conditions.later || conditions.earlier) {
            return Err("ERR NX and XX, GT or LT options at the same time are not compatible".into());
        }
        if conditions.later && conditions.earlier {
            return Err("ERR GT and LT options at the same time are not compatible".into());
        }
        Ok(conditions)
    }

    /// Reports whether the expiry may change from `old_ms` to `new_ms`. An `old_ms` of 0 means no expiry, which counts
    /// as infinitely late.
    fn allow(self, old_ms: u64, new_ms: i64) -> bool {
        let old = i64::try_from(old_ms).ok().filter(|&old| old != 0);
        (!self.none || old.is_none())
            && (!self.some || old.is_some())
            && (!self.later || old.is_some_and(|old| new_ms > old))
            && (!self.earlier || old.is_none_or(|old| new_ms < old))
    }
}

fn set_expiry(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out, expiry: Expiry, command: &str) -> Done {
    let key = args.get(1);
    let conditions = Conditions::parse(args.from(3))?;
    let at_ms = expiry.absolute(args.get(2), command, ctx.keys.now_ms)?;
    let found = ctx.keys.find_to_change(key)?;
    let changes = !found.is_absent() && conditions.allow(found.expire_ms(), at_ms);
    if changes {
        match u64::try_from(at_ms).ok().filter(|&at_ms| at_ms > ctx.keys.now_ms) {
            Some(at_ms) => ctx.keys.set_expire(key, &found, at_ms)?,
            None => ctx.keys.delete(key, &found)?,
        }
    }
    out.int(changes.into());
    Ok(())
}

/// EXPIRE key seconds [NX | XX | GT | LT]
pub(super) fn expire(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    set_expiry(ctx, args, out, EX, "expire")
}

/// PEXPIRE key milliseconds [NX | XX | GT | LT]
pub(super) fn pexpire(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    set_expiry(ctx, args, out, PX, "pexpire")
}

/// EXPIREAT key unix-time-seconds [NX | XX | GT | LT]
pub(super) fn expireat(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    set_expiry(ctx, args, out, EXAT, "expireat")
}

/// PEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT]
pub(super) fn pexpireat(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    set_expiry(ctx, args, out, PXAT, "pexpireat")
}

/// PERSIST key
pub(super) fn persist(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let found = ctx.keys.find_to_change(&args[1])?;
    let expires = found.expire_ms() != 0;
    if expires {
        ctx.keys.set_expire(&args[1], &found, 0)?;
    }
    out.int(expires.into());
    Ok(())
}

// ---- showing ----

/// Writes a time computed from the key's expiry; -1 if the key has no expiry, -2 if there is no such key.
fn tell(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out, time: impl FnOnce(u64) -> u64) -> Done {
    let found = ctx.keys.find(&args[1])?;
    match found.expire_ms() {
        _ if found.is_absent() => out.int(-2),
        0 => out.int(-1),
        at_ms => out.count(time(at_ms)),
    }
    Ok(())
}

fn seconds(ms: u64) -> u64 {
    (ms + 500) / 1000
}

/// TTL key
pub(super) fn ttl(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let now_ms = ctx.keys.now_ms;
    tell(ctx, args, out, |at_ms| seconds(at_ms - now_ms))
}

/// PTTL key
pub(super) fn pttl(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let now_ms = ctx.keys.now_ms;
    tell(ctx, args, out, |at_ms| at_ms - now_ms)
}

/// EXPIRETIME key
pub(super) fn expiretime(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    tell(ctx, args, out, seconds)
}

/// PEXPIRETIME key
pub(super) fn pexpiretime(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    tell(ctx, args, out, |at_ms| at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_compare_with_no_expiry_as_the_latest() {
        let allowed = |option: &str, old_ms, new_ms| {
            let options: crate::command::args::OwnedArgs = option.split_whitespace().collect();
            Conditions::parse(options.as_args()).unwrap().allow(old_ms, new_ms)
        };
        for (option, with_none, with_earlier, with_same, with_later) in [
            ("", true, true, true, true),
            ("nx", true, false, false, false),
            ("XX", false, true, true, true),
            ("gt", false, true, false, false),
            ("LT", true, false, false, true),
            ("xx lt", false, false, false, true),
        ] {
            let found = [0, 50, 100, 150].map(|old_ms| allowed(option, old_ms, 100));
            assert_eq!(found, [with_none, with_earlier, with_same, with_later], "{option}");
        }
    }

    #[test]
    fn times_out_of_range_are_refused() {
        for (text, expiry, expected) in [
            ("10", EX, Some(10_000 + 7)),
            ("10", PXAT, Some(10)),
            ("0", EX, None),
            ("-1", PXAT, None),
            ("9223372036854775807", PX, None),
            ("9223372036854775", EXAT, Some(9_223_372_036_854_775_000)),
            ("9223372036854776", EXAT, None),
        ] {
            assert_eq!(expiry.deadline(text.as_bytes(), "set", 7).ok(), expected, "{text}");
        }
    }
}
