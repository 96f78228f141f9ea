// Attention's forward pass for segments of few queries (decoding: one), split over the keys.
//
// The formula, the shapes and the table are those of forward.cu and rows.cuh. A segment is handled here if the rows of a
// block, its queries times the heads that share a key head, are at most ROWS = 16.
//
// A block is one split of SPLIT keys of a segment and one key head: the heads of the group (times the queries) are the rows
// of one tensor-core tile, so K and V are loaded once for all of them. The split is processed in tiles of KEYS through two
// buffers: one is loaded while the other is used. Of each tile a warp takes 16 keys, with a separate softmax; the four warps
// are joined at the end in order. A sequence of one split is then finished. With several splits, each writes a partial result
// (maximum, sum, output not yet divided) to scratch in f32, and a second kernel joins them in the order of the splits.
//
// splits [splits, 4]: segment, first key, keys (0: none), and the first of its `queries` partial results, or ATTENTION_NO_PARTIAL
// for the only split of its segment. parts [partials, q_heads, DIM] f32, stats [partials, q_heads, 2] f32: maximum in powers of
// two, sum.
//
// Precision and NaN: as in forward.cu (a NaN or infinity in V reaches all rows of the same split).
// Floor in bytes: K and V of every key, 4 * DIM for each key head. What is moved beyond it: a block reads q of its rows and
// writes their output, 2 * DIM bytes each, or 4 * DIM + 8 to scratch and back; 4 bytes a key (its row) and
// 32 * THREADS bytes of table. Flops: 16 rows are computed for any group, which still takes far less time than the bytes.
//
// Order of sums: a score over DIM in steps of 16; a warp's output over its 16 keys of each tile, tile by tile; the warps, then
// the splits, in order. SPLIT is a constant, so a sequence's bits do not depend on the rest of the batch.

#include "../common/export.cuh"
#include "rows.cuh"

EXPORT(unsigned, ATTENTION_DECODE_ROWS, 16);
EXPORT(unsigned, ATTENTION_DECODE_SPLIT, 256);
EXPORT(unsigned, ATTENTION_DECODE_THREADS, 128);
EXPORT(unsigned, ATTENTION_NO_PARTIAL, 0x7fffffff);

constexpr int ROWS = ATTENTION_DECODE_ROWS, SPLIT = ATTENTION_DECODE_SPLIT, THREADS = ATTENTION_DECODE_THREADS;
constexpr int WARPS = THREADS / WARP, KEYS = 16 * WARPS;

// One buffer of keys and values, later the warps' outputs, whose rows are padded against bank conflicts.
template <int DIM>
struct Shared {
    bf16 q[ROWS * DIM];
    union {
        struct {
            bf16 keys[2][KEYS * DIM], values[2][KEYS * DIM];
        };
        float out[WARPS][ROWS][DIM + 8];
    };
    int rows[SPLIT];
    float max[WARPS][ROWS], sum[WARPS][ROWS];
};
EXPORT(unsigned, ATTENTION_DECODE_SHARED_32, sizeof(Shared<32>));
EXPORT(unsigned, ATTENTION_DECODE_SHARED_64, sizeof(Shared<64>));
EXPORT(unsigned, ATTENTION_DECODE_SHARED_128, sizeof(Shared<128>));

// A warp's result for its keys: a lane holds rows lane / 4 and lane / 4 + 8.
template <int DIM>
struct Found {
    float out[DIM / 8][4];
    float max[2], sum[2];  // the maximum in powers of two: score * scale * log2 e
};

// Adds 16 keys, of which the rows of this lane see those up to `last[half]`.
template <int DIM>
__device__ __forceinline__ void add_keys(Found<DIM> &found, const unsigned (&q)[DIM / 16][4], const bf16 *keys,
                                         const bf16 *values, const int (&last)[2], float scale_log2) {
    const int lane = threadIdx.x % WARP;
    float scores[2][4] = {};
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
        unsigned b[4];
        load_keys<DIM>(b, keys, step);
        mma(scores[0], q[step], b[0], b[1]);
        mma(scores[1], q[step], b[2], b[3]);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float top = -INFINITY;
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                if (n * 8 + lane % 4 * 2 + i % 2 > last[half]) scores[n][i] = -INFINITY;
                top = fmaxf(top, scores[n][i]);
            }
        }
        const float max = fmaxf(found.max[half], quad_max(top) * scale_log2);
        // A row that has seen no key yet has the maximum -infinity, and all its exponentials are 2^-infinity.
        const float shift = max == -INFINITY ? 0.0f : max;
        const float factor = exp2_fast(found.max[half] - shift);
        found.max[half] = max;
        found.sum[half] *= factor;
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                scores[n][i] = exp2_fast(fmaf(scores[n][i], scale_log2, -shift));
                found.sum[half] += scores[n][i];
            }
        }
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            found.out[n][2 * half] *= factor;
            found.out[n][2 * half + 1] *= factor;
        }
    }
    const unsigned p[4] = {pack(scores[0][0], scores[0][1]), pack(scores[0][2], scores[0][3]),
                           pack(scores[1][0], scores[1][1]), pack(scores[1][2], scores[1][3])};
