//! Whether a query can run, said before anything is started.
//!
//! Promises: one SELECT over the declared sources; an error names the place and the valid choices.
//! Never does: run the query, or need a cluster.

use datafusion::common::{Column, SchemaError as ColumnError};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Ident, ObjectName, Query, Select, SelectItem, SetExpr,
    Statement as SqlStatement, TableFactor, VisitMut, VisitorMut, WildcardAdditionalOptions,
};
use std::ops::ControlFlow;

use crate::params::Parameters;
use crate::plan::PreparedQuery;
use crate::schema::{MetadataColumn, SourceDef};
use crate::session;

/// Candidates that an error lists at most.
const CANDIDATES_MAX: usize = 5;

/// What kind of thing is wrong with a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryErrorKind {
    /// It does not parse.
    Syntax,
    /// It is something other than one SELECT.
    NotOneSelect,
    /// It names a column that is not there, or is there twice.
    UnknownColumn,
    /// It names a table that is no source.
    UnknownTable,
    /// It names a function that is not there.
    UnknownFunction,
    /// It names a parameter that is not there.
    UnknownParameter,
    /// Types do not fit, or the engine cannot plan it.
    Plan,
    /// A source's declaration is wrong.
    Source,
    /// The result cannot be written: two columns of one name.
    Output,
}

/// Why a query is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct QueryError {
    /// What kind of thing is wrong.
    pub kind: QueryErrorKind,
    /// One sentence, without a line break.
    pub message: String,
    /// Line and column in the query, counted from 1, where known.
    pub position: Option<(u64, u64)>,
    /// Valid names, the nearest first, when a name is wrong.
    pub candidates: Vec<String>,
}

impl QueryError {
    fn new(kind: QueryErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), position: None, candidates: Vec::new() }
    }

    pub(crate) fn unknown_parameter(name: &str, params: &Parameters) -> Self {
        let message = format!("there is no parameter ${name}");
        let candidates = nearest(name, params.names());
        Self { candidates, ..Self::new(QueryErrorKind::UnknownParameter, message) }
    }

    pub(crate) fn source_definition(error: &crate::scan::ScanError) -> Self {
        Self::new(QueryErrorKind::Source, error.to_string())
    }

    /// What the engine says, with the valid names where a name is wrong.
    pub(crate) fn from_engine(error: &DataFusionError, sources: &[SourceDef]) -> Self {
        let root = error.find_root();
        match root {
            DataFusionError::SQL(parser, _) => Self::syntax(&parser.to_string()),
            DataFusionError::SchemaError(column, _) => Self::column(column),
            DataFusionError::Diagnostic(diagnostic, inner) => {
                let mut found = Self::from_engine(inner, sources);
                if let Some(span) = diagnostic.span {
                    found.position = Some((span.start.line, span.start.column));
                }
                found
            }
            other => Self::plan(&other.strip_backtrace(), sources),
        }
    }

    fn syntax(message: &str) -> Self {
        let message = message.trim_start_matches("sql parser error: ");
        let (text, position) = split_position(message);
        let position_text =
            position.map(|(line, column)| format!(" at line {line}, column {column}"));
        let message = format!("syntax error{}: {text}", position_text.unwrap_or_default());
        Self { position, ..Self::new(QueryErrorKind::Syntax, message) }
    }

    fn column(error: &ColumnError) -> Self {
        match error {
            ColumnError::FieldNotFound { field, valid_fields } => {
                let names = valid_fields.iter().map(Column::quoted_flat_name).collect();
                let mut found = Self::new(
                    QueryErrorKind::UnknownColumn,
                    format!("there is no column {}", field.quoted_flat_name()),
                );
                found.candidates = nearest(field.name(), names);
                found
            }
            other => Self::new(QueryErrorKind::UnknownColumn, other.to_string()),
        }
    }

    fn plan(message: &str, sources: &[SourceDef]) -> Self {
        let message = message.lines().next().unwrap_or_default();
        let message = message.trim_start_matches("Error during planning: ");
        let table = message
            .strip_prefix("table '")
            .and_then(|rest| rest.split_once("' not found"))
            .map(|(name, _)| name.rsplit('.').next().unwrap_or(name));
        if let Some(name) = table {
            let mut found =
                Self::new(QueryErrorKind::UnknownTable, format!("there is no source {name}"));
            found.candidates =
                nearest(name, sources.iter().map(|source| source.name.clone()).collect());
            return found;
        }
        let kind = match message.starts_with("Invalid function") {
            true => QueryErrorKind::UnknownFunction,
            false => QueryErrorKind::Plan,
        };
        Self::new(kind, message)
    }
}

