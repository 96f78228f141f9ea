//! What is not arithmetic: control flow, memory, atomics, what lanes do together, tiles. Small PTX programs against values
//! worked out by hand, and the faults of programs with a mistake.

mod atomics;
mod collective;
mod control;
mod memory;
mod tiles;
mod world;
