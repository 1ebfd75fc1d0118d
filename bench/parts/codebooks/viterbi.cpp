// The best sequence of symbols of a tail-biting bitshift trellis, for many sequences. trellis.py
// has the same search in torch, and gives the same symbols to the last bit: all numbers are whole.
//
// A state has `memory` bits. Symbol b of K bits follows: next = (state << K | b) mod 2^memory. The
// number of a state is code[state], by 1MAD of QTIP (arXiv 2406.11235). Numbers are int16, in units of 1 / 8192; a squared difference is
// in units of 1 / 2048. Differences and costs saturate. A step keeps one cost for all states that
// share their upper bits, the overlap with the state before them: the least over the 2^K states with
// these lower bits before. It subtracts the least cost of the step before.

#include <algorithm>
#include <cstdint>
#include <vector>
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr long STEPS = 256;     // numbers of a sequence
constexpr uint16_t MOST = 65535;
constexpr long PADDING = 16;    // costs that may be read behind the last

inline int32_t square(int32_t difference) {
    const int32_t d = std::clamp(difference, -32768, 32767);
    return (d * d + (1 << 14)) >> 15;
}

// WIDTH costs side by side. `spread` repeats each of the first costs from an address 2^K times.
#if defined(__AVX512BW__)
struct Lanes {
    static constexpr long WIDTH = 32;
    using V = __m512i;
    static V all(uint16_t x) { return _mm512_set1_epi16(short(x)); }
    static V load(const void* from) { return _mm512_loadu_si512(from); }
    static void store(void* to, V x) { _mm512_storeu_si512(to, x); }
    static V least(V x, V y) { return _mm512_min_epu16(x, y); }
    static V less(V x, V y) { return _mm512_sub_epi16(x, y); }
    static V add(V cost, V x, V code) {
        const V d = _mm512_subs_epi16(x, code);
        return _mm512_adds_epu16(cost, _mm512_mulhrs_epi16(d, d));
    }
    static V spread(const uint16_t* from, V places) {
        const __m128i first = _mm_loadu_si128((const __m128i*)from);
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(first), places);
    }
};
#elif defined(__AVX2__)
struct Lanes {
    static constexpr long WIDTH = 16;
    using V = __m256i;
    static V all(uint16_t x) { return _mm256_set1_epi16(short(x)); }
    static V load(const void* from) { return _mm256_loadu_si256((const __m256i*)from); }
    static void store(void* to, V x) { _mm256_storeu_si256((__m256i*)to, x); }
    static V least(V x, V y) { return _mm256_min_epu16(x, y); }
    static V less(V x, V y) { return _mm256_sub_epi16(x, y); }
    static V add(V cost, V x, V code) {
        const V d = _mm256_subs_epi16(x, code);
        return _mm256_adds_epu16(cost, _mm256_mulhrs_epi16(d, d));
    }
    static V spread(const uint16_t* from, V places) {
        const __m128i first = _mm_loadu_si128((const __m128i*)from);
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(first), places);
    }
};
#else
struct Lanes {
    static constexpr long WIDTH = 1;
    using V = uint16_t;
    static V all(uint16_t x) { return x; }
    static V load(const void* from) { return *static_cast<const uint16_t*>(from); }
    static void store(void* to, V x) { *static_cast<uint16_t*>(to) = x; }
    static V least(V x, V y) { return std::min(x, y); }
    static V less(V x, V y) { return V(x - y); }
    static V add(V cost, V x, V code) {
        return V(std::min<int32_t>(MOST, cost + square(int16_t(x) - int16_t(code))));
    }
    static V spread(const uint16_t* from, V) { return *from; }
};
#endif

template <int K>
struct Trellis {
    const int16_t* code;
    int memory;

    long overlaps() const { return 1L << (memory - K); }

