// Floats as unsigned integers of the same order, for sorting and selecting by digits.
#pragma once

// -NaN < -inf < ... < -0 < +0 < ... < +inf < +NaN: the order of Rust's `f32::total_cmp`.
__device__ __forceinline__ unsigned to_key(float value) {
    const unsigned bits = __float_as_uint(value);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_key(unsigned key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }
