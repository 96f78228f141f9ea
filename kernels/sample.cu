// Next tokens, drawn from rows of logits by Gumbel-max, and their log-probabilities; no sort.
//
//   token = argmax over the kept tokens of z/T + g, g = -ln(-ln u);  logprob = log softmax(z/T)[token] over the whole vocabulary
//
// Shapes: ids, logprobs, draws [draws]; logits [rows, vocab] f32. A block for each draw. u comes from Philox by (stream,
// position): word i % 4 of block i / 4 belongs to token i, so that a draw depends on its row alone.
// Kept tokens are the first ones in the order of rank, by descending logit, and by id among equal logits:
//   top-k keeps k; top-p keeps the shortest prefix whose mass reaches p of that of the tokens top-k keeps; min-p keeps those at
//   least that fraction as probable as the first. Top-k and top-p are one cut (the logit of the last one kept, and its id): see
//   `Cut`.
// A cut is found by counting. First a histogram of the distance to the largest logit, in steps of 1/64 nat, which gives the bin
// of the cut. Then the logits of that bin by digits of eight bits, from shared memory if they fit there, otherwise from the row.
// Masses are whole multiples of 2^-40 of the largest probability, so that their sums do not depend on the order.
// A logit that is NaN or +inf, or a row of -inf alone: id 0 and a log-probability that is NaN.
//
// Floor in bytes: 4 * vocab a row, read once. Beyond it, the row is read once more to draw (by then mostly from the L2
// cache), and with top-k or top-p once for the histogram and once for each of the two cuts. The draw skips, four at a time,
// tokens that could not win even with the largest g, so Philox and logarithms are computed only for the likely ones.

#include "common/export.cuh"
#include "common/log_softmax.cuh"
#include "common/order.cuh"
#include "common/philox.cuh"

EXPORT(unsigned, SAMPLE_THREADS, ROW_THREADS);
// Sums of masses fit 64 bits.
EXPORT(unsigned, SAMPLE_VOCAB_MAX, 1u << 22);
constexpr float MASS_UNIT = 1099511627776.0f;  // 2^40
// Words of a draw, as the launcher packs them.
EXPORT(unsigned, SAMPLE_DRAW_WORDS, 12);

struct Draw {
    float inverse_temperature;
    unsigned greedy;
    unsigned top_k;  // 0 keeps all
    float top_p;     // 1 keeps all
    double ln_min_p;
    unsigned position;
    unsigned row;
    Stream stream;
};
static_assert(sizeof(Draw) == SAMPLE_DRAW_WORDS * sizeof(unsigned), "Draw has no gaps");

// All g are between these, because u is between 2^-24 and 1 - 2^-24.
constexpr float GUMBEL_MIN = -2.85f, GUMBEL_MAX = 16.75f;

__device__ __forceinline__ float gumbel(unsigned word) { return -logf(-logf(unit(word))); }

using Count = unsigned long long;

// How many tokens, and their mass in multiples of 1 / MASS_UNIT of the largest probability.
struct Amount {
    Count count;
    Count mass;

    __device__ __forceinline__ void add(const Amount &other) {
        count += other.count;
        mass += other.mass;
    }
};

// The count or mass that the kept tokens must reach.
struct Goal {
    bool by_mass;
    Count target;

    __device__ __forceinline__ Count of(const Amount &amount) const { return by_mass ? amount.mass : amount.count; }
};

// Tokens with a larger key are kept, and of those with this key, the ids up to `last_id`.
struct Cut {
    unsigned key;
    unsigned last_id;

    __device__ __forceinline__ bool keeps(unsigned token_key, unsigned id) const {
        return token_key > key || (token_key == key && id <= last_id);
    }
};

constexpr int COARSE_BINS = 2048;
constexpr float BINS_PER_NAT = 64.0f;
constexpr int DIGIT_BITS = 8;
constexpr int DIGITS = 1 << DIGIT_BITS;
// Shared memory has room for this many keys of a coarse bin.
constexpr int LIST_MAX = 2048;

