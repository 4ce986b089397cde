//! Sets: members.
//!
//! Guarantees: SMEMBERS sees one moment of the set; SPOP's effect is the removal of the members that it chose. A set
//! without members does not exist.
//!
//! Limit: the choice from large sets on disk is not uniform. SPOP chooses uniformly from at least [`CHOICE_MIN`] members:
//! from the whole set if it has no more, otherwise from the members that follow, in byte order, those popped last. A walk to
//! a random one of a million members would take a second, and a walk from the first member would pass all deleted rows
//! that were not compacted yet.

use super::args::{Args, OwnedArgs};
use super::collection::{self, Membership};
use super::definition::{Ctx, Done, Fail};
use super::errors;
use super::number;
use super::reply::Out;
use crate::engine::keyspace::Keyspace;
use crate::engine::meta::{Collection, DiskType, Home};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};

/// Members that SPOP chooses from, unless the set has fewer.
const CHOICE_MIN: u64 = 128;
/// Places that are remembered for all sets together.
const PLACES: usize = 256;
/// Bytes of the longest name that is remembered as a place.
const PLACE_BYTES_MAX: usize = 1024;

// ---- reading ----

fn find(keys: &Keyspace<'_>, key: &[u8]) -> Result<Option<Collection>, Fail> {
    collection::find(keys, key, DiskType::Set)
}

/// SCARD key
pub(super) fn scard(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(find(&ctx.keys, &args[1])?.map_or(0, |set| set.count));
    Ok(())
}

/// SISMEMBER key member
pub(super) fn sismember(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let is_member = match find(&ctx.keys, &args[1])? {
        Some(set) => ctx.keys.has_element(&args[1], &set, &args[2])?,
        None => false,
    };
    out.int(is_member.into());
    Ok(())
}

/// SMEMBERS key
pub(super) fn smembers(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let mut members = OwnedArgs::default();
    if let Some(set) = find(&ctx.keys, &args[1])? {
        collection::walk(&ctx.keys, &args[1], &set, b"", |member, _| {
            members.extend([member]);
            true
        })?;
    }
    write_set(out, &members);
    Ok(())
}

fn write_set(out: &mut Out, members: &OwnedArgs) {
    let members = members.as_args();
    out.set(members.len());
    members.iter().for_each(|member| out.bulk(member));
}

// ---- changing ----

/// SADD key member [member ...]
pub(super) fn sadd(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let key = args.get(1);
    let set = collection::find_or_new(&mut ctx.keys, key, DiskType::Set, args)?;
    let added = collection::select(&ctx.keys, key, &set, args.from(2).iter(), Membership::Absent)?;
    if !added.is_empty() {
        ctx.keys.put_elements(key, &set, added.iter().map(|member| (*member, &[][..])))?;
        ctx.keys.put_collection(key, &Collection { count: set.count + added.len() as u64, ..set })?;
    }
    out.count(added.len() as u64);
    Ok(())
}

/// SREM key member [member ...]
pub(super) fn srem(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(collection::remove_named(&mut ctx.keys, args, DiskType::Set)?);
    Ok(())
}

/// SPOP key [count]
pub(super) fn spop(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let key = args.get(1);
    if args.len() > 3 {
        return Err(errors::SYNTAX.into());
    }
    let count = match args.try_get(2) {
        Some(text) => Some(number::count(text)?),
        None => None,
    };
    let mut popped = OwnedArgs::default();
    if let Some(set) = collection::find_to_change(&mut ctx.keys, key, DiskType::Set)? {
        popped = choose(&ctx.keys, key, &set, count.unwrap_or(1))?;
        ctx.keys.require_room(popped.byte_len())?;
        if !popped.as_args().is_empty() {
            collection::remove(&mut ctx.keys, key, &set, popped.as_args().iter())?;
        }
    }
    match (count, popped.as_args().try_get(0)) {
        (Some(_), _) => write_set(out, &popped),
        (None, Some(member)) => out.bulk(member),
        (None, None) => out.null(),
    }
    Ok(())
}

