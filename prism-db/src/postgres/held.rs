//! Held updates: writes that await all regions.

use prism_proto::RegionKey;

use crate::ApplyRequest;

/// How an apply is called while it runs, so that whoever makes it wait can be found, and which of
/// them gives way: `prism apply held KEY HLC` or `prism apply final KEY`.
pub(super) fn application_name(request: &ApplyRequest<'_>) -> String {
    let key = RegionKey::of(request.stream).0;
    match request.items {
        [item] if item.update.held => format!("{APPLY} held {key} {}", item.update.hlc.0),
        _ => format!("{APPLY} final {key}"),
    }
}

const APPLY: &str = "prism apply";
