//! Every right that Millrace needs: who needs it, on what, and what for. The one place.

/// Who makes the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The driver and the executors of one application, who inherit the credentials of their node.
    Application,
    /// The same, with what it works without: where S3 does not say clearly what it holds, these rights
    /// let a driver look, instead of stopping over what may not be lost.
    Optional,
    /// The master of a cluster.
    Master,
    /// A person who looks after an application from the command line, beside what it needs itself.
    Operator,
}

/// What an action has to be allowed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum On {
    /// The streams of the application's sources.
    Streams,
    /// The items of the application in the cluster's table.
    Head,
    /// The cluster's table, whole.
    Table,
    /// The lease tables of the KCL that the application's sources begin behind.
    LeaseTables,
    /// Keys below the sink's paths.
    Results,
    /// The buckets of the sink's paths.
    Buckets,
    /// The roles that its sources are read as, where they name one of their own.
    Roles,
}

/// One right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Right {
    /// Who needs it.
    pub role: Role,
    /// As IAM spells it, `kinesis:GetRecords`.
    pub action: &'static str,
    /// On what.
    pub on: On,
    /// What for, as the end of "it is needed to ...".
    pub why: &'static str,
}

const fn right(role: Role, action: &'static str, on: On, why: &'static str) -> Right {
    Right { role, action, on, why }
}

/// All rights.
pub const RIGHTS: &[Right] = {
    use On::{Buckets, Head, LeaseTables, Results, Roles, Streams, Table};
    use Role::{Application, Master, Operator, Optional};
    &[
        right(
            Application,
            "kinesis:DescribeStreamSummary",
            Streams,
            "see that a stream is active, and when it was made",
        ),
        right(Application, "kinesis:ListShards", Streams, "find the shards, also new ones"),
        right(Application, "kinesis:GetShardIterator", Streams, "begin to read a shard"),
        right(Application, "kinesis:GetRecords", Streams, "read records"),
        right(Application, "sts:AssumeRole", Roles, "read a source as the role that it names"),
        right(Application, "dynamodb:GetItem", Head, "read the head"),
        right(Application, "dynamodb:UpdateItem", Head, "take the head, and commit batches"),
        right(Application, "dynamodb:PutItem", Head, "store the chunks of a large head"),
        right(Application, "dynamodb:Query", Head, "find chunks that no head names any more"),
        right(Application, "dynamodb:DeleteItem", Head, "remove those chunks"),
        right(Application, "dynamodb:Scan", LeaseTables, "take the KCL's checkpoints over"),
        right(
            Application,
            "s3:PutObject",
            Results,
            "begin, fill and complete the uploads of results",
        ),
        right(Optional, "s3:GetObject", Results, "tell a file that is there from one that is lost"),
        right(
            Optional,
            "s3:ListMultipartUploadParts",
            Results,
            "tell a part that came twice from one that is lost",
        ),
        right(Master, "dynamodb:GetItem", Table, "read who leads, and the wishes in a head"),
        right(Master, "dynamodb:PutItem", Table, "keep applications and nodes"),
        right(Master, "dynamodb:UpdateItem", Table, "lead, and leave wishes in a head"),
        right(Master, "dynamodb:Query", Table, "read applications and nodes at its start"),
        right(Master, "dynamodb:DeleteItem", Table, "forget nodes that were undrained"),
        right(Operator, "dynamodb:GetItem", Head, "judge open uploads by the head"),
        right(Operator, "s3:ListBucketMultipartUploads", Buckets, "list open uploads"),
        right(
            Operator,
            "s3:AbortMultipartUpload",
            Results,
            "abort what preflight began, and orphans",
        ),
        right(Operator, "s3:GetObject", Results, "see what of a lost batch is visible, and `cat`"),
        right(
            Operator,
            "s3:ListBucket",
            Buckets,
            "`ls`, and tell a missing object from a hidden one",
        ),
    ]
};

/// The rights of a role, in the order of the table.
pub fn of(role: Role) -> impl Iterator<Item = &'static Right> {
    RIGHTS.iter().filter(move |right| right.role == role)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_right_stands_twice_and_none_is_a_wildcard() {
        let mut seen = BTreeSet::new();
        for right in RIGHTS {
            assert!(seen.insert((format!("{:?}", right.role), right.action)), "{right:?}");
            assert!(!right.action.contains('*'), "{right:?}");
            let (service, action) = right.action.split_once(':').unwrap();
            assert!(["kinesis", "sts", "dynamodb", "s3"].contains(&service), "{right:?}");
            assert!(action.starts_with(|c: char| c.is_ascii_uppercase()), "{right:?}");
        }
    }

    #[test]
    fn an_application_neither_lists_nor_deletes_objects() {
        let on_s3: Vec<_> = of(Role::Application)
            .map(|right| right.action)
            .filter(|action| action.starts_with("s3:"))
            .collect();
        assert_eq!(on_s3, ["s3:PutObject"]);
    }
}