/// The member at which SPOP stopped, indexed by a hash of the set's key. Any bytes are a valid place to continue at, so
/// two sets may share an entry.
static LAST_POPPED: Mutex<[Vec<u8>; PLACES]> = Mutex::new([const { Vec::new() }; PLACES]);

/// Chooses `wanted` members, or all if the set has no more.
fn choose(keys: &Keyspace<'_>, key: &[u8], set: &Collection, wanted: u64) -> Result<OwnedArgs, Fail> {
    if set.home == Home::Memory {
        return choose_in_memory(keys, key, set.count, wanted.min(set.count));
    }
    // The chosen members are deleted, so no more are gathered than one commit may delete.
    let fits = |chosen: &OwnedArgs| keys.require_room(chosen.byte_len()).is_ok();
    let mut choice = Choice {
        left: set.count.min(CHOICE_MIN.max(wanted.saturating_mul(2))),
        wanted: wanted.min(set.count),
        random: Random::new(),
        chosen: OwnedArgs::default(),
    };
    if choice.wanted == 0 || choice.left == set.count {
        collection::walk(keys, key, set, b"", |member, _| choice.goes_on_after(member) && fits(&choice.chosen))?;
        return Ok(choice.chosen);
    }
    let place = place_of(key);
    let from = LAST_POPPED.lock()[place].clone();
    collection::walk(keys, key, set, &from, |member, _| choice.goes_on_after(member) && fits(&choice.chosen))?;
    // The walk continues at the first member. It passes fewer members than the set has, so it meets none twice.
    if choice.wanted > 0 {
        collection::walk(keys, key, set, b"", |member, _| choice.goes_on_after(member) && fits(&choice.chosen))?;
    }
    if let Some(last) = choice.chosen.as_args().iter().last().filter(|last| last.len() <= PLACE_BYTES_MAX) {
        LAST_POPPED.lock()[place] = last.to_vec();
    }
    Ok(choice.chosen)
}

/// Chooses from a set of `count` members in memory, each with the same probability.
fn choose_in_memory(keys: &Keyspace<'_>, key: &[u8], count: u64, wanted: u64) -> Result<OwnedArgs, Fail> {
    let mut random = Random::new();
    // Floyd's algorithm: each step chooses one more rank.
    let mut ranks = BTreeSet::new();
    for last in count - wanted..count {
        let rank = random.below(last + 1);
        if !ranks.insert(rank) {
            ranks.insert(last);
        }
    }
    let mut chosen = OwnedArgs::default();
    keys.members_at(key, ranks.into_iter(), |member| chosen.extend([member]))?;
    Ok(chosen)
}

fn place_of(key: &[u8]) -> usize {
    usize::from(crate::engine::key::slot(key)) % PLACES
}

/// Chooses from a known number of members while they are walked, each with the same probability.
struct Choice {
    /// Members that the walk has not passed yet.
    left: u64,
    /// Members that are not chosen yet, at most `left`.
    wanted: u64,
    random: Random,
    chosen: OwnedArgs,
}

impl Choice {
    /// Decides on a member. Reports whether more members are wanted.
    fn goes_on_after(&mut self, member: &[u8]) -> bool {
        if self.wanted > 0 {
            if self.random.below(self.left) < self.wanted {
                self.chosen.extend([member]);
                self.wanted -= 1;
            }
            self.left -= 1;
        }
        self.wanted > 0
    }
}

/// Random numbers that need not be secret (splitmix64).
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }

    /// Returns a number below `end`, which must not be 0.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn every_member_is_chosen_as_often_as_any_other() {
        let members: Vec<String> = (0..10).map(|member| member.to_string()).collect();
        let mut times = HashMap::new();
        for _ in 0..10_000 {
            let mut choice = Choice { left: 10, wanted: 3, random: Random::new(), chosen: OwnedArgs::default() };
            let _ = members.iter().all(|member| choice.goes_on_after(member.as_bytes()));
            assert_eq!(choice.chosen.as_args().len(), 3);
            for member in choice.chosen.as_args().iter() {
                *times.entry(member.to_vec()).or_insert(0) += 1;
            }
        }
        assert!(members.iter().all(|member| (2700..3300).contains(&times[member.as_bytes()])), "{times:?}");
    }
}
