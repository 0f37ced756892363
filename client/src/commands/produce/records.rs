//! Where records come from: lines of files, standard input, or made up.
//!
//! Promises: a line is a record without its line end (LF or CR LF); empty lines are left out and
//! counted, because Kinesis wants data.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use millrace_common::error::{Code, Error, Result};

use super::generate::AppLogs;
use crate::arguments::{Generated, Produce};

/// A source of records.
pub(super) struct Records {
    from: From,
    num_skipped: u64,
}

enum From {
    Made(Box<AppLogs>),
    Lines(Lines),
}

struct Lines {
    /// Still to be read, the next one last.
    files: Vec<PathBuf>,
    open: Option<(PathBuf, Box<dyn BufRead + Send>)>,
    line: u64,
}

impl Records {
    /// Opens the source that the command names; the first file must be readable.
    pub(super) fn open(command: &Produce) -> Result<Self> {
        let from = match command.generate {
            Some(Generated::AppLogs) => From::Made(Box::new(AppLogs::new(command.seed))),
            None => {
                for file in command.files.iter().filter(|file| !is_stdin(file)) {
                    // All of them are tried before the first record is put.
                    open(file)?;
                }
                let files = command.files.iter().rev().cloned().collect();
                From::Lines(Lines { files, open: None, line: 0 })
            }
        };
        Ok(Self { from, num_skipped: 0 })
    }

    /// The next record; none at the end.
    pub(super) fn next_record(&mut self) -> Result<Option<Vec<u8>>> {
        let lines = match &mut self.from {
            From::Made(logs) => {
                let record = logs.record(Timestamp::now()).map_err(|error| {
                    Error::internal("a made-up record is not JSON").caused_by(error)
                })?;
                return Ok(Some(record));
            }
            From::Lines(lines) => lines,
        };
        while let Some(line) = lines.next_line()? {
            if !line.is_empty() {
                return Ok(Some(line));
            }
            self.num_skipped += 1;
        }
        Ok(None)
    }

    /// Empty lines so far.
    pub(super) fn num_skipped(&self) -> u64 {
        self.num_skipped
    }

    /// The error with the place of the newest record.
    pub(super) fn at(&self, error: &Error) -> Error {
        let place = match &self.from {
            From::Lines(Lines { open: Some((path, _)), line, .. }) => {
                format!("{}:{line}: ", path.display())
            }
            _ => String::new(),
        };
        Error::new(error.code(), format!("{place}{}", error.message()), error.next_move())
    }
}

impl Lines {
    fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let (path, file) = match &mut self.open {
                Some(open) => open,
                None => match self.files.pop() {
                    None => return Ok(None),
                    Some(path) => {
                        self.line = 0;
                        let file = open(&path)?;
                        self.open.insert((path, file))
                    }
                },
            };
            let mut line = Vec::new();
            let read =
                file.read_until(b'\n', &mut line).map_err(|error| unreadable(path, error))?;
            if read == 0 {
                self.open = None;
                continue;
            }
            self.line += 1;
            if line.last() == Some(&b'\n') {
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
            }
            return Ok(Some(line));
        }
    }
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn open(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    if is_stdin(path) {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    Ok(Box::new(BufReader::new(file)))
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::new(
        Code::FileUnreadable,
        format!("{} can not be read: {error}", path.display()),
        "name files of text with --file; - is standard input",
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, Command};

    fn produce(files: &[PathBuf]) -> Produce {
        let mut line = vec!["millrace".to_owned(), "produce".into(), "--stream=s".into()];
        line.extend(files.iter().map(|file| format!("--file={}", file.display())));
        match Arguments::parse_from(line).command {
            Command::Produce(produce) => produce,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_of_all_files_without_their_ends() {
        let temp = tempfile::tempdir().unwrap();
        let (one, two) = (temp.path().join("one"), temp.path().join("two"));
        std::fs::write(&one, b"a\r\n\nb \n\r\n\xff\xfe\n").unwrap();
        std::fs::write(&two, b"last").unwrap();
        let mut records = Records::open(&produce(&[one, two])).unwrap();
        let mut seen = Vec::new();
        while let Some(record) = records.next_record().unwrap() {
            seen.push(record);
        }
        assert_eq!(seen, [b"a".to_vec(), b"b ".to_vec(), b"\xff\xfe".to_vec(), b"last".to_vec()]);
        assert_eq!(records.num_skipped(), 2);
    }

    #[test]
    fn a_missing_file_is_found_before_anything_is_put() {
        let temp = tempfile::tempdir().unwrap();
        let one = temp.path().join("one");
        std::fs::write(&one, b"a\n").unwrap();
        let error = Records::open(&produce(&[one, temp.path().join("two")])).err().unwrap();
        assert_eq!(error.code(), Code::FileUnreadable);
        assert!(error.message().contains("two"), "{error}");
    }

    #[test]
    fn an_error_names_file_and_line() {
        let temp = tempfile::tempdir().unwrap();
        let one = temp.path().join("one");
        std::fs::write(&one, b"a\n\nb\n").unwrap();
        let mut records = Records::open(&produce(std::slice::from_ref(&one))).unwrap();
        records.next_record().unwrap();
        records.next_record().unwrap();
        let error = records.at(&Error::new(Code::InvalidValue, "no field", "next"));
        assert_eq!(error.message(), format!("{}:3: no field", one.display()));
    }
}
