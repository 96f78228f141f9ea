// Attention's forward pass for many queries: training and prefill. Few queries of a segment (decoding) take decode.cu.
//
//   out = softmax(q . K^T * scale) . V,  log_sum_exp = log of the sum of exp(q . K^T * scale)   (over the keys that a query sees)
//
// Shapes: q, out [queries, q_heads, DIM] bf16; k_pool, v_pool [pool_rows, kv_heads, DIM] bf16; log_sum_exp [queries, q_heads]
// f32 or null; segments and key_rows as in rows.cuh; tiles [tiles, 2]: segment, first of up to QUERIES queries of it. Query
// head h reads key head h / (q_heads / kv_heads). DIM is 32, 64 or 128. All bf16 pointers are 16-byte aligned.
//
// A block is one tile of queries and one query head (FlashAttention-2, Dao 2023): it walks over the keys that its last query
// sees in tiles of KEYS, and keeps the running maximum, the sum and the unnormalised output of every row in registers. A warp
// owns 32 rows, so that each fragment of K or V that it loads from shared memory serves two matmuls. K and V tiles
// alternate (K0, V0, K1, V1 ..) through a ring of STAGES buffers, two of them loading while the third is used, with one barrier
// a tile; the list of pool rows is loaded two tiles ahead. A warp skips key tiles of which it sees nothing, and compares
// with the causal bound only in tiles that cross it. Heads that share keys are neighbours in the grid: K and V come from
// the second-level cache for all but the first of them.
//
// Precision: bf16 matmuls, f32 sums. Scores stay f32 and unscaled; exp is 2^(score * scale * log2 e - maximum * scale * log2 e)
// in one fused multiply-add and one ex2, so `scale` must be positive. Probabilities are rounded to bf16 for the matmul
// with V; their sum is taken before that. The output is divided and rounded once.
// A NaN or infinity that a query sees makes its row NaN. K at keys that a query does not see has no effect; a NaN or
// infinity in V reaches all queries of the tile (zero times it), but only if one of them sees it.
//
// Floor: 4 * DIM flops for each query, head and key it sees, half of the work of a tile on the diagonal is beyond it; in
// bytes q, out, K and V once. What is moved beyond the floor: a block loads q and stores out once, but K and V of the `sees`
// keys that its last query sees:  4 * DIM * sees + 4 * sees (rows) + 2 * DIM * queries + 24 * THREADS (table) bytes.
//
// Order of sums: a score over DIM in steps of 16; a row's output over its keys in tiles of KEYS in the order of the sequence,
// in steps of 16; the sum of a row's exponentials in each of four lanes over its keys, then over the lanes. None
// of it depends on the index of a query in its tile, on the cut of the sequence into segments, or on other segments.

#include "../common/export.cuh"
#include "rows.cuh"

EXPORT(unsigned, ATTENTION_FORWARD_QUERIES, 128);
EXPORT(unsigned, ATTENTION_FORWARD_THREADS, 128);

constexpr int QUERIES = ATTENTION_FORWARD_QUERIES, THREADS = ATTENTION_FORWARD_THREADS;
constexpr int KEYS = 64, STAGES = 3;
constexpr int WARP_ROWS = QUERIES / (THREADS / WARP), PARTS = WARP_ROWS / 16;

template <int DIM>
struct Shared {
    bf16 q[QUERIES * DIM];  // later the output
    bf16 ring[STAGES][KEYS * DIM];
    int rows[2][KEYS];  // pool rows of the keys of two tiles
};
EXPORT(unsigned, ATTENTION_FORWARD_SHARED_32, sizeof(Shared<32>));
EXPORT(unsigned, ATTENTION_FORWARD_SHARED_64, sizeof(Shared<64>));
EXPORT(unsigned, ATTENTION_FORWARD_SHARED_128, sizeof(Shared<128>));

// The rows of a warp: `PARTS` fragments of 16, of which a lane holds rows lane / 4 and lane / 4 + 8.
template <int DIM>
struct Rows {
    float out[PARTS][DIM / 8][4];  // not yet divided by the sum
    float max[PARTS][2];           // of the scores so far, in powers of two: score * scale * log2 e
    float sum[PARTS][2];           // this lane's share of the exponentials
};

// scores = q . K^T for the rows of a warp and one tile of keys.
template <int DIM>
__device__ __forceinline__ void query_key_scores(float (&scores)[PARTS][KEYS / 8][4], const bf16 *q, const bf16 *keys) {
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) scores[part][n][i] = 0.0f;
        }
    }
    // Unrolled further, DIM 128 would not fit into 255 registers.
