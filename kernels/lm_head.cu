// The losses of the LM head: log-probability, entropy and loss of each row of a chunk of logits, and their gradient in the
// logits' memory. The matmuls before and after are cuBLASLt's; rows of `hidden` are gathered and scattered for them here.
//
//   logprob = log softmax(z/T)[target];  loss = -logprob, or with r = exp(logprob - old) and d = reference - logprob
//   (without `old` r = 1: old is this logprob itself, as a constant; without `reference` d = 0)
//   loss = -sum over two A of min(r * A, clip(r, ratio_min, ratio_max) * A) + kl_coefficient * KL
//   KL: k1 -d, k2 d^2 / 2, k3 e^d - d - 1
//   d_logits = row_weight * dloss/dlogprob * (onehot(target) - softmax(z/T)) / T
//
// Shapes: logits [chunk rows, vocab] f32; logprob, entropy, loss, targets, row_weight, old, reference [selected], advantages
// [selected, 2], the chunk's beginning at `first`; d_logits bf16: each row at the start of its own logits' memory, so rows
// are 2 * vocab elements apart.
// Precision: f32, rounded once to bf16. Order of sums: common/log_softmax.cuh; a row's bits depend on the row alone.
// A logit that is NaN or +inf makes logprob, entropy, loss and gradient of its row NaN, and so does a target outside the
// vocabulary. A row of weight 0 has gradient 0 for any loss.
//
// Floor in bytes: 4 * vocab a row to score it, 10 * vocab with its gradient: two reads, because a row is larger than shared
// memory, and one write. Beyond it, only about 100 bytes of numbers a row. A row of weight 0 is not read again.

#include "common/bf16.cuh"
#include "common/export.cuh"
#include "common/log_softmax.cuh"

EXPORT(unsigned, LM_HEAD_LOSS_THREADS, ROW_THREADS);
// Columns are counted in `int`, a few strips beyond the last.
EXPORT(unsigned, LM_HEAD_VOCAB_MAX, 1u << 30);
// Values of `kl`.
EXPORT(unsigned, LM_HEAD_KL_K1, 1);
EXPORT(unsigned, LM_HEAD_KL_K2, 2);
EXPORT(unsigned, LM_HEAD_KL_K3, 3);

// A loss and its derivative with respect to the log-probability.
struct Loss {
    float value;
    float slope;
};

__device__ __forceinline__ Loss kl_loss(unsigned kl, float d) {
    if (kl == LM_HEAD_KL_K1) return {-d, 1.0f};
    if (kl == LM_HEAD_KL_K2) return {0.5f * d * d, -d};
    const float growth = expm1f(d);
    return {growth - d, -growth};
}

struct Grpo {
    float ratio_min;
    float ratio_max;
    unsigned kl;
    float kl_coefficient;
};

// min(r * A, clip(r) * A), and its derivative with respect to log r.
__device__ __forceinline__ Loss surrogate(float ratio, float clipped, float advantage) {
    const float plain = ratio * advantage, capped = clipped * advantage;
    // If the clipped branch is the smaller one, the token has no gradient through the ratio.
    return plain <= capped ? Loss{plain, plain} : Loss{capped, 0.0f};
}

__device__ __forceinline__ Loss grpo_loss(const Grpo &grpo, float logprob, float old, float reference, float2 advantages) {
    const float ratio = expf(logprob - old);
    // Not fminf and fmaxf: these would replace a NaN ratio by a bound.
    const float clipped = ratio < grpo.ratio_min ? grpo.ratio_min : ratio > grpo.ratio_max ? grpo.ratio_max : ratio;
    const Loss a = surrogate(ratio, clipped, advantages.x), b = surrogate(ratio, clipped, advantages.y);
    const Loss kl = kl_loss(grpo.kl, reference - logprob);
    return {fmaf(grpo.kl_coefficient, kl.value, -(a.value + b.value)),
            fmaf(grpo.kl_coefficient, kl.slope, -(a.slope + b.slope))};
}

// Stores four elements of a gradient, or fewer at the end of the row.
__device__ __forceinline__ void store_four(bf16 *row, int first, const float4 &four, int vocab, bool whole) {
    const unsigned pairs[2] = {pack(four.x, four.y), pack(four.z, four.w)};
    if (whole) {
        *reinterpret_cast<uint2 *>(row + first) = make_uint2(pairs[0], pairs[1]);
        return;
    }
#pragma unroll
    for (int c = 0; c < FOUR; c++) {
        const unsigned pair = pairs[c / 2];
        const unsigned short bits = static_cast<unsigned short>(c % 2 ? pair >> 16 : pair & 0xffffu);
        if (first + c < vocab) row[first + c] = __ushort_as_bfloat16(bits);
    }
}

// factor * (onehot(target) - softmax(z/T)) of four logits, the first of which is column `first`.
__device__ __forceinline__ float4 gradient_of(const float4 &four, const RowStats &stats, int first, int target,
                                              float inverse_temperature, float factor) {
    float values[FOUR] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int c = 0; c < FOUR; c++) {
        values[c] = -factor * exp_below(stats.logprob(scaled(values[c], inverse_temperature)));
    }
    if (static_cast<unsigned>(target - first) < FOUR) {
#pragma unroll
        for (int c = 0; c < FOUR; c++) values[c] += first + c == target ? factor : 0.0f;
    }
    return make_float4(values[0], values[1], values[2], values[3]);
}

