//! ZADD and ZINCRBY.

use super::super::args::Args;
use super::super::definition::{Ctx, Done, Fail};
use super::super::errors;
use super::super::number::parse_f64;
use super::super::reply::Out;
use crate::engine::keyspace::Keyspace;
use hashbrown::HashMap;

const ONE_INCREMENT: &str = "ERR INCR option supports a single increment-element pair";

/// ZADD's options.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Options {
    /// NX: existing members keep their score.
    is_add_only: bool,
    /// XX: no member is added.
    is_update_only: bool,
    /// GT: scores only grow.
    only_grows: bool,
    /// LT: scores only shrink.
    only_shrinks: bool,
    /// CH: the reply counts changed scores, too.
    counts_changes: bool,
    /// INCR: the given score is added to the old one, and the reply is the sum.
    increments: bool,
}

/// The effect of a request on one member.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Outcome {
    /// The options forbid a change.
    Forbidden,
    /// The member has this score already.
    Kept(f64),
    /// The member gets this score in place of another one.
    Changed(f64),
    /// The member is added with this score.
    Added(f64),
}

impl Outcome {
    /// Returns the score that the member has afterwards; `None` if the options forbid a change.
    fn score(self) -> Option<f64> {
        match self {
            Self::Forbidden => None,
            Self::Kept(score) | Self::Changed(score) | Self::Added(score) => Some(score),
        }
    }

    /// Returns the score to store; `None` if nothing changes.
    fn stores(self) -> Option<f64> {
        match self {
            Self::Forbidden | Self::Kept(_) => None,
            Self::Changed(score) | Self::Added(score) => Some(score),
        }
    }
}

impl Options {
    /// Reads the options. Returns them and the position of the first score.
    fn parse(args: Args<'_>) -> Result<(Self, usize), Fail> {
        let mut options = Self::default();
        let mut at = 2;
        while let Some(option) = args.try_get(at) {
            let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
            let flag = if is(b"nx") {
                &mut options.is_add_only
            } else if is(b"xx") {
                &mut options.is_update_only
            } else if is(b"gt") {
                &mut options.only_grows
            } else if is(b"lt") {
                &mut options.only_shrinks
            } else if is(b"ch") {
                &mut options.counts_changes
            } else if is(b"incr") {
                &mut options.increments
            } else {
                break;
            };
            *flag = true;
            at += 1;
        }
        options.check(args.len() - at)?;
        Ok((options, at))
    }

    fn check(self, pair_args: usize) -> Result<(), Fail> {
        let Self { is_add_only, is_update_only, only_grows, only_shrinks, increments, .. } = self;
        if pair_args == 0 || !pair_args.is_multiple_of(2) {
            return Err(errors::SYNTAX.into());
        }
        if is_add_only && is_update_only {
            return Err(errors::XX_AND_NX.into());
        }
        if (is_add_only && (only_grows || only_shrinks)) || (only_grows && only_shrinks) {
            return Err(errors::GT_LT_NX.into());
        }
        if increments && pair_args > 2 {
            return Err(ONE_INCREMENT.into());
        }
        Ok(())
    }

    /// Decides what happens to a member that is given a score. `old` is the member's score, or `None` if the member is
    /// absent.
    fn decide(self, old: Option<f64>, given: f64) -> Result<Outcome, Fail> {
        let Some(old) = old else {
            return Ok(if self.is_update_only { Outcome::Forbidden } else { Outcome::Added(given) });
        };
        if self.is_add_only {
            return Ok(Outcome::Forbidden);
        }
        let score = if self.increments { old + given } else { given };
        if score.is_nan() {
            return Err(errors::SCORE_NOT_A_NUMBER.into());
        }
        let is_forbidden = (self.only_grows && score <= old) || (self.only_shrinks && score >= old);
        Ok(if is_forbidden {
            Outcome::Forbidden
        } else if score == old {
            Outcome::Kept(old)
        } else {
            Outcome::Changed(score)
        })
    }

    /// Reports whether the reply of ZADD counts an outcome.
    fn counts(self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Added(_) => true,
            Outcome::Changed(_) => self.counts_changes,
            Outcome::Forbidden | Outcome::Kept(_) => false,
        }
    }
}

/// ZADD key [NX|XX] [GT|LT] [CH] [INCR] score member [score member ...]
pub(crate) fn zadd(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (options, pairs_at) = Options::parse(args)?;
    let (key, pairs) = (args.get(1), args.from(pairs_at));
    let counted = if pairs.len() == 2 {
        let outcome = set_one(&mut ctx.keys, key, options, pairs)?;
        if options.increments {
            write_sum(out, outcome);
            return Ok(());
        }
        u64::from(options.counts(outcome))
    } else {
        set_many(&mut ctx.keys, key, options, pairs)?
    };
    out.count(counted);
    Ok(())
}

/// ZINCRBY key increment member
pub(crate) fn zincrby(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let options = Options { increments: true, ..Options::default() };
    let outcome = set_one(&mut ctx.keys, args.get(1), options, args.from(2))?;
    write_sum(out, outcome);
    Ok(())
}

fn write_sum(out: &mut Out, outcome: Outcome) {
    match outcome.score() {
        Some(score) => out.double(score),
        None => out.null(),
    }
}

