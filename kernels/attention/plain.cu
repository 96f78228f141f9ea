// Attention's forward pass without tensor cores or other optimisations: a reference for the tests, and the file to read first.
//
// The formula, the shapes and the table are those of forward.cu and rows.cuh; DIM is 32 * COLS. A warp is one query and
// one head; it walks over the keys that the query sees with a running maximum, everything in f32 (probabilities are not rounded).
//
// Floor: as forward.cu. K and V are read again by every query and head: 4 * DIM bytes for each pair. Only tests run it.
// Order of sums: a score in each lane over its columns, then over the lanes; the output over the keys one by one.

#include "../common/export.cuh"
#include "../common/reduce.cuh"
#include "../common/bf16.cuh"

EXPORT(unsigned, ATTENTION_PLAIN_COLS_MAX, 4);
constexpr int COLS_MAX = ATTENTION_PLAIN_COLS_MAX;

// The segment that holds a query: segments are in the order of their queries.
__device__ __forceinline__ uint4 find_segment(const uint4 *segments, unsigned query) {
    int index = 0;
    while (query >= segments[index].x + segments[index].y) index++;
    return segments[index];
}

// Grid: queries * q_heads blocks of one warp. `scale` is the contract's.
extern "C" __global__ void __launch_bounds__(WARP)
    attention_plain_bf16(bf16 *out, float *log_sum_exp, const bf16 *q, const bf16 *k_pool, const bf16 *v_pool,
                         const uint4 *segments, const unsigned *key_rows, int q_heads, int kv_heads, int head_dim, float scale) {
    const int lane = threadIdx.x, cols = head_dim / WARP;
    const int query = blockIdx.x / q_heads, head = blockIdx.x % q_heads, kv_head = head / (q_heads / kv_heads);
    const uint4 segment = find_segment(segments, query);
    const int first_query = segment.x, queries = segment.y, first_key = segment.z, keys = segment.w;
    const int sees = keys - queries + (query - first_query) + 1;
    float own[COLS_MAX] = {}, total[COLS_MAX] = {};
    for (int c = 0; c < cols; c++) own[c] = __bfloat162float(q[static_cast<size_t>(blockIdx.x) * head_dim + c * WARP + lane]);
    float max = -INFINITY, sum = 0.0f;
    for (int key = 0; key < sees; key++) {
        const size_t row = (static_cast<size_t>(key_rows[first_key + key]) * kv_heads + kv_head) * head_dim;
        float score = 0.0f;
        for (int c = 0; c < cols; c++) score = fmaf(own[c], __bfloat162float(k_pool[row + c * WARP + lane]), score);
        score = warp_sum(score) * scale;
        const float top = fmaxf(max, score), factor = expf(max - top), p = expf(score - top);
        sum = sum * factor + p;
        for (int c = 0; c < cols; c++) total[c] = total[c] * factor + p * __bfloat162float(v_pool[row + c * WARP + lane]);
        max = top;
    }
    for (int c = 0; c < cols; c++) {
        out[static_cast<size_t>(blockIdx.x) * head_dim + c * WARP + lane] = __float2bfloat16_rn(total[c] / sum);
    }
    if (lane == 0) log_sum_exp[blockIdx.x] = max + logf(sum);
}
