//! The archive's JSON records. Each record carries a digest of itself, because a number with a flipped bit is still
//! valid JSON.
//!
//! Guarantees: a decoded record is the encoded one, to the bit. `digest` is the BLAKE3 hash, in lower-case hexadecimal
//! digits, of the other fields as JSON without white space and with the keys of every object sorted.

use super::layout::ObjectName;
use super::store::{Archive, Creation};
use crate::error::{Error, Result};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Field that holds the digest of all other fields.
const DIGEST: &str = "digest";

/// Returns the stored form of a record, which is a struct with a field `format`.
pub fn encode(record: &impl Serialize) -> Vec<u8> {
    let mut fields = serde_json::to_value(record).expect("a record is plain data");
    let digest = digest(&fields);
    fields.as_object_mut().expect("a record is a struct").insert(DIGEST.to_owned(), digest.into());
    let mut text = serde_json::to_vec_pretty(&fields).expect("a record is plain data");
    text.push(b'\n');
    text
}

/// Reads the stored form. `what` names the record in errors; `known` is the format number that is accepted.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str, known: u32) -> Result<T> {
    let corrupt = |detail: String| Error::corrupt(what, "content", detail);
    let mut fields: Value = serde_json::from_slice(bytes).map_err(|error| match error.is_eof() {
        true => Error::cut_off(what, "content", error.to_string()),
        false => corrupt(error.to_string()),
    })?;
    let object = fields.as_object_mut().ok_or_else(|| corrupt("not a JSON object".to_owned()))?;
    let format = object.get("format").and_then(Value::as_u64).ok_or_else(|| corrupt("no format".to_owned()))?;
    if format != u64::from(known) {
        let found = u32::try_from(format).unwrap_or(u32::MAX);
        return Err(Error::Version { what: what.to_owned(), found, known });
    }
    let told = object.remove(DIGEST).unwrap_or_default();
    let found = digest(&fields);
    if told.as_str() != Some(&found) {
        return Err(corrupt(format!("the digest is {found}, but the record states {told}")));
    }
    serde_json::from_value(fields).map_err(|error| corrupt(error.to_string()))
}

/// Encodes a record that can contradict itself, as [`encode`] does.
///
/// # Panics
/// If `fault` is given.
pub fn encode_consistent(record: &impl Serialize, fault: Option<String>) -> Vec<u8> {
    assert!(fault.is_none(), "a record must be consistent: {fault:?}");
    encode(record)
}

/// Decodes a record of at most `bytes_max` bytes that can contradict itself, as [`decode`] does; `fault` returns the
/// contradiction, if there is one.
pub fn decode_consistent<T: DeserializeOwned>(
    bytes: &[u8],
    what: &str,
    known: u32,
    bytes_max: usize,
    fault: impl FnOnce(&T) -> Option<String>,
) -> Result<T> {
    let corrupt = |detail: String| Error::corrupt(what, "content", detail);
    if bytes.len() > bytes_max {
        return Err(corrupt(format!("{} bytes; it has at most {bytes_max}", bytes.len())));
    }
    let record: T = decode(bytes, what, known)?;
    fault(&record).map_or(Ok(record), |fault| Err(corrupt(fault)))
}

/// Reads a record of the archive; `None` if the record is not there.
pub async fn read<T: DeserializeOwned + Send>(archive: &Archive, name: &ObjectName, known: u32) -> Result<Option<T>> {
    let what = archive.full_name(name);
    archive.get_as(name, |body| decode(&body, &what, known)).await
}

/// Creates a record if its name is free. A torn record that an earlier upload of this caller left there is replaced:
/// the digest in the torn record tells whose it is.
pub async fn create(archive: &Archive, name: &ObjectName, record: &impl Serialize) -> Result<Creation> {
    let body = Bytes::from(encode(record));
    let created = archive.put_new(name, body.clone()).await;
    if !matches!(created, Ok(Creation::Exists) | Err(Error::StoreContract { .. })) {
        return created;
    }
    match archive.get(name).await? {
        Some(found) if is_part_of(&found, &body) => {
            tracing::warn!(%name, found = found.len(), own = body.len(), "the incomplete object of an interrupted \
                upload is replaced");
            archive.put_verified(name, body).await.map(|()| Creation::Created)
        }
        _ => created,
    }
}

/// Reports whether these bytes are the beginning of this record and of no other: they must contain its digest.
fn is_part_of(found: &[u8], body: &[u8]) -> bool {
    let fields: Value = serde_json::from_slice(body).expect("a record is JSON");
    let digest = fields[DIGEST].as_str().expect("a record has a digest");
    let has_digest = found.windows(digest.len()).any(|window| window == digest.as_bytes());
    found.len() < body.len() && body.starts_with(found) && has_digest
}

fn digest(fields: &Value) -> String {
    blake3::hash(&serde_json::to_vec(fields).expect("a value is plain data")).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::epochs::EpochRecord;
    use crate::archive::identity::ARCHIVE_FORMAT;
    use crate::archive::retry_policy::RetryPolicy;
    use crate::archive::testing::faults::{Fault, FaultStore, QUICK};
    use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};

    /// Goal: no bit of a record can change so that another record is read.
    #[test]
    fn a_changed_bit_never_gives_another_record() {
        let record =
            EpochRecord::forked(Epoch(7), Epoch(6), (Csn(1234), HistoryHash(12)), "node".to_owned(), CommitTime(5678));
        let stored = encode(&record);
        assert_eq!(decode::<EpochRecord>(&stored, "record", ARCHIVE_FORMAT).expect("decode"), record);
        for bit in 0..stored.len() * 8 {
            let mut changed = stored.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = decode::<EpochRecord>(&changed, "record", ARCHIVE_FORMAT) {
                assert_eq!(read, record, "bit {bit}");
            }
        }
    }

    /// Goal: whatever a store does to the upload of a record, the name belongs either to its writer or to another
    /// writer.
    #[tokio::test]
    async fn a_torn_upload_is_written_again_by_its_own_writer_only() {
        let store = FaultStore::default();
        let archive = store.archive().with_retry_policy(RetryPolicy { attempts: 2, ..QUICK });
        let record = |node: &str, epoch| EpochRecord::first(Epoch(epoch), node.to_owned(), CommitTime(1));
        let read = async |name: &ObjectName| read::<EpochRecord>(&archive, name, ARCHIVE_FORMAT).await;
        for (epoch, fault) in (1..).zip([Fault::Truncate, Fault::Tear, Fault::LoseReply, Fault::Fail]) {
            let name = ObjectName::Epoch(Epoch(epoch));
            store.script_puts([fault]);
            let created = create(&archive, &name, &record("own", epoch)).await.unwrap();
            // A record that was stored whole but not confirmed is recognised by its content.
            assert!(created == Creation::Created || fault == Fault::LoseReply, "{fault:?}");
            assert_eq!(read(&name).await.unwrap(), Some(record("own", epoch)), "{fault:?}");
            assert_eq!(create(&archive, &name, &record("other", epoch)).await.unwrap(), Creation::Exists);
            store.heal();
        }
        // A writer that died during its upload left half of the record.
        let name = ObjectName::Epoch(Epoch(9));
        let whole = encode(&record("own", 9));
        archive.put_new(&name, whole[..whole.len() / 2].to_vec().into()).await.unwrap();
        assert_eq!(create(&archive, &name, &record("other", 9)).await.unwrap(), Creation::Exists);
        assert!(read(&name).await.is_err());
        assert_eq!(create(&archive, &name, &record("own", 9)).await.unwrap(), Creation::Created);
        assert_eq!(read(&name).await.unwrap(), Some(record("own", 9)));
    }
}
