//! The fault rows: each fault injected for real into a running cluster, what must be seen looked
//! for, the recovery measured, and the output judged record by record.
//!
//! [`fault`] names what can be done, [`rows`] says what each row is, and both decide nothing;
//! [`inject`] does it; [`evidence`] looks; [`run`] puts the three together; [`storm`] throws rows at
//! one cluster by a seed; [`table`] tells. A row that can not run here says so in the table: it never
//! passes in silence.

pub mod control;
pub mod disk;
pub mod evidence;
pub mod fault;
pub mod flow;
pub mod inject;
pub mod load;
pub mod proxy;
pub mod rows;
pub mod run;
pub mod scene;
pub mod stage;
pub mod storm;
pub mod table;
