// AdamW on a flat range of parameters (Loshchilov & Hutter, 2019), decoupled weight decay.
//
//   g = gradient * scale;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   w = w * keep - step_size * m / (sqrt(v) * inverse_root_correction + epsilon)
//
// with step_size = lr / (1 - beta1^t), inverse_root_correction = 1 / sqrt(1 - beta2^t), keep = 1 - lr * weight_decay, all taken
// in f64 by the launcher: 1 - beta2^t loses digits in f32 for small t.
//
// Shapes: weight, moment1, moment2, gradient [len] f32. Precision: f32, in the CPU's order of operations with its fused
// multiply-adds and correctly rounded root and quotient, so both backends give the same bits.
//
// Floor in bytes: 28 * len (read four, write three), and nothing is moved beyond it. No sums over elements.

#include "common/export.cuh"

EXPORT(unsigned, ADAMW_THREADS, 256);

struct Constants {
    float scale, beta1, beta2, step_size, inverse_root_correction, epsilon, keep;
};

__device__ __forceinline__ void update(float &w, float &m, float &v, float gradient, const Constants &c) {
    const float g = __fmul_rn(gradient, c.scale);
    m = __fmaf_rn(c.beta1, m, __fmul_rn(1.0f - c.beta1, g));
    v = __fmaf_rn(c.beta2, v, __fmul_rn(1.0f - c.beta2, __fmul_rn(g, g)));
    const float root = __fmaf_rn(__fsqrt_rn(v), c.inverse_root_correction, c.epsilon);
    const float step = __fmul_rn(-c.step_size, __fdiv_rn(m, root));
    w = __fmaf_rn(w, c.keep, step);
}

// Four elements a thread and round where all four arrays lie on 16 bytes (`aligned`), else one.
extern "C" __global__ void __launch_bounds__(ADAMW_THREADS)
    adamw_f32(float *__restrict__ weight, float *__restrict__ moment1, float *__restrict__ moment2,
              const float *__restrict__ gradient, size_t len, int aligned, float scale, float beta1, float beta2,
              float step_size, float inverse_root_correction, float epsilon, float keep) {
    const Constants c{scale, beta1, beta2, step_size, inverse_root_correction, epsilon, keep};
    const size_t first = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
    const size_t vectors = aligned ? len / 4 : 0;
    for (size_t i = first; i < vectors; i += stride) {
        float4 w = reinterpret_cast<float4 *>(weight)[i], m = reinterpret_cast<float4 *>(moment1)[i];
        float4 v = reinterpret_cast<float4 *>(moment2)[i];
        const float4 g = reinterpret_cast<const float4 *>(gradient)[i];
        update(w.x, m.x, v.x, g.x, c);
        update(w.y, m.y, v.y, g.y, c);
        update(w.z, m.z, v.z, g.z, c);
        update(w.w, m.w, v.w, g.w, c);
        reinterpret_cast<float4 *>(weight)[i] = w;
        reinterpret_cast<float4 *>(moment1)[i] = m;
        reinterpret_cast<float4 *>(moment2)[i] = v;
    }
    for (size_t i = vectors * 4 + first; i < len; i += stride) {
        update(weight[i], moment1[i], moment2[i], gradient[i], c);
    }
}
