// SwiGLU and its gradient: out = silu(gate) * up, with gate and up side by side in one row.
//
//   s = 1 / (1 + exp(-gate));  out = gate * s * up
//   d_gate = d_out * up * s * (1 + gate * (1 - s));  d_up = d_out * gate * s
//
// Shapes: out, d_out [rows, cols] bf16; gate_up, d_gate_up [rows, 2 * cols] bf16: gate, then up.
// Precision: bf16 in memory, f32 in registers, one rounding of each result. exp within 2 ulp. NaN and infinity follow IEEE
// arithmetic: silu(-inf) is NaN (-inf * 0), as on the CPU.
//
// Floor in bytes, with S = 2 * rows * cols: forward 3 S, backward 5 S. Nothing is moved beyond it: every element is read or
// written once, sixteen bytes at a time if rows are 16-byte aligned.
// No sums: a result depends on its own gate, up and gradient alone.

#include "common/bf16.cuh"
#include "common/export.cuh"

EXPORT(unsigned, SWIGLU_THREADS, 256);

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float silu_up(float gate, float up) { return gate * sigmoid(gate) * up; }

// d_gate and d_up.
__device__ __forceinline__ float2 gradients(float gate, float up, float d_out) {
    const float s = sigmoid(gate);
    return make_float2(d_out * up * s * (1.0f + gate * (1.0f - s)), d_out * gate * s);
}

// Loops over the chunks of a matrix of `cols` columns: (row, first column).
template <typename Body>
__device__ __forceinline__ void each_chunk(int rows, int cols, Body body) {
    const int across = (cols + CHUNK - 1) / CHUNK;
    const long long chunks = static_cast<long long>(rows) * across;
    const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < chunks; i += stride) {
        const int row = static_cast<int>(i / across);
        body(row, static_cast<int>(i - static_cast<long long>(row) * across) * CHUNK);
    }
}

template <bool ALIGNED>
__device__ __forceinline__ void forward(bf16 *__restrict__ out, const bf16 *__restrict__ gate_up, int rows, int cols) {
    each_chunk(rows, cols, [=](int row, int col) {
        const int left = cols - col;
        const bf16 *from = gate_up + static_cast<size_t>(row) * 2 * cols + col;
        const Chunk gate = load_chunk<ALIGNED>(from, left), up = load_chunk<ALIGNED>(from + cols, left);
        Chunk result;
#pragma unroll
        for (int i = 0; i < CHUNK / 2; i++) {
            result.pair[i] = pack(silu_up(low(gate.pair[i]), low(up.pair[i])), silu_up(high(gate.pair[i]), high(up.pair[i])));
        }
        store_chunk<ALIGNED>(out + static_cast<size_t>(row) * cols + col, result, left);
    });
}

template <bool ALIGNED>
__device__ __forceinline__ void backward(bf16 *__restrict__ d_gate_up, const bf16 *__restrict__ d_out,
                                         const bf16 *__restrict__ gate_up, int rows, int cols) {
    each_chunk(rows, cols, [=](int row, int col) {
        const int left = cols - col;
        const size_t index = static_cast<size_t>(row) * 2 * cols + col;
        const Chunk gate = load_chunk<ALIGNED>(gate_up + index, left);
        const Chunk up = load_chunk<ALIGNED>(gate_up + index + cols, left);
        const Chunk d = load_chunk<ALIGNED>(d_out + static_cast<size_t>(row) * cols + col, left);
        Chunk d_gate, d_up;
#pragma unroll
        for (int i = 0; i < CHUNK / 2; i++) {
            const float2 lower = gradients(low(gate.pair[i]), low(up.pair[i]), low(d.pair[i]));
            const float2 upper = gradients(high(gate.pair[i]), high(up.pair[i]), high(d.pair[i]));
            d_gate.pair[i] = pack(lower.x, upper.x);
            d_up.pair[i] = pack(lower.y, upper.y);
        }
        store_chunk<ALIGNED>(d_gate_up + index, d_gate, left);
        store_chunk<ALIGNED>(d_gate_up + index + cols, d_up, left);
    });
}

extern "C" __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_forward_bf16(bf16 *out, const bf16 *gate_up, int rows, int cols) {
    forward<true>(out, gate_up, rows, cols);
}

// The same for odd widths and for views that are not 16-byte aligned.
extern "C" __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_forward_unaligned_bf16(bf16 *out, const bf16 *gate_up, int rows, int cols) {
    forward<false>(out, gate_up, rows, cols);
}

extern "C" __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_backward_bf16(bf16 *d_gate_up, const bf16 *d_out, const bf16 *gate_up, int rows, int cols) {
    backward<true>(d_gate_up, d_out, gate_up, rows, cols);
}

extern "C" __global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_backward_unaligned_bf16(bf16 *d_gate_up, const bf16 *d_out, const bf16 *gate_up, int rows, int cols) {
    backward<false>(d_gate_up, d_out, gate_up, rows, cols);
}