    // Fill the costs [steps + 1][overlaps] behind the first row. x is a ring, read from `first` on.
    void forward(const int16_t* x, long first, long steps, uint16_t* costs) const {
        using V = Lanes::V;
        const long n = overlaps();
        alignas(64) uint8_t bytes[2 * Lanes::WIDTH];
        for (long i = 0; i < Lanes::WIDTH; ++i) {
            bytes[2 * i] = uint8_t(2 * (i >> K));
            bytes[2 * i + 1] = uint8_t(2 * (i >> K) + 1);
        }
        const V places = Lanes::load(bytes);
        uint16_t lowest = *std::min_element(costs, costs + n);
        for (long t = 0; t < steps; ++t) {
            const uint16_t* from = costs + t * n;
            uint16_t* to = costs + (t + 1) * n;
            const V now = Lanes::all(uint16_t(x[(first + t) % STEPS])), before = Lanes::all(lowest);
            V low = Lanes::all(MOST);
            for (long g = 0; g < n; g += Lanes::WIDTH) {
                V best = Lanes::all(MOST);
                for (long h = 0; h < 1L << K; ++h) {
                    const V cost = Lanes::spread(from + ((h * n + g) >> K), places);
                    best = Lanes::least(best, Lanes::add(cost, now, Lanes::load(code + h * n + g)));
                }
                best = Lanes::less(best, before);
                low = Lanes::least(low, best);
                Lanes::store(to + g, best);
            }
            uint16_t lows[Lanes::WIDTH];
            Lanes::store(lows, low);
            lowest = *std::min_element(lows, lows + Lanes::WIDTH);
        }
    }

    // Follow the best path from the overlap g after the last step back to step `stop`. Return the
    // overlap before that step.
    long back(const int16_t* x, long first, long steps, long stop, const uint16_t* costs, long g,
              uint8_t* symbols) const {
        const long n = overlaps();
        for (long t = steps; t-- > stop;) {
            const int32_t now = x[(first + t) % STEPS];
            int32_t best = MOST + 1;
            long state = 0;
            for (long h = 0; h < 1L << K; ++h) {
                const long s = h * n + g;
                const int32_t whole = costs[t * n + (s >> K)] + square(now - code[s]);
                const int32_t cost = std::min<int32_t>(MOST, whole);
                if (cost < best) best = cost, state = s;
            }
            if (symbols) symbols[t] = uint8_t(state & ((1 << K) - 1));
            g = state >> K;
        }
        return g;
    }

    // Find the overlap at x[0] on the best path through the `half` steps before and after it, then
    // the best ring with this overlap.
    void encode(const int16_t* x, long half, uint8_t* symbols, uint16_t* costs) const {
        const long n = overlaps(), first = STEPS - half, steps = 2 * half;
        std::fill(costs, costs + n, 0);
        forward(x, first, steps, costs);
        const uint16_t* last = costs + steps * n;
        const long end = std::min_element(last, last + n) - last;
        const long tie = back(x, first, steps, half, costs, end, nullptr);
        std::fill(costs, costs + n, MOST);
        costs[tie] = 0;
        forward(x, 0, STEPS, costs);
        back(x, 0, STEPS, 0, costs, tie, symbols);
    }
};

// The sum of the four bytes of one product and sum, which is almost Gaussian.
inline int16_t number(uint32_t state) {
    const uint32_t x = state * 34038481u + 76625530u;
    const int total = (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24);
    return int16_t((total - 510) * 55);
}

template <int K>
void encode_all(int memory, const int16_t* x, long count, long half, uint8_t* symbols,
                int threads) {
    std::vector<int16_t> code(1L << memory);
    for (uint32_t state = 0; state < code.size(); ++state) code[state] = number(state);
    const Trellis<K> trellis{code.data(), memory};
#pragma omp parallel num_threads(threads)
    {
        std::vector<uint16_t> costs((STEPS + 1) * trellis.overlaps() + PADDING);
#pragma omp for
        for (long i = 0; i < count; ++i) {
            trellis.encode(x + i * STEPS, half, symbols + i * STEPS, costs.data());
        }
    }
    (void)threads;
}

}  // namespace

// x int16 [count, 256]; symbols uint8 [count, 256]. memory - K is at least 5, and memory at least 2 K.
extern "C" void viterbi_encode(int bits, int memory, const int16_t* x, long count, long half,
                               uint8_t* symbols, int threads) {
    const auto encode = bits == 2 ? encode_all<2> : bits == 3 ? encode_all<3> : encode_all<4>;
    encode(memory, x, count, half, symbols, threads);
}