// Each logit becomes factor * (onehot(target) - softmax(z/T)), as bf16 at the start of the row's memory.
//
// Span s of the gradient overwrites spans s/2 and below of the logits, so no thread may write it before all threads have read
// those. A barrier between reading and writing spans 0, 1, 2, 4, 8 ... ensures that, when span s is written, all have read at
// least the spans up to s/2.
__device__ __forceinline__ void write_gradient(float *logits, const Row &row, const RowStats &stats, int target,
                                               float inverse_temperature, float factor) {
    bf16 *const gradient = reinterpret_cast<bf16 *>(logits);
    const int spans = (row.vocab + LOADS * STRIP - 1) / (LOADS * STRIP);
#pragma unroll 1
    for (int span = 0; span < spans; span++) {
        const int strip = span * LOADS * STRIP + threadIdx.x * FOUR;
        float4 four[LOADS] = {};
        if (factor != 0.0f) row.load_span(four, strip);
        if ((span & (span - 1)) == 0) __syncthreads();
        const bool whole = row.whole(strip);
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            const int first = strip + i * STRIP;
            if (factor != 0.0f) four[i] = gradient_of(four[i], stats, first, target, inverse_temperature, factor);
            store_four(gradient, first, four[i], row.vocab, whole || (row.aligned && first + FOUR <= row.vocab));
        }
    }
}

// One block of ROW_THREADS threads for each row of the chunk. `row_weight` null: no gradient. `advantages` null: cross-entropy.
// `old` or `reference` null: this row's own log-probability.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, 3)
    lm_head_loss_f32(float *logprob, float *entropy, float *loss, float *logits, const unsigned *targets,
                  const float *row_weight, const float *old, const float *reference, const float *advantages, int first,
                  int vocab, float inverse_temperature, float ratio_min, float ratio_max, unsigned kl,
                  float kl_coefficient) {
    float *const own = logits + static_cast<size_t>(blockIdx.x) * vocab;
    const Row row(own, vocab);
    const size_t index = static_cast<size_t>(first) + blockIdx.x;
    RowStats stats = row_stats(row, inverse_temperature);
    unsigned target = targets[index];
    if (target >= vocab) {
        target = 0;
        stats = {NAN, NAN, NAN};
    }
    const float chosen = stats.logprob(scaled(own[target], inverse_temperature));
    Loss result = {-chosen, -1.0f};
    if (advantages != nullptr) {
        const Grpo grpo = {ratio_min, ratio_max, kl, kl_coefficient};
        const float2 both = make_float2(advantages[2 * index], advantages[2 * index + 1]);
        result = grpo_loss(grpo, chosen, old != nullptr ? old[index] : chosen,
                           reference != nullptr ? reference[index] : chosen, both);
    }
    if (threadIdx.x == 0) {
        logprob[index] = chosen;
        entropy[index] = stats.entropy;
        loss[index] = result.value;
    }
    if (row_weight == nullptr) return;
    const float weight = row_weight[index];
    // A masked row has no gradient, even if its loss is not finite.
    const float factor = weight == 0.0f ? 0.0f : weight * result.slope * inverse_temperature;
    write_gradient(own, row, stats, target, inverse_temperature, factor);
}

EXPORT(unsigned, LM_HEAD_COPY_THREADS, 128);

// Whether selected row `index` exists and, with `ascending`, is written by one block alone.
__device__ __forceinline__ bool is_row(const unsigned *rows, int index, int tokens, int ascending) {
    return rows[index] < tokens && (!ascending || index == 0 || rows[index - 1] < rows[index]);
}

__device__ __forceinline__ void copy_row(bf16 *__restrict__ to, const bf16 *__restrict__ from, int width) {
    const bool aligned = (reinterpret_cast<size_t>(to) | reinterpret_cast<size_t>(from)) % sizeof(uint4) == 0;
    const int chunks = aligned ? width / CHUNK : 0;
    for (int i = threadIdx.x; i < chunks; i += LM_HEAD_COPY_THREADS) {
        reinterpret_cast<uint4 *>(to)[i] = reinterpret_cast<const uint4 *>(from)[i];
    }
    for (int i = chunks * CHUNK + threadIdx.x; i < width; i += LM_HEAD_COPY_THREADS) to[i] = from[i];
}

// gathered[i] = hidden[rows[first + i]], a block for each row; NaN for a row that does not exist, or with `ascending` is out of
// order, so that the mistake shows in every result. Moves the floor: 4 * width bytes a row.
extern "C" __global__ void __launch_bounds__(LM_HEAD_COPY_THREADS)
    lm_head_gather_bf16(bf16 *gathered, const bf16 *hidden, const unsigned *rows, int first, int tokens, int width,
                     int ascending) {
    const int index = first + blockIdx.x;
    bf16 *const to = gathered + static_cast<size_t>(blockIdx.x) * width;
    if (is_row(rows, index, tokens, ascending)) {
        copy_row(to, hidden + static_cast<size_t>(rows[index]) * width, width);
    } else {
        for (int i = threadIdx.x; i < width; i += LM_HEAD_COPY_THREADS) to[i] = __ushort_as_bfloat16(0x7fff);
    }
}

// d_hidden[rows[first + i]] = gathered[i], a block for each row; rows that do not exist or are out of order are skipped.
extern "C" __global__ void __launch_bounds__(LM_HEAD_COPY_THREADS)
    lm_head_scatter_bf16(bf16 *d_hidden, const bf16 *gathered, const unsigned *rows, int first, int tokens, int width) {
    const int index = first + blockIdx.x;
    if (!is_row(rows, index, tokens, true)) return;
    copy_row(d_hidden + static_cast<size_t>(rows[index]) * width, gathered + static_cast<size_t>(blockIdx.x) * width, width);
}
