// Shared by the kernels of attention: the segment table, tiles of keys, and the pieces of a softmax.
//
// A segment has `queries` queries and `keys` keys; its query i sees keys 0 ..= keys - queries + i. The pool row of its key j is
// key_rows[first_key + j], so pages, shared prefixes and packed sequences are all the same kind of list to the kernels.
#pragma once
#include "../common/mma.cuh"

constexpr int WARP = 32;
constexpr unsigned FULL = 0xffffffffu;

struct Segment {
    int first_query, queries, first_key, keys;
};

__device__ __forceinline__ Segment load_segment(const uint4 *segments, unsigned index) {
    const uint4 numbers = segments[index];
    return {static_cast<int>(numbers.x), static_cast<int>(numbers.y), static_cast<int>(numbers.z),
            static_cast<int>(numbers.w)};
}

// Starts the copies of a tile of KEYS keys (or values) of one head, `from` being that head in pool row 0 and `stride` the
// elements of a pool row. `rows` (shared) lists the pool rows. Keys at and after `left` become zeros and are not read.
template <int DIM, int KEYS, int THREADS>
__device__ __forceinline__ void copy_keys(bf16 *tile, const bf16 *from, const int *rows, size_t stride, int left) {
    constexpr int CHUNKS = DIM / CHUNK, AT_ONCE = THREADS / CHUNKS;
    static_assert(KEYS % AT_ONCE == 0 && AT_ONCE % 8 == 0, "every thread copies as many rows, always the same columns");
    // So the indices in the tile differ by constants.
    const int first = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    bf16 *to = tile + swizzled<DIM>(first, chunk);
#pragma unroll
    for (int i = 0; i < KEYS / AT_ONCE; i++) {
        const int key = first + i * AT_ONCE;
        const bool valid = key < left;
        copy_async(to + i * AT_ONCE * DIM, from + (valid ? rows[key] : 0) * stride + chunk * CHUNK, valid);
    }
}

// The same for rows that follow each other in memory, `stride` elements apart: a tile of queries, or a range of the pool.
template <int DIM, int ROWS, int THREADS>
__device__ __forceinline__ void copy_rows(bf16 *tile, const bf16 *from, size_t stride, int left) {
    constexpr int CHUNKS = DIM / CHUNK, AT_ONCE = THREADS / CHUNKS;
    static_assert(ROWS % AT_ONCE == 0 && AT_ONCE % 8 == 0, "every thread copies as many rows, always the same columns");
    const int first = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    bf16 *to = tile + swizzled<DIM>(first, chunk);
#pragma unroll
    for (int i = 0; i < ROWS / AT_ONCE; i++) {
        const int row = first + i * AT_ONCE;
        const bool valid = row < left;
        copy_async(to + i * AT_ONCE * DIM, from + (valid ? row : 0) * stride + chunk * CHUNK, valid);
    }
}

// Fragment A of rows 0-15 and columns 16 `step`.. of a tile, `rows` being the address of its row 0.
template <int DIM>
__device__ __forceinline__ void load_a(unsigned (&a)[4], const bf16 *rows, int step) {
    const int lane = threadIdx.x % WARP;
    load_tiles(a, rows + swizzled<DIM>(lane % 16, 2 * step + lane / 16));
}

// Fragments B of 16 keys (rows of the tile) as columns and columns 16 `step`.. as the sum's index: {keys 0-7}, {keys 8-15}.
template <int DIM>
__device__ __forceinline__ void load_keys(unsigned (&b)[4], const bf16 *rows, int step) {
    const int lane = threadIdx.x % WARP;
    load_tiles(b, rows + swizzled<DIM>(lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
}

// Fragments B of 16 values (rows of the tile) as the sum's index: {columns 16 `step`..}, {columns 16 `step` + 8..}.
template <int DIM>
__device__ __forceinline__ void load_values(unsigned (&b)[4], const bf16 *rows, int step) {
    const int lane = threadIdx.x % WARP;
    load_tiles_transposed(b, rows + swizzled<DIM>(lane % 16, 2 * step + lane / 16));
}

// 2^x within 2^-22 of itself, 0 for -infinity.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Over the four lanes that hold one row of a fragment C; each gets the same bits.
__device__ __forceinline__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(FULL, value, 1));
    return fmaxf(value, __shfl_xor_sync(FULL, value, 2));
}

__device__ __forceinline__ float quad_sum(float value) {
    value += __shfl_xor_sync(FULL, value, 1);
    return value + __shfl_xor_sync(FULL, value, 2);
}

// The fragments A of 16 rows and 16 columns that two neighbouring fragments C hold.
__device__ __forceinline__ void to_a(unsigned (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack(left[0], left[1]), a[1] = pack(left[2], left[3]);
    a[2] = pack(right[0], right[1]), a[3] = pack(right[2], right[3]);
}

// Writes fragments C of 16 rows, times `factor`, into the rows of a swizzled tile that start at `rows`.
template <int DIM>
__device__ __forceinline__ void store_fragments(bf16 *rows, const float (&values)[DIM / 8][4], float factor) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int n = 0; n < DIM / 8; n++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            unsigned *to = reinterpret_cast<unsigned *>(rows + swizzled<DIM>(lane / 4 + 8 * half, n)) + lane % 4;
            *to = pack(values[n][2 * half] * factor, values[n][2 * half + 1] * factor);
        }
    }
}

constexpr float LOG2_E = 1.44269504088896341f;
constexpr float LN_2 = 0.693147180559945309f;
