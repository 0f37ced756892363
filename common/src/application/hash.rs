//! A name for a specification: equal ones have the same, in every process and version.

use prost::Message as _;
use sha2::Digest as _;

use super::spec::ApplicationSpec;

/// Tells one specification from another; the head and the master's list of revisions keep it.
#[must_use]
pub fn spec_hash(spec: &ApplicationSpec) -> String {
    let mut message = spec.to_proto();
    // Where values come from is no part of what the application is.
    message.origins.clear();
    // Maps have no order on the wire.
    let env: std::collections::BTreeMap<_, _> = message.env.drain().collect();
    let mut hash = sha2::Sha256::new();
    hash.update(message.encode_to_vec());
    for (name, value) in env {
        hash.update(format!("{name}={value}\0"));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
