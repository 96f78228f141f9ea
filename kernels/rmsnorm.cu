// RMSNorm with the residual addition fused into it, and its gradient.
//
//   sum = x + delta;  inv_rms = 1 / sqrt(mean(sum^2) + epsilon);  out = sum * inv_rms * weight             (row by row)
//   d_sum (+)= inv_rms * (g - n * mean(g * n)) with g = d_out * weight, n = sum * inv_rms;
//   d_weight += sum over rows of d_out * n
//
// Shapes: x, delta, sum, out, d_out, d_sum [rows, cols] bf16; weight, d_weight [cols] f32; inv_rms [rows] f32.
// Precision: bf16 in memory, f32 in registers. The norm is that of the *rounded* sum, which is what the backward pass reads.
// NaN and infinity follow IEEE arithmetic and stay in their row (except in d_weight, which sums over rows).
//
// Floor in bytes, with S = 2 * rows * cols: forward 4 S (read x and delta, write sum and out), 2 S without the addition;
// backward 4 S (read d_out, sum and d_sum, write d_sum), 3 S when it overwrites. Each thread keeps its part of a row in
// registers, so that nothing is read twice. What is moved beyond the floor is the weight, 4 * cols bytes a block, and the
// partial sums of d_weight, 8 * cols bytes a block: the launcher bounds the blocks.
//
// Order of sums: a thread sums its elements (the same ones for any alignment), then a butterfly over the warp, then
// over the warps of the row: a row's bits depend on cols alone. d_weight: a block's rows, its row groups, the blocks, each in
// order.

#include "common/bf16.cuh"
#include "common/export.cuh"
#include "common/reduce.cuh"

constexpr int CHUNKS = 4;

// Columns that one warp holds: a block is (32 * ceil(cols / this), rows at a time).
EXPORT(unsigned, RMSNORM_COLS_PER_WARP, 1024);
EXPORT(unsigned, RMSNORM_COLS_MAX, 8192);
EXPORT(unsigned, RMSNORM_THREADS_MAX, 256);
static_assert(RMSNORM_COLS_PER_WARP == WARP * CHUNKS * CHUNK, "a lane holds CHUNKS chunks");
static_assert(RMSNORM_THREADS_MAX == WARP * RMSNORM_COLS_MAX / RMSNORM_COLS_PER_WARP, "the widest row fills a block");
constexpr int WARPS_MAX = RMSNORM_THREADS_MAX / WARP;

// First column of this thread's chunk `c`. Neighbouring threads have neighbouring chunks.
__device__ __forceinline__ int column(int c) { return (c * blockDim.x + threadIdx.x) * CHUNK; }

// A row of floats in shared memory: first the lower halves of all chunks, then the upper halves, so that the lanes of a warp,
// which own neighbouring chunks, have no bank conflict. The pad keeps the halves half the banks apart.
EXPORT(unsigned, RMSNORM_SHARED_PAD, 16);

struct SharedRow {
    float *start;
    int half;

    __device__ SharedRow(float *start, int cols) : start(start), half((cols + CHUNK - 1) / CHUNK * 4 + RMSNORM_SHARED_PAD) {}

    __device__ __forceinline__ int floats() const { return 2 * half; }
    __device__ __forceinline__ float &at(int col) const { return start[(col & 4 ? half : 0) + col / CHUNK * 4 + (col & 3)]; }

    __device__ __forceinline__ void load(float (&chunk)[CHUNK], int col) const {
        const float4 a = *reinterpret_cast<const float4 *>(&at(col)), b = *reinterpret_cast<const float4 *>(&at(col + 4));
        chunk[0] = a.x, chunk[1] = a.y, chunk[2] = a.z, chunk[3] = a.w;
        chunk[4] = b.x, chunk[5] = b.y, chunk[6] = b.z, chunk[7] = b.w;
    }

    __device__ __forceinline__ void store(const float (&chunk)[CHUNK], int col) const {
        *reinterpret_cast<float4 *>(&at(col)) = make_float4(chunk[0], chunk[1], chunk[2], chunk[3]);
        *reinterpret_cast<float4 *>(&at(col + 4)) = make_float4(chunk[4], chunk[5], chunk[6], chunk[7]);
    }
};

// This thread's part of the weight, through shared memory: the row groups of a block read it from memory once.
template <bool ALIGNED>
__device__ __forceinline__ void load_weight(float (&part)[CHUNKS][CHUNK], const SharedRow &shared, const float *weight,
                                            int cols) {
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
    if (ALIGNED) {
        for (int i = thread * 4; i < cols; i += threads * 4) {
            *reinterpret_cast<float4 *>(&shared.at(i)) = *reinterpret_cast<const float4 *>(weight + i);
        }
    } else {
        // Chunks are read whole.
        for (int i = thread; i < (cols + CHUNK - 1) / CHUNK * CHUNK; i += threads) shared.at(i) = i < cols ? weight[i] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        if (column(c) < cols) {
            shared.load(part[c], column(c));
        } else {
#pragma unroll
            for (int i = 0; i < CHUNK; i++) part[c][i] = 0.0f;
        }
    }
}

