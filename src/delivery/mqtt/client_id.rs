use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The client id made at the first start, in the data directory.
const FILE: &str = "mqtt.client-id";
const PREFIX: &str = "weir";
const RANDOM_BYTES: usize = 6;
/// MQTT 3.1.1 brokers have to take ids of up to 23 letters and digits (3.1.3.1).
const _: () = assert!(PREFIX.len() + 2 * RANDOM_BYTES + "x16".len() <= 23);

/// The id this data directory has had since its first start: unique among weirs, and the same after
/// a restart, so that the broker ends what a killed weir has left open.
pub(super) fn open_or_create(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) if is_ours(text.trim_end()) => return Ok(text.trim_end().to_owned()),
        Ok(_) => return Err(io::Error::other("it holds no client id; remove it")),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let id = format!("{PREFIX}{}", hex::encode(random));
    let fresh = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    std::fs::rename(&fresh, &path)?;
    File::open(data_dir)?.sync_all()?;
    Ok(id)
}

fn is_ours(id: &str) -> bool {
    let random = id.strip_prefix(PREFIX).unwrap_or_default();
    random.len() == 2 * RANDOM_BYTES && random.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The file, for errors.
pub(super) const fn file() -> &'static str {
    FILE
}

/// The id of one of several connections.
pub(super) fn numbered(id: &str, number: usize, connections: usize) -> String {
    if connections == 1 { id.to_owned() } else { format!("{id}x{}", number + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_made_once_and_differs_from_every_other() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id = open_or_create(one.path()).unwrap();
        assert_eq!(open_or_create(one.path()).unwrap(), id);
        assert_ne!(open_or_create(other.path()).unwrap(), id);
        assert!(numbered(&id, 15, 16).len() <= 23 && numbered(&id, 0, 1) == id);
    }

    #[test]
    fn a_file_that_holds_something_else_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "weir#\n").unwrap();
        assert!(open_or_create(folder.path()).is_err());
    }
}
