// A flash-attention forward in a common style: mma.sync m16n8k16 on bf16, ldmatrix, double-buffered cp.async, an online
// softmax, grouped heads, causal. It is not a kernel of the project and was not written for the emulator.
//
// q, out [tokens, q_heads, HEAD_DIM], k, v [tokens, kv_heads, HEAD_DIM], bf16. Grid (ceil(tokens / 64), q_heads), 128 threads,
// SHARED_BYTES of dynamic shared memory. Fragment layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16" and "ldmatrix".
//
// The MISTAKE_ macros plant one mistake each; `FAULT name` marks lines, and a report must name one of them (for an asm, the
// compiler names the line of the last operand).
#include <cuda_bf16.h>
#include <stdint.h>

#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif

constexpr int BLOCK_Q = 64, BLOCK_K = 64, WARPS = 4;
constexpr int ROW_BYTES = HEAD_DIM * 2, ROW_CHUNKS = HEAD_DIM / 8;
constexpr int TILE_BYTES = BLOCK_K * ROW_BYTES;
extern "C" __constant__ constexpr unsigned SHARED_BYTES = BLOCK_Q * ROW_BYTES + 4 * TILE_BYTES;

__device__ __forceinline__ uint32_t shared_address(const void *pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void cp_async_16(uint32_t to, const void *from, bool there) {
    const int bytes = there ? 16 : 0;  // the rest is filled with zeros
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));  // FAULT NO_BARRIER_AT_END
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;"); }

template <int LEFT>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT));
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from));  // FAULT WAIT_OFF_BY_ONE NO_BARRIER_AFTER_WAIT NO_BARRIER_AT_END
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from));  // FAULT NO_BARRIER_AT_END
}

__device__ __forceinline__ void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pack(float lower, float upper) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(lower, upper);
    return *reinterpret_cast<const uint32_t *>(&both);
}

// Byte of chunk (8 elements) `chunk` of row `row` in a tile. The exclusive or spreads the rows that one ldmatrix reads over
// all banks.
__device__ __forceinline__ uint32_t swizzled(int row, int chunk) { return row * ROW_BYTES + ((chunk ^ (row & 7)) << 4); }

