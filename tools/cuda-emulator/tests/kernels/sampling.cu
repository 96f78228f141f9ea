// Gumbel-max sampling with Philox4x32-10 by (stream, position), in a common style: 64-bit products, a switch, a local
// array with run-time indices, 64-bit atomics, votes.
#include <stdint.h>

__device__ __forceinline__ uint4 philox(uint4 counter, uint2 key) {
    for (int round = 0; round < 10; round++) {
        const uint64_t a = static_cast<uint64_t>(0xD2511F53u) * counter.x, b = static_cast<uint64_t>(0xCD9E8D57u) * counter.z;
        counter = make_uint4(static_cast<uint32_t>(b >> 32) ^ counter.y ^ key.x, static_cast<uint32_t>(b),
                             static_cast<uint32_t>(a >> 32) ^ counter.w ^ key.y, static_cast<uint32_t>(a));
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// Strictly between 0 and 1.
__device__ __forceinline__ float uniform(uint32_t word) { return (static_cast<float>(word >> 8) + 0.5f) * 5.9604645e-8f; }

__device__ __forceinline__ uint32_t word_of(const uint4 &block, int i) {
    switch (i) {
        case 0: return block.x;
        case 1: return block.y;
        case 2: return block.z;
        default: return block.w;
    }
}

// Floats as integers of the same order, for the maximum by atomics; the token is in the low bits, and smaller tokens win ties.
__device__ __forceinline__ unsigned long long ranked(float score, uint32_t token) {
    const uint32_t bits = __float_as_uint(score);
    const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return static_cast<unsigned long long>(ordered) << 32 | (0xffffffffu - token);
}

// tokens[row] = argmax(logits[row, :] / temperature + gumbel). Block: 256 threads; grid: (blocks per row, rows); `best` [rows]
// starts at 0.
extern "C" __global__ void gumbel_sample_f32(unsigned long long *best, const float *__restrict__ logits, int vocab,
                                             float temperature, const uint2 *__restrict__ keys,
                                             const uint32_t *__restrict__ positions) {
    const int row = blockIdx.y;
    const uint2 key = keys[row];
    const uint32_t position = positions[row];
    unsigned long long own = 0;
    for (int block = blockIdx.x * blockDim.x + threadIdx.x; block * 4 < vocab; block += gridDim.x * blockDim.x) {
        const uint4 words = philox(make_uint4(block, position, 0, 0), key);
        for (int i = 0; i < 4 && block * 4 + i < vocab; i++) {
            const float gumbel = -logf(-logf(uniform(word_of(words, i))));
            const int token = block * 4 + i;
            const float score = logits[static_cast<size_t>(row) * vocab + token] / temperature + gumbel;
            own = max(own, ranked(score, token));
        }
    }
    for (int distance = 16; distance > 0; distance /= 2) own = max(own, __shfl_xor_sync(0xffffffffu, own, distance));
    if (threadIdx.x % 32 == 0) atomicMax(best + row, own);
}

// The words of each block, for a comparison with another implementation.
extern "C" __global__ void philox_words(uint4 *out, const uint4 *__restrict__ counters,
                                        const uint2 *__restrict__ keys, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = philox(counters[i], keys[i]);
}

// Histogram of digits in a local array with run-time indices, then by integer atomics; `even` counts warps by ballot.
extern "C" __global__ void digits_u32(uint32_t *histogram, uint32_t *even, const uint32_t *__restrict__ values, int count) {
    uint32_t own[10];
    for (int digit = 0; digit < 10; digit++) own[digit] = 0;
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t value = i < count ? values[i] : 0;
    const bool is_even = i < count && value % 2 == 0;
    if (i < count) {
        do {
            own[value % 10]++;
            value /= 10;
        } while (value > 0);
    }
    const unsigned ballot = __ballot_sync(0xffffffffu, is_even);
    if (threadIdx.x % 32 == 0) atomicAdd(even, __popc(ballot));
    for (int digit = 0; digit < 10; digit++) {
        if (own[digit] > 0) atomicAdd(histogram + digit, own[digit]);
    }
}