#pragma unroll 2
    for (int step = 0; step < DIM / 16; step++) {
        unsigned a[PARTS][4];
#pragma unroll
        for (int part = 0; part < PARTS; part++) load_a<DIM>(a[part], q + part * 16 * DIM, step);
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            unsigned b[4];
            load_keys<DIM>(b, keys + n * 16 * DIM, step);
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                mma(scores[part][2 * n], a[part], b[0], b[1]);
                mma(scores[part][2 * n + 1], a[part], b[2], b[3]);
            }
        }
    }
}

// Scores of keys after those that a row sees become -infinity. `last` is the last key that row 0 sees, counted from the tile's
// first.
__device__ __forceinline__ void mask(float (&scores)[PARTS][KEYS / 8][4], int last) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = n * 8 + lane % 4 * 2 + i % 2, row = part * 16 + lane / 4 + i / 2 * 8;
                if (key > last + row) scores[part][n][i] = -INFINITY;
            }
        }
    }
}

// Replaces scores by exponentials, as fragments A of the matmul with V, and rescales the rows to the new maximum.
template <int DIM>
__device__ __forceinline__ void exponentials(unsigned (&p)[PARTS][KEYS / 16][4], Rows<DIM> &rows,
                                             float (&scores)[PARTS][KEYS / 8][4], float scale_log2) {
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = -INFINITY;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
                top = fmaxf(top, fmaxf(scores[part][n][2 * half], scores[part][n][2 * half + 1]));
            }
            // Every row sees key 0, so the maximum is finite from the first tile on; before that, the factor is 2^-infinity.
            // If the maximum does not change, the factor is exactly 1: tiles of which a row sees nothing change no bit of it.
            const float max = fmaxf(rows.max[part][half], quad_max(top) * scale_log2);
            const float factor = exp2_fast(rows.max[part][half] - max);
            rows.max[part][half] = max;
            float sum = rows.sum[part][half] * factor;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    scores[part][n][i] = exp2_fast(fmaf(scores[part][n][i], scale_log2, -max));
                    sum += scores[part][n][i];
                }
            }
            rows.sum[part][half] = sum;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
                rows.out[part][n][2 * half] *= factor;
                rows.out[part][n][2 * half + 1] *= factor;
            }
        }
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            p[part][n / 2][n % 2 * 2] = pack(scores[part][n][0], scores[part][n][1]);
            p[part][n / 2][n % 2 * 2 + 1] = pack(scores[part][n][2], scores[part][n][3]);
        }
    }
}

// out += p . V for one tile of keys.
template <int DIM>
__device__ __forceinline__ void weigh(Rows<DIM> &rows, const unsigned (&p)[PARTS][KEYS / 16][4], const bf16 *values) {
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
#pragma unroll
        for (int n = 0; n < DIM / 16; n++) {
            unsigned b[4];
            load_values<DIM>(b, values + step * 16 * DIM, n);
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                mma(rows.out[part][2 * n], p[part][step], b[0], b[1]);
                mma(rows.out[part][2 * n + 1], p[part][step], b[2], b[3]);
            }
        }
    }
}

// Divides by the sums and stores the first `count` rows of a warp, through its own rows of q in shared memory, so that a row
// is written in chunks of 16 bytes. `out` and `log_sum_exp` (or null) point to the first row; rows are `stride` and `heads`
// elements apart.
template <int DIM>
__device__ __forceinline__ void store(bf16 *out, float *log_sum_exp, size_t stride, int heads, bf16 *own,
                                      const Rows<DIM> &rows, int count) {
    constexpr int CHUNKS = DIM / CHUNK;
    const int lane = threadIdx.x % WARP;
    __syncwarp();  // all lanes have read q
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = part * 16 + half * 8 + lane / 4;
            const float sum = quad_sum(rows.sum[part][half]), inverse = 1.0f / sum;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
                const float *pair = &rows.out[part][n][2 * half];
                unsigned *to = reinterpret_cast<unsigned *>(own + swizzled<DIM>(row, n)) + lane % 4;
                *to = pack(pair[0] * inverse, pair[1] * inverse);
            }
            if (log_sum_exp != nullptr && lane % 4 == 0 && row < count) {
                log_sum_exp[static_cast<size_t>(row) * heads] = fmaf(rows.max[part][half], LN_2, logf(sum));
            }
        }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < WARP_ROWS * CHUNKS / WARP; i++) {
        const int index = i * WARP + lane, row = index / CHUNKS, chunk = index % CHUNKS;
        if (row < count) {
            const uint4 words = *reinterpret_cast<const uint4 *>(own + swizzled<DIM>(row, chunk));
            *reinterpret_cast<uint4 *>(out + row * stride + chunk * CHUNK) = words;
        }
    }
}

