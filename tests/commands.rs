//! The binary itself: what its commands leave behind, and what they say of bad input.

mod common;

mod commands {
    mod annotate;
    mod bad_input;
    mod bench;
    mod data;
    mod devices;
    mod endpoint;
    mod eval;
    mod export;
    mod held_out;
    mod judged;
    mod memory;
    mod outputs;
    mod pairwise;
    mod profile;
    mod recipes;
    mod run_endings;
    mod run_folders;
    mod runs;
    mod settings;
    mod tools;
}
