// Attention's backward pass by queries: the gradient of q, after delta, which both backward kernels need.
//
//   delta = sum over the head of d_out * out                                                        (row by row)
//   p = exp(q . k * scale - log_sum_exp);  d_s = p * (d_out . v - delta);  d_q = scale * sum over keys of d_s * k
//
// Shapes: q, out, d_out, d_q [queries, q_heads, DIM] bf16; pools [pool_rows, kv_heads, DIM] bf16; log_sum_exp, delta
// [queries, q_heads] f32; segments and key_rows as in rows.cuh; tiles [tiles, 2]: segment, first of up to QUERIES queries.
// DIM is 32, 64 or 128. All bf16 pointers are 16-byte aligned.
//
// A block is one tile of queries and one query head (FlashAttention-2, Dao 2023): q and d_out stay in shared memory, tiles of
// K and V of the keys that the tile's last query sees are loaded through two stages, and d_q accumulates in registers. A
// warp owns 16 rows; it skips tiles of which it sees nothing and compares with the causal bound only in tiles that
// cross it. Heads that share keys are neighbours in the grid.
//
// Precision: bf16 matmuls, f32 sums; p in f32 from the forward pass's log_sum_exp, d_s rounded to bf16 for its matmul.
// NaN and infinity as in the forward pass: they reach the rows that see them, and other rows of the same tile.
//
// Floor: 6 * DIM flops for each query, head and key it sees (three matmuls, two of them repeated by backward_kv.cu). Bytes of
// a block, as in the forward pass: 4 * DIM * sees + 4 * sees (rows) + 4 * DIM * queries + 32 * queries (four lanes read each) +
// 24 * THREADS (table); delta reads 4 * DIM and writes 4 bytes a row.
//
// Order of sums: over DIM in steps of 16, over keys in tiles of KEYS in the order of the sequence, in steps of 16: a row's
// bits depend on its own sequence alone.

#include "../common/export.cuh"
#include "rows.cuh"

EXPORT(unsigned, ATTENTION_BACKWARD_Q_QUERIES, 64);
EXPORT(unsigned, ATTENTION_BACKWARD_Q_THREADS, 128);

constexpr int QUERIES = ATTENTION_BACKWARD_Q_QUERIES, THREADS = ATTENTION_BACKWARD_Q_THREADS;
constexpr int KEYS = 64;
static_assert(QUERIES == THREADS / WARP * 16, "a warp owns 16 rows");

// Rows of up to this many lanes of eight columns: a warp takes WARP / (dim / 8) rows at a time.
extern "C" __global__ void __launch_bounds__(ATTENTION_BACKWARD_Q_THREADS)
    attention_backward_delta_bf16(float *__restrict__ delta, const bf16 *__restrict__ d_out, const bf16 *__restrict__ out,
                                  int rows, int dim) {
    const int lanes = dim / CHUNK, row = (blockIdx.x * THREADS + threadIdx.x) / lanes;
    const size_t index = static_cast<size_t>(row) * dim + threadIdx.x % lanes * CHUNK;
    const int left = row < rows ? CHUNK : 0;
    const Chunk a = load_chunk<true>(d_out + index, left), b = load_chunk<true>(out + index, left);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < CHUNK / 2; i++) {
        sum = fmaf(low(a.pair[i]), low(b.pair[i]), sum);
        sum = fmaf(high(a.pair[i]), high(b.pair[i]), sum);
    }
    for (int distance = lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(FULL, sum, distance);
    if (row < rows && threadIdx.x % lanes == 0) delta[row] = sum;
}

template <int DIM>
struct Shared {
    bf16 q[QUERIES * DIM];  // later d_q
    bf16 d_out[QUERIES * DIM];
    bf16 keys[2][KEYS * DIM];
    bf16 values[2][KEYS * DIM];
    int rows[2][KEYS];  // pool rows of the keys of two tiles
};
EXPORT(unsigned, ATTENTION_BACKWARD_Q_SHARED_32, sizeof(Shared<32>));
EXPORT(unsigned, ATTENTION_BACKWARD_Q_SHARED_64, sizeof(Shared<64>));
EXPORT(unsigned, ATTENTION_BACKWARD_Q_SHARED_128, sizeof(Shared<128>));

