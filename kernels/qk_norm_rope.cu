// RMSNorm of every head of queries and keys, rotary positions, and the write of keys and values into their pools, in one pass;
// and the gradient of it.
//
//   n = x * inv_rms * weight with inv_rms = 1 / sqrt(mean(x^2) + epsilon), head by head; values are copied
//   y[i] = n[i] cos - n[i + h] sin;  y[i + h] = n[i + h] cos + n[i] sin, with h = head_dim / 2 (half-split pairs)
//
// Shapes: qkv, d_qkv [tokens, (q_heads + 2 kv_heads) * head_dim] bf16: q, k, v heads; q, d_q [tokens, q_heads, head_dim] bf16;
// pools and their gradients [pool_rows, kv_heads, head_dim] bf16; inv_rms [tokens, q_heads + kv_heads] f32; weights
// [head_dim] f32; rope [rope_rows, head_dim] f32: cosines of the h frequencies, then their sines; positions, kv_rows [tokens].
// head_dim: a multiple of 16 up to 512. All bf16 views are 16-byte aligned.
// Precision: bf16 in memory, f32 in registers, one rounding of each result. NaN stays in its head (in the gradients of the
// weights it spreads to its column). For a position or row outside its table (the host refuses those) results are NaN and
// nothing is written to the pools.
//
// Floor in bytes, with S = 2 * tokens * (q_heads + 2 kv_heads) * head_dim: forward 2 S, backward 3 S. Beyond it: inv_rms, four
// bytes a head; 8 bytes a token; the token's row of the rope table, which is loaded once a warp and stays in registers; the
// weights, from the cache; backward, 8 * head_dim bytes a block for the partial sums of the weights' gradients.
//
// Work: a group of lanes for each head, a lane for eight columns of the first half and the eight that they are paired with.
// `blockDim` = (lanes of a group, groups). `groups_per_token` groups share a token's heads: 1, 2, 4 ... and whole warps.
// Order of sums: a lane's sixteen products in order, then a butterfly over the group: a head's bits depend on head_dim alone.
// Gradients of weights: a group's heads in order, a butterfly over the groups of a warp, the warps, the blocks.

#include "common/bf16.cuh"
#include "common/export.cuh"
#include "common/reduce.cuh"

EXPORT(unsigned, QK_NORM_ROPE_THREADS, 128);
EXPORT(unsigned, QK_NORM_ROPE_HEAD_DIM_MAX, 512);

// Eight columns of the first half of a head, and the eight they rotate with.
struct Pairs {
    float first[CHUNK], second[CHUNK];
};

// The same, packed as in memory: half of the registers, and a shift or a mask for each number that is read.
struct Packed {
    Chunk a, b;

    __device__ __forceinline__ float first(int i) const { return i % 2 ? high(a.pair[i / 2]) : low(a.pair[i / 2]); }
    __device__ __forceinline__ float second(int i) const { return i % 2 ? high(b.pair[i / 2]) : low(b.pair[i / 2]); }
};

// The columns of a group's lane in a head.
struct Lane {
    int dim;
    bool active;  // the last lanes of a group have no columns if head_dim / 16 is no power of two

    __device__ explicit Lane(int dim) : dim(dim), active(threadIdx.x < dim / (2 * CHUNK)) {}

    __device__ __forceinline__ int first() const { return threadIdx.x * CHUNK; }
    __device__ __forceinline__ int second() const { return dim / 2 + threadIdx.x * CHUNK; }

    __device__ __forceinline__ Packed load(const bf16 *head, bool wanted) const {
        const int left = wanted && active ? CHUNK : 0;
        return {load_chunk<true>(head + first(), left), load_chunk<true>(head + second(), left)};
    }

    __device__ __forceinline__ void store(bf16 *head, const Packed &packed, bool wanted) const {
        const int left = wanted && active ? CHUNK : 0;
        store_chunk<true>(head + first(), packed.a, left);
        store_chunk<true>(head + second(), packed.b, left);
    }

    // From a vector of f32: a norm's weight, or a row of cosines and sines.
    __device__ __forceinline__ Pairs load(const float *row) const {
        Pairs pairs;
#pragma unroll
        for (int i = 0; i < CHUNK; i += 4) {
            const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            const float4 a = active ? *reinterpret_cast<const float4 *>(row + first() + i) : zero;
            const float4 b = active ? *reinterpret_cast<const float4 *>(row + second() + i) : zero;
            pairs.first[i] = a.x, pairs.first[i + 1] = a.y, pairs.first[i + 2] = a.z, pairs.first[i + 3] = a.w;
            pairs.second[i] = b.x, pairs.second[i + 1] = b.y, pairs.second[i + 2] = b.z, pairs.second[i + 3] = b.w;
        }
        return pairs;
    }
};

