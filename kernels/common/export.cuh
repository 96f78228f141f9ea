// Constants that the launchers in Rust must know: build.rs reads them from the PTX and writes them out as Rust constants.
#pragma once

// `EXPORT(unsigned, RMSNORM_COLS_MAX, 8192);` is a constant here and `kernels::RMSNORM_COLS_MAX` in Rust. Types: unsigned,
// float. A constant that is only used at compile time costs four bytes of constant memory and no instruction.
#define EXPORT(TYPE, NAME, VALUE) extern "C" __constant__ constexpr TYPE NAME = VALUE
