//! Which columns of each source a query needs, over all the places where it names the source.
//!
//! Promises: a source that is not among them is not read. Never does: change a plan.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;

/// By source, places in the table's schema. The planner finds it in the session's extensions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NeededColumns {
    by_source: BTreeMap<String, BTreeSet<usize>>,
}

impl NeededColumns {
    /// What an optimized plan needs.
    ///
    /// # Errors
    /// None of its own; the engine's walk over a plan may fail.
    pub(crate) fn of(plan: &LogicalPlan) -> Result<Self> {
        let mut by_source = BTreeMap::<String, BTreeSet<usize>>::new();
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                let columns = by_source.entry(scan.table_name.table().to_owned()).or_default();
                match &scan.projection {
                    Some(projection) => columns.extend(projection),
                    None => columns.extend(0..scan.source.schema().fields().len()),
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(Self { by_source })
    }

    /// What the query needs of this source, and these columns.
    pub(crate) fn with(&self, source: &str, columns: &[usize]) -> Vec<usize> {
        let mut needed = self.by_source.get(source).cloned().unwrap_or_default();
        needed.extend(columns);
        needed.into_iter().collect()
    }

    /// True when the query names the source.
    pub(crate) fn reads(&self, source: &str) -> bool {
        self.by_source.contains_key(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{BadRecordPolicy, ColumnDef, RecordFormat, SourceDef};
    use crate::validate::validate_query;

    fn source(name: &str) -> SourceDef {
        let column = |name: &str| ColumnDef { name: name.into(), data_type: "long".into() };
        SourceDef {
            name: name.into(),
            format: RecordFormat::Json,
            columns: ["a", "b", "c"].map(column).into(),
            on_bad_record: BadRecordPolicy::Skip,
        }
    }

    async fn needed(sql: &str) -> NeededColumns {
        let sources = [source("logs"), source("users")];
        validate_query(&sources, sql, &crate::Parameters::default())
            .await
            .unwrap()
            .needed()
            .unwrap()
    }

    #[tokio::test]
    async fn all_places_where_a_source_is_named_count() {
        let needed = needed(
            "SELECT a FROM logs WHERE b > 1 UNION ALL \
             SELECT sum(c) FROM logs WHERE a IN (SELECT a FROM logs)",
        )
        .await;
        assert_eq!(needed.with("logs", &[]), [0, 1, 2]);
        assert!(!needed.reads("users"));
    }

    #[tokio::test]
    async fn a_count_needs_no_column_and_reads_the_source_all_the_same() {
        let needed = needed("SELECT count(*) AS n FROM users WHERE now() > '2000-01-01'").await;
        assert_eq!(needed.with("users", &[]), Vec::<usize>::new());
        assert_eq!(needed.with("users", &[2, 0]), [0, 2]);
        assert!(needed.reads("users") && !needed.reads("logs"));
    }
}
