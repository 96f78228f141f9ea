// Attention's backward pass by keys: the gradients of keys and values, added to their pools.
//
//   p = exp(q . k * scale - log_sum_exp);  d_s = p * (d_out . v - delta)
//   d_v += sum over queries of p * d_out;  d_k += scale * sum over queries of d_s * q
//
// Shapes: q, d_out [queries, q_heads, DIM] bf16; pools and their gradients [pool_rows, kv_heads, DIM] bf16; log_sum_exp, delta
// [queries, q_heads] f32; segments as in rows.cuh; tiles [tiles, 4]: first pool row, rows (up to KEYS), first user, users; users
// [users, 2]: segment, index of the tile's first row among that segment's keys. DIM is 32, 64 or 128. All bf16 pointers are
// 16-byte aligned.
//
// A block is one range of pool rows and one key head. Only this block writes these rows, so there are no atomics. It keeps K
// and V in shared memory. The queries of its users (the segments that have these rows among their keys: one, or a prompt and all
// its rollouts) are loaded head by head of the group, in tiles of QUERIES through two stages; d_k and d_v accumulate in
// registers. A warp owns 16 keys. Scores are computed transposed, keys by queries, so that they are fragments A of the matmuls
// that sum over queries.
//
// Precision: bf16 matmuls, f32 sums; p and d_s rounded to bf16 for their matmuls; one rounding when the sums are added to the
// pools. NaN and infinity as in the forward pass.
//
// Floor: 8 * DIM flops for each query, head and key it sees (four matmuls, two of them repeated by backward_q.cu). Bytes of a
// block: K and V once, 4 * DIM * rows, their gradients read and written, 8 * DIM * rows; for each user and head of the
// group, 4 * DIM + 8 for each query that sees the tile's first row; (24 * users + 16) * THREADS (tables, from the cache).
//
// Order of sums: users in the order of segments, heads, queries in tiles, in steps of 16.

#include "../common/export.cuh"
#include "rows.cuh"

EXPORT(unsigned, ATTENTION_BACKWARD_KV_KEYS, 64);
EXPORT(unsigned, ATTENTION_BACKWARD_KV_THREADS, 128);

constexpr int KEYS = ATTENTION_BACKWARD_KV_KEYS, THREADS = ATTENTION_BACKWARD_KV_THREADS;
static_assert(KEYS == THREADS / WARP * 16, "a warp owns 16 keys");

// Queries at a time: limited by the registers that both gradients take.
template <int DIM>
constexpr int QUERIES = DIM == 128 ? 32 : 64;

// A tile of queries of one head.
template <int DIM>
struct Stage {
    bf16 q[QUERIES<DIM> * DIM];
    bf16 d_out[QUERIES<DIM> * DIM];
    float sum_log2[QUERIES<DIM>];  // log_sum_exp in powers of two; infinity without a query
    float delta[QUERIES<DIM>];
};

template <int DIM>
struct Shared {
    bf16 keys[KEYS * DIM];    // later d_k
    bf16 values[KEYS * DIM];  // later d_v
    Stage<DIM> stages[2];
};
EXPORT(unsigned, ATTENTION_BACKWARD_KV_SHARED_32, sizeof(Shared<32>));
EXPORT(unsigned, ATTENTION_BACKWARD_KV_SHARED_64, sizeof(Shared<64>));
EXPORT(unsigned, ATTENTION_BACKWARD_KV_SHARED_128, sizeof(Shared<128>));

// The position of a block in its loop over users, heads of the group and tiles of queries. It is the same in all threads.
template <int DIM>
struct Walk {
    const uint4 *segments;
    const uint2 *users;
    int user, users_end, group;
    Segment segment;
    int key;         // index of the tile's first row among the segment's keys
    int head;        // of the group
    int query;       // first query of the tile, in the segment
    int first_query; // the first that sees that row

    __device__ __forceinline__ bool done() const { return user == users_end; }

