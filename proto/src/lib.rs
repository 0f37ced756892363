//! The protocol of Millrace: messages and services between client, master, node, driver and
//! executor, generated from `proto/millrace/v1`.
//!
//! Everything that crosses a process border is here, and nothing else: no behaviour, no defaults,
//! no conversions (those live in `millrace-common`).

/// Version 1 of the protocol.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::too_many_lines)]
pub mod v1 {
    tonic::include_proto!("millrace.v1");

    /// The encoded `FileDescriptorSet` of the whole protocol, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/millrace_descriptor.bin"));
}
