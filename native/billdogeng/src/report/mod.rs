//! What a client reports: notices to its owner, its status, and flush reports for telemetry.

pub mod flush_report;
pub mod reports;
pub mod status;
pub mod updates;
