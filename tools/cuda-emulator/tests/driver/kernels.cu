// Kernels for the driver tests. Their PTX is committed, so that the tests do not need nvcc. After a change here:
//   nvcc -ptx -lineinfo -arch=sm_80 kernels.cu   (and shorten the path in the .file line)

extern "C" __global__ void scale(float *values, float factor, unsigned count) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) values[i] *= factor;
}

// No guard: a grid larger than the buffer writes past its end.
extern "C" __global__ void fill(float *values, float factor) {
    values[blockIdx.x * blockDim.x + threadIdx.x] = factor;
}

__device__ unsigned counter = 5;

extern "C" __global__ void count_up(unsigned *seen) {
    seen[0] = atomicAdd(&counter, 1u);
}

extern "C" __global__ void reverse(int *values) {
    extern __shared__ int shared[];
    shared[threadIdx.x] = values[threadIdx.x];
    __syncthreads();
    values[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

struct Meta {
    unsigned factor;
    unsigned long long numbers[3];
    unsigned long long *out;
};

extern "C" __global__ void by_value(Meta meta) {
    meta.out[threadIdx.x] = meta.numbers[threadIdx.x] * meta.factor;
}

extern "C" __global__ void __launch_bounds__(64) trap_if(const int *flag) {
    if (*flag) __trap();
}
