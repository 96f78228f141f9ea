// bfloat16 in chunks of eight: the 16 bytes that a thread moves at once.
#pragma once
#include <cuda_bf16.h>

using bf16 = __nv_bfloat16;

constexpr int CHUNK = 8;

// Eight consecutive elements, packed as in memory: the element with the lower address in the lower half.
struct Chunk {
    unsigned pair[CHUNK / 2];
};

// A bf16 is the upper half of the float of the same value, so widening is a shift.
__device__ __forceinline__ float low(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

// Rounds two floats to nearest, ties to even.
__device__ __forceinline__ unsigned pack(float lower, float upper) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(lower, upper);
    return static_cast<unsigned>(__bfloat16_as_ushort(both.y)) << 16 | __bfloat16_as_ushort(both.x);
}

// Elements from `from` on; those at and after `left` are not read and count as 0. With ALIGNED, `from` is 16-byte aligned and
// `left` is a multiple of CHUNK.
template <bool ALIGNED>
__device__ __forceinline__ Chunk load_chunk(const bf16 *from, int left) {
    Chunk chunk{};
    if (ALIGNED) {
        if (left > 0) {
            const uint4 words = *reinterpret_cast<const uint4 *>(from);
            chunk = {words.x, words.y, words.z, words.w};
        }
    } else {
#pragma unroll
        for (int i = 0; i < CHUNK; i += 2) {
            const unsigned lower = i < left ? __bfloat16_as_ushort(from[i]) : 0;
            const unsigned upper = i + 1 < left ? __bfloat16_as_ushort(from[i + 1]) : 0;
            chunk.pair[i / 2] = upper << 16 | lower;
        }
    }
    return chunk;
}

// Writes the first `left` elements; the same rules.
template <bool ALIGNED>
__device__ __forceinline__ void store_chunk(bf16 *to, const Chunk &chunk, int left) {
    if (ALIGNED) {
        if (left > 0) {
            *reinterpret_cast<uint4 *>(to) = make_uint4(chunk.pair[0], chunk.pair[1], chunk.pair[2], chunk.pair[3]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            const unsigned pair = chunk.pair[i / 2];
            if (i < left) to[i] = __ushort_as_bfloat16(static_cast<unsigned short>(i % 2 ? pair >> 16 : pair & 0xffffu));
        }
    }
}
