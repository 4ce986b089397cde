//! The operations that hashes and sets share: finding a collection, walking its elements, selecting requested names,
//! and removing elements.

use super::args::Args;
use super::definition::{Done, Fail};
use super::errors;
use crate::engine::keyspace::{Found, Keyspace};
use crate::engine::meta::{Collection, DiskType};
use crate::engine::wear::RENEWED_BYTES_MAX;
use hashbrown::HashSet;

/// Returns the collection of a kind at a key; `None` if there is no such key, an error if the key holds another type.
pub(super) fn find(keys: &Keyspace<'_>, key: &[u8], kind: DiskType) -> Result<Option<Collection>, Fail> {
    of_kind(&keys.find(key)?, kind)
}

/// Does what [`find`] does, for a command that changes the key.
pub(super) fn find_to_change(keys: &mut Keyspace<'_>, key: &[u8], kind: DiskType) -> Result<Option<Collection>, Fail> {
    of_kind(&keys.find_to_change(key)?, kind)
}

/// Does what [`find_to_change`] does. If there is no such key, returns a new, empty collection that is not stored yet.
/// `args` are those of the command, which has the first elements.
pub(super) fn find_or_new(
    keys: &mut Keyspace<'_>,
    key: &[u8],
    kind: DiskType,
    args: Args<'_>,
) -> Result<Collection, Fail> {
    let found = find_to_change(keys, key, kind)?;
    Ok(found.unwrap_or_else(|| keys.new_collection(kind, args.iter().map(<[u8]>::len).sum())))
}

fn of_kind(found: &Found, kind: DiskType) -> Result<Option<Collection>, Fail> {
    match found {
        Found::Absent => Ok(None),
        Found::Collection(collection) if collection.kind == kind => Ok(Some(*collection)),
        _ => Err(errors::WRONG_TYPE.into()),
    }
}

/// Walks the elements and their values in byte order, beginning at the name `from` (inclusive), until `visit` returns
/// false.
pub(super) fn walk(
    keys: &Keyspace<'_>,
    key: &[u8],
    collection: &Collection,
    from: &[u8],
    visit: impl FnMut(&[u8], &[u8]) -> bool,
) -> Done {
    Ok(keys.walk_elements(key, collection, from, visit)?)
}

/// Whether a name must be an element of the collection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Membership {
    /// The name must be an element.
    Present,
    /// The name must not be an element.
    Absent,
}

/// Returns the names that are elements, or those that are not, each once.
///
/// All names are looked up before anything is changed, because a command that fails must have no effect.
pub(super) fn select<'n>(
    keys: &Keyspace<'_>,
    key: &[u8],
    collection: &Collection,
    names: impl Iterator<Item = &'n [u8]>,
    wanted: Membership,
) -> Result<Vec<&'n [u8]>, Fail> {
    let mut selected = Vec::new();
    for name in names {
        let is_element = collection.count > 0 && keys.has_element(key, collection, name)?;
        if is_element == (wanted == Membership::Present) {
            selected.push(name);
        }
    }
    if selected.len() > 1 {
        selected.sort_unstable();
        selected.dedup();
    }
    Ok(selected)
}

/// Deletes the elements with these names, all of which must exist, and stores the changed collection.
///
/// A collection that lost many elements is written anew under another generation, so that later walks do not pass the
/// deleted rows each time.
pub(super) fn remove<'n>(
    keys: &mut Keyspace<'_>,
    key: &[u8],
    collection: &Collection,
    names: impl ExactSizeIterator<Item = &'n [u8]> + Clone,
) -> Done {
    let left = Collection { count: collection.count.saturating_sub(names.len() as u64), ..*collection };
    if left.count > 0
        && keys.is_worn_by(key, collection, names.len() as u64)
        && let Some(kept) = all_but(keys, key, collection, names.clone())?
    {
        let renewed = Collection { generation: keys.new_generation(), ..left };
        keys.put_elements(key, &renewed, kept.iter().map(|(name, value)| (&name[..], &value[..])))?;
        return Ok(keys.put_collection(key, &renewed)?);
    }
    keys.delete_elements(key, collection, names)?;
    Ok(keys.put_collection(key, &left)?)
}

/// Deletes the elements that the arguments name after the key, and returns their number: 0 if there is no such key.
pub(super) fn remove_named(keys: &mut Keyspace<'_>, args: Args<'_>, kind: DiskType) -> Result<u64, Fail> {
    let key = args.get(1);
    let Some(collection) = find_to_change(keys, key, kind)? else { return Ok(0) };
    let names = select(keys, key, &collection, args.from(2).iter(), Membership::Present)?;
    if !names.is_empty() {
        remove(keys, key, &collection, names.iter().copied())?;
    }
    Ok(names.len() as u64)
}

/// Name and value of an element.
type NamedValue = (Vec<u8>, Vec<u8>);

/// Returns the elements with other names; `None` if they take more than [`RENEWED_BYTES_MAX`].
fn all_but<'n>(
    keys: &Keyspace<'_>,
    key: &[u8],
    collection: &Collection,
    names: impl Iterator<Item = &'n [u8]>,
) -> Result<Option<Vec<NamedValue>>, Fail> {
    let names: HashSet<&[u8]> = names.collect();
    let (mut kept, mut bytes) = (Vec::new(), 0);
    walk(keys, key, collection, b"", |name, value| {
        if !names.contains(name) {
            bytes += name.len() + value.len();
            kept.push((name.to_vec(), value.to_vec()));
        }
        bytes <= RENEWED_BYTES_MAX
    })?;
    Ok((bytes <= RENEWED_BYTES_MAX).then_some(kept))
}
