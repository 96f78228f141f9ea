// One row of logits by one block: the statistics of log-softmax at a temperature. The LM head and the sampler share it, so that
// the same logits give both the same log-probability to the last bit.
//
//   max = max z/T;  ln_sum = ln(sum exp(z/T - max));  entropy = ln_sum - sum exp(d) * d / sum exp(d),  d = z/T - max
//
// One read of the row: each thread keeps its largest value so far and rescales its sums when a larger one comes.
// Order of sums: a thread adds its columns (4 * (thread + ROW_THREADS * j) + c) in four sums, one for each c, then those four,
// the lanes of a warp by a butterfly, and the warps in order: a row's bits depend on its length alone.
// A logit that is NaN or +inf, or a row of -inf alone, makes all three NaN, as on the CPU.
#pragma once
#include <cfloat>

#include "reduce.cuh"

constexpr int ROW_THREADS = 512;
constexpr int ROW_WARPS = ROW_THREADS / WARP;
// Columns that a thread loads at once, and those of the block.
constexpr int FOUR = 4;
constexpr int STRIP = ROW_THREADS * FOUR;
// Loads of a thread in flight at the same time.
constexpr int LOADS = 4;

// A row of logits. It may start anywhere; if it is 16-byte aligned, four columns are one load.
struct Row {
    const float *logits;
    int vocab;
    bool aligned;

    __device__ __forceinline__ Row(const float *logits, int vocab)
        : logits(logits), vocab(vocab), aligned(reinterpret_cast<size_t>(logits) % sizeof(float4) == 0) {}

    // Columns first..first + 3; -inf for those beyond the end.
    __device__ __forceinline__ float4 load(int first) const {
        if (aligned && first + FOUR <= vocab) return *reinterpret_cast<const float4 *>(logits + first);
        float4 four = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
        if (first < vocab) four.x = logits[first];
        if (first + 1 < vocab) four.y = logits[first + 1];
        if (first + 2 < vocab) four.z = logits[first + 2];
        if (first + 3 < vocab) four.w = logits[first + 3];
        return four;
    }

    // Whether the LOADS fours from `strip` on, STRIP columns apart, are vectors inside the row.
    __device__ __forceinline__ bool whole(int strip) const {
        return aligned && strip + (LOADS - 1) * STRIP + FOUR <= vocab;
    }

    // Those fours, all loads in flight at the same time.
    __device__ __forceinline__ void load_span(float4 (&four)[LOADS], int strip) const {
        if (whole(strip)) {
#pragma unroll
            for (int i = 0; i < LOADS; i++) four[i] = *reinterpret_cast<const float4 *>(logits + strip + i * STRIP);
        } else {
#pragma unroll
            for (int i = 0; i < LOADS; i++) four[i] = load(strip + i * STRIP);
        }
    }
};

// e^x for x <= 0 by the hardware's 2^x, within (4 + 1.5 |x|) * 2^-24 of itself: an exponential far below
// the largest logit contributes as little as its error.
__device__ __forceinline__ float exp_below(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x * 1.44269504f));
    return result;
}

// z/T. The rounding is explicit: with a fused multiply-add the maximum would be of other numbers than on the CPU.
__device__ __forceinline__ float scaled(float logit, float inverse_temperature) {
    return __fmul_rn(logit, inverse_temperature);
}

struct RowStats {
    float max;
    float ln_sum;
    float entropy;

    // Of a scaled logit of this row. The difference to the largest first, so that likely tokens keep their digits.
    __device__ __forceinline__ float logprob(float value) const { return (value - max) - ln_sum; }
    __device__ __forceinline__ bool is_nan() const { return isnan(ln_sum); }
};

// sum exp(d) and sum exp(d) * d of the values so far, d = value - max.
struct OnlineSum {
    float sum;
    float weighted;

    __device__ __forceinline__ void add(float difference) {
        const float e = exp_below(difference);
        sum += e;
        // A logit of -inf must add 0, not 0 * inf; below -87.3, e is 0 or nearly.
        weighted = fmaf(e, fmaxf(difference, -87.3f), weighted);
    }

    // Rescales as if the largest value were larger by `step`. Sums that are 0 or NaN do not change.
    __device__ __forceinline__ void rescale(float step) {
        if (!(sum > 0.0f)) return;
        const float factor = exp_below(-step);
        weighted = factor > 0.0f ? factor * fmaf(-step, sum, weighted) : 0.0f;
        sum *= factor;
    }

    __device__ __forceinline__ OnlineSum operator+(const OnlineSum &other) const {
        return {sum + other.sum, weighted + other.weighted};
    }
};

// A thread's part of a row.
struct OnlineRow {
    // Below all finite logits; not -inf, whose difference to itself is NaN.
    float max = -FLT_MAX;
    OnlineSum sums[FOUR] = {};

    __device__ __forceinline__ void raise(float largest) {
        if (!(largest > max)) return;
#pragma unroll
        for (int c = 0; c < FOUR; c++) sums[c].rescale(largest - max);
        max = largest;
    }

    __device__ __forceinline__ void add(const float4 &four, float inverse_temperature) {
        const float x = scaled(four.x, inverse_temperature), y = scaled(four.y, inverse_temperature);
        const float z = scaled(four.z, inverse_temperature), w = scaled(four.w, inverse_temperature);
        raise(fmaxf(fmaxf(x, y), fmaxf(z, w)));
        sums[0].add(x - max);
        sums[1].add(y - max);
        sums[2].add(z - max);
        sums[3].add(w - max);
    }
};

// Called by all ROW_THREADS threads of the block, once a launch.
__device__ __forceinline__ RowStats row_stats(const Row &row, float inverse_temperature) {
    __shared__ float warp_max[ROW_WARPS];
    __shared__ OnlineSum warp_sums[ROW_WARPS];
    OnlineRow part;
    for (int strip = threadIdx.x * FOUR; strip < row.vocab; strip += LOADS * STRIP) {
        float4 four[LOADS];
        row.load_span(four, strip);
#pragma unroll
        for (int i = 0; i < LOADS; i++) part.add(four[i], inverse_temperature);
    }
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float max = part.max;
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) max = fmaxf(max, __shfl_xor_sync(FULL, max, distance));
    if (lane == 0) warp_max[warp] = max;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < ROW_WARPS; w++) max = fmaxf(max, warp_max[w]);
    part.raise(max);
    OnlineSum sums = (part.sums[0] + part.sums[1]) + (part.sums[2] + part.sums[3]);
    sums.sum = warp_sum(sums.sum);
    sums.weighted = warp_sum(sums.weighted);
    if (lane == 0) warp_sums[warp] = sums;
    __syncthreads();
    OnlineSum total = warp_sums[0];
#pragma unroll
    for (int w = 1; w < ROW_WARPS; w++) total = total + warp_sums[w];
    // All -inf: no token has a probability.
    if (total.sum == 0.0f) total.sum = NAN;
    const float ln_sum = logf(total.sum);
    return {total.sum > 0.0f ? max : NAN, ln_sum, ln_sum - total.weighted / total.sum};
}
