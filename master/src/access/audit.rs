//! The audit log: who did what, when, to which application, with which outcome.
//!
//! Promises: one JSON object a line, only ever appended; a file that is full is moved aside, and the
//! oldest goes. A line that can not be written is counted, and the next that can says how many were
//! lost. Refusals of those whom nobody knows take a small part of it only, and the rest of them are
//! counted: a flood of them can not wash deeds away. Owned by `run`, which waits for its thread. Never does: hold a request up, or write a
//! token.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use millrace_common::clock::SharedClock;
use millrace_common::error::{Code, Error};
use serde_json::json;

use super::principal::Principal;
use crate::moment::format_ms;

/// Lines that may wait for the disk; whoever floods the port with refusals loses lines, not time.
const QUEUE_CAPACITY: usize = 4_096;
/// A file that has grown to this is moved aside.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Files that were moved aside and are kept: `audit.jsonl.1` is the newest.
const FILES_KEPT: u32 = 5;

/// Refusals of unknown callers that are written in a second.
const UNKNOWN_PER_SECOND: u32 = 5;

/// What somebody did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deed<'a> {
    /// Who; none when that is not known.
    pub who: Option<&'a Principal>,
    /// What, as `submit`.
    pub action: &'a str,
    /// To which application; empty when to none.
    pub application: &'a str,
    /// To what else: a node, a token, a path.
    pub subject: &'a str,
}

/// Takes down what was done. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    clock: SharedClock,
    queue: Option<SyncSender<Option<String>>>,
    num_lost: Arc<AtomicU64>,
    strangers: Arc<Mutex<Strangers>>,
}

/// Which refusals of unknown callers are written.
#[derive(Debug, Default)]
struct Strangers {
    second: i64,
    num_written: u32,
    num_left_out: u64,
}

impl Strangers {
    /// Whether one at this time is written; with how many before it were not.
    fn admit(&mut self, now_ms: i64) -> Option<u64> {
        let second = now_ms.div_euclid(1_000);
        if second != self.second {
            (self.second, self.num_written) = (second, 0);
        }
        if self.num_written == UNKNOWN_PER_SECOND {
            self.num_left_out += 1;
            return None;
        }
        self.num_written += 1;
        Some(std::mem::take(&mut self.num_left_out))
    }
}

/// The thread that writes, and the way to end it.
#[derive(Debug)]
pub(crate) struct Auditor(Option<(SyncSender<Option<String>>, JoinHandle<()>)>);

