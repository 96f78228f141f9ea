// Only arithmetic: the speed of the interpreter without memory accesses.

// Eight chains of multiply-adds.
extern "C" __global__ void fma_loop_f32(float *out, int rounds) {
    float chain[8];
    const float x = threadIdx.x * 1e-3f + 0.5f;
#pragma unroll
    for (int i = 0; i < 8; i++) chain[i] = x + i;
#pragma unroll 4
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int i = 0; i < 8; i++) chain[i] = fmaf(chain[i], 0.999f, x);
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += chain[i];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// Integer arithmetic, logic, shifts, comparisons and selections, as in kernels around their memory accesses.
extern "C" __global__ void integer_loop_u32(unsigned *out, int rounds) {
    unsigned a = threadIdx.x, b = blockIdx.x + 7, c = 0x9E3779B9u;
#pragma unroll 4
    for (int round = 0; round < rounds; round++) {
        a = a * c + b;
        b ^= a >> 13;
        c += (b << 7) & 0xffff0fffu;
        a = min(a, b + c);
        b = a > c ? b - a : b + 3u * a;
        c = c | (a & 15u);
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = a ^ b ^ c;
}
