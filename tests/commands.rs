//! The binary itself: what its commands leave behind, and what they say of bad input.

mod common;

mod commands {
    mod bad_input;
    mod bench;
    mod devices;
    mod export;
    mod profile;
    mod runs;
    mod tools;
}
