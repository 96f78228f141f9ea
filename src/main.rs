//! The `patarm-train` binary.
fn main() {}
