//! Packing what batches amount to; absent where it is nothing, as in a head that an older Millrace
//! wrote.

use prost::Message;

use crate::head::Totals;

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct PackedTotals {
    #[prost(uint64, tag = "1")]
    records: u64,
    #[prost(uint64, tag = "2")]
    rows: u64,
    #[prost(uint64, tag = "3")]
    files: u64,
}

pub(super) fn pack(totals: Totals) -> Option<PackedTotals> {
    let Totals { records, rows, files } = totals;
    (totals != Totals::default()).then_some(PackedTotals { records, rows, files })
}

pub(super) fn unpack(packed: Option<PackedTotals>) -> Totals {
    let PackedTotals { records, rows, files } = packed.unwrap_or_default();
    Totals { records, rows, files }
}
