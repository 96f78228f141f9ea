// Scores of the judgements of many pairs -> means, margins, Preference-Aware Rewards, rewards and advantages, in one launch.
//
// The formulas are those of the contract (src/ops/score_margin.rs), and the arithmetic is that of the CPU twin to the last
// bit: scores count as whole thousandths and their sums are 64-bit integers; sums of rewards and of squared deviations are
// f64 sums of sorted values, one after the other, with no multiply-add where the CPU has none.
//
// Shapes: scores, state, penalty, delta, par, reward, advantage [pairs, 2, n]; means, valid_count [pairs, 2]; n <= 64.
// A pair is 128 threads: thread t % 64 is the rollout, t / 64 the side. A block works on blockDim.x / 128 pairs at a time.
// Advantages over the whole batch (NORM_BATCH) need all rewards first: the launcher then starts one block.
//
// Floor in bytes: 28 for a slot (read scores, state, penalty; write delta, par, reward, advantage) and 8 for a side.

#include "common/export.cuh"
#include "common/order.cuh"
#include "common/reduce.cuh"

EXPORT(unsigned, SCORE_MARGIN_ROLLOUTS_MAX, 64);
EXPORT(unsigned, SCORE_MARGIN_THREADS_PER_PAIR, 128);
EXPORT(unsigned, SCORE_MARGIN_THREADS_MAX, 1024);
static_assert(SCORE_MARGIN_THREADS_PER_PAIR == 2 * SCORE_MARGIN_ROLLOUTS_MAX, "a thread for each slot of a pair");
constexpr int SIDE = SCORE_MARGIN_ROLLOUTS_MAX;
constexpr int SIDES_MAX = SCORE_MARGIN_THREADS_MAX / SIDE;
constexpr int WARPS_PER_SIDE = SIDE / WARP;

// Values of `state`, `margin` and `norm`: the contract's.
EXPORT(unsigned, SCORE_MARGIN_ABSENT, 0);
EXPORT(unsigned, SCORE_MARGIN_VALID, 2);
EXPORT(unsigned, SCORE_MARGIN_OF_ROLLOUT, 0);
EXPORT(unsigned, SCORE_MARGIN_OF_PAIR, 1);
EXPORT(unsigned, SCORE_MARGIN_OF_PREFERENCE, 2);
EXPORT(unsigned, SCORE_MARGIN_NORM_GROUP, 0);
EXPORT(unsigned, SCORE_MARGIN_NORM_BATCH, 1);
EXPORT(unsigned, SCORE_MARGIN_NORM_NONE, 2);
// Scores beyond this count as this.
EXPORT(float, SCORE_MARGIN_SCORE_MAX, 1e6f);

// A score as a whole number of thousandths, halves away from zero; 0 for NaN.
__device__ long long thousandths(float score) {
    if (isnan(score)) return 0;
    const float clamped = fminf(fmaxf(score, -SCORE_MARGIN_SCORE_MAX), SCORE_MARGIN_SCORE_MAX);
    return llround(static_cast<double>(clamped) * 1000.0);
}

// A margin times 1000 * count, so that it is a whole number.
struct Scaled {
    long long sum;
    long long count;
};

__device__ double value(const Scaled &margin) {
    return static_cast<double>(margin.sum) / (1000.0 * static_cast<double>(margin.count));
}

// Key of a slot without a reward: sorts after all rewards.
constexpr unsigned LAST = 0xffffffffu;

// Sorts each `segment` (a power of two) of keys[length] in ascending order, with all threads of the block (bitonic).
__device__ void sort_segments(unsigned *keys, int length, int segment) {
    for (int run = 2; run <= segment; run *= 2) {
        for (int distance = run / 2; distance > 0; distance /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < length; i += blockDim.x) {
                const int other = i ^ distance;
                if (other < i) continue;
                const bool upwards = run == segment || (i & run) == 0;
                const unsigned a = keys[i], b = keys[other];
                if ((a > b) == upwards) {
                    keys[i] = b;
                    keys[other] = a;
                }
            }
        }
    }
    __syncthreads();
}

