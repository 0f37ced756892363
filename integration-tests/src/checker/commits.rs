//! What is known of each commit: from the heads that were seen, and from the master's history.
//!
//! Promises: a commit of which only a part is known says so. Never does: judge.

use std::collections::BTreeMap;

use millrace_proto::v1;

use super::head::SeenHead;

/// A committed batch, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Every object below the prefix, by key, with its rows where they are known; none when the
    /// commit's objects are not all known.
    pub files: Option<BTreeMap<String, Option<u64>>>,
    /// Epoch of the driver that committed it; none when not known.
    pub epoch: Option<u64>,
    /// Rows over all its objects; none when not known.
    pub num_rows: Option<u64>,
}

/// Commits by the number of their batch.
pub type Commits = BTreeMap<u64, Commit>;

/// Puts together what heads and the master say about commits with objects below a prefix.
#[must_use]
pub fn known<'a>(
    heads: impl IntoIterator<Item = &'a SeenHead>,
    batches: &[v1::Batch],
    bucket: &str,
    prefix: &str,
) -> Commits {
    let mut commits = Commits::new();
    for batch in batches {
        let base = format!("s3://{bucket}/");
        let keys = batch.files.iter().filter_map(|file| file.strip_prefix(&base));
        let below = keys.filter(|key| key.starts_with(prefix));
        let is_whole = batch.files.len() == usize::try_from(batch.num_files).unwrap_or(usize::MAX);
        let files = is_whole.then(|| below.map(|key| (key.to_owned(), None)).collect());
        let (epoch, num_rows) = (Some(batch.epoch), Some(batch.num_rows));
        commits.insert(batch.number, Commit { files, epoch, num_rows });
    }
    for head in heads.into_iter().filter(|head| head.batch > 0) {
        let here = head.files.iter().filter(|file| file.bucket == bucket);
        let below = here.filter(|file| file.key.starts_with(prefix));
        let files = below.map(|file| (file.key.clone(), Some(file.rows))).collect();
        commits.entry(head.batch).or_default().files = Some(files);
    }
    commits
}

#[cfg(test)]
mod tests {
    use super::super::head::SeenUpload;
    use super::*;

    fn batch(number: u64, num_files: u32, files: &[&str]) -> v1::Batch {
        let files = files.iter().map(|file| (*file).to_owned()).collect();
        v1::Batch { number, epoch: 1, num_rows: 5, num_files, files, ..v1::Batch::default() }
    }

    #[test]
    fn heads_know_rows_and_the_master_knows_the_epoch() {
        let upload = |key: &str| SeenUpload { bucket: "b".into(), key: key.into(), rows: 5 };
        let head = SeenHead {
            batch: 2,
            files: vec![upload("out/x"), upload("dead/y")],
            ..SeenHead::default()
        };
        let batches =
            [batch(1, 2, &["s3://b/out/w"]), batch(2, 2, &["s3://b/out/x", "s3://b/dead/y"])];
        let commits = known([&head, &SeenHead::default()], &batches, "b", "out/");
        assert_eq!(commits.len(), 2);
        assert_eq!(commits[&1].files, None, "one of its two files is not named");
        assert_eq!(commits[&2].files, Some([("out/x".to_owned(), Some(5))].into()));
        assert_eq!((commits[&2].epoch, commits[&2].num_rows), (Some(1), Some(5)));
    }
}
