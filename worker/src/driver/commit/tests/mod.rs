//! The commit against stores that lose, delay and double: step by step, and in a model.

mod completes;
mod heads;
mod marks;
mod model;
mod repair;
mod s3;
mod single;
mod stage;
mod time;