// Sum over the lanes of a group, the same bits in each. All lanes of the warp must call it.
__device__ __forceinline__ float group_sum(float value) {
    for (int distance = blockDim.x / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(FULL, value, distance);
    return value;
}

__device__ __forceinline__ Packed rounded(const Pairs &pairs) {
    Packed packed;
#pragma unroll
    for (int i = 0; i < CHUNK / 2; i++) {
        packed.a.pair[i] = pack(pairs.first[2 * i], pairs.first[2 * i + 1]);
        packed.b.pair[i] = pack(pairs.second[2 * i], pairs.second[2 * i + 1]);
    }
    return packed;
}

__device__ __forceinline__ Pairs not_numbers() {
    Pairs pairs;
#pragma unroll
    for (int i = 0; i < CHUNK; i++) pairs.first[i] = pairs.second[i] = __int_as_float(0x7fffffff);
    return pairs;
}

extern "C" __global__ void __launch_bounds__(QK_NORM_ROPE_THREADS)
    qk_norm_rope_forward_bf16(bf16 *__restrict__ q, bf16 *__restrict__ k_pool, bf16 *__restrict__ v_pool,
                              float *__restrict__ inv_rms, const bf16 *__restrict__ qkv, const float *__restrict__ q_weight,
                              const float *__restrict__ k_weight, const float *__restrict__ rope,
                              const unsigned *__restrict__ positions, const unsigned *__restrict__ kv_rows, int tokens,
                              int q_heads, int kv_heads, int dim, int pool_rows, int rope_rows, int groups_per_token,
                              float epsilon) {
    const Lane lane(dim);
    const int heads = q_heads + 2 * kv_heads, normed = q_heads + kv_heads;
    const int group = blockIdx.x * blockDim.y + threadIdx.y;
    const int token = group / groups_per_token;
    const bool there = token < tokens;
    const unsigned position = there ? positions[token] : 0, row = there ? kv_rows[token] : 0;
    // cosines in `first`, sines in `second`
    const Pairs rotation = position < rope_rows ? lane.load(rope + static_cast<size_t>(position) * dim) : not_numbers();
    // Every lane makes every iteration, because all lanes of a warp must take part in the sum.
    for (int first = 0; first < heads; first += groups_per_token) {
        const int head = first + group % groups_per_token;
        const bool wanted = there && head < heads;
        const Packed x = lane.load(qkv + (static_cast<size_t>(token) * heads + head) * dim, wanted);
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            squares = fmaf(x.first(i), x.first(i), squares);
            squares = fmaf(x.second(i), x.second(i), squares);
        }
        const float inverse = 1.0f / sqrtf(group_sum(squares) / dim + epsilon);
        if (!wanted) continue;
        const size_t pool_row = static_cast<size_t>(row) * kv_heads;
        if (head >= normed) {
            lane.store(v_pool + (pool_row + head - normed) * dim, x, row < pool_rows);
            continue;
        }
        if (threadIdx.x == 0) inv_rms[static_cast<size_t>(token) * normed + head] = inverse;
        const Pairs weight = lane.load(head < q_heads ? q_weight : k_weight);
        Pairs y;
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            const float a = x.first(i) * inverse * weight.first[i], b = x.second(i) * inverse * weight.second[i];
            y.first[i] = a * rotation.first[i] - b * rotation.second[i];
            y.second[i] = b * rotation.first[i] + a * rotation.second[i];
        }
        if (head < q_heads) {
            lane.store(q + (static_cast<size_t>(token) * q_heads + head) * dim, rounded(y), true);
        } else {
            lane.store(k_pool + (pool_row + head - q_heads) * dim, rounded(y), row < pool_rows);
        }
    }
}

// d_x = inverse * (g - n * mean(g * n)) with n = x * inverse, g = weight * (d_y rotated back); adds d_n * n to `d_weight`.
// All lanes of the warp must call it.
__device__ __forceinline__ Pairs head_gradient(const Packed &d_y, const Packed &x, const Pairs &rotation, const Pairs &weight,
                                               float inverse, int dim, Pairs &d_weight) {
    Pairs g;
    float product = 0.0f;
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        const float a = d_y.first(i) * rotation.first[i] + d_y.second(i) * rotation.second[i];
        const float b = d_y.second(i) * rotation.first[i] - d_y.first(i) * rotation.second[i];
        d_weight.first[i] += a * x.first(i) * inverse;
        d_weight.second[i] += b * x.second(i) * inverse;
        g.first[i] = a * weight.first[i];
        g.second[i] = b * weight.second[i];
        product = fmaf(g.first[i], x.first(i), product);
        product = fmaf(g.second[i], x.second(i), product);
    }
    // mean(g * n) * n, folded into one factor of x.
    const float factor = group_sum(product) * inverse * inverse * inverse / dim;
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        g.first[i] = inverse * g.first[i] - factor * x.first(i);
        g.second[i] = inverse * g.second[i] - factor * x.second(i);
    }
    return g;
}

// Sum over the groups of a warp, the same bits in each. All lanes of the warp must call it.
__device__ __forceinline__ void add_groups(Pairs &pairs) {
    for (int distance = WARP / 2; distance >= blockDim.x; distance /= 2) {
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            pairs.first[i] += __shfl_xor_sync(FULL, pairs.first[i], distance);
            pairs.second[i] += __shfl_xor_sync(FULL, pairs.second[i], distance);
        }
    }
}

