//! Ranges of sorted sets: by rank, score or bytes, in either order, with a limit.

use super::super::args::Args;
use super::super::definition::{Ctx, Done, Fail};
use super::super::number::integer;
use super::super::reply::Out;
use super::super::{errors, index};
use super::bounds::{LexRange, ScoreRange};
use super::{Form, Order, find, write_members};
use crate::engine::memory::Zset;
use std::ops::Range;

const LIMIT_BY_RANK: &str = "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX";
const SCORES_BY_LEX: &str = "ERR syntax error, WITHSCORES not supported in combination with BYLEX";

/// ZRANGE key start stop [BYSCORE|BYLEX] [REV] [LIMIT offset count] [WITHSCORES]
pub(crate) fn zrange(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    list(ctx, args, Fixed { by: None, order: None }, out)
}

/// ZREVRANGE key start stop [WITHSCORES]
pub(crate) fn zrevrange(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    list(ctx, args, Fixed { by: Some(By::Rank), order: Some(Order::Descending) }, out)
}

/// ZRANGEBYSCORE key min max [WITHSCORES] [LIMIT offset count]
pub(crate) fn zrangebyscore(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    list(ctx, args, Fixed { by: Some(By::Score), order: Some(Order::Ascending) }, out)
}

/// ZREVRANGEBYSCORE key max min [WITHSCORES] [LIMIT offset count]
pub(crate) fn zrevrangebyscore(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    list(ctx, args, Fixed { by: Some(By::Score), order: Some(Order::Descending) }, out)
}

/// ZRANGEBYLEX key min max [LIMIT offset count]
pub(crate) fn zrangebylex(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    list(ctx, args, Fixed { by: Some(By::Lex), order: Some(Order::Ascending) }, out)
}

/// ZCOUNT key min max
pub(crate) fn zcount(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let scores = ScoreRange::parse(&args[2], &args[3])?;
    let ranks = find(&ctx.keys, &args[1])?.map_or(0..0, |zset| scores.ranks(&zset));
    out.count(ranks.end - ranks.start);
    Ok(())
}

/// The order that the bounds of a range refer to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Rank,
    Score,
    Lex,
}

/// The property that the name of a command fixes, so that no option may set it.
#[derive(Clone, Copy)]
struct Fixed {
    by: Option<By>,
    order: Option<Order>,
}

/// The members to choose from. Bounds of scores and members are in ascending order; ranks count from the beginning of
/// the listing.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Span<'a> {
    Ranks { start: i64, stop: i64 },
    Scores(ScoreRange),
    Lex(LexRange<'a>),
}

/// A parsed range command.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Request<'a> {
    span: Span<'a>,
    order: Order,
    /// Members to skip; negative: all of them.
    offset: i64,
    /// Largest number of members to list; negative: no limit.
    limit: i64,
    form: Form,
}

fn list(ctx: &mut Ctx<'_>, args: Args<'_>, fixed: Fixed, out: &mut Out) -> Done {
    let request = Request::parse(args, fixed)?;
    match find(&ctx.keys, &args[1])? {
        Some(zset) => write_members(out, &zset, request.ranks(&zset), request.order, request.form),
        None => out.array(0),
    }
    Ok(())
}

impl<'a> Request<'a> {
    fn parse(args: Args<'a>, fixed: Fixed) -> Result<Self, Fail> {
        let (mut by, mut order) = (fixed.by, fixed.order);
        let (mut offset, mut limit, mut form) = (0, -1, Form::Bare);
        let mut at = 4;
        while let Some(option) = args.try_get(at) {
            let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
            if is(b"withscores") {
                form = Form::Paired;
            } else if is(b"limit") && at + 2 < args.len() {
                (offset, limit) = (integer(&args[at + 1])?, integer(&args[at + 2])?);
                at += 2;
            } else if is(b"rev") && order.is_none() {
                order = Some(Order::Descending);
            } else if is(b"bylex") && by.is_none() {
                by = Some(By::Lex);
            } else if is(b"byscore") && by.is_none() {
                by = Some(By::Score);
            } else {
                return Err(errors::SYNTAX.into());
            }
            at += 1;
        }
        let (by, order) = (by.unwrap_or(By::Rank), order.unwrap_or(Order::Ascending));
        if limit != -1 && by == By::Rank {
            return Err(LIMIT_BY_RANK.into());
        }
        if form != Form::Bare && by == By::Lex {
            return Err(SCORES_BY_LEX.into());
        }
        Ok(Self { span: Span::parse(args.get(2), args.get(3), by, order)?, order, offset, limit, form })
    }