// Mean and standard deviation (n - 1 degrees of freedom; 0 for fewer than two) of the rewards of a group.
struct Moments {
    double mean;
    double std;
};

// By one thread, in the order of the CPU twin. The roundings are explicit, so that the compiler makes no multiply-add of them.
__device__ Moments moments(const unsigned *sorted, int count) {
    if (count == 0) return {0.0, 0.0};
    double total = 0.0;
    for (int i = 0; i < count; i++) total = __dadd_rn(total, from_key(sorted[i]));
    const double mean = total / count;
    double squares = 0.0;
    for (int i = 0; i < count; i++) {
        const double deviation = from_key(sorted[i]) - mean;
        squares = __dadd_rn(squares, __dmul_rn(deviation, deviation));
    }
    return {mean, count > 1 ? sqrt(squares / (count - 1.0)) : 0.0};
}

// A deviation of 0 has advantage 0 even if the divisor is 0 too.
__device__ float advantage_of(double deviation, double divisor) {
    return deviation != 0.0 ? static_cast<float>(deviation / divisor) : 0.0f;
}

struct Slots {
    float *means;
    unsigned *valid_count;
    float *delta;
    float *par;
    float *reward;
    float *advantage;
    const float *scores;
    const unsigned *state;
    const float *penalty;
};

// The reward of a rollout on the right side of the other mean: `high` for a margin above the threshold, else `low`.
struct Shape {
    float low;
    float high;
    float threshold;
    unsigned margin;
};

// delta, par and reward of one slot from the sums of its own side and the other's.
__device__ float reward_of(const Slots &slots, const Shape &shape, size_t slot, int role, unsigned state, Scaled own_side,
                           Scaled other_side) {
    float delta = 0.0f, par = 0.0f;
    // A preference is compared with one half, in thousandths, whatever the other side is.
    if (shape.margin == SCORE_MARGIN_OF_PREFERENCE) other_side = {500, 1};
    if (state == SCORE_MARGIN_VALID && other_side.count > 0) {
        const long long sign = role == 0 ? 1 : -1;
        const long long score = thousandths(slots.scores[slot]);
        const Scaled own = {sign * (score * other_side.count - other_side.sum), other_side.count};
        // Chosen minus rejected, whichever side this is.
        const Scaled of_pair = {sign * (own_side.sum * other_side.count - other_side.sum * own_side.count),
                                own_side.count * other_side.count};
        const Scaled margin = shape.margin == SCORE_MARGIN_OF_PAIR ? of_pair : own;
        delta = static_cast<float>(value(margin));
        const bool above = margin.sum > thousandths(shape.threshold) * margin.count;
        if (own.sum > 0) par = above ? shape.high : shape.low;
    }
    const float reward = state == SCORE_MARGIN_ABSENT ? 0.0f : par + slots.penalty[slot];
    slots.delta[slot] = delta;
    slots.par[slot] = par;
    slots.reward[slot] = reward;
    return reward;
}