// out[16, KEYS] = rows . tile^T for the 16 rows of a warp.
template <int DIM>
__device__ __forceinline__ void multiply(float (&out)[KEYS / 8][4], const bf16 *rows, const bf16 *tile) {
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0.0f;
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
        unsigned a[4];
        load_a<DIM>(a, rows, step);
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            unsigned b[4];
            load_keys<DIM>(b, tile + n * 16 * DIM, step);
            mma(out[2 * n], a, b[0], b[1]);
            mma(out[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// The numbers of a lane's two rows.
struct Known {
    float sum_log2[2];  // log_sum_exp in powers of two; infinity without a row
    float delta[2];
};

// d_q += d_s . K for one tile. `last` is the last key that row 0 of the warp sees, counted from the tile's first.
template <int DIM>
__device__ __forceinline__ void tile_gradient(float (&d_q)[DIM / 8][4], const bf16 *q, const bf16 *d_out, const bf16 *keys,
                                              const bf16 *values, const Known &known, int last, float scale_log2) {
    const int lane = threadIdx.x % WARP;
    float scores[KEYS / 8][4], d_p[KEYS / 8][4];
    multiply<DIM>(scores, q, keys);
    multiply<DIM>(d_p, d_out, values);
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float p = exp2_fast(fmaf(scores[n][i], scale_log2, -known.sum_log2[i / 2]));
            const int key = n * 8 + lane % 4 * 2 + i % 2;
            const bool seen = key <= last + lane / 4 + i / 2 * 8;
            scores[n][i] = seen ? p * (d_p[n][i] - known.delta[i / 2]) : 0.0f;
        }
    }
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
        unsigned a[4];
        to_a(a, scores[2 * step], scores[2 * step + 1]);
#pragma unroll
        for (int n = 0; n < DIM / 16; n++) {
            unsigned b[4];
            load_values<DIM>(b, keys + step * 16 * DIM, n);
            mma(d_q[2 * n], a, b[0], b[1]);
            mma(d_q[2 * n + 1], a, b[2], b[3]);
        }
    }
}