// sum = x + delta, rounded as it is stored.
__device__ __forceinline__ Chunk add(const Chunk &x, const Chunk &delta) {
    Chunk sum;
#pragma unroll
    for (int i = 0; i < CHUNK / 2; i++) {
        sum.pair[i] = pack(low(x.pair[i]) + low(delta.pair[i]), high(x.pair[i]) + high(delta.pair[i]));
    }
    return sum;
}

template <bool ALIGNED>
__device__ __forceinline__ void forward(bf16 *__restrict__ out, float *__restrict__ inv_rms, bf16 *__restrict__ sum,
                                        const bf16 *__restrict__ x, const bf16 *__restrict__ delta,
                                        const float *__restrict__ weight, int rows, int cols, float epsilon) {
    extern __shared__ float4 dynamic[];  // a SharedRow
    __shared__ float partial[2][WARPS_MAX];
    float scale[CHUNKS][CHUNK];
    load_weight<ALIGNED>(scale, SharedRow(reinterpret_cast<float *>(dynamic), cols), weight, cols);
    int current = 0;
    // Every thread makes every iteration, because the threads of a row share a barrier.
    for (int first = blockIdx.x * blockDim.y; first < rows; first += gridDim.x * blockDim.y, current ^= 1) {
        const int row = first + threadIdx.y;
        const int width = row < rows ? cols : 0;
        const size_t start = static_cast<size_t>(row) * cols;
        Chunk values[CHUNKS];
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) values[c] = load_chunk<ALIGNED>(x + start + column(c), width - column(c));
        if (delta != nullptr) {
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
                values[c] = add(values[c], load_chunk<ALIGNED>(delta + start + column(c), width - column(c)));
                store_chunk<ALIGNED>(sum + start + column(c), values[c], width - column(c));
            }
        }
        float squares = 0.0f;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
            for (int i = 0; i < CHUNK / 2; i++) {
                const float a = low(values[c].pair[i]), b = high(values[c].pair[i]);
                squares = fmaf(a, a, squares);
                squares = fmaf(b, b, squares);
            }
        }
        const float inverse = 1.0f / sqrtf(row_sum(squares, partial[current]) / cols + epsilon);
        if (width > 0 && threadIdx.x == 0) inv_rms[row] = inverse;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            Chunk scaled;
#pragma unroll
            for (int i = 0; i < CHUNK / 2; i++) {
                scaled.pair[i] = pack(low(values[c].pair[i]) * inverse * scale[c][2 * i],
                                      high(values[c].pair[i]) * inverse * scale[c][2 * i + 1]);
            }
            store_chunk<ALIGNED>(out + start + column(c), scaled, width - column(c));
        }
    }
}

// `delta` and `sum` null: the norm of x alone.
extern "C" __global__ void __launch_bounds__(RMSNORM_THREADS_MAX, 2)
    rmsnorm_forward_bf16(bf16 *out, float *inv_rms, bf16 *sum, const bf16 *x, const bf16 *delta, const float *weight,
                         int rows, int cols, float epsilon) {
    forward<true>(out, inv_rms, sum, x, delta, weight, rows, cols, epsilon);
}

// The same for odd widths and for views that are not 16-byte aligned.
extern "C" __global__ void __launch_bounds__(RMSNORM_THREADS_MAX)
    rmsnorm_forward_unaligned_bf16(bf16 *out, float *inv_rms, bf16 *sum, const bf16 *x, const bf16 *delta,
                                   const float *weight, int rows, int cols, float epsilon) {
    forward<false>(out, inv_rms, sum, x, delta, weight, rows, cols, epsilon);
}