// Copies rows of one head; rows from `left` on become zeros.
__device__ __forceinline__ void load_tile(uint32_t to, const __nv_bfloat16 *from, int stride, int left) {
    for (int i = threadIdx.x; i < BLOCK_K * ROW_CHUNKS; i += WARPS * 32) {
        const int row = i / ROW_CHUNKS, chunk = i % ROW_CHUNKS;
        const bool there = row < left;
        cp_async_16(to + swizzled(row, chunk), from + (there ? static_cast<size_t>(row) * stride + chunk * 8 : 0), there);
    }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    flash_attention_bf16(__nv_bfloat16 *__restrict__ out, const __nv_bfloat16 *__restrict__ q,
                         const __nv_bfloat16 *__restrict__ k, const __nv_bfloat16 *__restrict__ v, int tokens, int q_heads,
                         int kv_heads, float scale) {
    extern __shared__ __align__(128) unsigned char shared[];
    const uint32_t q_tile = shared_address(shared), kv_tiles = q_tile + BLOCK_Q * ROW_BYTES;
    const int first = blockIdx.x * BLOCK_Q, head = blockIdx.y, kv_head = head / (q_heads / kv_heads);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4;
    const int q_stride = q_heads * HEAD_DIM, kv_stride = kv_heads * HEAD_DIM;
    q += static_cast<size_t>(first) * q_stride + head * HEAD_DIM;
    k += kv_head * HEAD_DIM;
    v += kv_head * HEAD_DIM;

    const int last = min(first + BLOCK_Q, tokens);  // one past the last key that any query here sees
    const int tiles = (last + BLOCK_K - 1) / BLOCK_K;
    const auto load_keys_and_values = [&](int tile) {
        const uint32_t to = kv_tiles + (tile % 2) * 2 * TILE_BYTES;
        const int from = tile * BLOCK_K;
        load_tile(to, k + static_cast<size_t>(from) * kv_stride, kv_stride, tokens - from);
        load_tile(to + TILE_BYTES, v + static_cast<size_t>(from) * kv_stride, kv_stride, tokens - from);
    };
    load_tile(q_tile, q, q_stride, tokens - first);
    load_keys_and_values(0);
    cp_async_commit();

    float o[HEAD_DIM / 8][4] = {};
    float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {};
    const float scale_log2 = scale * 1.4426950408889634f;
    for (int tile = 0; tile < tiles; tile++) {
        if (tile + 1 < tiles) load_keys_and_values(tile + 1);
        cp_async_commit();  // an empty group at the end keeps the count
#ifdef MISTAKE_WAIT_OFF_BY_ONE
        cp_async_wait<2>();
#else
        cp_async_wait<1>();
#endif
#ifndef MISTAKE_NO_BARRIER_AFTER_WAIT
        __syncthreads();
#endif
        const uint32_t k_tile = kv_tiles + (tile % 2) * 2 * TILE_BYTES, v_tile = k_tile + TILE_BYTES;

        // Scores of this warp's 16 queries and 64 keys.
        float s[BLOCK_K / 8][4] = {};
#pragma unroll
        for (int d = 0; d < HEAD_DIM / 16; d++) {
            uint32_t a[4];
            ldmatrix_x4(a, q_tile + swizzled(warp * 16 + lane % 16, 2 * d + lane / 16));
#pragma unroll
            for (int n = 0; n < BLOCK_K / 16; n++) {
                uint32_t b[4];
                ldmatrix_x4(b, k_tile + swizzled(n * 16 + lane / 16 * 8 + lane % 8, 2 * d + lane / 8 % 2));
                mma_m16n8k16(s[2 * n], a, b[0], b[1]);
                mma_m16n8k16(s[2 * n + 1], a, b[2], b[3]);
            }
        }
        // Mask, and the rows' new maxima: a row is spread over the four lanes of a quad.
        float fresh[2] = {maximum[0], maximum[1]};
#pragma unroll
        for (int n = 0; n < BLOCK_K / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = tile * BLOCK_K + n * 8 + quad * 2 + i % 2;
                const int query = first + warp * 16 + group + i / 2 * 8;
                s[n][i] = key <= query && key < tokens ? s[n][i] * scale_log2 : -INFINITY;
                fresh[i / 2] = fmaxf(fresh[i / 2], s[n][i]);
            }
        }
        float shrink[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            fresh[half] = fmaxf(fresh[half], __shfl_xor_sync(0xffffffffu, fresh[half], 1));
            fresh[half] = fmaxf(fresh[half], __shfl_xor_sync(0xffffffffu, fresh[half], 2));
            shrink[half] = fresh[half] == -INFINITY ? 1.0f : exp2f(maximum[half] - fresh[half]);
            maximum[half] = fresh[half];
            total[half] *= shrink[half];
        }
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) o[n][i] *= shrink[i / 2];
        }
#pragma unroll
        for (int n = 0; n < BLOCK_K / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[n][i] = s[n][i] == -INFINITY ? 0.0f : exp2f(s[n][i] - maximum[i / 2]);
                total[i / 2] += s[n][i];
            }
        }
        // The accumulator layout of two adjacent tiles is the operand layout of one.
#pragma unroll
        for (int n = 0; n < BLOCK_K / 16; n++) {
            const uint32_t a[4] = {pack(s[2 * n][0], s[2 * n][1]), pack(s[2 * n][2], s[2 * n][3]),
                                   pack(s[2 * n + 1][0], s[2 * n + 1][1]), pack(s[2 * n + 1][2], s[2 * n + 1][3])};
#pragma unroll
            for (int d = 0; d < HEAD_DIM / 16; d++) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, v_tile + swizzled(n * 16 + lane % 16, 2 * d + lane / 16));
                mma_m16n8k16(o[2 * d], a, b[0], b[1]);
                mma_m16n8k16(o[2 * d + 1], a, b[2], b[3]);
            }
        }
#ifndef MISTAKE_NO_BARRIER_AT_END
        __syncthreads();  // the next iteration overwrites the buffer that this one read
#endif
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
        total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
        const int row = first + warp * 16 + group + half * 8;
        if (row >= tokens) continue;
        __nv_bfloat16 *to = out + static_cast<size_t>(row) * q_stride + head * HEAD_DIM;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n++) {
            const uint32_t both = pack(o[n][2 * half] / total[half], o[n][2 * half + 1] / total[half]);
            *reinterpret_cast<uint32_t *>(to + n * 8 + quad * 2) = both;
        }
    }
}