template <int DIM>
__device__ __forceinline__ void backward(bf16 *__restrict__ d_q, const bf16 *__restrict__ d_out, const bf16 *__restrict__ q,
                                         const bf16 *__restrict__ k_pool, const bf16 *__restrict__ v_pool,
                                         const float *__restrict__ log_sum_exp, const float *__restrict__ delta,
                                         const uint4 *__restrict__ segments, const unsigned *__restrict__ key_rows,
                                         const uint2 *__restrict__ tiles, int q_heads, int kv_heads, float scale_log2,
                                         float scale) {
    extern __shared__ float4 dynamic[];
    Shared<DIM> &shared = *reinterpret_cast<Shared<DIM> *>(dynamic);
    const int thread = threadIdx.x, lane = thread % WARP;
    const uint2 tile = tiles[blockIdx.x / q_heads];
    const int head = blockIdx.x % q_heads, kv_head = head / (q_heads / kv_heads);
    const Segment segment = load_segment(segments, tile.x);
    const int first = tile.y, count = min(QUERIES, segment.queries - first);
    // Keys before the tile's first query's own; keys that its last query sees.
    const int before = segment.keys - segment.queries + first, sees = before + count;
    const size_t q_stride = static_cast<size_t>(q_heads) * DIM, kv_stride = static_cast<size_t>(kv_heads) * DIM;
    const size_t start = (static_cast<size_t>(segment.first_query) + first) * q_stride + head * DIM;
    const bf16 *keys = k_pool + kv_head * DIM, *values = v_pool + kv_head * DIM;
    const unsigned *list = key_rows + segment.first_key;

    static_assert(THREADS == 2 * KEYS, "a thread for each key of the first two tiles");
    shared.rows[thread / KEYS][thread % KEYS] = thread < sees ? list[thread] : 0;
    copy_rows<DIM, QUERIES, THREADS>(shared.q, q + start, q_stride, count);
    copy_rows<DIM, QUERIES, THREADS>(shared.d_out, d_out + start, q_stride, count);
    __syncthreads();  // the lists are visible
    copy_keys<DIM, KEYS, THREADS>(shared.keys[0], keys, shared.rows[0], kv_stride, sees);
    copy_keys<DIM, KEYS, THREADS>(shared.values[0], values, shared.rows[0], kv_stride, sees);
    copy_commit();

    const int warp_row = thread / WARP * 16, warp_count = min(16, count - warp_row);
    Known known;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = lane / 4 + 8 * half;
        const size_t index = (static_cast<size_t>(segment.first_query) + first + warp_row + row) * q_heads + head;
        known.sum_log2[half] = row < warp_count ? log_sum_exp[index] * LOG2_E : INFINITY;
        known.delta[half] = row < warp_count ? delta[index] : 0.0f;
    }
    float sums[DIM / 8][4] = {};
    bf16 *own = shared.q + warp_row * DIM;
    for (int key = 0; key < sees; key += KEYS) {
        const int current = key / KEYS % 2, next = key + KEYS;
        copy_wait<0>();
        __syncthreads();  // this tile is visible to all, and no thread still reads the last one
        if (next < sees) {
            copy_keys<DIM, KEYS, THREADS>(shared.keys[current ^ 1], keys, shared.rows[current ^ 1], kv_stride, sees - next);
            copy_keys<DIM, KEYS, THREADS>(shared.values[current ^ 1], values, shared.rows[current ^ 1], kv_stride, sees - next);
        }
        copy_commit();
        const int prefetched = next + KEYS + thread;
        const int next_row = thread < KEYS && prefetched < sees ? list[prefetched] : 0;
        if (warp_count > 0 && key < before + warp_row + warp_count) {
            const bf16 *d_rows = shared.d_out + warp_row * DIM;
            tile_gradient<DIM>(sums, own, d_rows, shared.keys[current], shared.values[current], known, before + warp_row - key,
                               scale_log2);
        }
        // The list of this tile was read before the barrier above, for its copies.
        if (thread < KEYS) shared.rows[current][thread] = next_row;
    }
    if (warp_count <= 0) return;
    __syncwarp();  // all lanes have read q
    store_fragments<DIM>(own, sums, scale);
    __syncwarp();
    constexpr int CHUNKS = DIM / CHUNK;
    bf16 *to = d_q + start + warp_row * q_stride;
#pragma unroll
    for (int i = 0; i < 16 * CHUNKS / WARP; i++) {
        const int index = i * WARP + lane, row = index / CHUNKS, chunk = index % CHUNKS;
        if (row < warp_count) {
            const uint4 words = *reinterpret_cast<const uint4 *>(own + swizzled<DIM>(row, chunk));
            *reinterpret_cast<uint4 *>(to + row * q_stride + chunk * CHUNK) = words;
        }
    }
}

// `scale_log2` is scale * log2 e. Grid: tiles * q_heads blocks of ATTENTION_BACKWARD_Q_THREADS threads, with
// ATTENTION_BACKWARD_Q_SHARED_* bytes of dynamic shared memory.
#define BACKWARD(DIM)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(ATTENTION_BACKWARD_Q_THREADS, 2) attention_backward_q_##DIM##_bf16(        \
        bf16 *d_q, const bf16 *d_out, const bf16 *q, const bf16 *k_pool, const bf16 *v_pool, const float *log_sum_exp,      \
        const float *delta, const uint4 *segments, const unsigned *key_rows, const uint2 *tiles, int q_heads, int kv_heads, \
        float scale_log2, float scale) {                                                                                    \
        backward<DIM>(d_q, d_out, q, k_pool, v_pool, log_sum_exp, delta, segments, key_rows, tiles, q_heads, kv_heads,      \
                      scale_log2, scale);                                                                                   \
    }
BACKWARD(32)
BACKWARD(64)
BACKWARD(128)
