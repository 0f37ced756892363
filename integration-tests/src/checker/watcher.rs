//! Watches an application while it runs: lists its prefix every [`LIST_EVERY`] and reads its head
//! after each listing and a few times in between.
//!
//! Promises: calls that fail are counted and left out, so that a fault in S3 or DynamoDB does not
//! look like one of the application. Owned by whoever started it; ends with [`Watcher::stop`] or
//! when dropped. Never does: judge.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use millrace_common::clock::SystemClock;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::observe::{Differ, Observations, Sample};
use super::{CheckError, Subject, head, read_output};

/// From one listing to the next.
pub const LIST_EVERY: Duration = Duration::from_millis(200);
/// From one head to the next: short beside a batch, so that hardly one is missed.
const HEAD_EVERY: Duration = Duration::from_millis(50);

/// How long the last look may fail: without it the end would not be judged.
const LAST_LOOK_PATIENCE: Duration = Duration::from_secs(60);

/// A watch that goes on.
#[derive(Debug)]
pub struct Watcher {
    stop: DropGuard,
    /// Number of listings so far.
    listings: watch::Receiver<u64>,
    task: JoinHandle<Result<Observations, CheckError>>,
}

impl Watcher {
    /// Starts to watch; the application may not be there yet.
    #[must_use]
    pub fn start(subject: &Subject) -> Self {
        Self::start_writing(subject, None)
    }

    /// [`Watcher::start`] that also writes each sample to a file as soon as it is seen.
    #[must_use]
    pub fn start_writing(subject: &Subject, out: Option<PathBuf>) -> Self {
        let stop = CancellationToken::new();
        let (count, listings) = watch::channel(0);
        let task = tokio::spawn(look_on(subject.clone(), out, stop.clone(), count));
        Self { stop: stop.drop_guard(), listings, task }
    }

    /// Waits until a listing that began after this call has ended.
    pub async fn catches_up(&self) {
        let mut listings = self.listings.clone();
        // The next one to end may have begun before.
        let wanted = *listings.borrow() + 2;
        // An error means that the watcher has ended: `stop` says why.
        let _ = listings.wait_for(|seen| *seen >= wanted).await;
    }

    /// Takes one last look and gives back everything that was seen.
    ///
    /// # Errors
    /// When the file could not be written.
    pub async fn stop(self) -> Result<Observations, CheckError> {
        drop(self.stop);
        let ended = self.task.await;
        ended.map_err(|error| CheckError(format!("the watcher has ended: {error}")))?
    }
}

async fn look_on(
    subject: Subject,
    out: Option<PathBuf>,
    stop: CancellationToken,
    count: watch::Sender<u64>,
) -> Result<Observations, CheckError> {
    let mut file = File::open(out)?;
    let mut eye = Eye::new(&subject);
    let mut seen = Observations::default();
    let mut last_listing: Option<Instant> = None;
    let mut stopped: Option<Instant> = None;
    loop {
        if stop.is_cancelled() {
            stopped.get_or_insert_with(Instant::now);
        }
        let is_last = stopped.is_some();
        let is_due = last_listing.is_none_or(|last| last.elapsed() >= LIST_EVERY);
        let with_listing = is_due || is_last;
        match eye.look(with_listing).await {
            Ok(sample) => {
                seen.coverage.num_heads += 1;
                if with_listing {
                    let pause = last_listing.map_or(Duration::ZERO, |last| last.elapsed());
                    let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                    seen.coverage.longest_pause_ms = seen.coverage.longest_pause_ms.max(pause_ms);
                    seen.coverage.num_listings += 1;
                    count.send_replace(seen.coverage.num_listings);
                    last_listing = Some(Instant::now());
                }
                if let Some(sample) = sample {
                    file.line(&Observations::sample_line(&sample))?;
                    seen.samples.push(sample);
                }
            }
            Err(error) => {
                seen.coverage.num_failed += 1;
                let since = stopped.filter(|since| since.elapsed() > LAST_LOOK_PATIENCE);
                if since.is_some() {
                    return Err(CheckError(format!("the last look of the watcher: {error}")));
                }
                tokio::time::sleep(HEAD_EVERY).await;
                continue;
            }
        }
        if is_last {
            file.line(&Observations::coverage_line(&seen.coverage))?;
            return Ok(seen);
        }
        let _ = tokio::time::timeout(HEAD_EVERY, stop.cancelled()).await;
    }
}

/// The clients, and what was seen last.
struct Eye {
    subject: Subject,
    s3: aws_sdk_s3::Client,
    dynamodb: aws_sdk_dynamodb::Client,
    differ: Differ,
}

impl Eye {
    fn new(subject: &Subject) -> Self {
        Self {
            s3: subject.endpoint.s3(),
            dynamodb: subject.endpoint.dynamodb(),
            subject: subject.clone(),
            differ: Differ::new(),
        }
    }

    /// A look; none when nothing is new. The head is read after the listing.
    async fn look(&mut self, with_listing: bool) -> Result<Option<Sample>, CheckError> {
        let Subject { bucket, prefix, table, application, .. } = &self.subject;
        let listing = match with_listing {
            true => Some(read_output::list(&self.s3, bucket, prefix).await?),
            false => None,
        };
        let head = head::read(&self.dynamodb, table, application).await?;
        Ok(self.differ.look(SystemClock::shared().now_ms(), listing, head))
    }
}

/// Where samples are written, if anywhere.
struct File(Option<(PathBuf, std::fs::File)>);

impl File {
    fn open(path: Option<PathBuf>) -> Result<Self, CheckError> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = std::fs::File::create(&path)
            .map_err(|error| CheckError(format!("{}: {error}", path.display())))?;
        Ok(Self(Some((path, file))))
    }

    fn line(&mut self, line: &str) -> Result<(), CheckError> {
        let Some((path, file)) = &mut self.0 else { return Ok(()) };
        writeln!(file, "{line}").map_err(|error| CheckError(format!("{}: {error}", path.display())))
    }
}