/// Checks a query against the sources, to the physical plan.
///
/// # Errors
/// [`QueryError`].
pub async fn validate_query(
    sources: &[SourceDef],
    sql: &str,
    params: &Parameters,
) -> Result<PreparedQuery, QueryError> {
    let query = PreparedQuery::prepare(session::local(1), sources, sql, params).await?;
    let schema = query.output_schema();
    let mut names = std::collections::BTreeSet::new();
    for field in schema.fields() {
        if !names.insert(field.name()) {
            return Err(QueryError::new(
                QueryErrorKind::Output,
                format!("the result has two columns called {}; name one with AS", field.name()),
            ));
        }
    }
    let plan = query.state().create_physical_plan(query.logical_plan()).await;
    plan.map_err(|error| QueryError::from_engine(&error, sources))?;
    Ok(query)
}

/// One SELECT, with `*` meaning the declared columns only.
pub(crate) fn parse(
    state: &SessionState,
    sources: &[SourceDef],
    sql: &str,
) -> Result<Statement, QueryError> {
    let dialect = state.config_options().sql_parser.dialect;
    let mut statement =
        state.sql_to_statement(sql, &dialect).map_err(|error| match error.find_root() {
            // The engine reports more than one statement as something it lacks.
            DataFusionError::NotImplemented(_) => not_one_select(),
            _ => QueryError::from_engine(&error, sources),
        })?;
    let Statement::Statement(inner) = &mut statement else { return Err(not_one_select()) };
    let SqlStatement::Query(query) = inner.as_mut() else { return Err(not_one_select()) };
    let hidden = metadata_named(sql);
    if !hidden.is_empty() {
        let mut hide = HideMetadata { hidden, sources };
        // Nothing in the visitor stops it early.
        let _: ControlFlow<()> = query.visit(&mut hide);
    }
    Ok(statement)
}

fn not_one_select() -> QueryError {
    QueryError::new(QueryErrorKind::NotOneSelect, "the query must be one SELECT statement")
}

/// The metadata columns whose names occur in the text: only those are in the tables' schemas.
pub(crate) fn metadata_named(sql: &str) -> Vec<MetadataColumn> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let named = |column: &MetadataColumn| {
        sql.to_ascii_lowercase().split(|c: char| !is_word(c)).any(|word| word == column.name())
    };
    MetadataColumn::ALL.into_iter().filter(named).collect()
}

/// Takes metadata columns out of every `*` over a source.
struct HideMetadata<'a> {
    hidden: Vec<MetadataColumn>,
    sources: &'a [SourceDef],
}

impl VisitorMut for HideMetadata<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.hide_in(&mut query.body);
        ControlFlow::Continue(())
    }
}

impl HideMetadata<'_> {
    fn hide_in(&self, body: &mut SetExpr) {
        match body {
            SetExpr::Select(select) if self.reads_a_source(select) => {
                for item in &mut select.projection {
                    if let SelectItem::Wildcard(options)
                    | SelectItem::QualifiedWildcard(_, options) = item
                    {
                        self.exclude(options);
                    }
                }
            }
            SetExpr::SetOperation { left, right, .. } => {
                self.hide_in(left);
                self.hide_in(right);
            }
            _ => {}
        }
    }

    fn reads_a_source(&self, select: &Select) -> bool {
        let joined = select.from.iter().flat_map(|from| {
            std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation))
        });
        let mut tables = joined.filter_map(|relation| match relation {
            TableFactor::Table { name, .. } => Some(name.to_string()),
            _ => None,
        });
        tables.any(|table| self.sources.iter().any(|source| source.name == table))
    }

    fn exclude(&self, options: &mut WildcardAdditionalOptions) {
        if options.opt_exclude.is_none() && options.opt_except.is_none() {
            let names =
                self.hidden.iter().map(|column| ObjectName::from(Ident::new(column.name())));
            options.opt_exclude = Some(ExcludeSelectItem::Multiple(names.collect()));
        }
    }
}

