//! Memory of a device, with the state per byte that the checks need.

mod arena;
pub mod global;
pub mod local;
pub mod race;
pub mod shared;
