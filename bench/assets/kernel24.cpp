// Products of a 2:4 matrix and a few vectors, for decoding on a CPU, and the same kernel dense to compare with.
//
// A row is cut into blocks of 64 weights, 32 of them kept, and eight blocks lie together in one stream: first their
// codes, 8 bytes a block, then their values, bfloat16 or int8. A code is four bits a group of four weights: the places
// of its first and its second kept weight, two bits each. Reading the values as they lie and fetching x to them costs a
// third of spreading the values over the row: vpexpandw takes five cycles where vpermi2w takes one (Zen 4).
// A dense row is its 64 values a block, one after the other.
//
// x is bfloat16 for bfloat16 weights and int16 for int8 ones, padded to whole blocks with zeros; y is float32
// [rows, out]. Sums of integers are exact: |x| <= 32767, and no lane of 32 bits goes on for more than 512 products.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#define X86 1
#endif

namespace {

constexpr long BLOCK = 64, CHUNK = 8, CODES = 8;
constexpr long SEGMENT = 128;  // blocks after which integers are handed on to 64 bits

struct Job {
    const uint8_t* w;
    const float* scale;  // [out], int8 alone
    const void* x;       // bfloat16, int16, or float where the path has no bfloat16 of its own
    long blocks, out;
    float* y;

    template <class Sum>
    void put(long r, long o, Sum sum) const {
        y[r * out + o] = scale ? float(double(sum) * double(scale[o])) : float(sum);
    }
};

// Walks the blocks of a row. `codes` and `values` are the block's own; a dense row has no codes.
template <class Value, bool dense>
struct Row {
    static constexpr long bytes = dense ? BLOCK * sizeof(Value) : CODES + BLOCK / 2 * sizeof(Value);
    const uint8_t* at;
    inline __attribute__((always_inline)) void chunk(long n, const uint8_t*& codes, const Value*& values) {
        codes = at;
        values = reinterpret_cast<const Value*>(dense ? at : at + n * CODES);
        at += n * bytes;
    }
};

inline float widen(uint16_t bits) {
    uint32_t whole = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &whole, 4);
    return value;
}
inline float widen(int8_t value) { return value; }

template <class Value, class X, class Sum, bool dense, int R>
void rows_portable(const Job& job, long from, long to) {
    const X* x = static_cast<const X*>(job.x);
    const long width = job.blocks * BLOCK;
    for (long o = from; o < to; ++o) {
        Row<Value, dense> row{job.w + o * job.blocks * Row<Value, dense>::bytes};
        Sum sum[R] = {};
        for (long b = 0; b < job.blocks; b += CHUNK) {
            const long n = std::min(CHUNK, job.blocks - b);
            const uint8_t* codes;
            const Value* values;
            row.chunk(n, codes, values);
            const long count = n * BLOCK / (dense ? 1 : 2);
            for (long k = 0; k < count; ++k) {
                const long group = k / 2;
                const long place = dense ? k : 4 * group + (codes[group / 2] >> (group % 2 * 4 + k % 2 * 2) & 3);
                for (int r = 0; r < R; ++r)
                    sum[r] += Sum(sizeof(X) == 4 ? widen(values[k]) : values[k]) * Sum(x[r * width + b * BLOCK + place]);
            }
        }
        for (int r = 0; r < R; ++r)
            job.put(r, o, sum[r]);
    }
}

#if X86
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx512bf16")))
#define AVX2 __attribute__((target("avx2,fma")))
#define INLINE inline __attribute__((always_inline))

struct Tables {
    alignas(64) uint8_t shifts[64];   // word k of a quadword of codes: its bits 2k, 2k + 1 to the bottom
    alignas(64) uint16_t groups[32];  // where the group of kept weight k begins
    alignas(64) uint8_t spread[256][16];  // four 16-bit values to their places among eight, for two codes
    Tables() {
        for (int k = 0; k < 32; ++k) {
            shifts[2 * k] = shifts[2 * k + 1] = uint8_t(k % 32 * 2);
            groups[k] = uint16_t(4 * (k / 2));
        }
        for (int code = 0; code < 256; ++code) {
            std::memset(spread[code], 0x80, 16);
            for (int k = 0; k < 4; ++k) {
                const int place = 4 * (k / 2) + (code >> (2 * k) & 3);
                spread[code][2 * place] = uint8_t(2 * k);
                spread[code][2 * place + 1] = uint8_t(2 * k + 1);
            }
        }
    }
};
const Tables tables;

INLINE int64_t sum_of(const int32_t* lanes, int count) {
    int64_t sum = 0;
    for (int i = 0; i < count; ++i) sum += lanes[i];
    return sum;
}

