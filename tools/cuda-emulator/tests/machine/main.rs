//! Everything except arithmetic: control flow, memory, atomics, collective operations, tiles. Small PTX programs are
//! compared with values computed by hand, and programs with a mistake must report the right fault.

mod atomics;
mod collective;
mod control;
mod fixture;
mod memory;
mod tiles;