template <int DIM>
__device__ __forceinline__ void forward(bf16 *__restrict__ out, float *__restrict__ log_sum_exp,
                                        const bf16 *__restrict__ q, const bf16 *__restrict__ k_pool,
                                        const bf16 *__restrict__ v_pool, const uint4 *__restrict__ segments,
                                        const unsigned *__restrict__ key_rows, const uint2 *__restrict__ tiles,
                                        int q_heads, int kv_heads, float scale_log2) {
    extern __shared__ float4 dynamic[];
    Shared<DIM> &shared = *reinterpret_cast<Shared<DIM> *>(dynamic);
    const unsigned thread = threadIdx.x;
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
    constexpr int CHUNKS = DIM / CHUNK, AT_ONCE = THREADS / CHUNKS;
    const int row = thread / CHUNKS, chunk = thread % CHUNKS;
#pragma unroll 4
    for (int i = 0; i < QUERIES / AT_ONCE; i++) {
        const int here = row + i * AT_ONCE, valid = here < count;
        const bf16 *from = q + start + (valid ? here : 0) * q_stride + chunk * CHUNK;
        copy_async(shared.q + swizzled<DIM>(row, chunk) + i * AT_ONCE * DIM, from, valid);
    }
    __syncthreads();  // the lists are visible
    copy_keys<DIM, KEYS, THREADS>(shared.ring[0], keys, shared.rows[0], kv_stride, sees);
    copy_commit();
    copy_keys<DIM, KEYS, THREADS>(shared.ring[1], values, shared.rows[0], kv_stride, sees);
    copy_commit();

    Rows<DIM> rows;
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            rows.max[part][half] = -INFINITY;
            rows.sum[part][half] = 0.0f;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) rows.out[part][n][2 * half] = rows.out[part][n][2 * half + 1] = 0.0f;
        }
    }
    const int warp_row = thread / WARP * WARP_ROWS, warp_count = min(WARP_ROWS, count - warp_row);
    bf16 *own = shared.q + warp_row * DIM;
    // Stages of the ring: the tile in use, and the free one for the tile after the next.
    int stage = 0, free = 2;
    const auto advance = [&] {
        free = stage;
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    };
    for (int key = 0; key < sees; key += KEYS) {
        const int current = key / KEYS % 2, next = key + KEYS;
        copy_wait<1>();
        __syncthreads();  // this tile of K is visible to all, and no thread still reads the last tile of V
        if (next < sees) {
            copy_keys<DIM, KEYS, THREADS>(shared.ring[free], keys, shared.rows[current ^ 1], kv_stride, sees - next);
        }
        copy_commit();
        const int prefetched = next + KEYS + thread;
        const int next_row = thread < KEYS && prefetched < sees ? list[prefetched] : 0;
        // Whether any row of this warp sees any key of this tile.
        const bool active = warp_count > 0 && key < before + warp_row + warp_count;
        unsigned p[PARTS][KEYS / 16][4];
        if (active) {
            float scores[PARTS][KEYS / 8][4];
            query_key_scores<DIM>(scores, own, shared.ring[stage]);
            const int last = before + warp_row - key;
            if (last < KEYS - 1) mask(scores, last);
            exponentials<DIM>(p, rows, scores, scale_log2);
        }
        advance();
        copy_wait<1>();
        __syncthreads();  // this tile of V is visible to all, and no thread still reads this tile of K
        if (next < sees) {
            copy_keys<DIM, KEYS, THREADS>(shared.ring[free], values, shared.rows[current ^ 1], kv_stride, sees - next);
        }
        copy_commit();
        if (thread < KEYS) shared.rows[current][thread] = next_row;
        if (active) weigh<DIM>(rows, p, shared.ring[stage]);
        advance();
    }
    if (warp_count <= 0) return;
    const size_t first_row = static_cast<size_t>(segment.first_query) + first + warp_row;
    float *sums = log_sum_exp == nullptr ? nullptr : log_sum_exp + first_row * q_heads + head;
    store<DIM>(out + start + warp_row * q_stride, sums, q_stride, q_heads, own, rows, warp_count);
}

// `scale_log2` is scale * log2 e. Grid: tiles * q_heads blocks of ATTENTION_FORWARD_THREADS threads, with
// ATTENTION_FORWARD_SHARED_* bytes of dynamic shared memory.
#define FORWARD(DIM)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(ATTENTION_FORWARD_THREADS, 2) attention_forward_##DIM##_bf16(              \
        bf16 *out, float *log_sum_exp, const bf16 *q, const bf16 *k_pool, const bf16 *v_pool, const uint4 *segments,        \
        const unsigned *key_rows, const uint2 *tiles, int q_heads, int kv_heads, float scale_log2) {                        \
        forward<DIM>(out, log_sum_exp, q, k_pool, v_pool, segments, key_rows, tiles, q_heads, kv_heads, scale_log2);        \
    }
FORWARD(32)
FORWARD(64)
FORWARD(128)
