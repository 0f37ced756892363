//! What a query will do, in words of the engine, without a cluster.
//!
//! Promises: the plan shown is the one a batch starts from. Never does: run it.

use datafusion::physical_plan::displayable;

use crate::params::Parameters;
use crate::schema::SourceDef;
use crate::validate::{QueryError, validate_query};

/// The logical and the physical plan of a query, as text.
///
/// # Errors
/// [`QueryError`], as [`validate_query`].
pub async fn explain_query(
    sources: &[SourceDef],
    sql: &str,
    params: &Parameters,
) -> Result<String, QueryError> {
    let query = validate_query(sources, sql, params).await?;
    let refuse = |error| QueryError::from_engine(&error, sources);
    let logical = query.state().optimize(query.logical_plan()).map_err(refuse)?;
    let physical = query.state().create_physical_plan(query.logical_plan()).await;
    let physical = physical.map_err(|error| QueryError::from_engine(&error, sources))?;
    Ok(format!(
        "logical plan\n{}\n\nphysical plan (one task; a batch runs it on every executor)\n{}",
        indent(&logical.display_indent().to_string()),
        indent(&displayable(physical.as_ref()).indent(false).to_string()),
    ))
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{BadRecordPolicy, RecordFormat};

    #[tokio::test]
    async fn only_needed_columns_are_scanned() {
        let logs = SourceDef {
            name: "logs".into(),
            format: RecordFormat::Text,
            columns: vec![],
            on_bad_record: BadRecordPolicy::Skip,
        };
        let sql = "SELECT word, count(*) AS n FROM \
                   (SELECT unnest(string_to_array(line, ' ')) AS word FROM logs) GROUP BY word";
        let text = explain_query(&[logs], sql, &Parameters::default()).await.unwrap();
        assert!(text.contains("BlockScanExec: source=logs, columns=[line]"), "{text}");
        assert!(text.contains("Unnest"), "{text}");
    }
}