template <int BINS>
struct Histogram {
    Count mass[BINS];
    unsigned count[BINS];

    __device__ __forceinline__ void clear() {
        for (int bin = threadIdx.x; bin < BINS; bin += ROW_THREADS) {
            count[bin] = 0;
            mass[bin] = 0;
        }
        __syncthreads();
    }
    // Integer additions: their order does not matter.
    __device__ __forceinline__ void add(unsigned bin, Count token_mass) {
        atomicAdd(&count[bin], 1u);
        if (token_mass != 0) atomicAdd(&mass[bin], token_mass);
    }
    __device__ __forceinline__ Amount amount(int bin) const { return {count[bin], mass[bin]}; }
};

// The bin in which the goal is reached, the amount before it, and the amount in it.
struct Found {
    unsigned bin;
    Amount before;
    Amount inside;
};

struct Shared {
    Histogram<COARSE_BINS> coarse;
    Histogram<DIGITS> digits;
    unsigned list[LIST_MAX];
    unsigned list_length;
    Amount warp_sums[ROW_WARPS];
    Found found;
};

// Adds bins from bin 0 on to `before` until the goal is reached, which must happen. All threads call it and get the same result.
template <int BINS>
__device__ Found find(Shared &shared, const Histogram<BINS> &histogram, Amount before, Goal goal) {
    constexpr int WIDTH = BINS > ROW_THREADS ? BINS / ROW_THREADS : 1;
    const int first = threadIdx.x * WIDTH, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    Amount own = {};
    for (int bin = first; bin < first + WIDTH && bin < BINS; bin++) own.add(histogram.amount(bin));
    Amount through = own;  // this thread and those before it in the warp
#pragma unroll
    for (int distance = 1; distance < WARP; distance *= 2) {
        const Amount lower = {__shfl_up_sync(FULL, through.count, distance), __shfl_up_sync(FULL, through.mass, distance)};
        if (lane >= distance) through.add(lower);
    }
    if (lane == WARP - 1) shared.warp_sums[warp] = through;
    __syncthreads();
    for (int w = 0; w < warp; w++) through.add(shared.warp_sums[w]);
    through.add(before);
    Amount at = {through.count - own.count, through.mass - own.mass};
    if (goal.of(at) < goal.target && goal.target <= goal.of(through)) {
        int bin = first;
        for (;; bin++) {
            Amount next = at;
            next.add(histogram.amount(bin));
            if (goal.target <= goal.of(next)) break;
            at = next;
        }
        shared.found = {static_cast<unsigned>(bin), at, histogram.amount(bin)};
    }
    __syncthreads();
    return shared.found;
}

// `each(f)` calls f(value, mass) for this thread's share of some tokens, the same ones every time. Finds the value at which the
// goal is reached when they are taken by descending value, after `before`. `found` receives the amounts before that value and at
// it.
template <typename Each>
__device__ unsigned find_value(Shared &shared, Amount before, Goal goal, Found &found, const Each &each) {
    unsigned value = 0;
    found.before = before;
#pragma unroll 1
    for (int shift = 32 - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        shared.digits.clear();
        each([&](unsigned token_value, Count mass) {
            const unsigned above = static_cast<unsigned>(static_cast<Count>(token_value ^ value) >> (shift + DIGIT_BITS));
            if (above == 0) shared.digits.add(DIGITS - 1 - (token_value >> shift) % DIGITS, mass);
        });
        __syncthreads();
        found = find(shared, shared.digits, found.before, goal);
        value |= (DIGITS - 1 - found.bin) << shift;
    }
    return value;
}

// A row at a temperature, with the state for counting its tokens.
struct Counted {
    Row row;
    float inverse_temperature;
    float max;
    bool masses;  // whether they are needed