    __device__ __forceinline__ void enter() {
        if (done()) return;
        const uint2 numbers = users[user];
        segment = load_segment(segments, numbers.x);
        key = numbers.y;
        first_query = max(0, key - (segment.keys - segment.queries));
        query = first_query;
        head = 0;
    }

    __device__ __forceinline__ void advance() {
        query += QUERIES<DIM>;
        if (query < segment.queries) return;
        query = first_query;
        if (++head < group) return;
        user++;
        enter();
    }

    __device__ __forceinline__ int count() const { return min(QUERIES<DIM>, segment.queries - query); }
};

// The sources of the copies of a tile of queries.
template <int DIM>
struct Source {
    const bf16 *q, *d_out;
    const float *log_sum_exp, *delta;
    int q_heads, first_head;

    __device__ __forceinline__ size_t row(const Walk<DIM> &at) const {
        return (static_cast<size_t>(at.segment.first_query) + at.query) * q_heads + first_head + at.head;
    }

    __device__ __forceinline__ void copy(Stage<DIM> &stage, const Walk<DIM> &at) const {
        const size_t stride = static_cast<size_t>(q_heads) * DIM;
        copy_rows<DIM, QUERIES<DIM>, THREADS>(stage.q, q + row(at) * DIM, stride, at.count());
        copy_rows<DIM, QUERIES<DIM>, THREADS>(stage.d_out, d_out + row(at) * DIM, stride, at.count());
    }

    // (log_sum_exp in powers of two, delta) of this thread's query.
    __device__ __forceinline__ float2 numbers(const Walk<DIM> &at) const {
        if (threadIdx.x >= at.count()) return make_float2(INFINITY, 0.0f);
        const size_t index = row(at) + static_cast<size_t>(threadIdx.x) * q_heads;
        return make_float2(log_sum_exp[index] * LOG2_E, delta[index]);
    }
};

template <int DIM>
__device__ __forceinline__ void keep(Stage<DIM> &stage, float2 numbers) {
    if (threadIdx.x >= QUERIES<DIM>) return;
    stage.sum_log2[threadIdx.x] = numbers.x;
    stage.delta[threadIdx.x] = numbers.y;
}

