//! Memory of a device, with what the checks need to know of every byte.

mod arena;
pub mod global;
pub mod local;
pub mod race;
pub mod shared;