impl Audit {
    /// A log in this file, or in the log of the process.
    ///
    /// # Errors
    /// [`Code::DirectoryUnusable`] when the file can not be opened.
    pub(crate) fn open(path: Option<&Path>, clock: SharedClock) -> Result<(Self, Auditor), Error> {
        let num_lost = Arc::new(AtomicU64::new(0));
        let strangers = Arc::<Mutex<Strangers>>::default();
        let Some(path) = path else {
            return Ok((Self { clock, queue: None, num_lost, strangers }, Auditor(None)));
        };
        let unusable = |error: io::Error| {
            Error::new(
                Code::DirectoryUnusable,
                format!("the audit log {} can not be written", path.display()),
                "give a file in a writable directory with --audit-file",
            )
            .caused_by(error)
        };
        let log = Log::open(path.to_owned(), FILE_BYTES_MAX).map_err(unusable)?;
        let (queue, lines) = mpsc::sync_channel(QUEUE_CAPACITY);
        let lost = Arc::clone(&num_lost);
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || log.write_all(&lines, &lost))
            .map_err(unusable)?;
        let end = queue.clone();
        let audit = Self { clock, queue: Some(queue), num_lost, strangers };
        Ok((audit, Auditor(Some((end, thread)))))
    }

    /// Takes a deed down with its outcome.
    pub(crate) fn record(&self, deed: &Deed<'_>, outcome: Result<(), &Error>) {
        let now_ms = self.clock.now_ms();
        let left_out = match deed.who {
            Some(_) => 0,
            None => {
                let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(left_out) = strangers.admit(now_ms) else { return };
                left_out
            }
        };
        let who = deed.who.map_or_else(|| "unknown".to_owned(), ToString::to_string);
        let (result, code) = match outcome {
            Ok(()) => ("done", None),
            Err(error) => ("refused", Some(error.code().as_str())),
        };
        let Some(queue) = &self.queue else {
            let Deed { action, application, subject, .. } = deed;
            tracing::info!(target: "audit", who, action, application, subject, result, code);
            return;
        };
        let mut line = json!({
            "at": format_ms(now_ms),
            "who": who,
            "action": deed.action,
            "outcome": result,
        });
        let more = [("application", deed.application), ("subject", deed.subject)];
        for (key, value) in more.into_iter().filter(|(_, value)| !value.is_empty()) {
            line[key] = json!(value);
        }
        if left_out > 0 {
            line["refused_before"] = json!(left_out);
        }
        if let Err(error) = outcome {
            line["code"] = json!(error.code().as_str());
            line["message"] = json!(error.message());
        }
        if queue.try_send(Some(line.to_string())).is_err() {
            self.num_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Auditor {
    /// Waits until what was taken down so far is written.
    pub(crate) fn close(self) {
        let Some((queue, thread)) = self.0 else { return };
        // A thread that is stuck, or dead, is not waited for.
        if queue.try_send(None).is_err() || thread.join().is_err() {
            tracing::error!("the audit log may lack its last lines");
        }
    }
}

/// The file and those that were moved aside.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    num_bytes: u64,
    bytes_max: u64,
}

impl Log {
    fn open(path: PathBuf, bytes_max: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let num_bytes = file.metadata()?.len();
        Ok(Self { path, file, num_bytes, bytes_max })
    }

    fn write_all(mut self, lines: &Receiver<Option<String>>, num_lost: &AtomicU64) {
        while let Ok(Some(line)) = lines.recv() {
            let lost = num_lost.swap(0, Ordering::Relaxed);
            let outcome = match lost {
                0 => Ok(()),
                _ => self.append(&json!({ "action": "lost", "num_lines": lost }).to_string()),
            };
            if let Err(error) = outcome.and_then(|()| self.append(&line)) {
                num_lost.fetch_add(lost + 1, Ordering::Relaxed);
                tracing::error!(path = %self.path.display(), %error, line, "the audit log can not be written");
            }
        }
        if let Err(error) = self.file.sync_data() {
            tracing::error!(path = %self.path.display(), %error, "the audit log may lack its end");
        }
    }

    /// One write a line, so that no line is ever half another's.
    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.num_bytes >= self.bytes_max {
            self.move_aside()?;
        }
        let line = format!("{line}\n");
        self.file.write_all(line.as_bytes())?;
        self.num_bytes += line.len() as u64;
        Ok(())
    }

    fn move_aside(&mut self) -> io::Result<()> {
        let aside = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        self.file.sync_data()?;
        for number in (1..FILES_KEPT).rev() {
            match fs::rename(aside(number), aside(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, aside(1))?;
        *self = Self::open(self.path.clone(), self.bytes_max)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_common::clock::ManualClock;
    use serde_json::Value;

    use super::*;

    fn clock() -> SharedClock {
        ManualClock::at(0)
    }

    #[test]
    fn a_deed_is_one_line_that_says_all_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let (audit, auditor) = Audit::open(Some(&path), clock()).unwrap();
        let who = Principal::User {
            name: "ann".to_owned(),
            role: millrace_common::access::Role::Submitter,
        };
        let deed = Deed { who: Some(&who), action: "stop", application: "word-count", subject: "" };
        audit.record(&deed, Ok(()));
        let error = Error::new(Code::WrongState, "it is \"over\"\nlong ago", "look");
        audit.record(&deed, Err(&error));
        auditor.close();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["who"], "ann (submitter)");
        assert_eq!(lines[0]["application"], "word-count");
        assert_eq!((&lines[0]["outcome"], &lines[0]["code"]), (&json!("done"), &Value::Null));
        assert_eq!(
            (&lines[1]["outcome"], &lines[1]["code"]),
            (&json!("refused"), &json!("MR2004"))
        );
    }

    #[test]
    fn a_flood_of_strangers_leaves_room_for_deeds_and_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let clock = ManualClock::at(0);
        let (audit, auditor) = Audit::open(Some(&path), clock.clone()).unwrap();
        let refused = Deed { who: None, action: "refused", application: "", subject: "/" };
        for _ in 0..1_000 {
            audit.record(&refused, Err(&Error::new(Code::UnknownToken, "none", "give one")));
        }
        clock.advance(Duration::from_secs(1));
        audit.record(&refused, Err(&Error::new(Code::UnknownToken, "none", "give one")));
        auditor.close();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert_eq!(lines[5]["refused_before"], 995);
    }

    #[test]
    fn the_files_are_bounded_and_the_newest_lines_are_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let mut log = Log::open(path.clone(), 100).unwrap();
        for number in 0..200 {
            log.append(&format!("{{\"line\":{number},\"pad\":\"0123456789\"}}")).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 1 + usize::try_from(FILES_KEPT).unwrap(), "{names:?}");
        assert!(fs::read_to_string(&path).unwrap().contains("\"line\":199"));
        assert!(fs::metadata(&path).unwrap().len() < 200);
        let before = fs::read_to_string(directory.path().join("audit.jsonl.1")).unwrap();
        assert!(before.lines().count() > 1, "{before}");
    }

    #[test]
    fn a_file_that_can_not_be_opened_is_named() {
        let error = Audit::open(Some(Path::new("/proc/none/audit")), clock()).unwrap_err();
        assert_eq!(error.code(), Code::DirectoryUnusable);
        assert!(error.message().contains("/proc/none/audit"));
    }
}
