// The copy of a master weight that matmuls read: f32 rounded to bf16, to nearest even.
//
// Shapes: weight [len] bf16, master [len] f32. NaN stays NaN; numbers too large for bf16 become infinity.
// Floor in bytes: 6 * len (read 4, write 2), and nothing is moved beyond it. The matmuls themselves are cuBLASLt's.

#include "common/bf16.cuh"
#include "common/export.cuh"

EXPORT(unsigned, LINEAR_PREPARE_THREADS, 256);

// Eight elements a thread and iteration. `master` is 16-byte aligned.
extern "C" __global__ void __launch_bounds__(LINEAR_PREPARE_THREADS)
    linear_prepare_bf16(bf16 *__restrict__ weight, const float *__restrict__ master, size_t len) {
    const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x * CHUNK;
    for (size_t i = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * CHUNK; i < len; i += stride) {
        if (i + CHUNK <= len) {
            const float4 a = *reinterpret_cast<const float4 *>(master + i);
            const float4 b = *reinterpret_cast<const float4 *>(master + i + 4);
            *reinterpret_cast<uint4 *>(weight + i) =
                make_uint4(pack(a.x, a.y), pack(a.z, a.w), pack(b.x, b.y), pack(b.z, b.w));
        } else {
            for (size_t rest = i; rest < len; rest++) weight[rest] = __float2bfloat16_rn(master[rest]);
        }
    }
}