#pragma unroll
    for (int n = 0; n < DIM / 16; n++) {
        unsigned b[4];
        load_values<DIM>(b, values, n);
        mma(found.out[2 * n], p, b[0], b[1]);
        mma(found.out[2 * n + 1], p, b[2], b[3]);
    }
}

// Stores a warp's result for the join of the block.
template <int DIM>
__device__ __forceinline__ void leave(Shared<DIM> &shared, const Found<DIM> &found) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = half * 8 + lane / 4;
        const float sum = quad_sum(found.sum[half]);
        if (lane % 4 == 0) {
            shared.max[warp][row] = found.max[half];
            shared.sum[warp][row] = sum;
        }
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            float2 *to = reinterpret_cast<float2 *>(&shared.out[warp][row][n * 8 + lane % 4 * 2]);
            *to = make_float2(found.out[n][2 * half], found.out[n][2 * half + 1]);
        }
    }
}

// Rescales a part from its own maximum to the maximum of all.
__device__ __forceinline__ float weight(float max, float of_all) {
    return max == -INFINITY ? 0.0f : exp2_fast(max - of_all);
}

template <int DIM>
__device__ __forceinline__ void decode(bf16 *__restrict__ out, float *__restrict__ log_sum_exp,
                                       float *__restrict__ parts, float *__restrict__ stats,
                                       const bf16 *__restrict__ q, const bf16 *__restrict__ k_pool,
                                       const bf16 *__restrict__ v_pool, const uint4 *__restrict__ segments,
                                       const unsigned *__restrict__ key_rows, const uint4 *__restrict__ splits,
                                       int q_heads, int kv_heads, float scale_log2) {
    extern __shared__ float4 dynamic[];
    Shared<DIM> &shared = *reinterpret_cast<Shared<DIM> *>(dynamic);
    const int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
    const uint4 split = splits[blockIdx.x / kv_heads];
    if (split.z == 0) return;  // padding of the list
    const int kv_head = blockIdx.x % kv_heads, group = q_heads / kv_heads;
    const Segment segment = load_segment(segments, split.x);
    const int first = split.y, left = split.z, rows = segment.queries * group;
    const size_t stride = static_cast<size_t>(kv_heads) * DIM;
    const bf16 *keys = k_pool + kv_head * DIM, *values = v_pool + kv_head * DIM;
    // Row r is head r % group of the group, of query r / group: its index among the rows [queries, q_heads] of q and out.
    const auto index = [&](int row) {
        return (static_cast<size_t>(segment.first_query) + row / group) * q_heads + kv_head * group + row % group;
    };

    for (int i = thread; i < SPLIT; i += THREADS) shared.rows[i] = i < left ? key_rows[segment.first_key + first + i] : 0;
    constexpr int CHUNKS = DIM / CHUNK;
    for (int i = thread; i < ROWS * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS;
        const bool valid = row < rows;
        copy_async(shared.q + swizzled<DIM>(row, chunk), q + index(valid ? row : 0) * DIM + chunk * CHUNK, valid);
    }
    __syncthreads();  // the list is visible
    copy_keys<DIM, KEYS, THREADS>(shared.keys[0], keys, shared.rows, stride, left);
    copy_keys<DIM, KEYS, THREADS>(shared.values[0], values, shared.rows, stride, left);
    copy_commit();

    Found<DIM> found;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        found.max[half] = -INFINITY;
        found.sum[half] = 0.0f;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) found.out[n][2 * half] = found.out[n][2 * half + 1] = 0.0f;
    }
    unsigned a[DIM / 16][4];
    for (int key = 0; key < left; key += KEYS) {
        const int current = key / KEYS % 2, next = key + KEYS;
        copy_wait<0>();
        __syncthreads();  // this tile is visible to all, and no thread still reads the one before
        if (next < left) {
            copy_keys<DIM, KEYS, THREADS>(shared.keys[current ^ 1], keys, shared.rows + next, stride, left - next);
            copy_keys<DIM, KEYS, THREADS>(shared.values[current ^ 1], values, shared.rows + next, stride, left - next);
            copy_commit();
        }
        if (key == 0) {
#pragma unroll
            for (int step = 0; step < DIM / 16; step++) load_a<DIM>(a[step], shared.q, step);
        }
        const int own = key + warp * 16;
        if (own < left) {
            // The last key that a row sees, counted from this warp's first.
            const int before = segment.keys - segment.queries - first - own;
            const int last[2] = {before + lane / 4 / group, before + (lane / 4 + 8) / group};
            const int at = warp * 16 * DIM;
            add_keys<DIM>(found, a, shared.keys[current] + at, shared.values[current] + at, last, scale_log2);
        }
    }
    __syncthreads();  // the buffers are free
    leave<DIM>(shared, found);
    __syncthreads();

    for (int i = thread; i < rows * (DIM / 2); i += THREADS) {
        const int row = i / (DIM / 2), col = i % (DIM / 2) * 2;
        float max = -INFINITY, sum = 0.0f, lower = 0.0f, upper = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) max = fmaxf(max, shared.max[w][row]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float factor = weight(shared.max[w][row], max);
            const float2 pair = *reinterpret_cast<const float2 *>(&shared.out[w][row][col]);
            sum = fmaf(factor, shared.sum[w][row], sum);
            lower = fmaf(factor, pair.x, lower);
            upper = fmaf(factor, pair.y, upper);
        }
        if (split.w == ATTENTION_NO_PARTIAL) {
            const float inverse = 1.0f / sum;
            *reinterpret_cast<unsigned *>(out + index(row) * DIM + col) = pack(lower * inverse, upper * inverse);
            if (log_sum_exp != nullptr && col == 0) log_sum_exp[index(row)] = fmaf(max, LN_2, logf(sum));
        } else {
            const size_t part = (static_cast<size_t>(split.w) + row / group) * q_heads + kv_head * group + row % group;
            *reinterpret_cast<float2 *>(parts + part * DIM + col) = make_float2(lower, upper);
            if (col == 0) *reinterpret_cast<float2 *>(stats + part * 2) = make_float2(max, sum);
        }
    }
}

