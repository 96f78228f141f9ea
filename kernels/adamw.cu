// AdamW (Loshchilov & Hutter, 2019), decoupled weight decay: all tensors of a model in one launch, with clipping, and with the
// bf16 copies of the matrices that matmuls read.
//
//   scale = clip_norm > 0 ? min(1, clip_norm / (norm + 1e-6)) : 1;  keep = 1 - lr * weight_decay
//   g = gradient * scale;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   w = w * keep - step_size * m / (sqrt(v) * inverse_root_correction + epsilon);  copy = bf16(w)
//
// with step_size = lr / (1 - beta1^t), inverse_root_correction = 1 / sqrt(1 - beta2^t), computed in f64 by the launcher:
// 1 - beta2^t loses digits in f32 for small t. `scale` and `keep` are computed in f64 here, because the host does not know
// the norm yet: it reads it after all launches. If the norm is not finite, nothing is written.
//
// Shapes: weight, moment1, moment2, gradient [arena] f32, norm [1] f64, tensors [tensors], each with its own range of the
// arena; elements outside all ranges are not touched. A copy has its tensor's elements, bf16.
// Precision: f32, in the CPU's order of operations with its fused multiply-adds and correctly rounded root and quotient, so both
// backends give the same bits; the copy is rounded to nearest even, as in linear_prepare_bf16.
//
// Floor in bytes: 28 a parameter (read four, write three), 30 with a copy: the weights are not read again for it.
// Beyond it: the norm and a row of the table (40 bytes) a block of ADAMW_BLOCK_ELEMENTS, and log2(tensors) words for finding that
// row.
// Work: a block has up to ADAMW_BLOCK_ELEMENTS elements of one tensor. No sums over elements.

#include "common/bf16.cuh"
#include "common/export.cuh"

EXPORT(unsigned, ADAMW_THREADS, 256);
EXPORT(unsigned, ADAMW_BLOCK_ELEMENTS, 16384);

// A row of the launcher's table. Rows ascend in `start` and in `first_block`, and none has `len` 0.
struct Tensor {
    size_t start;          // in the arena
    size_t len;
    bf16 *copy;            // 8-byte aligned; null if matmuls do not read this tensor
    unsigned first_block;  // blocks of the tensors before it
    float weight_decay;
};
static_assert(sizeof(Tensor) == 32, "the launcher writes eight words a row");

// The work of a block.
struct Share {
    size_t start;  // in the arena
    bf16 *copy;
    int len;
    bool finite;
    float scale, keep;
};

struct Constants {
    float beta1, beta2, step_size, inverse_root_correction, epsilon;
};

// The last row whose first block is not beyond this one.
__device__ __forceinline__ Tensor own_tensor(const Tensor *tensors, int count) {
    int low = 0, high = count - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (tensors[middle].first_block <= blockIdx.x) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return tensors[low];
}

// Called by one thread for its block, because not all threads need to repeat f64 divisions and dependent loads.
__device__ __forceinline__ Share own_share(const Tensor *tensors, int count, double norm, double clip_norm, float learning_rate) {
    const Tensor tensor = own_tensor(tensors, count);
    const size_t first = static_cast<size_t>(blockIdx.x - tensor.first_block) * ADAMW_BLOCK_ELEMENTS;
    const double scale = clip_norm > 0.0 ? fmin(__ddiv_rn(clip_norm, __dadd_rn(norm, 1e-6)), 1.0) : 1.0;
    // The product of two floats is exact in f64.
    const double keep = __dsub_rn(1.0, __dmul_rn(learning_rate, tensor.weight_decay));
    Share share;
    share.start = tensor.start + first;
    share.copy = tensor.copy ? tensor.copy + first : nullptr;
    share.len = static_cast<int>(min(tensor.len - first, static_cast<size_t>(ADAMW_BLOCK_ELEMENTS)));
    share.finite = isfinite(norm);
    share.scale = __double2float_rn(scale);
    share.keep = __double2float_rn(keep);
    return share;
}

__device__ __forceinline__ void update(float &w, float &m, float &v, float gradient, const Share &share, const Constants &c) {
    const float g = __fmul_rn(gradient, share.scale);
    m = __fmaf_rn(c.beta1, m, __fmul_rn(1.0f - c.beta1, g));
    v = __fmaf_rn(c.beta2, v, __fmul_rn(1.0f - c.beta2, __fmul_rn(g, g)));
    const float root = __fmaf_rn(__fsqrt_rn(v), c.inverse_root_correction, c.epsilon);
    const float step = __fmul_rn(-c.step_size, __fdiv_rn(m, root));
    w = __fmaf_rn(w, share.keep, step);
}

// Whether four floats can be moved at once.
__device__ __forceinline__ bool in_fours(const float *address) {
    return reinterpret_cast<size_t>(address) % sizeof(float4) == 0;
}

// Four elements a thread and iteration if the share is 16-byte aligned in all four arrays, otherwise one. In the copy it is
// 8-byte aligned, as four bf16 need: shares begin at multiples of ADAMW_BLOCK_ELEMENTS in their tensor.
extern "C" __global__ void __launch_bounds__(ADAMW_THREADS)
    adamw_f32(float *__restrict__ weight, float *__restrict__ moment1, float *__restrict__ moment2,
              const float *__restrict__ gradient, const Tensor *__restrict__ tensors, int count,
              const double *__restrict__ norm, double clip_norm, float learning_rate, float beta1, float beta2, float step_size,
              float inverse_root_correction, float epsilon) {
    __shared__ Share shared;
    if (threadIdx.x == 0) shared = own_share(tensors, count, *norm, clip_norm, learning_rate);
    __syncthreads();
    const Share share = shared;
    if (!share.finite) return;
    // It comes from shared memory; without this, stores would have to find out which memory it points to.
    __builtin_assume(__isGlobal(share.copy));
    const Constants c{beta1, beta2, step_size, inverse_root_correction, epsilon};
    weight += share.start, moment1 += share.start, moment2 += share.start, gradient += share.start;
    const bool fours = in_fours(weight) && in_fours(moment1) && in_fours(moment2) && in_fours(gradient);
    const int vectors = fours ? share.len / 4 : 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < vectors; i += ADAMW_THREADS) {
        float4 w = reinterpret_cast<float4 *>(weight)[i], m = reinterpret_cast<float4 *>(moment1)[i];
        float4 v = reinterpret_cast<float4 *>(moment2)[i];
        const float4 g = reinterpret_cast<const float4 *>(gradient)[i];
        update(w.x, m.x, v.x, g.x, share, c);
        update(w.y, m.y, v.y, g.y, share, c);
        update(w.z, m.z, v.z, g.z, share, c);
        update(w.w, m.w, v.w, g.w, share, c);
        reinterpret_cast<float4 *>(weight)[i] = w;
        reinterpret_cast<float4 *>(moment1)[i] = m;
        reinterpret_cast<float4 *>(moment2)[i] = v;
        if (share.copy) reinterpret_cast<uint2 *>(share.copy)[i] = make_uint2(pack(w.x, w.y), pack(w.z, w.w));
    }
#pragma unroll 1
    for (int i = vectors * 4 + threadIdx.x; i < share.len; i += ADAMW_THREADS) {
        update(weight[i], moment1[i], moment2[i], gradient[i], share, c);
        if (share.copy) share.copy[i] = __float2bfloat16_rn(weight[i]);
    }
}