// NORM_BATCH needs `side_mean` [2 * pairs] f64 and `batch_keys` [batch_slots, a power of two from 2 * pairs * n on].
extern "C" __global__ void __launch_bounds__(SCORE_MARGIN_THREADS_MAX)
    score_margin_f32(float *means, unsigned *valid_count, float *delta, float *par, float *reward, float *advantage,
                     const float *scores, const unsigned *state, const float *penalty, double *side_mean,
                     unsigned *batch_keys, int batch_slots, int pairs, int n, float low, float high, float threshold,
                     unsigned margin, unsigned norm, float epsilon) {
    const Slots slots = {means, valid_count, delta, par, reward, advantage, scores, state, penalty};
    const Shape shape = {low, high, threshold, margin};
    __shared__ long long warp_sums[SIDES_MAX * WARPS_PER_SIDE];
    __shared__ int warp_valid[SIDES_MAX * WARPS_PER_SIDE], warp_present[SIDES_MAX * WARPS_PER_SIDE];
    __shared__ unsigned keys[SCORE_MARGIN_THREADS_MAX];
    __shared__ Moments groups[SIDES_MAX];
    const int side = threadIdx.x / SIDE, i = threadIdx.x % SIDE, role = side % 2;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int at_once = blockDim.x / SCORE_MARGIN_THREADS_PER_PAIR;

    // Every thread makes every iteration, because the loop has barriers.
    for (int first = blockIdx.x * at_once; first < pairs; first += gridDim.x * at_once) {
        const int pair = first + side / 2;
        const bool there = pair < pairs && i < n;
        const size_t row = 2 * static_cast<size_t>(pair) + role, slot = row * n + i;
        const unsigned slot_state = there ? state[slot] : SCORE_MARGIN_ABSENT;
        const bool valid = slot_state == SCORE_MARGIN_VALID, present = slot_state != SCORE_MARGIN_ABSENT;

        const long long warp_sum_here = warp_sum(valid ? thousandths(scores[slot]) : 0ll);
        const int valid_here = __popc(__ballot_sync(FULL, valid)), present_here = __popc(__ballot_sync(FULL, present));
        if (lane == 0) {
            warp_sums[warp] = warp_sum_here;
            warp_valid[warp] = valid_here;
            warp_present[warp] = present_here;
        }
        __syncthreads();
        Scaled sums[2] = {};  // own side, other side
        int count = 0;
        for (int w = 0; w < WARPS_PER_SIDE; w++) {
            const int own = side * WARPS_PER_SIDE + w, other = (side ^ 1) * WARPS_PER_SIDE + w;
            sums[0] = {sums[0].sum + warp_sums[own], sums[0].count + warp_valid[own]};
            sums[1] = {sums[1].sum + warp_sums[other], sums[1].count + warp_valid[other]};
            count += warp_present[own];
        }
        if (pair < pairs && i == 0) {
            means[row] = sums[0].count == 0 ? 0.0f : static_cast<float>(value(sums[0]));
            valid_count[row] = static_cast<unsigned>(sums[0].count);
        }
        const float own_reward = there ? reward_of(slots, shape, slot, role, slot_state, sums[0], sums[1]) : 0.0f;
        const unsigned key = present ? to_key(own_reward) : LAST;
        keys[threadIdx.x] = key;
        if (norm == SCORE_MARGIN_NORM_BATCH && there) batch_keys[slot] = key;
        sort_segments(keys, blockDim.x, SIDE);
        if (i == 0) groups[side] = moments(keys + side * SIDE, count);
        __syncthreads();
        if (norm == SCORE_MARGIN_NORM_BATCH) {
            if (pair < pairs && i == 0) side_mean[row] = groups[side].mean;
        } else if (there) {
            const double divisor = norm == SCORE_MARGIN_NORM_GROUP ? groups[side].std + static_cast<double>(epsilon) : 1.0;
            advantage[slot] = present ? advantage_of(own_reward - groups[side].mean, divisor) : 0.0f;
        }
    }
    if (norm != SCORE_MARGIN_NORM_BATCH) return;

    const int slots_in_use = 2 * pairs * n;
    for (int p = slots_in_use + threadIdx.x; p < batch_slots; p += blockDim.x) batch_keys[p] = LAST;
    __shared__ int batch_count;
    if (threadIdx.x == 0) batch_count = 0;
    __syncthreads();
    int present_here = 0;
    for (int p = threadIdx.x; p < slots_in_use; p += blockDim.x) present_here += state[p] != SCORE_MARGIN_ABSENT;
    atomicAdd(&batch_count, present_here);  // of integers: the order does not matter
    sort_segments(batch_keys, batch_slots, batch_slots);
    if (threadIdx.x == 0) groups[0] = moments(batch_keys, batch_count);
    __syncthreads();
    const double divisor = groups[0].std + static_cast<double>(epsilon);
    for (int p = threadIdx.x; p < slots_in_use; p += blockDim.x) {
        const double deviation = static_cast<double>(reward[p]) - side_mean[p / n];
        advantage[p] = state[p] != SCORE_MARGIN_ABSENT ? advantage_of(deviation, divisor) : 0.0f;
    }
}