// One step of 32 values: w as 32 words, x to match.
struct Bf16_512 {
    using Value = uint16_t;
    using Sum = __m512;
    using Total = float;
    AVX512 static INLINE Sum zero() { return _mm512_setzero_ps(); }
    AVX512 static INLINE __m512i load(const Value* v) { return _mm512_loadu_si512(v); }
    AVX512 static INLINE Sum step(Sum s, __m512i w, __m512i x) { return _mm512_dpbf16_ps(s, (__m512bh)w, (__m512bh)x); }
    AVX512 static INLINE float total(Sum a, Sum b) { return _mm512_reduce_add_ps(_mm512_add_ps(a, b)); }
};
struct Int8_512 {
    using Value = int8_t;
    using Sum = __m512i;
    using Total = int64_t;
    AVX512 static INLINE Sum zero() { return _mm512_setzero_si512(); }
    AVX512 static INLINE __m512i load(const Value* v) {
        return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(v)));
    }
    AVX512 static INLINE Sum step(Sum s, __m512i w, __m512i x) { return _mm512_dpwssd_epi32(s, w, x); }
    AVX512 static INLINE int64_t total(Sum a, Sum b) {
        alignas(64) int32_t lanes[32];
        _mm512_store_si512(lanes, a);
        _mm512_store_si512(lanes + 16, b);
        return sum_of(lanes, 32);
    }
};

template <class Kind, bool dense, int R>
AVX512 void rows_avx512(const Job& job, long from, long to) {
    using Value = typename Kind::Value;
    constexpr int U = 2;  // sums a row of x, so that one need not wait for the last
    const uint16_t* x = static_cast<const uint16_t*>(job.x);
    const long width = job.blocks * BLOCK;
    const __m512i shifts = _mm512_load_si512(tables.shifts), groups = _mm512_load_si512(tables.groups);
    const __m512i low = _mm512_set1_epi16(3);
    for (long o = from; o < to; ++o) {
        Row<Value, dense> row{job.w + o * job.blocks * Row<Value, dense>::bytes};
        typename Kind::Sum sum[R][U];
        typename Kind::Total whole[R] = {};
        for (int r = 0; r < R; ++r)
            for (int u = 0; u < U; ++u) sum[r][u] = Kind::zero();
        for (long b = 0; b < job.blocks; b += CHUNK) {
            const long n = std::min(CHUNK, job.blocks - b);
            const uint8_t* codes;
            const Value* values;
            row.chunk(n, codes, values);
            auto one = [&](long i, int u) AVX512 __attribute__((always_inline)) {
                const uint16_t* here = x + (b + i) * BLOCK;
                if (dense) {
                    const __m512i w0 = Kind::load(values + i * 64), w1 = Kind::load(values + i * 64 + 32);
                    for (int r = 0; r < R; ++r) {
                        sum[r][0] = Kind::step(sum[r][0], w0, _mm512_loadu_si512(here + r * width));
                        sum[r][1] = Kind::step(sum[r][1], w1, _mm512_loadu_si512(here + r * width + 32));
                    }
                } else {
                    long long code;
                    std::memcpy(&code, codes + i * CODES, 8);
                    const __m512i bits = _mm512_multishift_epi64_epi8(shifts, _mm512_set1_epi64(code));
                    const __m512i place = _mm512_ternarylogic_epi64(bits, low, groups, 0xEA);  // bits & low | groups
                    const __m512i w = Kind::load(values + i * 32);
                    for (int r = 0; r < R; ++r) {
                        const __m512i lower = _mm512_loadu_si512(here + r * width);
                        const __m512i upper = _mm512_loadu_si512(here + r * width + 32);
                        sum[r][u] = Kind::step(sum[r][u], w, _mm512_permutex2var_epi16(lower, place, upper));
                    }
                }
            };
            if (n == CHUNK) {
                for (int i = 0; i < CHUNK; ++i) one(i, i % U);
            } else {
                for (long i = 0; i < n; ++i) one(i, 0);
            }
            if (sizeof(Value) == 1 && (b + CHUNK) % SEGMENT == 0)
                for (int r = 0; r < R; ++r) {
                    whole[r] += Kind::total(sum[r][0], sum[r][1]);
                    sum[r][0] = sum[r][1] = Kind::zero();
                }
        }
        for (int r = 0; r < R; ++r)
            job.put(r, o, whole[r] + Kind::total(sum[r][0], sum[r][1]));
    }
}