/// The names, nearest first.
fn nearest(wanted: &str, mut names: Vec<String>) -> Vec<String> {
    let distance = |name: &String| {
        let bare = name.rsplit('.').next().unwrap_or(name).trim_matches('"');
        strsim::damerau_levenshtein(&bare.to_ascii_lowercase(), &wanted.to_ascii_lowercase())
    };
    names.sort_by_cached_key(|name| (distance(name), name.clone()));
    names.truncate(CANDIDATES_MAX);
    names
}

/// Splits "... at Line: 1, Column: 5" off a parser's message.
fn split_position(message: &str) -> (&str, Option<(u64, u64)>) {
    let Some((text, place)) = message.rsplit_once(" at Line: ") else { return (message, None) };
    let position = place.split_once(", Column: ").and_then(|(line, column)| {
        let digits = column.trim_end_matches(|c: char| !c.is_ascii_digit());
        Some((line.trim().parse().ok()?, digits.parse().ok()?))
    });
    (text.trim_start_matches("ParserError(\"").trim_start_matches("Error: "), position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{BadRecordPolicy, ColumnDef, RecordFormat};

    fn sources() -> Vec<SourceDef> {
        let column = |(name, data_type): &(&str, &str)| ColumnDef {
            name: (*name).into(),
            data_type: (*data_type).into(),
        };
        let columns = [("host", "string"), ("message", "string"), ("status", "long")];
        vec![SourceDef {
            name: "logs".into(),
            format: RecordFormat::Json,
            columns: columns.iter().map(column).collect(),
            on_bad_record: BadRecordPolicy::Fail,
        }]
    }

    async fn refused(sql: &str) -> QueryError {
        validate_query(&sources(), sql, &Parameters::default()).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_wrong_column_is_answered_with_the_nearest() {
        let error = refused("SELECT mesage FROM logs").await;
        assert_eq!(error.kind, QueryErrorKind::UnknownColumn);
        assert_eq!(error.candidates[0], "logs.message", "{error:?}");
    }

    #[tokio::test]
    async fn other_faults_have_their_kind() {
        for (sql, kind) in [
            ("SELEC 1", QueryErrorKind::Syntax),
            ("SELECT host FROM logs WHERE", QueryErrorKind::Syntax),
            ("SELECT host FROM log", QueryErrorKind::UnknownTable),
            ("SELECT hsot(host) FROM logs", QueryErrorKind::UnknownFunction),
            ("SELECT host + status FROM logs GROUP BY 1 HAVING 1", QueryErrorKind::Plan),
            ("DROP TABLE logs", QueryErrorKind::NotOneSelect),
            ("SELECT 1; SELECT 2", QueryErrorKind::NotOneSelect),
            ("INSERT INTO logs VALUES ('a', 'b', 1)", QueryErrorKind::NotOneSelect),
            ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc'", QueryErrorKind::NotOneSelect),
        ] {
            let error = refused(sql).await;
            assert_eq!(error.kind, kind, "{sql}: {error:?}");
        }
        let error = refused("SELECT host,\n FROM, logs").await;
        assert_eq!(error.position.map(|(line, _)| line), Some(2), "{error:?}");
    }

    #[tokio::test]
    async fn a_star_means_the_declared_columns() {
        for (sql, names) in [
            ("SELECT * FROM logs", &["host", "message", "status"][..]),
            ("SELECT *, _shard_id FROM logs", &["host", "message", "status", "_shard_id"]),
            ("SELECT * FROM (SELECT host, _batch_id FROM logs)", &["host", "_batch_id"]),
        ] {
            let query = validate_query(&sources(), sql, &Parameters::default()).await.unwrap();
            let schema = query.output_schema();
            let found: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            assert_eq!(found, names, "{sql}");
        }
    }
}
