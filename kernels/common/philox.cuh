// Philox4x32-10, the counter-based random numbers of src/random.rs; the same key and counter give the same words in both.
// (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.)
#pragma once

// A source of random numbers: `Stream` of src/random.rs with its 64-bit numbers as (low, high) words.
struct Stream {
    unsigned id[2];
    unsigned seed[2];
};

// Four random words for (position, lane): the counter is (lane, position, stream id), the key the seed.
__device__ __forceinline__ uint4 philox(const Stream &stream, unsigned position, unsigned lane) {
    uint4 counter = make_uint4(lane, position, stream.id[0], stream.id[1]);
    unsigned key[2] = {stream.seed[0], stream.seed[1]};
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned a_high = __umulhi(0xd2511f53u, counter.x), a_low = 0xd2511f53u * counter.x;
        const unsigned b_high = __umulhi(0xcd9e8d57u, counter.z), b_low = 0xcd9e8d57u * counter.z;
        counter = make_uint4(b_high ^ counter.y ^ key[0], b_low, a_high ^ counter.w ^ key[1], a_low);
        key[0] += 0x9e3779b9u;
        key[1] += 0xbb67ae85u;
    }
    return counter;
}

// A word as a number in the open interval (0, 1): (top 23 bits + 1/2) / 2^23, exact.
__device__ __forceinline__ float unit(unsigned word) {
    return (static_cast<float>(word >> 9) + 0.5f) * (1.0f / 8388608.0f);
}