// Eight weights for bfloat16, sixteen for int8, at a time.
struct Bf16_256 {
    using Value = uint16_t;
    using X = float;
    using Sum = __m256;
    using Total = float;
    static constexpr int wide = 8;
    AVX2 static INLINE Sum zero() { return _mm256_setzero_ps(); }
    AVX2 static INLINE __m256 floats(__m128i halves) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
    }
    AVX2 static INLINE __m256 dense(const Value* v) { return floats(_mm_loadu_si128(reinterpret_cast<const __m128i*>(v))); }
    AVX2 static INLINE __m256 sparse(const Value* v, const uint8_t* code) {
        const __m128i kept = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(v));
        return floats(_mm_shuffle_epi8(kept, _mm_load_si128(reinterpret_cast<const __m128i*>(tables.spread[*code]))));
    }
    AVX2 static INLINE Sum step(Sum s, __m256 w, const X* x) { return _mm256_fmadd_ps(w, _mm256_loadu_ps(x), s); }
    AVX2 static INLINE float total(Sum a, Sum b) {
        alignas(32) float lanes[8];
        _mm256_store_ps(lanes, _mm256_add_ps(a, b));
        return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
    }
};
struct Int8_256 {
    using Value = int8_t;
    using X = int16_t;
    using Sum = __m256i;
    using Total = int64_t;
    static constexpr int wide = 16;
    AVX2 static INLINE Sum zero() { return _mm256_setzero_si256(); }
    AVX2 static INLINE __m256i dense(const Value* v) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(v)));
    }
    AVX2 static INLINE __m256i sparse(const Value* v, const uint8_t* code) {
        const __m128i kept = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(v)));
        const __m128i* spread = reinterpret_cast<const __m128i*>(tables.spread);
        const __m128i first = _mm_shuffle_epi8(kept, _mm_load_si128(spread + code[0]));
        const __m128i second = _mm_shuffle_epi8(_mm_srli_si128(kept, 8), _mm_load_si128(spread + code[1]));
        return _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
    }
    AVX2 static INLINE Sum step(Sum s, __m256i w, const X* x) {
        const __m256i here = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
        return _mm256_add_epi32(s, _mm256_madd_epi16(w, here));
    }
    AVX2 static INLINE int64_t total(Sum a, Sum b) {
        alignas(32) int32_t lanes[16];
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), a);
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes + 8), b);
        return sum_of(lanes, 16);
    }
};

template <class Kind, bool dense, int R>
AVX2 void rows_avx2(const Job& job, long from, long to) {
    using Value = typename Kind::Value;
    constexpr int W = Kind::wide;
    const typename Kind::X* x = static_cast<const typename Kind::X*>(job.x);
    const long width = job.blocks * BLOCK;
    for (long o = from; o < to; ++o) {
        Row<Value, dense> row{job.w + o * job.blocks * Row<Value, dense>::bytes};
        typename Kind::Sum sum[R][2];
        typename Kind::Total whole[R] = {};
        for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = Kind::zero();
        for (long b = 0; b < job.blocks; b += CHUNK) {
            const long n = std::min(CHUNK, job.blocks - b);
            const uint8_t* codes;
            const Value* values;
            row.chunk(n, codes, values);
            for (long i = 0; i < n * BLOCK; i += 2 * W)
                for (int u = 0; u < 2; ++u) {
                    const long k = i + u * W;
                    const auto w = dense ? Kind::dense(values + k) : Kind::sparse(values + k / 2, codes + k / 8);
                    for (int r = 0; r < R; ++r)
                        sum[r][u] = Kind::step(sum[r][u], w, x + r * width + b * BLOCK + k);
                }
            if (sizeof(Value) == 1 && (b + CHUNK) % SEGMENT == 0)
                for (int r = 0; r < R; ++r) {
                    whole[r] += Kind::total(sum[r][0], sum[r][1]);
                    sum[r][0] = sum[r][1] = Kind::zero();
                }
        }
        for (int r = 0; r < R; ++r)
            job.put(r, o, whole[r] + Kind::total(sum[r][0], sum[r][1]));
    }
}
#endif

using Rows = void (*)(const Job&, long, long);

template <bool dense, int R>
Rows choose(int isa, bool int8) {
#if X86
    if (isa == 2) return int8 ? rows_avx512<Int8_512, dense, R> : rows_avx512<Bf16_512, dense, R>;
    if (isa == 1) return int8 ? rows_avx2<Int8_256, dense, R> : rows_avx2<Bf16_256, dense, R>;
#endif
    return int8 ? rows_portable<int8_t, int16_t, int64_t, dense, R> : rows_portable<uint16_t, float, float, dense, R>;
}

template <bool dense>
Rows choose(int isa, bool int8, long rows) {
    switch (rows) {
        case 1: return choose<dense, 1>(isa, int8);
        case 2: return choose<dense, 2>(isa, int8);
        case 3: return choose<dense, 3>(isa, int8);
        default: return choose<dense, 4>(isa, int8);
    }
}

}  // namespace

extern "C" {

// The best path this processor has: 2 AVX-512 (with VBMI, VNNI and BF16), 1 AVX2, 0 plain C++.
int kernel24_best() {
#if X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

// y [rows, out] = x [rows, 64 blocks] times w [out, 64 blocks] transposed. rows: 1 to 4.
void kernel24_product(int isa, int int8, int dense, const uint8_t* w, const float* scale, const void* x, long rows,
                      long blocks, long out, float* y, int threads) {
    Job job{w, int8 ? scale : nullptr, x, blocks, out, y};
    std::vector<float> wide;
    if (!int8 && isa != 2) {
        const uint16_t* halves = static_cast<const uint16_t*>(x);
        wide.resize(rows * blocks * BLOCK);
        for (size_t i = 0; i < wide.size(); ++i) wide[i] = widen(halves[i]);
        job.x = wide.data();
    }
    const Rows work = dense ? choose<true>(isa, int8, rows) : choose<false>(isa, int8, rows);
    const long share = (out + threads - 1) / threads;
    std::vector<std::thread> others;
    for (int t = 1; t < threads && t * share < out; ++t)
        others.emplace_back(work, std::cref(job), t * share, std::min(out, (t + 1) * share));
    work(job, 0, std::min(out, share));
    for (auto& other : others) other.join();
}
}
