//! Strings, and the commands that replace a key of any type by a string.

use super::{Model, Outcome, Refused, Stored, Wrote, float, integer};

impl Model {
    pub(super) fn string_command(&mut self, name: &str, arguments: &[Vec<u8>], now_ms: u64) -> Outcome {
        let key = &arguments[0];
        match name {
            "SET" => self.set_with_options(arguments, now_ms),
            "SETNX" => {
                let missing = !self.keys.contains_key(key);
                if missing {
                    self.put(key, Stored::String(arguments[1].clone()), None);
                }
                Ok(missing.into())
            }
            "SETEX" => {
                let at = now_ms + 1000 * integer(&arguments[1])? as u64;
                self.put(key, Stored::String(arguments[2].clone()), Some(at));
                Ok(Wrote::Yes)
            }
            "GETSET" => {
                self.string(key)?;
                self.put(key, Stored::String(arguments[1].clone()), None);
                Ok(Wrote::Yes)
            }
            "GETDEL" => {
                let there = self.string(key)?.is_some();
                self.keys.remove(key);
                Ok(there.into())
            }
            "MSET" => {
                for pair in arguments.chunks(2) {
                    self.put(&pair[0], Stored::String(pair[1].clone()), None);
                }
                Ok(Wrote::Yes)
            }
            "APPEND" => {
                self.made_string(key)?.extend_from_slice(&arguments[1]);
                Ok(Wrote::Yes)
            }
            "SETRANGE" => {
                let offset = integer(&arguments[1])? as usize;
                let string = self.made_string(key)?;
                let end = offset + arguments[2].len();
                string.resize(string.len().max(end), 0);
                string[offset..end].copy_from_slice(&arguments[2]);
                Ok(Wrote::Yes)
            }
            "INCR" => self.add(key, 1),
            "DECR" => self.add(key, -1),
            "INCRBY" => self.add(key, integer(&arguments[1])?),
            "DECRBY" => self.add(key, integer(&arguments[1])?.checked_neg().ok_or(Refused)?),
            "INCRBYFLOAT" => self.add_float(key, float(&arguments[1])?),
            _ => self.string(key).map(|_| Wrote::No),
        }
    }

    fn set_with_options(&mut self, arguments: &[Vec<u8>], now_ms: u64) -> Outcome {
        let key = &arguments[0];
        let (mut only_if_missing, mut only_if_there, mut keep, mut expires_at_ms) = (false, false, false, None);
        let mut options = arguments[2..].iter();
        while let Some(option) = options.next() {
            let mut number = || integer(options.next().expect("the workload gives each option its value"));
            match option.as_slice() {
                b"NX" => only_if_missing = true,
                b"XX" => only_if_there = true,
                b"KEEPTTL" => keep = true,
                b"GET" => self.string(key).map(|_| ())?,
                b"EX" => expires_at_ms = Some(now_ms + 1000 * number()? as u64),
                b"PX" => expires_at_ms = Some(now_ms + number()? as u64),
                b"EXAT" => expires_at_ms = Some(1000 * number()? as u64),
                b"PXAT" => expires_at_ms = Some(number()? as u64),
                other => unreachable!("the workload makes no SET {}", other.escape_ascii()),
            }
        }
        let there = self.keys.get(key);
        if (only_if_missing && there.is_some()) || (only_if_there && there.is_none()) {
            return Ok(Wrote::No);
        }
        if keep {
            expires_at_ms = there.and_then(|entry| entry.expires_at_ms);
        }
        self.put(key, Stored::String(arguments[1].clone()), expires_at_ms);
        Ok(Wrote::Yes)
    }

    fn add(&mut self, key: &[u8], delta: i64) -> Outcome {
        let current = self.string(key)?.map_or(Ok(0), |text| integer(text))?;
        let sum = current.checked_add(delta).ok_or(Refused)?;
        *self.made_string(key)? = sum.to_string().into_bytes();
        Ok(Wrote::Yes)
    }

    /// Exact only for the quarters the workload adds: Redis computes with 80-bit floats.
    fn add_float(&mut self, key: &[u8], delta: f64) -> Outcome {
        let current = self.string(key)?.map_or(Ok(0.0), |text| float(text))?;
        *self.made_string(key)? = (current + delta).to_string().into_bytes();
        Ok(Wrote::Yes)
    }
}
