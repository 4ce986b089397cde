//! Hashes, sets and lists.

use super::super::client::bytes;
use super::{Model, Outcome, Refused, Wrote, integer, range};
use redis::Value;
use std::collections::BTreeSet;

impl Model {
    pub(super) fn collection_command(&mut self, name: &str, arguments: &[Vec<u8>], reply: Option<&Value>) -> Outcome {
        let key = &arguments[0];
        let outcome = match name {
            "HSET" | "HMSET" | "HSETNX" | "HDEL" | "HINCRBY" => self.hash_command(name, arguments),
            "SADD" | "SREM" | "SPOP" => self.set_command(name, arguments, reply),
            _ => self.list_command(name, arguments),
        };
        self.drop_if_empty(key);
        outcome
    }

    fn hash_command(&mut self, name: &str, arguments: &[Vec<u8>]) -> Outcome {
        let key = &arguments[0];
        match name {
            "HSET" | "HMSET" => {
                let hash = self.made_hash(key)?;
                hash.extend(arguments[1..].chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())));
                Ok(Wrote::Yes)
            }
            "HSETNX" => {
                let hash = self.made_hash(key)?;
                let missing = !hash.contains_key(&arguments[1]);
                if missing {
                    hash.insert(arguments[1].clone(), arguments[2].clone());
                }
                Ok(missing.into())
            }
            "HDEL" => {
                let Some(hash) = self.hash(key)? else { return Ok(Wrote::No) };
                let before = hash.len();
                hash.retain(|field, _| !arguments[1..].contains(field));
                Ok((hash.len() < before).into())
            }
            _ => {
                let delta = integer(&arguments[2])?;
                let field = self.hash(key)?.and_then(|hash| hash.get(&arguments[1]));
                let sum = field.map_or(Ok(0), |text| integer(text))?.checked_add(delta).ok_or(Refused)?;
                self.made_hash(key)?.insert(arguments[1].clone(), sum.to_string().into_bytes());
                Ok(Wrote::Yes)
            }
        }
    }

    fn set_command(&mut self, name: &str, arguments: &[Vec<u8>], reply: Option<&Value>) -> Outcome {
        let key = &arguments[0];
        if name == "SADD" {
            let set = self.made_set(key)?;
            let before = set.len();
            set.extend(arguments[1..].iter().cloned());
            return Ok((set.len() > before).into());
        }
        let Some(set) = self.set(key)? else { return Ok(Wrote::No) };
        let before = set.len();
        if name == "SREM" {
            set.retain(|member| !arguments[1..].contains(member));
            return Ok((set.len() < before).into());
        }
        let taken: BTreeSet<Vec<u8>> = match reply.expect("the server chooses what SPOP takes") {
            Value::Array(members) | Value::Set(members) => members.iter().map(bytes).collect(),
            member => [bytes(member)].into(),
        };
        let wanted = arguments.get(1).map_or(Ok(1), |count| integer(count))? as usize;
        assert_eq!(taken.len(), wanted.min(before), "SPOP takes as many members as asked for");
        assert!(taken.iter().all(|member| set.remove(member)), "SPOP takes members of the set");
        Ok(Wrote::Yes)
    }

    fn list_command(&mut self, name: &str, arguments: &[Vec<u8>]) -> Outcome {
        let key = &arguments[0];
        match name {
            "LPUSH" => {
                let list = self.made_list(key)?;
                arguments[1..].iter().for_each(|element| list.insert(0, element.clone()));
                Ok(Wrote::Yes)
            }
            "RPUSH" => {
                self.made_list(key)?.extend_from_slice(&arguments[1..]);
                Ok(Wrote::Yes)
            }
            "LPOP" | "RPOP" => {
                let Some(list) = self.list(key)? else { return Ok(Wrote::No) };
                let count = arguments.get(1).map_or(Ok(1), |count| integer(count))? as usize;
                let count = count.min(list.len());
                let taken = if name == "LPOP" { 0..count } else { list.len() - count..list.len() };
                list.drain(taken);
                Ok(Wrote::Yes)
            }
            "LSET" => {
                let list = self.list(key)?.ok_or(Refused)?;
                let index = integer(&arguments[1])?;
                let index = if index < 0 { index + list.len() as i64 } else { index };
                let place = usize::try_from(index).ok().and_then(|index| list.get_mut(index)).ok_or(Refused)?;
                place.clone_from(&arguments[2]);
                Ok(Wrote::Yes)
            }
            "LTRIM" => {
                let Some(list) = self.list(key)? else { return Ok(Wrote::No) };
                let kept = range(integer(&arguments[1])?, integer(&arguments[2])?, list.len());
                let cut = kept.len() < list.len();
                *list = list[kept].to_vec();
                Ok(cut.into())
            }
            "LREM" => self.remove_from_list(arguments),
            "LINSERT" => {
                let Some(list) = self.list(key)? else { return Ok(Wrote::No) };
                let Some(pivot) = list.iter().position(|element| *element == arguments[2]) else {
                    return Ok(Wrote::No);
                };
                list.insert(pivot + usize::from(arguments[1] == b"AFTER"), arguments[3].clone());
                Ok(Wrote::Yes)
            }
            "RPOPLPUSH" => self.move_element(key, &arguments[1], false, true),
            _ => self.move_element(key, &arguments[1], arguments[2] == b"LEFT", arguments[3] == b"LEFT"),
        }
    }

    fn remove_from_list(&mut self, arguments: &[Vec<u8>]) -> Outcome {
        let Some(list) = self.list(&arguments[0])? else { return Ok(Wrote::No) };
        let (count, before) = (integer(&arguments[1])?, list.len());
        let limit = if count == 0 { before } else { count.unsigned_abs() as usize };
        let mut places: Vec<usize> = (0..before).filter(|index| list[*index] == arguments[2]).collect();
        if count < 0 {
            places.reverse();
        }
        places.truncate(limit);
        places.sort_unstable();
        places.iter().rev().for_each(|place| drop(list.remove(*place)));
        Ok((list.len() < before).into())
    }

    fn move_element(&mut self, from: &[u8], to: &[u8], from_left: bool, to_left: bool) -> Outcome {
        if self.list(from)?.is_none() {
            return Ok(Wrote::No);
        }
        self.list(to)?;
        let source = self.list(from)?.expect("just seen");
        let element = source.remove(if from_left { 0 } else { source.len() - 1 });
        let target = self.made_list(to)?;
        target.insert(if to_left { 0 } else { target.len() }, element);
        Ok(Wrote::Yes)
    }
}
