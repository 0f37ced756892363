//! Millrace's SQL: schemas of sources, validation, explanation, plans per batch, and the scan.
//!
//! Promises: what this crate accepts at submit time is what the driver plans for every batch.
//! Linked by the client and by the worker; the master never links it.

pub mod application;
pub mod explain;
pub mod fault;
pub mod params;
pub mod plan;
pub mod scan;
pub mod schema;
pub mod session;
pub mod validate;

pub use application::{explain, validate, warnings};
pub use params::Parameters;
pub use validate::{QueryError, QueryErrorKind};