    /// Returns the ranks to list, in ascending order.
    fn ranks(&self, zset: &Zset) -> Range<u64> {
        let found = match self.span {
            Span::Ranks { start, stop } => {
                let (ranks, len) = (index::range(start, stop, zset.len()), zset.len());
                return match self.order {
                    Order::Ascending => ranks,
                    Order::Descending => len - ranks.end..len - ranks.start,
                };
            }
            Span::Scores(scores) => scores.ranks(zset),
            Span::Lex(lex) => lex.ranks(zset),
        };
        let len = found.end - found.start;
        let skipped = u64::try_from(self.offset).map_or(len, |offset| offset.min(len));
        let listed = u64::try_from(self.limit).map_or(len - skipped, |limit| limit.min(len - skipped));
        match self.order {
            Order::Ascending => found.start + skipped..found.start + skipped + listed,
            Order::Descending => found.end - skipped - listed..found.end - skipped,
        }
    }
}

impl<'a> Span<'a> {
    /// Reads the bounds as the client gave them: a descending range of scores or members begins with the upper bound.
    fn parse(first: &'a [u8], second: &'a [u8], by: By, order: Order) -> Result<Self, Fail> {
        let (min, max) = if order == Order::Ascending { (first, second) } else { (second, first) };
        Ok(match by {
            By::Rank => Self::Ranks { start: integer(first)?, stop: integer(second)? },
            By::Score => Self::Scores(ScoreRange::parse(min, max)?),
            By::Lex => Self::Lex(LexRange::parse(min, max)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::args::OwnedArgs;
    use super::*;

    const ANY: Fixed = Fixed { by: None, order: None };

    fn ranks(request: &str, fixed: Fixed) -> Range<u64> {
        let mut zset = Zset::new();
        (0..10).for_each(|score| {
            let _ = zset.insert(format!("m{score}").as_bytes(), f64::from(score));
        });
        let args: OwnedArgs = request.split(' ').collect();
        Request::parse(args.as_args(), fixed).unwrap().ranks(&zset)
    }

    fn failure(request: &str, fixed: Fixed) -> String {
        let args: OwnedArgs = request.split(' ').collect();
        match Request::parse(args.as_args(), fixed) {
            Err(Fail::Reply(message)) => message.into_owned(),
            other => panic!("{request}: {other:?}"),
        }
    }

    #[test]
    fn limits_count_from_where_the_listing_begins() {
        assert_eq!(ranks("zrange z 2 7 byscore", ANY), 2..8);
        assert_eq!(ranks("zrange z 2 7 byscore limit 1 2", ANY), 3..5);
        assert_eq!(ranks("zrange z 7 2 byscore rev limit 1 2", ANY), 5..7);
        assert_eq!(ranks("zrange z 7 2 byscore rev limit 4 9", ANY), 2..4);
        assert_eq!(ranks("zrange z 2 7 byscore limit 1 -5", ANY), 3..8);
        assert!(ranks("zrange z 2 7 byscore limit 6 1", ANY).is_empty());
        assert!(ranks("zrange z 2 7 byscore limit -1 5", ANY).is_empty());
        assert!(ranks("zrange z 2 7 byscore limit 0 0", ANY).is_empty());
        assert!(ranks("zrange z 2 7 byscore rev", ANY).is_empty());
    }

    #[test]
    fn descending_ranks_count_from_the_highest() {
        assert_eq!(ranks("zrange z 0 -1", ANY), 0..10);
        assert_eq!(ranks("zrange z 0 2 rev", ANY), 7..10);
        assert_eq!(ranks("zrange z -3 -2 REV", ANY), 1..3);
        assert_eq!(ranks("zrange z 1 3 limit 5 -1", ANY), 1..4);
        assert!(ranks("zrange z 5 2 rev", ANY).is_empty());
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        let by_rank = Fixed { by: Some(By::Rank), order: Some(Order::Descending) };
        assert_eq!(failure("zrevrange z 0 -1 rev", by_rank), errors::SYNTAX);
        assert_eq!(failure("zrevrange z 0 -1 bylex", by_rank), errors::SYNTAX);
        assert_eq!(failure("zrange z - + bylex byscore", ANY), errors::SYNTAX);
        assert_eq!(failure("zrange z 0 -1 rev rev", ANY), errors::SYNTAX);
        assert_eq!(failure("zrange z 0 1 limit 1", ANY), errors::SYNTAX);
        assert_eq!(failure("zrange z 0 1 limit 1 x", ANY), errors::NOT_AN_INTEGER);
        assert_eq!(failure("zrange z x y limit 1 2", ANY), LIMIT_BY_RANK);
        assert_eq!(failure("zrange z x y bylex withscores", ANY), SCORES_BY_LEX);
        assert_eq!(failure("zrange z 0 x", ANY), errors::NOT_AN_INTEGER);
        assert_eq!(failure("zrange z 0 x byscore", ANY), errors::MIN_MAX_NOT_A_FLOAT);
        assert_eq!(failure("zrange z 0 x bylex", ANY), errors::MIN_MAX_NOT_A_STRING);
    }
}
