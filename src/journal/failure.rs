use std::io;
use std::path::{Path, PathBuf};

use super::batch::{Sequence, StreamId};
use super::config::ConfigError;
use super::record::RecordError;

/// What is wrong at a damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A head whose checksum or name does not fit.
    #[error("the head does not match its checksum or its name")]
    Header,
    /// No valid turn here, but later ones were acknowledged.
    #[error("no valid record begins here, and later ones exist")]
    Lost,
    /// A turn that continues another sequence.
    #[error("record {expected} should be here, found record {found}")]
    Order {
        /// The sequence that should be found here.
        expected: Sequence,
        /// The sequence found.
        found: Sequence,
    },
    /// A file that was longer when it was made.
    #[error("the file ends here, and was made with {made} bytes")]
    Short {
        /// Bytes it was made with.
        made: u64,
    },
    /// A file between others is missing.
    #[error("the file is missing, and later ones exist")]
    Missing,
    /// A valid turn with an impossible record.
    #[error("{0}")]
    Record(RecordError),
}

/// Why the journal cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk refused.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Acknowledged records cannot be read.
    #[error(
        "{} is damaged at byte {offset}: {damage}; restore the folder from a copy, or move this \
         file and the later ones of its folder away to give their messages up",
        file.display()
    )]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// Where, in bytes from its start.
        offset: u64,
        /// What is wrong there.
        damage: Damage,
    },
    /// A file that is not what its name says.
    #[error("{} is not a file of weir's journal; move it out of the folder", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// A file of another format version.
    #[error(
        "{} has format version {found}, which this weir does not know; start the version that \
         wrote it",
        file.display()
    )]
    Version {
        /// The file.
        file: PathBuf,
        /// The version found.
        found: u16,
    },
    /// Two folders for one generation.
    #[error("{} holds generation {generation} twice; move one of the two away", dir.display())]
    Twice {
        /// The journal's folder.
        dir: PathBuf,
        /// The generation.
        generation: u32,
    },
    /// A reader has passed records that are not there: the end of the stream is damaged or lost.
    #[error(
        "{}: no valid record follows byte {offset}, where record {tail} should be, but {} stands \
         at record {next}: acknowledged records are lost; restore both from a copy; or, to give \
         them up, {give_up}",
        file.display(),
        reader.display()
    )]
    Overtaken {
        /// Where the stream ends: its last segment, or its folder.
        file: PathBuf,
        /// Where in that file, in bytes from its start.
        offset: u64,
        /// The file that holds the reader's position.
        reader: PathBuf,
        /// The next record the reader wants.
        next: Sequence,
        /// The sequence the next append would get.
        tail: Sequence,
        /// How to give the records up.
        give_up: String,
    },
    /// A reader wants records that are gone from the stream's beginning.
    #[error(
        "{} begins with record {first}, but {} stands at record {next}: the records between them \
         are lost; restore both from a copy; or, to give them up, {give_up}",
        file.display(),
        reader.display()
    )]
    Gap {
        /// Where the stream begins: its first segment, or its folder.
        file: PathBuf,
        /// The first record retained.
        first: Sequence,
        /// The file that holds the reader's position.
        reader: PathBuf,
        /// The next record the reader wants.
        next: Sequence,
        /// How to give the records up.
        give_up: String,
    },
    /// A reader has read what the journal does not hold: the journal lost acknowledged records.
    #[error("{stream}: a reader stands at record {position}, but the journal ends before {tail}")]
    BeyondTail {
        /// The stream.
        stream: StreamId,
        /// The next record the reader wants.
        position: Sequence,
        /// The sequence the next append will get.
        tail: Sequence,
    },
    /// A reader wants what was trimmed.
    #[error("{stream}: a reader stands at record {position}, but the journal begins at {first}")]
    Trimmed {
        /// The stream.
        stream: StreamId,
        /// The next record the reader wants.
        position: Sequence,
        /// The first record retained.
        first: Sequence,
    },
    /// A bound is broken.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl JournalError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { doing, path, source }
    }

    pub(super) fn damaged(file: &Path, offset: u64, damage: Damage) -> Self {
        Self::Damaged { file: file.to_path_buf(), offset, damage }
    }
}
