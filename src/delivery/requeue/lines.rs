use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Longest line that is read: a payload of 64 KiB in Base64, and all else a letter has.
pub(super) const LINE_BYTES_MAX: usize = 128 * 1024;
const _: () = assert!(LINE_BYTES_MAX > crate::message::PAYLOAD_BYTES_MAX / 3 * 4 + 16 * 1024);

/// The whole lines of a file of any size, one in memory at a time.
pub(super) struct Lines {
    file: BufReader<File>,
    offset: u64,
    line: Vec<u8>,
}

/// One line.
pub(super) enum Line<'l> {
    /// Where it begins, and its bytes without the line's end.
    Whole(u64, &'l [u8]),
    /// It is longer than anything weir writes.
    TooLong,
}

impl Lines {
    /// The lines of a file; none if there is no such file.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => Ok(Some(Self { file: BufReader::new(file), offset: 0, line: vec![] })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The next line; what does not end in a line's end is being written, and no line yet.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let began = self.offset;
        let most = LINE_BYTES_MAX as u64 + 1;
        let read = self.file.by_ref().take(most).read_until(b'\n', &mut self.line)?;
        self.offset += read as u64;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            return Ok(Some(Line::Whole(began, &self.line)));
        }
        if read as u64 == most && self.skip_line()? {
            return Ok(Some(Line::TooLong));
        }
        Ok(None)
    }

    /// Reads on to the end of the line; false if the file ends first.
    fn skip_line(&mut self) -> io::Result<bool> {
        loop {
            let chunk = self.file.fill_buf()?;
            if chunk.is_empty() {
                return Ok(false);
            }
            let end = memchr::memchr(b'\n', chunk);
            let passed = end.map_or(chunk.len(), |at| at + 1);
            self.file.consume(passed);
            self.offset += passed as u64;
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<Option<(u64, Vec<u8>)>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        std::fs::write(&path, text).unwrap();
        let mut lines = Lines::open(&path).unwrap().unwrap();
        let mut read = vec![];
        while let Some(line) = lines.next().unwrap() {
            read.push(match line {
                Line::Whole(at, line) => Some((at, line.to_vec())),
                Line::TooLong => None,
            });
        }
        read
    }

    #[test]
    fn a_line_comes_with_its_place_and_a_torn_one_not_at_all() {
        let read = lines(b"one\n\nthree\nhalf");
        let expected = [(0, "one"), (4, ""), (5, "three")];
        let expected: Vec<_> =
            expected.map(|(at, line)| Some((at, line.as_bytes().to_vec()))).to_vec();
        assert_eq!(read, expected);
        assert_eq!(lines(b""), []);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_and_named_as_such() {
        let longest = vec![b'x'; LINE_BYTES_MAX];
        let mut text = longest.clone();
        text.extend_from_slice(b"\n");
        text.extend_from_slice(&longest);
        text.extend_from_slice(b"x\nlast\n");
        let last = 2 * (LINE_BYTES_MAX as u64) + 3;
        assert_eq!(lines(&text), [Some((0, longest)), None, Some((last, b"last".to_vec()))]);
        let endless = vec![b'x'; 3 * LINE_BYTES_MAX];
        assert_eq!(lines(&endless), []);
    }
}
