// Embedding: token ids to rows of a table, and the gradient of that table.
//
//   out[t] = table[ids[t]];  d_table[ids[t]] += d_out[t], rows of one id added in the order of t
//
// Shapes: table, d_table [vocab, hidden] f32; out, d_out [tokens, hidden] bf16; ids [tokens] u32.
// Precision: the forward pass rounds once. The backward pass adds in f32, token by token, to the values in the table: the
// CPU's order, hence the CPU's bits. For an id outside the vocabulary (the host refuses those) the
// forward pass reads nothing and writes NaN; the backward pass skips it.
//
// Floor in bytes: forward 6 a number and 4 a token; backward 2 a number of d_out, and 8 a number of each row of the table that
// a token uses. Beyond it, backward: the ids are read again by every warp that looks for later tokens of its id, from the
// first to the last of them (32 ids a load, from the cache), and 16 bytes a vocabulary entry for the table of first and
// last tokens.
//
// Work: the warps of the first token of an id add, each 256 columns. No float atomics; first and last are found with integer
// ones.

#include "common/bf16.cuh"
#include "common/export.cuh"
#include "common/reduce.cuh"

EXPORT(unsigned, EMBEDDING_THREADS, 128);
// Columns that a warp of the backward pass adds.
EXPORT(unsigned, EMBEDDING_WARP_COLS, 256);
static_assert(EMBEDDING_WARP_COLS == WARP * CHUNK, "a lane holds a chunk");

// The first `left` of eight floats; with ALIGNED, `from` is 16-byte aligned and `left` is a multiple of CHUNK.
template <bool ALIGNED>
__device__ __forceinline__ void load_floats(float (&values)[CHUNK], const float *from, int left) {
    if (ALIGNED) {
        if (left > 0) {
            const float4 a = reinterpret_cast<const float4 *>(from)[0], b = reinterpret_cast<const float4 *>(from)[1];
            values[0] = a.x, values[1] = a.y, values[2] = a.z, values[3] = a.w;
            values[4] = b.x, values[5] = b.y, values[6] = b.z, values[7] = b.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            if (i < left) values[i] = from[i];
        }
    }
}

template <bool ALIGNED>
__device__ __forceinline__ void store_floats(float *to, const float (&values)[CHUNK], int left) {
    if (ALIGNED) {
        if (left > 0) {
            reinterpret_cast<float4 *>(to)[0] = make_float4(values[0], values[1], values[2], values[3]);
            reinterpret_cast<float4 *>(to)[1] = make_float4(values[4], values[5], values[6], values[7]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            if (i < left) to[i] = values[i];
        }
    }
}

template <bool ALIGNED>
__device__ __forceinline__ void forward(bf16 *__restrict__ out, const float *__restrict__ table,
                                        const unsigned *__restrict__ ids, int tokens, int hidden, int vocab) {
    const int across = (hidden + CHUNK - 1) / CHUNK;
    const long long chunks = static_cast<long long>(tokens) * across;
    const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < chunks; i += stride) {
        const int token = static_cast<int>(i / across);
        const int col = static_cast<int>(i - static_cast<long long>(token) * across) * CHUNK;
        const unsigned id = ids[token];
        float values[CHUNK];
#pragma unroll
        for (int k = 0; k < CHUNK; k++) values[k] = __int_as_float(0x7fffffff);  // NaN
        if (id < vocab) load_floats<ALIGNED>(values, table + static_cast<size_t>(id) * hidden + col, hidden - col);
        Chunk row;
#pragma unroll
        for (int k = 0; k < CHUNK / 2; k++) row.pair[k] = pack(values[2 * k], values[2 * k + 1]);
        store_chunk<ALIGNED>(out + static_cast<size_t>(token) * hidden + col, row, hidden - col);
    }
}

extern "C" __global__ void __launch_bounds__(EMBEDDING_THREADS)
    embedding_forward_bf16(bf16 *out, const float *table, const unsigned *ids, int tokens, int hidden, int vocab) {
    forward<true>(out, table, ids, tokens, hidden, vocab);
}

// The same for odd widths and for views that are not 16-byte aligned.
extern "C" __global__ void __launch_bounds__(EMBEDDING_THREADS)
    embedding_forward_unaligned_bf16(bf16 *out, const float *table, const unsigned *ids, int tokens, int hidden, int vocab) {
    forward<false>(out, table, ids, tokens, hidden, vocab);
}

// For each id that occurs: `from_first` = tokens - first token, `from_start` = last token + 1. Both [vocab], zero before the
// launch.
extern "C" __global__ void __launch_bounds__(EMBEDDING_THREADS)
    embedding_occurrences_u32(unsigned *from_first, unsigned *from_start, const unsigned *__restrict__ ids, int tokens,
                              int vocab) {
    const int token = blockIdx.x * blockDim.x + threadIdx.x;
    if (token >= tokens || ids[token] >= vocab) return;
    atomicMax(from_first + ids[token], static_cast<unsigned>(tokens - token));
    atomicMax(from_start + ids[token], static_cast<unsigned>(token + 1));
}

// A warp a token and EMBEDDING_WARP_COLS columns; those whose token is not the first of its id have nothing to do.
template <bool ALIGNED>
__device__ __forceinline__ void backward(float *__restrict__ d_table, const bf16 *__restrict__ d_out,
                                         const unsigned *__restrict__ ids, const unsigned *__restrict__ from_first,
                                         const unsigned *__restrict__ from_start, int tokens, int hidden, int vocab) {
    const int across = (hidden + EMBEDDING_WARP_COLS - 1) / EMBEDDING_WARP_COLS;
    const int warp = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int first = warp / across;
    if (first >= tokens) return;
    const unsigned id = ids[first];
    if (id >= vocab || tokens - first != from_first[id]) return;
    const int end = static_cast<int>(from_start[id]);
    const int col = warp % across * EMBEDDING_WARP_COLS + lane * CHUNK, left = hidden - col;
    float *row = d_table + static_cast<size_t>(id) * hidden + col;
    float sum[CHUNK] = {};
    load_floats<ALIGNED>(sum, row, left);
    for (int start = first; start < end; start += WARP) {
        unsigned found = __ballot_sync(FULL, start + lane < end && ids[start + lane] == id);
        while (found != 0) {
            const int token = start + __ffs(found) - 1;
            found &= found - 1;
            const Chunk gradient = load_chunk<ALIGNED>(d_out + static_cast<size_t>(token) * hidden + col, left);
#pragma unroll
            for (int i = 0; i < CHUNK / 2; i++) {
                sum[2 * i] += low(gradient.pair[i]);
                sum[2 * i + 1] += high(gradient.pair[i]);
            }
        }
    }
    store_floats<ALIGNED>(row, sum, left);
}

extern "C" __global__ void __launch_bounds__(EMBEDDING_THREADS)
    embedding_backward_f32(float *d_table, const bf16 *d_out, const unsigned *ids, const unsigned *from_first,
                           const unsigned *from_start, int tokens, int hidden, int vocab) {
    backward<true>(d_table, d_out, ids, from_first, from_start, tokens, hidden, vocab);
}

extern "C" __global__ void __launch_bounds__(EMBEDDING_THREADS)
    embedding_backward_unaligned_f32(float *d_table, const bf16 *d_out, const unsigned *ids, const unsigned *from_first,
                                     const unsigned *from_start, int tokens, int hidden, int vocab) {
    backward<false>(d_table, d_out, ids, from_first, from_start, tokens, hidden, vocab);
}