    __device__ __forceinline__ unsigned coarse_bin(float logit) const {
        const float below = max - scaled(logit, inverse_temperature);
        return static_cast<unsigned>(fminf(below * BINS_PER_NAT, COARSE_BINS - 1));
    }
    __device__ __forceinline__ Count mass(float logit) const {
        if (!masses) return 0;
        return __float2ull_rn(expf(scaled(logit, inverse_temperature) - max) * MASS_UNIT);
    }
    // f(id, logit) for each token of this thread.
    template <typename F>
    __device__ __forceinline__ void each(const F &f) const {
#pragma unroll 1
        for (int strip = threadIdx.x * FOUR; strip < row.vocab; strip += LOADS * STRIP) {
            float4 four[LOADS];
            row.load_span(four, strip);
#pragma unroll
            for (int i = 0; i < LOADS; i++) {
                const int first = strip + i * STRIP;
                if (first < row.vocab) f(first, four[i].x);
                if (first + 1 < row.vocab) f(first + 1, four[i].y);
                if (first + 2 < row.vocab) f(first + 2, four[i].z);
                if (first + 3 < row.vocab) f(first + 3, four[i].w);
            }
        }
    }
};

// The cut after which the goal is reached; `mass` receives the mass up to it. Needs the coarse histogram.
__device__ __forceinline__ Cut find_cut(Shared &shared, const Counted &tokens, Goal goal, Count &mass) {
    const Found coarse = find(shared, shared.coarse, Amount{}, goal);
    Found found;
    unsigned key;
    if (coarse.inside.count <= LIST_MAX) {
        if (threadIdx.x == 0) shared.list_length = 0;
        __syncthreads();
        tokens.each([&](int, float logit) {
            if (tokens.coarse_bin(logit) == coarse.bin) shared.list[atomicAdd(&shared.list_length, 1u)] = to_key(logit);
        });
        __syncthreads();
        key = find_value(shared, coarse.before, goal, found, [&](auto f) {
            for (unsigned i = threadIdx.x; i < shared.list_length; i += ROW_THREADS) {
                f(shared.list[i], tokens.mass(from_key(shared.list[i])));
            }
        });
    } else {
        key = find_value(shared, coarse.before, goal, found, [&](auto f) {
            tokens.each([&](int, float logit) {
                if (tokens.coarse_bin(logit) == coarse.bin) f(to_key(logit), tokens.mass(logit));
            });
        });
    }
    // Of equal logits, as many as needed, lowest ids first.
    const Count mass_each = tokens.mass(from_key(key));
    const Count missing = goal.target - goal.of(found.before);
    const Count ties = goal.by_mass ? (missing + mass_each - 1) / mass_each : missing;
    mass = found.before.mass + ties * mass_each;
    if (ties == found.inside.count) return {key, UINT_MAX};
    Found tie;
    const unsigned id = ~find_value(shared, Amount{}, Goal{false, ties}, tie, [&](auto f) {
        tokens.each([&](int id, float logit) {
            if (to_key(logit) == key) f(~static_cast<unsigned>(id), 0);
        });
    });
    return {key, id};
}

// Which tokens top-k and top-p keep.
__device__ __forceinline__ Cut filter(Shared &shared, const Counted &tokens, const Draw &draw) {
    shared.coarse.clear();
    tokens.each([&](int, float logit) { shared.coarse.add(tokens.coarse_bin(logit), tokens.mass(logit)); });
    __syncthreads();
    // The mass of the whole row, unless top-k keeps less.
    const Found last = find(shared, shared.coarse, Amount{}, {false, static_cast<Count>(tokens.row.vocab)});
    Count mass = last.before.mass + last.inside.mass;
    Cut cut = {0, UINT_MAX};
#pragma unroll 1
    for (int by_mass = 0; by_mass < 2; by_mass++) {
        Goal goal = {false, draw.top_k};
        if (by_mass) {
            const double wanted = ceil(static_cast<double>(draw.top_p) * static_cast<double>(mass));
            goal = {true, min(mass, static_cast<Count>(fmax(wanted, 1.0)))};
        }
        const bool all = by_mass ? draw.top_p >= 1.0f : draw.top_k == 0 || draw.top_k >= tokens.row.vocab;
        if (!all) cut = find_cut(shared, tokens, goal, mass);
    }
    return cut;
}

