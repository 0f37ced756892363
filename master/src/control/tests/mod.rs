//! The master's core against nodes and drivers that do as the protocol says, and fail as they like.

mod cases;
mod chaos;
mod drains;
mod restarts;
mod revisions;
mod scaling;
mod unhealthy;
mod world;