/// Reads a score. The score -0 becomes 0.
fn parse_score(text: &[u8]) -> Result<f64, Fail> {
    Ok(parse_f64(text).ok_or(errors::NOT_A_FLOAT)? + 0.0)
}

/// Checks that a key without a sorted set is absent. Deletes the key if it has expired.
fn make_room(keys: &mut Keyspace<'_>, key: &[u8]) -> Done {
    if !keys.find_to_change(key)?.is_absent() {
        return Err(errors::WRONG_TYPE.into());
    }
    Ok(())
}

/// Sets one member; `pair` is its score and its name.
fn set_one(keys: &mut Keyspace<'_>, key: &[u8], options: Options, pair: Args<'_>) -> Result<Outcome, Fail> {
    let (given, member) = (parse_score(&pair[0])?, pair.get(1));
    let old = keys.zset(key)?.map(|zset| zset.score(member));
    if old.is_none() {
        make_room(keys, key)?;
    }
    let old = old.flatten();
    let outcome = options.decide(old, given)?;
    if let Some(score) = outcome.stores() {
        keys.change_in_memory(key, |ops| ops.set_scores(key, std::iter::once((member, score))))?;
    }
    Ok(outcome)
}

/// Sets members in turn; a later pair sees the result of an earlier one. Returns the number that ZADD replies.
fn set_many(keys: &mut Keyspace<'_>, key: &[u8], options: Options, pairs: Args<'_>) -> Result<u64, Fail> {
    let count = pairs.len() / 2;
    let given: Vec<f64> = (0..count).map(|pair| parse_score(&pairs[pair * 2])).collect::<Result<_, _>>()?;
    if keys.zset(key)?.is_none() {
        make_room(keys, key)?;
    }
    let zset = keys.zset(key)?;
    let mut counted = 0;
    let mut changes: Vec<(&[u8], f64)> = Vec::with_capacity(count);
    let mut newest: HashMap<&[u8], f64> = HashMap::with_capacity(count);
    for (pair, given) in given.into_iter().enumerate() {
        let member = pairs.get(pair * 2 + 1);
        let old = newest.get(member).copied().or_else(|| zset.as_ref()?.score(member));
        let outcome = options.decide(old, given)?;
        counted += u64::from(options.counts(outcome));
        if let Some(score) = outcome.stores() {
            changes.push((member, score));
            newest.insert(member, score);
        }
    }
    drop(zset);
    if !changes.is_empty() {
        keys.change_in_memory(key, |ops| ops.set_scores(key, changes.iter().copied()))?;
    }
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::super::super::args::OwnedArgs;
    use super::*;

    fn parse(request: &str) -> Result<(Options, usize), String> {
        let args: OwnedArgs = request.split(' ').collect();
        Options::parse(args.as_args()).map_err(|fail| match fail {
            Fail::Reply(message) => message.into_owned(),
            other => panic!("{request}: {other:?}"),
        })
    }

    #[test]
    fn options_are_checked_as_redis_does() {
        assert_eq!(parse("zadd z 1 a"), Ok((Options::default(), 2)));
        let (options, at) = parse("zadd z XX gt Ch 1 a 2 b").unwrap();
        assert!(options.is_update_only && options.only_grows && options.counts_changes && at == 5);
        for (request, error) in [
            ("zadd z nx xx", errors::SYNTAX),
            ("zadd z 1 a 2", errors::SYNTAX),
            ("zadd z nx xx 1 a", errors::XX_AND_NX),
            ("zadd z gt lt 1 a", errors::GT_LT_NX),
            ("zadd z nx gt 1 a", errors::GT_LT_NX),
            ("zadd z nx lt 1 a", errors::GT_LT_NX),
            ("zadd z incr 1 a 2 b", ONE_INCREMENT),
        ] {
            assert_eq!(parse(request).unwrap_err(), error, "{request}");
        }
    }

    #[test]
    fn options_decide_what_becomes_of_a_member() {
        let decide = |request: &str, old, given| parse(request).unwrap().0.decide(old, given).ok();
        assert_eq!(decide("zadd z 1 a", None, 1.0), Some(Outcome::Added(1.0)));
        assert_eq!(decide("zadd z 1 a", Some(1.0), 1.0), Some(Outcome::Kept(1.0)));
        assert_eq!(decide("zadd z nx 1 a", Some(2.0), 1.0), Some(Outcome::Forbidden));
        assert_eq!(decide("zadd z xx 1 a", None, 1.0), Some(Outcome::Forbidden));
        assert_eq!(decide("zadd z gt 1 a", None, 1.0), Some(Outcome::Added(1.0)));
        assert_eq!(decide("zadd z gt 1 a", Some(1.0), 1.0), Some(Outcome::Forbidden));
        assert_eq!(decide("zadd z gt 1 a", Some(1.0), 2.0), Some(Outcome::Changed(2.0)));
        assert_eq!(decide("zadd z lt 1 a", Some(1.0), 2.0), Some(Outcome::Forbidden));
        assert_eq!(decide("zadd z lt incr 1 a", Some(1.0), -2.0), Some(Outcome::Changed(-1.0)));
        assert_eq!(decide("zadd z incr 1 a", Some(f64::INFINITY), f64::NEG_INFINITY), None);
        assert_eq!(decide("zadd z nx incr 1 a", Some(f64::INFINITY), f64::NEG_INFINITY), Some(Outcome::Forbidden));
    }
}
