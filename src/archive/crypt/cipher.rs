//! Encryption and decryption of one object's segments.
//!
//! The cipher is AES-256-GCM of AWS-LC. The TLS library of the object store client already depends on AWS-LC, which is
//! maintained and the fastest implementation on the CPUs walferry runs on. Each object has its own key, derived with
//! BLAKE3 from the archive's key and a random salt of 256 bits. So the nonce can simply count the segments, and no two
//! segments ever share key and nonce. Each tag also covers the header and the object's name, and the nonce marks the
//! last segment (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizar, 2015).

use super::format::{HEADER_BYTES, ObjectHeader, SALT_BYTES, SEGMENT_BYTES, TAG_BYTES, plain_len, segments};
use super::keys::{KEY_BYTES, Key, KeyRing, random};
use crate::error::{Error, Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::Bytes;

const OBJECT_KEY_CONTEXT: &str = "walferry archive object key v1";

/// The cipher of one object.
pub(super) struct ObjectCipher {
    key: LessSafeKey,
    /// Data that every tag covers: the header, then the object's name.
    covered: Vec<u8>,
}

impl ObjectCipher {
    /// Creates the cipher of a new object.
    pub(super) fn create(keys: &KeyRing, name: &str) -> Result<Self> {
        let key = keys.first();
        let mut salt = [0; SALT_BYTES];
        random(&mut salt)?;
        let header = ObjectHeader { key: key.id.clone(), fingerprint: key.fingerprint(), salt };
        Ok(Self::of(key, &header, name))
    }

    /// Creates the cipher of an object with this header. `what` names the object in errors.
    pub(super) fn open(keys: &KeyRing, header: &ObjectHeader, name: &str, what: &str) -> Result<Self> {
        let refused = |detail: String| Error::Identity { what: what.to_owned(), detail };
        let key = keys.get(&header.key).ok_or_else(|| {
            refused(format!(
                "is encrypted with key `{}`, which is not among the given keys ({}). Add the line of this key to the \
                 key file",
                header.key,
                keys.names()
            ))
        })?;
        if key.fingerprint() != header.fingerprint {
            return Err(refused(format!(
                "is encrypted with another key `{}` than the key that was given under this name. Give the right \
                 key. If your key is new, give it a name of its own and keep the old line below it",
                header.key
            )));
        }
        Ok(Self::of(key, header, name))
    }

    fn of(key: &Key, header: &ObjectHeader, name: &str) -> Self {
        let mut material = [0; KEY_BYTES + SALT_BYTES];
        material[..KEY_BYTES].copy_from_slice(key.secret());
        material[KEY_BYTES..].copy_from_slice(&header.salt);
        let own = blake3::derive_key(OBJECT_KEY_CONTEXT, &material);
        let key = UnboundKey::new(&AES_256_GCM, &own).expect("the key has the cipher's length");
        Self { key: LessSafeKey::new(key), covered: [&header.encode(), name.as_bytes()].concat() }
    }

    /// Returns the encoded header.
    pub(super) fn header(&self) -> &[u8] {
        &self.covered[..HEADER_BYTES]
    }

    /// Encrypts a segment and appends it to `out`.
    pub(super) fn seal_into(&self, at: Segment, plain: &[u8], out: &mut Vec<u8>) {
        debug_assert!(plain.len() <= SEGMENT_BYTES);
        let start = out.len();
        out.extend_from_slice(plain);
        let tag = self.key.seal_in_place_separate_tag(at.nonce(), Aad::from(&self.covered), &mut out[start..]);
        out.extend_from_slice(tag.expect("a segment is far below the cipher's limit").as_ref());
    }

    /// Decrypts a segment and appends it to `out`. `what` names the object in errors.
    pub(super) fn open_into(&self, at: Segment, stored: &[u8], out: &mut Vec<u8>, what: &str) -> Result<()> {
        let altered = || {
            let detail =
                "the authentication tag is wrong: the object was altered, or its name belongs to another object";
            Error::corrupt(what, format!("segment {}", at.number), detail)
        };
        let (sealed, tag) = stored.split_last_chunk::<TAG_BYTES>().ok_or_else(altered)?;
        let start = out.len();
        out.resize(start + sealed.len(), 0);
        let covered = Aad::from(&self.covered);
        self.key.open_separate_gather(at.nonce(), covered, sealed, tag, &mut out[start..]).map_err(|_| altered())
    }

    /// Decrypts adjacent segments, from number `first` on, of an object with `total` segments.
    pub(super) fn open_run(&self, first: u64, total: u64, stored: &[u8], what: &str) -> Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(stored.len());
        for (number, segment) in (first..).zip(stored.chunks(SEGMENT_BYTES + TAG_BYTES)) {
            self.open_into(Segment { number, is_last: number + 1 == total }, segment, &mut plain, what)?;
        }
        Ok(plain)
    }
}

/// Position of a segment in its object.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    /// Counted from 0.
    pub number: u64,
    /// Whether this is the last segment of the object.
    pub is_last: bool,
}

impl Segment {
    fn nonce(self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&self.number.to_le_bytes());
        nonce[8] = self.is_last.into();
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Encrypts an object whose bytes arrive one piece after the other.
pub(super) struct Sealer {
    cipher: ObjectCipher,
    number: u64,
    /// Plain bytes that are not encrypted yet, at most one segment: whether this segment is the last becomes known
    /// only when more bytes arrive.
    pending: Vec<u8>,
}

impl Sealer {
    /// Begins an object: appends its header to `out`.
    pub(super) fn begin(cipher: ObjectCipher, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(cipher.header());
        Self { cipher, number: 0, pending: Vec::new() }
    }

    /// Takes the next bytes and appends every complete segment.
    pub(super) fn push(&mut self, mut plain: &[u8], out: &mut Vec<u8>) {
        while !plain.is_empty() {
            if self.pending.is_empty() && plain.len() > SEGMENT_BYTES {
                let (segment, rest) = plain.split_at(SEGMENT_BYTES);
                self.seal(segment, false, out);
                plain = rest;
                continue;
            }
            if self.pending.len() == SEGMENT_BYTES {
                let full = std::mem::take(&mut self.pending);
                self.seal(&full, false, out);
                continue;
            }
            let (taken, rest) = plain.split_at(plain.len().min(SEGMENT_BYTES - self.pending.len()));
            self.pending.extend_from_slice(taken);
            plain = rest;
        }
    }

    /// Ends the object: appends the last segment.
    pub(super) fn finish(mut self, out: &mut Vec<u8>) {
        let last = std::mem::take(&mut self.pending);
        self.seal(&last, true, out);
    }

    fn seal(&mut self, plain: &[u8], is_last: bool, out: &mut Vec<u8>) {
        self.cipher.seal_into(Segment { number: self.number, is_last }, plain, out);
        self.number += 1;
    }
}

/// Decrypts a whole object.
pub(super) fn open_whole(stored: &[u8], name: &str, keys: &KeyRing, what: &str) -> Result<Bytes> {
    let header = ObjectHeader::decode(stored, what)?;
    let cipher = ObjectCipher::open(keys, &header, name, what)?;
    let total = segments(plain_len(stored.len() as u64).ok_or_else(|| {
        Error::corrupt(
            what,
            "its end",
            format!("an encrypted object cannot have {} bytes, so its end is missing", stored.len()),
        )
    })?);
    cipher.open_run(0, total, &stored[HEADER_BYTES..], what).map(Bytes::from)
}
