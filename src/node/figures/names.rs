//! The fields of INFO that `walferry status` puts into words.

/// Number of the epoch.
pub const EPOCH: &str = "epoch";
/// The last commit.
pub const COMMITTED_CSN: &str = "committed_csn";
/// The last commit that a power cut cannot remove.
pub const DURABLE_CSN: &str = "durable_csn";
/// By how many milliseconds the wall clock is ahead of commit times.
pub const CLOCK_AHEAD_MS: &str = "clock_ahead_ms";
/// Why writes are refused; empty if they are accepted.
pub const WRITES_REFUSED: &str = "writes_refused";
/// `master` on a primary, `slave` on a replica.
pub const ROLE: &str = "role";
/// `up` or `down`.
pub const LINK_STATUS: &str = "master_link_status";
/// Commits by which a replica is behind its primary.
pub const LAG_COMMITS: &str = "lag_commits";
/// Milliseconds by which a replica is behind its primary.
pub const LAG_MS: &str = "lag_ms";
/// Beginning of the name of a field that describes a connected replica; a number follows.
pub const REPLICA: &str = "slave";
/// URL of the archive; empty without one.
pub const ARCHIVE: &str = "archive";
/// Age of the oldest commit that is not archived, in milliseconds.
pub const RPO_MS: &str = "rpo_ms";
/// The first commit that can be restored; empty if none can.
pub const RESTORABLE_FROM_CSN: &str = "restorable_from_csn";
/// Commit time of the first commit that can be restored; empty if unknown.
pub const RESTORABLE_FROM_TIME: &str = "restorable_from_time";
/// The last commit that can be restored.
pub const RESTORABLE_UNTIL_CSN: &str = "restorable_until_csn";
/// Commit time of the last commit that can be restored; empty if unknown.
pub const RESTORABLE_UNTIL_TIME: &str = "restorable_until_time";
/// Archived commits that lie on no line; empty if there are none.
pub const ABANDONED: &str = "abandoned";
/// Bytes of the chunks that wait for the archive.
pub const SPOOL_BYTES: &str = "spool_bytes";
/// The last failure to upload; empty if there was none.
pub const ARCHIVE_LAST_ERROR: &str = "archive_last_error";
/// Failed uploads in a row.
pub const ARCHIVE_FAILURES_IN_ROW: &str = "archive_failures_in_row";
/// PUT requests to the archive.
pub const ARCHIVE_PUTS: &str = "archive_puts";
/// GET requests to the archive.
pub const ARCHIVE_GETS: &str = "archive_gets";
/// HEAD requests to the archive.
pub const ARCHIVE_HEADS: &str = "archive_heads";
/// LIST requests to the archive.
pub const ARCHIVE_LISTS: &str = "archive_lists";
/// DELETE requests to the archive.
pub const ARCHIVE_DELETES: &str = "archive_deletes";
/// Requests to the archive that repeated a failed one.
pub const ARCHIVE_RETRIES: &str = "archive_retries";
/// Calls to the archive that failed for good.
pub const ARCHIVE_FAILURES: &str = "archive_failures";
/// Csn of the last base; 0 if there was none since the start.
pub const LAST_BASE_CSN: &str = "last_base_csn";
/// Milliseconds that the last base took.
pub const LAST_BASE_TOOK_MS: &str = "last_base_took_ms";
/// Bytes that the last base sent.
pub const LAST_BASE_BYTES_NEW: &str = "last_base_bytes_new";
/// Bytes of the last base that the archive already had.
pub const LAST_BASE_BYTES_SHARED: &str = "last_base_bytes_shared";
/// Microseconds for which writers waited for the cut of the last base.
pub const LAST_BASE_CUT_PAUSE_US: &str = "last_base_cut_pause_us";
/// The commits and restore points that prunes keep; empty if prunes keep everything.
pub const KEEP: &str = "keep";
/// End of the last prune in Unix milliseconds; 0 if there was none since the start.
pub const LAST_PRUNE_MS: &str = "last_prune_ms";
/// Objects that the last prune removed.
pub const LAST_PRUNE_OBJECTS: &str = "last_prune_objects";
/// Bytes of the objects that the last prune removed.
pub const LAST_PRUNE_BYTES: &str = "last_prune_bytes";
/// Why the last prune failed; empty if it succeeded.
pub const LAST_PRUNE_ERROR: &str = "last_prune_error";