// out[16, QUERIES] = own . tile^T for the 16 keys of a warp.
template <int DIM>
__device__ __forceinline__ void multiply(float (&out)[QUERIES<DIM> / 8][4], const bf16 *own, const bf16 *tile) {
#pragma unroll
    for (int n = 0; n < QUERIES<DIM> / 8; n++) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0.0f;
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
        unsigned a[4];
        load_a<DIM>(a, own, step);
#pragma unroll
        for (int n = 0; n < QUERIES<DIM> / 16; n++) {
            unsigned b[4];
            load_keys<DIM>(b, tile + n * 16 * DIM, step);
            mma(out[2 * n], a, b[0], b[1]);
            mma(out[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// sums[16, DIM] += weights[16, QUERIES] . tile[QUERIES, DIM]
template <int DIM>
__device__ __forceinline__ void accumulate(float (&sums)[DIM / 8][4], const float (&weights)[QUERIES<DIM> / 8][4],
                                           const bf16 *tile) {
#pragma unroll
    for (int step = 0; step < QUERIES<DIM> / 16; step++) {
        unsigned a[4];
        to_a(a, weights[2 * step], weights[2 * step + 1]);
#pragma unroll
        for (int n = 0; n < DIM / 16; n++) {
            unsigned b[4];
            load_values<DIM>(b, tile + step * 16 * DIM, n);
            mma(sums[2 * n], a, b[0], b[1]);
            mma(sums[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// Adds one tile of queries. `first` is the first query of the tile that sees the warp's key 0; negative if all do.
template <int DIM>
__device__ __forceinline__ void tile_gradient(float (&d_k)[DIM / 8][4], float (&d_v)[DIM / 8][4], const bf16 *keys,
                                              const bf16 *values, const Stage<DIM> &stage, int first, float scale_log2) {
    const int lane = threadIdx.x % WARP;
    float p[QUERIES<DIM> / 8][4], d_s[QUERIES<DIM> / 8][4];
    multiply<DIM>(p, keys, stage.q);
#pragma unroll
    for (int n = 0; n < QUERIES<DIM> / 8; n++) {
        const int query = n * 8 + lane % 4 * 2;
        const float2 sum_log2 = *reinterpret_cast<const float2 *>(stage.sum_log2 + query);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float weight = exp2_fast(fmaf(p[n][i], scale_log2, -(i % 2 == 0 ? sum_log2.x : sum_log2.y)));
            const bool seen = query + i % 2 >= first + lane / 4 + i / 2 * 8;
            p[n][i] = seen ? weight : 0.0f;
        }
    }
    accumulate<DIM>(d_v, p, stage.d_out);
    multiply<DIM>(d_s, values, stage.d_out);
#pragma unroll
    for (int n = 0; n < QUERIES<DIM> / 8; n++) {
        const float2 delta = *reinterpret_cast<const float2 *>(stage.delta + n * 8 + lane % 4 * 2);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            // Where p is zero, d_s must be too, even if the gradient is not finite there.
            d_s[n][i] = p[n][i] == 0.0f ? 0.0f : p[n][i] * (d_s[n][i] - (i % 2 == 0 ? delta.x : delta.y));
        }
    }
    accumulate<DIM>(d_k, d_s, stage.q);
}

// Index of eight columns of a row in a warp's own rows, of DIM / 2 floats each, in slots of eight floats. Slots are permuted so
// that four neighbouring rows of one column, and eight slots in a row, cover all banks.
template <int DIM>
__device__ __forceinline__ int slot(int row, int eight) {
    return row * (DIM / 16) + (eight ^ (DIM == 32 ? row / 2 % 2 : row % (DIM / 16)));
}

// Adds the sums of a warp's keys, times `factor`, to rows of a pool, through the warp's own rows in shared memory.
template <int DIM>
__device__ __forceinline__ void add_to_pool(bf16 *pool, size_t stride, bf16 *own, const float (&sums)[DIM / 8][4], float factor,
                                            int count) {
    constexpr int CHUNKS = DIM / CHUNK;
    const int lane = threadIdx.x % WARP;
    float *wide = reinterpret_cast<float *>(own);
    // A half of the columns at a time, in f32: the sums are rounded once, after the addition.
#pragma unroll
    for (int half = 0; half < 2; half++) {
        __syncwarp();  // all lanes have read the old contents
#pragma unroll
        for (int n = 0; n < DIM / 16; n++) {
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                const int row = lane / 4 + 4 * i;
                const float *pair = &sums[half * (DIM / 16) + n][i];
                float2 *to = reinterpret_cast<float2 *>(wide + slot<DIM>(row, n) * CHUNK) + lane % 4;
                *to = make_float2(pair[0] * factor, pair[1] * factor);
            }
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 16 * CHUNKS / 2 / WARP; i++) {
            const int index = i * WARP + lane, row = index / (CHUNKS / 2), chunk = index % (CHUNKS / 2);
            if (row >= count) continue;
            bf16 *to = pool + row * stride + (half * (CHUNKS / 2) + chunk) * CHUNK;
            // Half of the lanes take their second four floats first: eight lanes at a time then have no bank conflict.
            const int from = slot<DIM>(row, chunk), swapped = from / 4 % 2;
            const float4 x = reinterpret_cast<const float4 *>(wide)[from * 2 + swapped];
            const float4 y = reinterpret_cast<const float4 *>(wide)[from * 2 + (swapped ^ 1)];
            const float4 a = swapped ? y : x, b = swapped ? x : y;
            const Chunk old = load_chunk<true>(to, CHUNK);
            const Chunk sum = {{pack(low(old.pair[0]) + a.x, high(old.pair[0]) + a.y),
                                pack(low(old.pair[1]) + a.z, high(old.pair[1]) + a.w),
                                pack(low(old.pair[2]) + b.x, high(old.pair[2]) + b.y),
                                pack(low(old.pair[3]) + b.z, high(old.pair[3]) + b.w)}};
            store_chunk<true>(to, sum, CHUNK);
        }
    }
}

template <int DIM>
__device__ __forceinline__ void backward(bf16 *__restrict__ d_k_pool, bf16 *__restrict__ d_v_pool,
                                         const bf16 *__restrict__ k_pool, const bf16 *__restrict__ v_pool,
                                         const uint4 *__restrict__ tiles, const uint2 *__restrict__ users,
                                         const uint4 *__restrict__ segments, int kv_heads, float scale_log2, float scale,
                                         Source<DIM> source) {
    extern __shared__ float4 dynamic[];
    Shared<DIM> &shared = *reinterpret_cast<Shared<DIM> *>(dynamic);
    const uint4 tile = tiles[blockIdx.x / kv_heads];
    const int kv_head = blockIdx.x % kv_heads, count = tile.y, group = source.q_heads / kv_heads;
    source.first_head = kv_head * group;
    const size_t stride = static_cast<size_t>(kv_heads) * DIM, start = tile.x * stride + kv_head * DIM;
    Walk<DIM> walk{segments, users, static_cast<int>(tile.z), static_cast<int>(tile.z + tile.w), group};
    walk.enter();
    copy_rows<DIM, KEYS, THREADS>(shared.keys, k_pool + start, stride, count);
    copy_rows<DIM, KEYS, THREADS>(shared.values, v_pool + start, stride, count);
    source.copy(shared.stages[0], walk);
    copy_commit();
    keep(shared.stages[0], source.numbers(walk));

    const int warp_key = threadIdx.x / WARP * 16, warp_count = min(16, count - warp_key);
    bf16 *own_keys = shared.keys + warp_key * DIM, *own_values = shared.values + warp_key * DIM;
    float d_k[DIM / 8][4] = {}, d_v[DIM / 8][4] = {};
    for (int current = 0; !walk.done(); current ^= 1) {
        Walk<DIM> next = walk;
        next.advance();
        copy_wait<0>();
        __syncthreads();  // this tile is visible to all, and no thread still reads the last one
        float2 numbers{};
        if (!next.done()) {
            source.copy(shared.stages[current ^ 1], next);
            numbers = source.numbers(next);
        }
        copy_commit();
        // The query of the segment whose own key is the warp's first, from the tile's first query on.
        const int first = walk.key + warp_key - (walk.segment.keys - walk.segment.queries) - walk.query;
        if (warp_count > 0 && first < walk.count()) {
            tile_gradient<DIM>(d_k, d_v, own_keys, own_values, shared.stages[current], first, scale_log2);
        }
        if (!next.done()) keep(shared.stages[current ^ 1], numbers);
        walk = next;
    }
    if (warp_count <= 0) return;
    const size_t own = start + warp_key * stride;
    add_to_pool<DIM>(d_k_pool + own, stride, own_keys, d_k, scale, warp_count);
    add_to_pool<DIM>(d_v_pool + own, stride, own_values, d_v, 1.0f, warp_count);
}

// `scale_log2` is scale * log2 e. Grid: tiles * kv_heads blocks of ATTENTION_BACKWARD_KV_THREADS threads, with
// ATTENTION_BACKWARD_KV_SHARED_* bytes of dynamic shared memory.
#define BACKWARD(DIM)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(ATTENTION_BACKWARD_KV_THREADS, 2) attention_backward_kv_##DIM##_bf16(       \
        bf16 *d_k_pool, bf16 *d_v_pool, const bf16 *d_out, const bf16 *q, const bf16 *k_pool, const bf16 *v_pool,            \
        const float *log_sum_exp, const float *delta, const uint4 *tiles, const uint2 *users, const uint4 *segments,         \
        int q_heads, int kv_heads, float scale_log2, float scale) {                                                          \
        backward<DIM>(d_k_pool, d_v_pool, k_pool, v_pool, tiles, users, segments, kv_heads, scale_log2, scale,               \
                      {q, d_out, log_sum_exp, delta, q_heads, 0});                                                           \
    }
BACKWARD(32)
BACKWARD(64)
BACKWARD(128)
