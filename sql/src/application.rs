//! The SQL of an application file: checked, and explained, as a whole.
//!
//! Promises: what passes here can be planned by the driver; every refusal says what would fit.
//! Never does: need a cluster, or look at AWS.

use millrace_common::application::ApplicationSpec;
use millrace_common::{Code, Error};

use crate::explain::explain_query;
use crate::params::Parameters;
use crate::schema::SourceDef;
use crate::validate::{QueryError, QueryErrorKind, validate_query};

/// Checks sources, query and the sink's partition columns.
///
/// # Errors
/// [`Code::SqlSyntax`], [`Code::SqlType`], [`Code::SqlUnsupported`], [`Code::UnknownName`] or
/// [`Code::InvalidValue`], with the valid names where one is wrong.
pub async fn validate(spec: &ApplicationSpec) -> Result<(), Error> {
    let query =
        validate_query(&SourceDef::all(spec), &spec.query.sql, &Parameters::to_check(spec)?)
            .await?;
    let schema = query.output_schema();
    for column in &spec.sink.partition_by {
        if schema.index_of(column).is_err() {
            let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(Error::new(
                Code::UnknownName,
                format!("partition_by names {column}, which the result does not have"),
                format!("the result has: {}", names.join(", ")),
            ));
        }
    }
    if spec.sink.partition_by.len() >= schema.fields().len() {
        return Err(Error::new(
            Code::InvalidValue,
            "partition_by names every column of the result, which leaves the files empty",
            "leave at least one column out of partition_by",
        ));
    }
    Ok(())
}

/// What is allowed and probably not meant: sources that the query never names (they are read, and
/// their records have no effect), and parameters that it never names.
///
/// # Errors
/// As [`validate`].
pub async fn warnings(spec: &ApplicationSpec) -> Result<Vec<String>, Error> {
    let query =
        validate_query(&SourceDef::all(spec), &spec.query.sql, &Parameters::to_check(spec)?)
            .await?;
    let read = query.needed().map_err(|error| QueryError::from_engine(&error, &[]))?;
    let unused = spec.sources.keys().filter(|name| !read.reads(name));
    let sources = unused.map(|name| {
        format!("the query never names source {name}: its records are read without any effect")
    });
    let params = spec.params.keys().filter(|name| !query.names_parameter(name));
    let params = params.map(|name| format!("the query never names parameter ${name}"));
    Ok(sources.chain(params).collect())
}

/// The logical and the physical plan of the application's query, as text.
///
/// # Errors
/// As [`validate`].
pub async fn explain(spec: &ApplicationSpec) -> Result<String, Error> {
    validate(spec).await?;
    Ok(explain_query(&SourceDef::all(spec), &spec.query.sql, &Parameters::to_check(spec)?).await?)
}

impl From<QueryError> for Error {
    fn from(error: QueryError) -> Self {
        let (code, next_move) = match error.kind {
            QueryErrorKind::Syntax => (Code::SqlSyntax, "correct the query's SQL"),
            QueryErrorKind::NotOneSelect => {
                (Code::SqlUnsupported, "write one SELECT; the sink takes its result")
            }
            QueryErrorKind::UnknownColumn | QueryErrorKind::UnknownTable => {
                (Code::UnknownName, "correct the name, or declare it under [source]")
            }
            QueryErrorKind::UnknownFunction => {
                (Code::UnknownName, "use a function of DataFusion; docs/semantics.md lists them")
            }
            QueryErrorKind::UnknownParameter => {
                (Code::ParameterName, "declare it under [params], or give it with --param")
            }
            QueryErrorKind::Plan => (Code::SqlType, "correct the query; CAST changes a type"),
            QueryErrorKind::Source => (Code::InvalidValue, "correct the source's schema"),
            QueryErrorKind::Output => (Code::SqlType, "give every result column a name of its own"),
        };
        let next_move = match error.candidates.is_empty() {
            true => next_move.to_owned(),
            false => format!("did you mean {}?", error.candidates.join(", ")),
        };
        Self::new(code, error.message, next_move)
    }
}