template <bool ALIGNED>
__device__ __forceinline__ void backward(bf16 *__restrict__ d_sum, float *__restrict__ d_weight_parts,
                                         const bf16 *__restrict__ d_out, const bf16 *__restrict__ sum,
                                         const float *__restrict__ inv_rms, const float *__restrict__ weight, int rows,
                                         int cols, int overwrite) {
    extern __shared__ float4 dynamic[];  // first a SharedRow of the weight, then one of d_weight for each row group
    const SharedRow shared(reinterpret_cast<float *>(dynamic), cols);
    __shared__ float partial[2][WARPS_MAX];
    float scale[CHUNKS][CHUNK], d_scale[CHUNKS][CHUNK] = {};
    load_weight<ALIGNED>(scale, shared, weight, cols);
    int current = 0;
    for (int first = blockIdx.x * blockDim.y; first < rows; first += gridDim.x * blockDim.y, current ^= 1) {
        const int row = first + threadIdx.y;
        const int width = row < rows ? cols : 0;
        const size_t start = static_cast<size_t>(row) * cols;
        const float inverse = width > 0 ? inv_rms[row] : 0.0f;
        Chunk gradient[CHUNKS], value[CHUNKS];
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            gradient[c] = load_chunk<ALIGNED>(d_out + start + column(c), width - column(c));
            value[c] = load_chunk<ALIGNED>(sum + start + column(c), width - column(c));
        }
        float product = 0.0f;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
            for (int i = 0; i < CHUNK / 2; i++) {
                product = fmaf(low(gradient[c].pair[i]) * scale[c][2 * i], low(value[c].pair[i]), product);
                product = fmaf(high(gradient[c].pair[i]) * scale[c][2 * i + 1], high(value[c].pair[i]), product);
            }
        }
        // mean(g * n) * n with n = sum * inverse, folded into one factor of sum.
        const float factor = row_sum(product, partial[current]) * inverse * inverse * inverse / cols;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            Chunk result{};
            if (!overwrite) result = load_chunk<ALIGNED>(d_sum + start + column(c), width - column(c));
#pragma unroll
            for (int i = 0; i < CHUNK / 2; i++) {
                const float lower = low(gradient[c].pair[i]), upper = high(gradient[c].pair[i]);
                const float x_lower = low(value[c].pair[i]), x_upper = high(value[c].pair[i]);
                d_scale[c][2 * i] += lower * x_lower * inverse;
                d_scale[c][2 * i + 1] += upper * x_upper * inverse;
                result.pair[i] = pack(low(result.pair[i]) + (inverse * lower * scale[c][2 * i] - factor * x_lower),
                                      high(result.pair[i]) + (inverse * upper * scale[c][2 * i + 1] - factor * x_upper));
            }
            store_chunk<ALIGNED>(d_sum + start + column(c), result, width - column(c));
        }
    }
    if (d_weight_parts == nullptr) return;
    __syncthreads();  // all have read the weight
    const SharedRow own(shared.start + threadIdx.y * shared.floats(), cols);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        if (column(c) < cols) own.store(d_scale[c], column(c));
    }
    __syncthreads();
    for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < cols; i += blockDim.x * blockDim.y) {
        float part = 0.0f;
        for (int group = 0; group < blockDim.y; group++) {
            part += SharedRow(shared.start + group * shared.floats(), cols).at(i);
        }
        d_weight_parts[static_cast<size_t>(blockIdx.x) * cols + i] = part;
    }
}

// `d_weight_parts` [gridDim.x, cols] f32 receives each block's sum over its rows; null for a frozen weight.
extern "C" __global__ void __launch_bounds__(RMSNORM_THREADS_MAX, 2)
    rmsnorm_backward_bf16(bf16 *d_sum, float *d_weight_parts, const bf16 *d_out, const bf16 *sum, const float *inv_rms,
                          const float *weight, int rows, int cols, int overwrite) {
    backward<true>(d_sum, d_weight_parts, d_out, sum, inv_rms, weight, rows, cols, overwrite);
}

extern "C" __global__ void __launch_bounds__(RMSNORM_THREADS_MAX)
    rmsnorm_backward_unaligned_bf16(bf16 *d_sum, float *d_weight_parts, const bf16 *d_out, const bf16 *sum,
                                    const float *inv_rms, const float *weight, int rows, int cols, int overwrite) {
    backward<false>(d_sum, d_weight_parts, d_out, sum, inv_rms, weight, rows, cols, overwrite);
}

// Columns and groups of parts of a block of rmsnorm_backward_weight_f32.
EXPORT(unsigned, RMSNORM_WEIGHT_COLS, 32);
EXPORT(unsigned, RMSNORM_WEIGHT_GROUPS, 8);

// d_weight[cols] += sum over parts of d_weight_parts[parts, cols]. Block (RMSNORM_WEIGHT_COLS, RMSNORM_WEIGHT_GROUPS).
extern "C" __global__ void __launch_bounds__(RMSNORM_WEIGHT_COLS *RMSNORM_WEIGHT_GROUPS)
    rmsnorm_backward_weight_f32(float *__restrict__ d_weight, const float *__restrict__ d_weight_parts, int parts, int cols) {
    __shared__ float sums[RMSNORM_WEIGHT_GROUPS][RMSNORM_WEIGHT_COLS];
    const int col = blockIdx.x * RMSNORM_WEIGHT_COLS + threadIdx.x;
    float sum = 0.0f;
    if (col < cols) {
        for (int part = threadIdx.y; part < parts; part += RMSNORM_WEIGHT_GROUPS) {
            sum += d_weight_parts[static_cast<size_t>(part) * cols + col];
        }
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && col < cols) {
        float total = 0.0f;
        for (int group = 0; group < RMSNORM_WEIGHT_GROUPS; group++) total += sums[group][threadIdx.x];
        d_weight[col] += total;
    }
}