// Joins the splits of a query and head: a warp each. joins [joins, 4]: query, partial result of its first split, distance to
// that of the next split, splits (0: none).
template <int DIM>
__device__ __forceinline__ void join(bf16 *__restrict__ out, float *__restrict__ log_sum_exp,
                                     const float *__restrict__ parts, const float *__restrict__ stats,
                                     const uint4 *__restrict__ joins, int joins_count, int q_heads) {
    const int lane = threadIdx.x % WARP;
    const long long which = static_cast<long long>(blockIdx.x) * WARPS + threadIdx.x / WARP;
    if (which >= static_cast<long long>(joins_count) * q_heads) return;
    const int head = which % q_heads;
    const uint4 row = joins[which / q_heads];
    if (row.w == 0) return;  // as above
    const auto part = [&](unsigned split) {
        return (static_cast<size_t>(row.y) + static_cast<size_t>(split) * row.z) * q_heads + head;
    };
    float max = -INFINITY;
    for (unsigned split = lane; split < row.w; split += WARP) max = fmaxf(max, stats[part(split) * 2]);
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) max = fmaxf(max, __shfl_xor_sync(FULL, max, distance));
    constexpr int COLS = DIM / WARP;  // of a lane: lane, lane + 32, ..
    float sum = 0.0f, total[COLS] = {};
#pragma unroll 4
    for (unsigned split = 0; split < row.w; split++) {
        const float2 stat = *reinterpret_cast<const float2 *>(stats + part(split) * 2);
        const float factor = weight(stat.x, max);
        sum = fmaf(factor, stat.y, sum);
#pragma unroll
        for (int c = 0; c < COLS; c++) total[c] = fmaf(factor, parts[part(split) * DIM + c * WARP + lane], total[c]);
    }
    const size_t to = static_cast<size_t>(row.x) * q_heads + head;
    const float inverse = 1.0f / sum;
#pragma unroll
    for (int c = 0; c < COLS; c++) out[to * DIM + c * WARP + lane] = __float2bfloat16_rn(total[c] * inverse);
    if (log_sum_exp != nullptr && lane == 0) log_sum_exp[to] = fmaf(max, LN_2, logf(sum));
}

// Grids: splits * kv_heads blocks with ATTENTION_DECODE_SHARED_* bytes of dynamic shared memory; then a warp for each of
// joins * q_heads. Blocks of ATTENTION_DECODE_THREADS threads. `log_sum_exp` may be null.
#define DECODE(DIM)                                                                                                         \
    extern "C" __global__ void __launch_bounds__(ATTENTION_DECODE_THREADS, 3) attention_decode_##DIM##_bf16(                \
        bf16 *out, float *log_sum_exp, float *parts, float *stats, const bf16 *q, const bf16 *k_pool, const bf16 *v_pool,   \
        const uint4 *segments, const unsigned *key_rows, const uint4 *splits, int q_heads, int kv_heads,                    \
        float scale_log2) {                                                                                                 \
        decode<DIM>(out, log_sum_exp, parts, stats, q, k_pool, v_pool, segments, key_rows, splits, q_heads, kv_heads,       \
                    scale_log2);                                                                                            \
    }                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(ATTENTION_DECODE_THREADS) attention_decode_join_##DIM##_bf16(              \
        bf16 *out, float *log_sum_exp, const float *parts, const float *stats, const uint4 *joins, int joins_count,         \
        int q_heads) {                                                                                                      \
        join<DIM>(out, log_sum_exp, parts, stats, joins, joins_count, q_heads);                                             \
    }
DECODE(32)
DECODE(64)
DECODE(128)
