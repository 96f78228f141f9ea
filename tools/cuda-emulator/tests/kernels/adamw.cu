// AdamW over a flat array, four parameters per thread, with a bf16 copy of the weights, in a common style. `FAULT name` marks
// lines; a report for MISTAKE_name must name one of them.
#include <cuda_bf16.h>

struct Adam {
    float learning_rate;
    float beta1;
    float beta2;
    float epsilon;
    float weight_decay;
    // 1 - beta^step
    float correction1;
    float correction2;
};

__device__ __forceinline__ float step(float weight, float gradient, float &m, float &v, const Adam &adam) {
    m = adam.beta1 * m + (1.0f - adam.beta1) * gradient;
    v = adam.beta2 * v + (1.0f - adam.beta2) * gradient * gradient;
    const float update = (m / adam.correction1) / (sqrtf(v / adam.correction2) + adam.epsilon);
    return weight - adam.learning_rate * (update + adam.weight_decay * weight);
}

extern "C" __global__ void __launch_bounds__(256)
    adamw_f32(float *__restrict__ weights, __nv_bfloat16 *__restrict__ copy, float *__restrict__ m, float *__restrict__ v,
              const float *__restrict__ gradients, int count, Adam adam) {
    const int i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i + 3 < count) {
        float4 weight = *reinterpret_cast<float4 *>(weights + i);
        float4 m4 = *reinterpret_cast<float4 *>(m + i), v4 = *reinterpret_cast<float4 *>(v + i);
        const float4 gradient = *reinterpret_cast<const float4 *>(gradients + i);
        weight.x = step(weight.x, gradient.x, m4.x, v4.x, adam);
        weight.y = step(weight.y, gradient.y, m4.y, v4.y, adam);
        weight.z = step(weight.z, gradient.z, m4.z, v4.z, adam);
        weight.w = step(weight.w, gradient.w, m4.w, v4.w, adam);
        *reinterpret_cast<float4 *>(weights + i) = weight;
        *reinterpret_cast<float4 *>(m + i) = m4;
        *reinterpret_cast<float4 *>(v + i) = v4;
        reinterpret_cast<__nv_bfloat162 *>(copy + i)[0] = __floats2bfloat162_rn(weight.x, weight.y);
        reinterpret_cast<__nv_bfloat162 *>(copy + i)[1] = __floats2bfloat162_rn(weight.z, weight.w);
        return;
    }
#ifdef MISTAKE_UNGUARDED_TAIL
    for (int j = i; j < i + 4; j++) {
#else
    for (int j = i; j < count; j++) {
#endif
        float m1 = j < count ? m[j] : 0.0f, v1 = j < count ? v[j] : 0.0f;
        const float weight = step(j < count ? weights[j] : 0.0f, j < count ? gradients[j] : 0.0f, m1, v1, adam);
        weights[j] = weight;  // FAULT UNGUARDED_TAIL
        m[j] = m1;  // FAULT UNGUARDED_TAIL
        v[j] = v1;  // FAULT UNGUARDED_TAIL
        copy[j] = __float2bfloat16_rn(weight);  // FAULT UNGUARDED_TAIL
    }
}

// Sum of squares of the gradients in f64, by atomics: the order, and therefore the last bits, are unspecified.
extern "C" __global__ void square_sum_f64(double *sum, const float *__restrict__ gradients, int count) {
    double own = 0.0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        own += static_cast<double>(gradients[i]) * gradients[i];
    }
    for (int distance = 16; distance > 0; distance /= 2) own += __shfl_xor_sync(0xffffffffu, own, distance);
#ifdef MISTAKE_NO_ATOMIC
    if (threadIdx.x % 32 == 0) *sum += own;  // FAULT NO_ATOMIC
#else
    if (threadIdx.x % 32 == 0) atomicAdd(sum, own);
#endif
}
