//! Whose archive it is: `walferry.json`.
//!
//! Guarantees: written once, create-only; a cluster never writes into another cluster's archive.

use super::layout::ObjectName;
use super::store::{Archive, Creation};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

/// Version of the archive's layout and of its JSON records.
pub const ARCHIVE_FORMAT: u32 = 1;

/// Random number a cluster is known by, for life: 128 bits, shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// A new one, from the system's random numbers.
    pub fn generate() -> Result<Self> {
        let source = Path::new("/dev/urandom");
        let mut id = [0; 16];
        std::fs::File::open(source)
            .and_then(|mut file| file.read_exact(&mut id))
            .map_err(Error::io("read random numbers from", source))?;
        Ok(Self(id))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::Config {
            key: "cluster".to_owned(),
            detail: format!("{text:?} is no cluster id; expected 32 hexadecimal digits"),
        };
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| wrong())?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl TryFrom<String> for ClusterId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.to_string()
    }
}

/// Content of `walferry.json`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Identity {
    /// See [`ARCHIVE_FORMAT`].
    format: u32,
    /// Whose archive it is.
    cluster: ClusterId,
}

/// The cluster the archive belongs to, or `None` if nobody claimed it.
pub async fn read(archive: &Archive) -> Result<Option<ClusterId>> {
    let Some(body) = archive.get(&ObjectName::Identity).await? else { return Ok(None) };
    let what = archive.full_name(&ObjectName::Identity);
    let identity: Identity = serde_json::from_slice(&body)
        .map_err(|error| Error::corrupt(&what, format!("line {}", error.line()), error.to_string()))?;
    if identity.format > ARCHIVE_FORMAT {
        return Err(Error::Version { what, found: identity.format, known: ARCHIVE_FORMAT });
    }
    Ok(Some(identity.cluster))
}

/// The cluster the archive belongs to; an error if it is not an archive: for readers.
pub async fn require(archive: &Archive) -> Result<ClusterId> {
    read(archive).await?.ok_or_else(|| Error::Identity {
        what: archive.url().to_owned(),
        detail: "there is no walferry.json: this is not an archive, or no primary has started with it yet. Check the \
                 bucket and the prefix"
            .to_owned(),
    })
}

/// Makes the archive `own`'s if it is nobody's; refuses another cluster's.
pub async fn establish(archive: &Archive, own: ClusterId) -> Result<()> {
    let found = match read(archive).await {
        Ok(Some(found)) => found,
        // No such bucket: nobody's. Some servers create it at the first put, the others say again what is missing.
        Ok(None) | Err(Error::Store { source: object_store::Error::NotFound { .. }, .. }) => {
            create(archive, own).await?
        }
        Err(error) => return Err(error),
    };
    if found == own {
        return Ok(());
    }
    Err(Error::Identity {
        what: archive.url().to_owned(),
        detail: format!(
            "the archive belongs to cluster {found}, this data directory to cluster {own}. Give this cluster another \
             prefix, or restore from the archive into an empty directory"
        ),
    })
}

/// Writes `own` and gives what is there afterwards: another primary may have been faster.
async fn create(archive: &Archive, own: ClusterId) -> Result<ClusterId> {
    let identity = Identity { format: ARCHIVE_FORMAT, cluster: own };
    let body = serde_json::to_vec_pretty(&identity).expect("an identity is plain data");
    match archive.put_new(&ObjectName::Identity, body.into()).await? {
        Creation::Created => Ok(own),
        Creation::Exists => require(archive).await,
    }
}
