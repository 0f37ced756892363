//! The executor: receivers, blocks, tasks and the sink's writers of one container.

pub mod compute;
