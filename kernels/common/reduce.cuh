// Sums over the threads of a warp and of a row of warps, in a fixed order.
#pragma once

constexpr int WARP = 32;
constexpr unsigned FULL = 0xffffffffu;

// Every lane gets the sum, the same bits in each: a butterfly adds the same pairs on both sides.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(FULL, value, distance);
    return value;
}

// Sum over the threads that share threadIdx.y, of a block whose blockDim.x is a multiple of a warp. All threads of the
// block must call it. `partial` (shared) has a float for each warp of the block; the next call must pass another one, so
// that one barrier a call is enough: a slow warp may still read this one.
__device__ __forceinline__ float row_sum(float value, float *partial) {
    value = warp_sum(value);
    const int warps = blockDim.x / WARP;
    if (warps == 1) return value;  // the same for the whole block
    if (threadIdx.x % WARP == 0) partial[threadIdx.y * warps + threadIdx.x / WARP] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < warps; warp++) sum += partial[threadIdx.y * warps + warp];
    return sum;
}
