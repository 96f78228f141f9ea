// Log-sum-exp and the gradient of its sum over wide rows (a vocabulary), with block reductions in shared memory, in a common
// style. `FAULT name` marks lines; a report for MISTAKE_name must name one of them.
#include <stdint.h>

constexpr int THREADS = 256, WARPS = THREADS / 32;

// A maximum and the sum of exponentials relative to it.
struct Partial {
    float maximum;
    float sum;
};

__device__ __forceinline__ Partial combine(Partial a, Partial b) {
    const float maximum = fmaxf(a.maximum, b.maximum);
    if (maximum == -INFINITY) return {maximum, 0.0f};
    return {maximum, a.sum * __expf(a.maximum - maximum) + b.sum * __expf(b.maximum - maximum)};
}

__device__ __forceinline__ Partial warp_combine(Partial value) {
    for (int distance = 16; distance > 0; distance /= 2) {
        const Partial other = {__shfl_down_sync(0xffffffffu, value.maximum, distance),  // FAULT REDUCTION_IN_A_BRANCH
                               __shfl_down_sync(0xffffffffu, value.sum, distance)};
        value = combine(value, other);
    }
    return value;
}

// All threads get the result. The leading barrier allows repeated calls: threads may still read the last call's result.
__device__ __forceinline__ Partial block_combine(Partial value, Partial *shared) {
    value = warp_combine(value);
#ifndef MISTAKE_NO_LEADING_BARRIER
    __syncthreads();
#endif
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;  // FAULT NO_LEADING_BARRIER
#ifndef MISTAKE_NO_INNER_BARRIER
    __syncthreads();  // FAULT REDUCTION_IN_A_BRANCH
#endif
    Partial total = shared[0];  // FAULT NO_INNER_BARRIER NO_LEADING_BARRIER
    for (int warp = 1; warp < WARPS; warp++) total = combine(total, shared[warp]);  // FAULT NO_INNER_BARRIER NO_LEADING_BARRIER
    return total;
}

// out[row] = log(sum(exp(logits[row, :]))), each block handles several rows.
extern "C" __global__ void __launch_bounds__(THREADS)
    log_sum_exp_f32(float *__restrict__ out, const float *__restrict__ logits, int rows, int cols) {
    __shared__ Partial shared[WARPS];
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const float *from = logits + static_cast<size_t>(row) * cols;
        Partial own = {-INFINITY, 0.0f};
        if (cols % 4 == 0) {
            for (int i = threadIdx.x; i < cols / 4; i += THREADS) {
                const float4 x = reinterpret_cast<const float4 *>(from)[i];
                const float most = fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w));
                const float sum = __expf(x.x - most) + __expf(x.y - most) + __expf(x.z - most) + __expf(x.w - most);
                own = combine(own, {most, sum});
            }
        } else {
#ifdef MISTAKE_BOUND_OFF_BY_ONE
            for (int i = threadIdx.x; i <= cols; i += THREADS) {
#else
            for (int i = threadIdx.x; i < cols; i += THREADS) {
#endif
                own = combine(own, {from[i], 1.0f});  // FAULT BOUND_OFF_BY_ONE
            }
        }
#ifdef MISTAKE_REDUCTION_IN_A_BRANCH
        if (threadIdx.x < 100) own = block_combine(own, shared);
#else
        own = block_combine(own, shared);
#endif
#ifdef MISTAKE_OUTPUT_NOT_WRITTEN
        if (threadIdx.x == 0 && row != 1) out[row] = own.maximum + __logf(own.sum);
#else
        if (threadIdx.x == 0) out[row] = own.maximum + __logf(own.sum);
#endif
    }
}

// d_logits = exp(logits - lse[row]), one thread per element.
extern "C" __global__ void softmax_f32(float *__restrict__ d_logits, const float *__restrict__ logits,
                                       const float *__restrict__ lse, int rows, int cols) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < static_cast<int64_t>(rows) * cols) d_logits[i] = expf(logits[i] - lse[i / cols]);
}