// A candidate and its z/T + g; the lower id wins a tie.
struct Candidate {
    float value;
    unsigned id;

    __device__ __forceinline__ void take(const Candidate &other) {
        if (other.value > value || (other.value == value && other.id < id)) *this = other;
    }
};

// The best token of this thread's share of the row.
__device__ __forceinline__ Candidate best_of_thread(const Row &row, const Draw &draw, const RowStats &stats, const Cut &cut) {
    const float noise_max = draw.greedy ? 0.0f : GUMBEL_MAX;
    // The likeliest token is always kept and reaches this. Rounding is monotonic, so no winner is skipped.
    const float floor = stats.max + (draw.greedy ? 0.0f : GUMBEL_MIN);
    const double least = static_cast<double>(stats.logprob(stats.max)) + draw.ln_min_p;
    Candidate best = {-INFINITY, UINT_MAX};
#pragma unroll 1
    for (int strip = threadIdx.x * FOUR; strip < row.vocab; strip += LOADS * STRIP) {
        float4 loaded[LOADS];
        row.load_span(loaded, strip);
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            const int first = strip + i * STRIP;
            const float logits[FOUR] = {loaded[i].x, loaded[i].y, loaded[i].z, loaded[i].w};
            const float largest = fmaxf(fmaxf(logits[0], logits[1]), fmaxf(logits[2], logits[3]));
            if (scaled(largest, draw.inverse_temperature) + noise_max < floor) continue;
            uint4 random = {};
            if (!draw.greedy) random = philox(draw.stream, draw.position, first / FOUR);
            const unsigned words[FOUR] = {random.x, random.y, random.z, random.w};
#pragma unroll
            for (int c = 0; c < FOUR; c++) {
                const float value = scaled(logits[c], draw.inverse_temperature);
                if (value + noise_max < floor || !cut.keeps(to_key(logits[c]), first + c)) continue;
                if (static_cast<double>(stats.logprob(value)) < least) continue;
                const float noise = draw.greedy ? 0.0f : gumbel(words[c]);
                best.take({__fadd_rn(value, noise), static_cast<unsigned>(first + c)});
            }
        }
    }
    return best;
}

__device__ __forceinline__ Candidate best_of_block(Candidate best) {
    __shared__ Candidate warp_best[ROW_WARPS];
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        best.take({__shfl_xor_sync(FULL, best.value, distance), __shfl_xor_sync(FULL, best.id, distance)});
    }
    if (threadIdx.x % WARP == 0) warp_best[threadIdx.x / WARP] = best;
    __syncthreads();
    for (int w = 0; w < ROW_WARPS; w++) best.take(warp_best[w]);
    return best;
}

// One block of ROW_THREADS threads for each draw.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, 2)
    sample_f32(unsigned *ids, float *logprobs, const float *logits, const Draw *draws, int vocab) {
    __shared__ Shared shared;
    const Draw &draw = draws[blockIdx.x];
    const Row row(logits + static_cast<size_t>(draw.row) * vocab, vocab);
    const RowStats stats = row_stats(row, draw.inverse_temperature);
    if (stats.is_nan()) {
        if (threadIdx.x == 0) {
            ids[blockIdx.x] = 0;
            logprobs[blockIdx.x] = NAN;
        }
        return;
    }
    Cut cut = {0, UINT_MAX};
    if (!draw.greedy && (draw.top_p < 1.0f || (draw.top_k > 0 && draw.top_k < vocab))) {
        cut = filter(shared, {row, draw.inverse_temperature, stats.max, draw.top_p < 1.0f}, draw);
    }
    const Candidate best = best_of_block(best_of_thread(row, draw, stats, cut));
    if (threadIdx.x == 0) {
        ids[blockIdx.x] = best.id;
        logprobs[blockIdx.x] = stats.logprob(scaled(row.logits[best.id], draw.inverse_temperature));
    }
}