__device__ __forceinline__ void add(Pairs &to, const Pairs &from) {
#pragma unroll
    for (int i = 0; i < CHUNK; i++) to.first[i] += from.first[i], to.second[i] += from.second[i];
}

// Adds the warps' sums and stores the block's part.
__device__ __forceinline__ void store_parts(float *parts, float *shared, const Pairs &sums, const Lane &lane) {
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, dim = lane.dim;
    if (thread % WARP < blockDim.x && lane.active) {
        float *own = shared + thread / WARP * dim;
#pragma unroll
        for (int i = 0; i < CHUNK; i += 4) {
            const float *a = sums.first + i, *b = sums.second + i;
            *reinterpret_cast<float4 *>(own + lane.first() + i) = make_float4(a[0], a[1], a[2], a[3]);
            *reinterpret_cast<float4 *>(own + lane.second() + i) = make_float4(b[0], b[1], b[2], b[3]);
        }
    }
    __syncthreads();
    for (int col = thread; col < dim; col += QK_NORM_ROPE_THREADS) {
        float part = 0.0f;
        for (int warp = 0; warp < QK_NORM_ROPE_THREADS / WARP; warp++) part += shared[warp * dim + col];
        parts[static_cast<size_t>(blockIdx.x) * dim + col] = part;
    }
}

// `q_parts` and `k_parts` [gridDim.x, dim] f32 receive each block's sums of the weights' gradients. Dynamic shared memory:
// [warps, dim] f32.
extern "C" __global__ void __launch_bounds__(QK_NORM_ROPE_THREADS)
    qk_norm_rope_backward_bf16(bf16 *__restrict__ d_qkv, float *__restrict__ q_parts, float *__restrict__ k_parts,
                               const bf16 *__restrict__ d_q, const bf16 *__restrict__ d_k_pool,
                               const bf16 *__restrict__ d_v_pool, const bf16 *__restrict__ qkv,
                               const float *__restrict__ inv_rms, const float *__restrict__ q_weight,
                               const float *__restrict__ k_weight, const float *__restrict__ rope,
                               const unsigned *__restrict__ positions, const unsigned *__restrict__ kv_rows, int tokens,
                               int q_heads, int kv_heads, int dim, int pool_rows, int rope_rows, int groups_per_token) {
    extern __shared__ float4 dynamic[];
    const Lane lane(dim);
    const int heads = q_heads + 2 * kv_heads, normed = q_heads + kv_heads;
    const int tokens_at_once = blockDim.y / groups_per_token;
    Pairs d_q_weight{}, d_k_weight{};
    for (int start = blockIdx.x * tokens_at_once; start < tokens; start += gridDim.x * tokens_at_once) {
        const int token = start + threadIdx.y / groups_per_token;
        const bool there = token < tokens;
        const unsigned position = there ? positions[token] : 0, row = there ? kv_rows[token] : 0;
        const Pairs rotation = position < rope_rows ? lane.load(rope + static_cast<size_t>(position) * dim) : not_numbers();
        const size_t pool_row = static_cast<size_t>(row) * kv_heads;
        for (int first = 0; first < heads; first += groups_per_token) {
            const int head = first + threadIdx.y % groups_per_token;
            const bool wanted = there && head < heads, is_q = head < q_heads, is_v = head >= normed;
            const bf16 *from = is_q   ? d_q + (static_cast<size_t>(token) * q_heads + head) * dim
                               : is_v ? d_v_pool + (pool_row + head - normed) * dim
                                      : d_k_pool + (pool_row + head - q_heads) * dim;
            Packed d_y = lane.load(from, wanted && (is_q || row < pool_rows));
            if (!is_q && row >= pool_rows) d_y = rounded(not_numbers());
            const size_t index = (static_cast<size_t>(token) * heads + head) * dim;
            const Packed x = lane.load(qkv + index, wanted && !is_v);
            // Values pass their gradient on unchanged. Not chosen at the end as `is_v ? d_y : d_x`, which compiles to a choice of
            // addresses and puts both in local memory.
            lane.store(d_qkv + index, d_y, wanted && is_v);
            const Pairs weight = lane.load(is_q ? q_weight : k_weight);
            const float inverse = wanted && !is_v ? inv_rms[static_cast<size_t>(token) * normed + head] : 0.0f;
            Pairs d_weight{};
            const Packed d_x = rounded(head_gradient(d_y, x, rotation, weight, inverse, dim, d_weight));
            if (wanted && is_q) add(d_q_weight, d_weight);
            if (wanted && !is_q && !is_v) add(d_k_weight, d_weight);
            lane.store(d_qkv + index, d_x, wanted && !is_v);
        }
    }
    add_groups(d_q_weight);
    add_groups(d_k_weight);
    store_parts(q_parts, reinterpret_cast<float *>(dynamic), d_q_weight, lane);
    __syncthreads();  // all have read the sums of q
    store_parts(k_parts, reinterpret_cast<float *>(dynamic), d_k_weight, lane);
}
