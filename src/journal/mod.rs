//! The journal: append, sync, recover, trim. `Admitted` goes in, `Journaled` comes out, and what
//! is `Journaled` is on disk under one completed sync.
//!
//! Each shard appends to a stream of its own; the streams of one shard count are a generation.
//! After a change of the shard count the former generation is only read, and delivered first.
//!
//! ```text
//! {dir}/g000002-004/shard-003/0000000017.seg      segments of stream (2, 3)
//!                            /0000000016.nonces   what replay protection needs of a trimmed one
//! ```
//!
//! Never: a reply, a retry of a sync, a record given out that is not durable.

mod batch;
mod config;
mod desk;
mod failure;
mod follower;
mod generations;
mod inspect;
mod keeper;
mod lock;
mod mailbox;
mod nonces;
mod open;
mod record;
mod recover;
mod segment;
mod storage;
mod stream;
mod tail;
mod turn;
mod turns;
mod writer;

#[cfg(test)]
pub(crate) mod cruel;
#[cfg(test)]
pub(crate) mod dice;
#[cfg(test)]
mod model;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod trials;

pub use batch::{Batch, Journaled, Sequence, StreamId};
pub use config::{Config, ConfigError, Environment, Salts, system_salts};
pub use failure::{Damage, JournalError};
pub use follower::Follower;
pub use inspect::{Found, Inspected, InspectedStream, Rest, inspect};
pub use keeper::RESERVE_BYTES;
pub use lock::{DirectoryLock, LockError};
pub use open::{Journal, Opened};
pub use record::{RECORD_BYTES_MAX, RecordError, record_bytes};
pub use recover::{Position, Recovered, TornTail, Visitor};
pub use storage::{Disk, ReadOnly, Storage, StorageFile};
pub use stream::Stream;
pub use tail::{TailError, read_tail};
pub use turn::{BATCH_BYTES_MAX, TURN_BYTES_MAX};
pub use writer::{AppendError, PoisonCause, Writer};
