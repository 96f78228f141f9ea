//! Fixtures that several test binaries use: devices, a tiny suite to train on, a folder to run the program in, a server.

// Each binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub mod cli;
#[cfg(has_cuda)]
pub mod devices;
pub mod server;
pub mod suite;
