//! Tests of the operations as a client sees them, under a turned clock.
