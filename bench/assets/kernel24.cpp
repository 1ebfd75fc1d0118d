// Products of a 2:4 matrix and a few vectors, for decoding on a CPU, and the same kernel dense to compare with.
//
// A row is cut into blocks of 64 weights, 32 of them kept, and eight blocks lie together in one stream: first their
// codes, 8 bytes a block, then their values, bfloat16 or int8. A code is four bits a group of four weights: the places of the
// first and the second kept weight, two bits each. Values are read as they lie and x is fetched to them, which takes fewer
// instructions than spreading them over the row; AVX2, whose shuffles are short, spreads them.
// A dense row is its 64 values a block, one after the other.
//
// x [rows, width] is bfloat16, or float32 beside int8, which sees it as int16, each row by its largest. y [rows, out] is
// float32 or bfloat16. Sums of integers are exact: |x| <= 32767, and lanes of 32 bits are handed on before they are full.
//
// Few rows of x: each weight is read once and used where it is (rows_*). Many: a panel of weight rows is unpacked once, its
// dwords transposed so that a lane is an output, and multiplied by all rows of x (Panel). Dense and 2:4 then differ in the
// unpacking alone.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#define X86 1
#endif

namespace {

constexpr long BLOCK = 64, CHUNK = 8, CODES = 8, ROWS = 4;
constexpr long MANY = 12;       // rows of x from which a panel is unpacked
constexpr long SEGMENT = 128;   // blocks after which sums of 16-bit products are handed on to 64 bits
constexpr long LONGEST = 8192;  // the same of 8-bit ones: 4 products of at most 255 * 128 a lane and block
constexpr long AHEAD = 4096;    // bytes between what is asked for and what is read: memory is that far away
constexpr float LEVELS = 32767;

inline float widen(uint16_t bits) {
    uint32_t whole = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &whole, 4);
    return value;
}
inline float widen(int8_t value) { return value; }
inline uint16_t narrow(float value) {  // to nearest, halves to even
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return uint16_t((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 64 : rounded);
}

struct Job {
    const uint8_t* w;
    const float* scale;  // [out], int8 alone
    const void* x;       // [rows, blocks * 64], as the path wants it
    const float* step;   // int8 alone: of each row of x
    const int32_t* high; // AVX-512 and int8 alone: sum of the high bytes of each row of x
    long blocks, out;
    const void* bias;    // [out], of the type of y, or null
    void* y;
    bool half;           // y and bias are bfloat16

    // put(r, o + j, sum[j]) for j < n, in loops over vectors.
    template <class Sum>
    inline __attribute__((always_inline)) void put_many(long r, long o, long n, const Sum* sum) const {
        float value[32];
        for (long j = 0; j < n; ++j) value[j] = scale ? float(double(sum[j]) * double(scale[o + j])) * step[r] : float(sum[j]);
        if (half) {
            if (bias)
                for (long j = 0; j < n; ++j) value[j] += widen(static_cast<const uint16_t*>(bias)[o + j]);
            for (long j = 0; j < n; ++j) static_cast<uint16_t*>(y)[r * out + o + j] = narrow(value[j]);
        } else {
            if (bias)
                for (long j = 0; j < n; ++j) value[j] += static_cast<const float*>(bias)[o + j];
            std::memcpy(static_cast<float*>(y) + r * out + o, value, 4 * n);
        }
    }

    template <class Sum>
    inline __attribute__((always_inline)) void put(long r, long o, Sum sum) const {
        float value = scale ? float(double(sum) * double(scale[o])) * step[r] : float(sum);
        if (half) {
            if (bias) value += widen(static_cast<const uint16_t*>(bias)[o]);
            static_cast<uint16_t*>(y)[r * out + o] = narrow(value);
        } else {
            if (bias) value += static_cast<const float*>(bias)[o];
            static_cast<float*>(y)[r * out + o] = value;
        }
    }
};

// Walks the blocks of a row. `codes` and `values` are the block's own; a dense row has no codes.
template <class Value, bool dense>
struct Row {
    static constexpr long bytes = dense ? BLOCK * sizeof(Value) : CODES + BLOCK / 2 * sizeof(Value);
    const uint8_t* at;
    const uint8_t* codes = nullptr;
    const Value* values = nullptr;
    inline __attribute__((always_inline)) void chunk(long n) {
        codes = at;
        values = reinterpret_cast<const Value*>(dense ? at : at + n * CODES);
        at += n * bytes;
    }
};


inline long place_of(const uint8_t* codes, long k) {  // of kept weight k, from the block's beginning
    return 4 * (k / 2) + (codes[k / 4] >> (k % 4 * 2) & 3);
}

template <class Value, class X, class Sum, bool dense, int R>
void rows_portable(const Job& job, long from, long to) {
    const X* x = static_cast<const X*>(job.x);
    const long width = job.blocks * BLOCK;
    for (long o = from; o < to; ++o) {
        Row<Value, dense> row{job.w + o * job.blocks * Row<Value, dense>::bytes};
        Sum sum[R] = {};
        for (long b = 0; b < job.blocks; b += CHUNK) {
            const long n = std::min(CHUNK, job.blocks - b);
            row.chunk(n);
            const long count = n * BLOCK / (dense ? 1 : 2);
            for (long k = 0; k < count; ++k) {
                const long place = dense ? k : place_of(row.codes, k);
                for (int r = 0; r < R; ++r)
                    sum[r] += Sum(sizeof(X) == 4 ? widen(row.values[k]) : row.values[k]) *
                              Sum(x[r * width + b * BLOCK + place]);
            }
        }
        for (int r = 0; r < R; ++r) job.put(r, o, sum[r]);
    }
}

#if X86
// bf16 is named for Dot alone: no compiler makes its instructions of code that does not ask for them.
#define AVX512 \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,avx512bf16")))
#define AVX2 __attribute__((target("avx2,fma")))
#define INLINE inline __attribute__((always_inline))

struct Tables {
    alignas(64) uint8_t shifts[64];         // word k of a quadword of codes: its bits 2k, 2k + 1 to the bottom
    alignas(64) uint16_t groups[32];        // where the group of kept weight k begins
    alignas(64) uint8_t byte_shifts[64];    // the same for the bytes of two blocks, with their quadwords of codes
    alignas(64) uint8_t byte_groups[64];
    alignas(64) uint8_t floats[256][32];    // four bfloat16 values to their places among eight of 32 bits, for two codes
    alignas(64) uint8_t bytes[2][256][8];   // four bytes to their places among eight; the same of bytes 4 ... 7
    uint8_t masks[256] = {};                // places as a mask
    Tables() {
        for (int k = 0; k < 32; ++k) {
            shifts[2 * k] = shifts[2 * k + 1] = uint8_t(k % 32 * 2);
            groups[k] = uint16_t(4 * (k / 2));
            byte_shifts[k] = byte_shifts[32 + k] = uint8_t(2 * k);
            byte_groups[k] = uint8_t(4 * (k / 2));
            byte_groups[32 + k] = uint8_t(64 + 4 * (k / 2));
        }
        std::memset(floats, 0x80, sizeof floats);
        std::memset(bytes, 0x80, sizeof bytes);
        for (int code = 0; code < 256; ++code) {
            const uint8_t own = uint8_t(code);
            for (int k = 0; k < 4; ++k) {
                const long place = place_of(&own, k);
                masks[code] |= uint8_t(1 << place);
                floats[code][4 * place + 2] = uint8_t(2 * k);
                floats[code][4 * place + 3] = uint8_t(2 * k + 1);
                for (int half : {0, 1}) bytes[half][code][place] = uint8_t(k + 4 * half);
            }
        }
    }
};
const Tables tables;

AVX512 INLINE __m512i widen_lanes(__m512i lanes) {  // pairs of 32-bit lanes as sums of 64 bits
    return _mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(lanes)),
                            _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(lanes, 1)));
}

// The coming lines of a row, as many as a chunk of n blocks has: into the second cache, those of 2:4 into the first.
template <class Value, bool dense>
INLINE void ask(const Row<Value, dense>& row, long n) {
    const char* at = reinterpret_cast<const char*>(row.at) + AHEAD;
    for (long i = 0; i < n * Row<Value, dense>::bytes; i += 64)
        if (dense)
            _mm_prefetch(at + i, _MM_HINT_T1);
        else
            _mm_prefetch(at + i, _MM_HINT_T0);
}

// Sums of 32 products of bfloat16 a step, by what the processor has: an instruction of its own, or float32.
struct Dot {
    __m512 sum;
    AVX512 INLINE void clear() { sum = _mm512_setzero_ps(); }
    AVX512 INLINE void step(__m512i w, __m512i x) { sum = _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x); }
    AVX512 INLINE float total() const { return _mm512_reduce_add_ps(sum); }
};
struct Widened {
    __m512 even, odd;
    AVX512 static INLINE __m512 low(__m512i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); }
    AVX512 static INLINE __m512 high(__m512i v) {
        return _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(int(0xffff0000))));
    }
    AVX512 INLINE void clear() { even = odd = _mm512_setzero_ps(); }
    AVX512 INLINE void step(__m512i w, __m512i x) {
        even = _mm512_fmadd_ps(low(w), low(x), even);
        odd = _mm512_fmadd_ps(high(w), high(x), odd);
    }
    AVX512 INLINE float total() const { return _mm512_reduce_add_ps(_mm512_add_ps(even, odd)); }
};

// O rows of the weight and R of x at once: several streams from memory, and no sum waits for its last step.
template <class Sum, bool dense, int R, int O>
AVX512 INLINE void some_bf16_512(const Job& job, long o) {
    using Line = Row<uint16_t, dense>;
    const uint16_t* x = static_cast<const uint16_t*>(job.x);
    const long width = job.blocks * BLOCK;
    const __m512i shifts = _mm512_load_si512(tables.shifts), groups = _mm512_load_si512(tables.groups);
    const __m512i low = _mm512_set1_epi16(3);
    Line row[O];
    Sum sum[O][R];
    for (int i = 0; i < O; ++i) {
        row[i].at = job.w + (o + i) * job.blocks * Line::bytes;
        for (int r = 0; r < R; ++r) sum[i][r].clear();
    }
    for (long b = 0; b < job.blocks; b += CHUNK) {
        const long n = std::min(CHUNK, job.blocks - b);
        for (int i = 0; i < O; ++i) {
            ask(row[i], n);
            row[i].chunk(n);
        }
        for (long k = 0; k < n; ++k) {
            const uint16_t* here = x + (b + k) * BLOCK;
            for (int i = 0; i < O; ++i) {
                if (dense) {
                    const __m512i w0 = _mm512_loadu_si512(row[i].values + k * 64);
                    const __m512i w1 = _mm512_loadu_si512(row[i].values + k * 64 + 32);
                    for (int r = 0; r < R; ++r) {
                        sum[i][r].step(w0, _mm512_loadu_si512(here + r * width));
                        sum[i][r].step(w1, _mm512_loadu_si512(here + r * width + 32));
                    }
                } else {
                    long long code;
                    std::memcpy(&code, row[i].codes + k * CODES, 8);
                    const __m512i bits = _mm512_multishift_epi64_epi8(shifts, _mm512_set1_epi64(code));
                    const __m512i place = _mm512_ternarylogic_epi64(bits, low, groups, 0xEA);  // bits & low | groups
                    const __m512i w = _mm512_loadu_si512(row[i].values + k * 32);
                    for (int r = 0; r < R; ++r) {
                        const __m512i lower = _mm512_loadu_si512(here + r * width);
                        const __m512i upper = _mm512_loadu_si512(here + r * width + 32);
                        sum[i][r].step(w, _mm512_permutex2var_epi16(lower, place, upper));
                    }
                }
            }
        }
    }
    for (int i = 0; i < O; ++i)
        for (int r = 0; r < R; ++r) job.put(r, o + i, sum[i][r].total());
}
template <class Sum, bool dense, int R>
AVX512 void rows_bf16_512(const Job& job, long from, long to) {
    constexpr int O = R > 2 ? 1 : R == 1 ? 4 : 2;
    for (; from + O <= to; from += O) some_bf16_512<Sum, dense, R, O>(job, from);
    for (; from < to; ++from) some_bf16_512<Sum, dense, R, 1>(job, from);
}

// x is two bytes a place: of row r its low ones, unsigned, then its high ones. vpdpbusd takes unsigned bytes beside signed
// ones. Dense: high is signed, beside w + 128: x w = low w + 256 (high (w + 128) - 128 high). 2:4: 128 is added to high, and x
// is fetched to the kept weights of two blocks: x w = low w + 256 ((high + 128) w - 128 w).
template <bool dense, int R, int O>
AVX512 INLINE void some_int8_512(const Job& job, long o) {
    using Line = Row<int8_t, dense>;
    const uint8_t* x = static_cast<const uint8_t*>(job.x);
    const long width = job.blocks * BLOCK;
    const __m512i flip = _mm512_set1_epi8(-128), ones = _mm512_set1_epi8(1), none = _mm512_setzero_si512();
    const __m512i shifts = _mm512_load_si512(tables.byte_shifts), groups = _mm512_load_si512(tables.byte_groups);
    const __m512i low_bits = _mm512_set1_epi8(3), halves = _mm512_set_epi64(1, 1, 1, 1, 0, 0, 0, 0);
    Line row[O];
    __m512i whole[O][R];
#pragma GCC unroll 4
    for (int i = 0; i < O; ++i) {
        row[i].at = job.w + (o + i) * job.blocks * Line::bytes;
        for (int r = 0; r < R; ++r) whole[i][r] = none;
    }
    for (long start = 0; start < job.blocks; start += LONGEST) {
        __m512i weight[O], lower[O][R], upper[O][R];
#pragma GCC unroll 4
        for (int i = 0; i < O; ++i) {
            weight[i] = none;
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) lower[i][r] = upper[i][r] = none;
        }
        const long end = std::min(job.blocks, start + LONGEST);
        for (long b = start; b < end; b += CHUNK) {
            const long n = std::min(CHUNK, end - b);
            for (int i = 0; i < O; ++i) {
                ask(row[i], n);
                row[i].chunk(n);
            }
            for (long k = 0; k < n; k += dense ? 1 : 2) {
                const uint8_t* here = x + (b + k) * BLOCK;
                const bool two = k + 1 < n;
#pragma GCC unroll 4
                for (int i = 0; i < O; ++i) {
                    if (dense) {
                        const __m512i w = _mm512_loadu_si512(row[i].values + k * 64), above = _mm512_xor_si512(w, flip);
#pragma GCC unroll 4
                        for (int r = 0; r < R; ++r) {
                            const uint8_t* low = here + 2 * r * width;
                            lower[i][r] = _mm512_dpbusd_epi32(lower[i][r], _mm512_loadu_si512(low), w);
                            upper[i][r] = _mm512_dpbusd_epi32(upper[i][r], above, _mm512_loadu_si512(low + width));
                        }
                        continue;
                    }
                    const __m128i* code = reinterpret_cast<const __m128i*>(row[i].codes + k * CODES);
                    const __m128i own = two ? _mm_loadu_si128(code) : _mm_loadl_epi64(code);
                    const __m512i w = _mm512_maskz_loadu_epi64(two ? 0xff : 0xf, row[i].values + k * 32);
                    const __m512i bits = _mm512_multishift_epi64_epi8(
                        shifts, _mm512_permutexvar_epi64(halves, _mm512_castsi128_si512(own)));
                    const __m512i place = _mm512_ternarylogic_epi64(bits, low_bits, groups, 0xEA);  // bits & low | groups
                    weight[i] = _mm512_dpbusd_epi32(weight[i], ones, w);
#pragma GCC unroll 4
                    for (int r = 0; r < R; ++r) {
                        const uint8_t *low = here + 2 * r * width, *next = low + (two ? BLOCK : 0);
                        const __m512i under = _mm512_permutex2var_epi8(_mm512_loadu_si512(low), place, _mm512_loadu_si512(next));
                        const __m512i over = _mm512_permutex2var_epi8(_mm512_loadu_si512(low + width), place,
                                                                      _mm512_loadu_si512(next + width));
                        lower[i][r] = _mm512_dpbusd_epi32(lower[i][r], under, w);
                        upper[i][r] = _mm512_dpbusd_epi32(upper[i][r], over, w);
                    }
                }
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < O; ++i)
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
                const __m512i high = _mm512_sub_epi64(widen_lanes(upper[i][r]), _mm512_slli_epi64(widen_lanes(weight[i]), 7));
                const __m512i both = _mm512_add_epi64(widen_lanes(lower[i][r]), _mm512_slli_epi64(high, 8));
                whole[i][r] = _mm512_add_epi64(whole[i][r], both);
            }
    }
#pragma GCC unroll 4
    for (int i = 0; i < O; ++i)
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const int64_t less = dense ? 256 * 128 * int64_t(job.high[r]) : 0;
            job.put(r, o + i, _mm512_reduce_add_epi64(whole[i][r]) - less);
        }
}
template <bool dense, int R>
AVX512 void rows_int8_512(const Job& job, long from, long to) {
    constexpr int O = R > 2 ? 1 : R == 1 ? 4 : 2;
    for (; from + O <= to; from += O) some_int8_512<dense, R, O>(job, from);
    for (; from < to; ++from) some_int8_512<dense, R, 1>(job, from);
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
        long long kept;
        std::memcpy(&kept, v, 8);
        const __m256i* spread = reinterpret_cast<const __m256i*>(tables.floats[*code]);
        return _mm256_castsi256_ps(_mm256_shuffle_epi8(_mm256_set1_epi64x(kept), _mm256_load_si256(spread)));
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
        const __m128i kept = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(v));
        const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(tables.bytes[0][code[0]]));
        const double* high = reinterpret_cast<const double*>(tables.bytes[1][code[1]]);
        const __m128i spread = _mm_castpd_si128(_mm_loadh_pd(_mm_castsi128_pd(low), high));
        return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(kept, spread));
    }
    AVX2 static INLINE Sum step(Sum s, __m256i w, const X* x) {
        const __m256i here = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
        return _mm256_add_epi32(s, _mm256_madd_epi16(w, here));
    }
    AVX2 static INLINE __m256i widen_lanes(Sum a) {
        return _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(a)),
                                _mm256_cvtepi32_epi64(_mm256_extracti128_si256(a, 1)));
    }
    AVX2 static INLINE int64_t total(Sum a, Sum b) {
        const __m256i both = _mm256_add_epi64(widen_lanes(a), widen_lanes(b));
        const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
        return _mm_cvtsi128_si64(half) + _mm_extract_epi64(half, 1);
    }
};

template <class Kind, bool dense, int R>
AVX2 void rows_avx2(const Job& job, long from, long to) {
    using Value = typename Kind::Value;
    constexpr int W = Kind::wide, U = R == 1 ? 4 : 2;  // sums at once, so that none waits for its last step
    const typename Kind::X* x = static_cast<const typename Kind::X*>(job.x);
    const long width = job.blocks * BLOCK;
    for (long o = from; o < to; ++o) {
        Row<Value, dense> row{job.w + o * job.blocks * Row<Value, dense>::bytes};
        typename Kind::Sum sum[R][U];
        typename Kind::Total whole[R] = {};
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int u = 0; u < U; ++u) sum[r][u] = Kind::zero();
        for (long b = 0; b < job.blocks; b += CHUNK) {
            const long n = std::min(CHUNK, job.blocks - b);
            ask(row, n);
            row.chunk(n);
            const Value* value = row.values;
            const uint8_t* code = row.codes;
            const typename Kind::X* here = x + b * BLOCK;
            for (long i = 0; i < n * BLOCK; i += U * W) {
#pragma GCC unroll 4
                for (int u = 0; u < U; ++u) {
                    const auto w = dense ? Kind::dense(value + u * W) : Kind::sparse(value + u * W / 2, code + u * W / 8);
#pragma GCC unroll 4
                    for (int r = 0; r < R; ++r) sum[r][u] = Kind::step(sum[r][u], w, here + r * width + u * W);
                }
                value += U * W / (dense ? 1 : 2), code += U * W / 8, here += U * W;
            }
            if (sizeof(Value) == 1 && (b + CHUNK) % SEGMENT == 0)
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                    for (int u = 0; u < U; u += 2) {
                        whole[r] += Kind::total(sum[r][u], sum[r][u + 1]);
                        sum[r][u] = sum[r][u + 1] = Kind::zero();
                    }
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
            for (int u = 0; u < U; u += 2) whole[r] += Kind::total(sum[r][u], sum[r][u + 1]);
            job.put(r, o, whole[r]);
        }
    }
}

// A panel: `2 * wide` rows of the weight, unpacked, as dwords [in / group][row]. R rows of x meet it at a time: a dword of
// x is broadcast, and no sum goes across lanes.
struct Panel_int8_512 {
    using Value = int8_t;
    static constexpr long wide = 16, group = 4, R = 6;
    template <bool dense>
    AVX512 static INLINE void line(const Row<Value, dense>& row, long n, uint8_t* out) {
        for (long k = 0; k < n; ++k) {
            uint64_t mask = 0;
            if (!dense)
                for (int i = 0; i < 8; ++i) mask |= uint64_t(tables.masks[row.codes[k * CODES + i]]) << 8 * i;
            const __m512i w = dense ? _mm512_loadu_si512(row.values + k * 64)
                                    : _mm512_maskz_expand_epi8(mask, _mm512_castsi256_si512(_mm256_loadu_si256(
                                          reinterpret_cast<const __m256i*>(row.values + k * 32))));
            _mm512_storeu_si512(out + k * 64, w);
        }
    }
    template <int R>
    AVX512 static INLINE void run(const Job& job, const uint32_t* panel, long r, long o, long n) {
        const long width = job.blocks * BLOCK;
        const uint8_t* x = static_cast<const uint8_t*>(job.x) + 2 * r * width;
        const __m512i flip = _mm512_set1_epi8(-128);
        __m512i lower[R][2], upper[R][2];
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i)
            for (int j = 0; j < 2; ++j) lower[i][j] = upper[i][j] = _mm512_setzero_si512();
        for (long k = 0; k < width / group; ++k) {
            const __m512i w[2] = {_mm512_load_si512(panel + 32 * k), _mm512_load_si512(panel + 32 * k + 16)};
            const __m512i above[2] = {_mm512_xor_si512(w[0], flip), _mm512_xor_si512(w[1], flip)};
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i) {
                int low, high;
                std::memcpy(&low, x + 2 * i * width + 4 * k, 4);
                std::memcpy(&high, x + (2 * i + 1) * width + 4 * k, 4);
                for (int j = 0; j < 2; ++j) {
                    lower[i][j] = _mm512_dpbusd_epi32(lower[i][j], _mm512_set1_epi32(low), w[j]);
                    upper[i][j] = _mm512_dpbusd_epi32(upper[i][j], above[j], _mm512_set1_epi32(high));
                }
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            alignas(64) int32_t low[32], high[32];
            double sum[32];
            for (int j = 0; j < 2; ++j) {
                _mm512_store_si512(low + 16 * j, lower[i][j]);
                _mm512_store_si512(high + 16 * j, upper[i][j]);
            }
            const double less = 128.0 * job.high[r + i];
            for (int j = 0; j < 32; ++j) sum[j] = low[j] + 256 * (high[j] - less);
            job.put_many(r + i, o, n, sum);
        }
    }
};

struct Panel_bf16_512 {
    using Value = uint16_t;
    static constexpr long wide = 16;
    template <bool dense>
    AVX512 static INLINE __m512i half(const Row<Value, dense>& row, long k) {  // 32 weights
        if (dense) return _mm512_loadu_si512(row.values + k * 32);
        uint32_t mask = 0;
        for (int i = 0; i < 4; ++i) mask |= uint32_t(tables.masks[row.codes[4 * k + i]]) << 8 * i;
        const __m256i kept = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row.values + k * 16));
        return _mm512_maskz_expand_epi16(mask, _mm512_castsi256_si512(kept));
    }
};
struct Panel_dot_512 : Panel_bf16_512 {
    static constexpr long group = 2, R = 12;
    template <bool dense>
    AVX512 static INLINE void line(const Row<Value, dense>& row, long n, uint8_t* out) {
        for (long k = 0; k < 2 * n; ++k) _mm512_storeu_si512(out + 64 * k, half(row, k));
    }
    template <int R>
    AVX512 static INLINE void run(const Job& job, const uint32_t* panel, long r, long o, long n) {
        const long width = job.blocks * BLOCK;
        const uint16_t* x = static_cast<const uint16_t*>(job.x) + r * width;
        __m512 sum[R][2];
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
        for (long k = 0; k < width / group; ++k) {
            const __m512i w[2] = {_mm512_load_si512(panel + 32 * k), _mm512_load_si512(panel + 32 * k + 16)};
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i) {
                int pair;
                std::memcpy(&pair, x + i * width + 2 * k, 4);
                const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
                for (int j = 0; j < 2; ++j) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], (__m512bh)w[j], both);
            }
        }
        put_floats<R>(job, r, o, n, sum);
    }
    template <int R>
    AVX512 static INLINE void put_floats(const Job& job, long r, long o, long n, const __m512 (&sum)[R][2]) {
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            alignas(64) float whole[32];
            for (int j = 0; j < 2; ++j) _mm512_store_ps(whole + 16 * j, sum[i][j]);
            job.put_many(r + i, o, n, whole);
        }
    }
};
struct Panel_float_512 : Panel_bf16_512 {
    static constexpr long group = 1, R = 12;
    template <bool dense>
    AVX512 static INLINE void line(const Row<Value, dense>& row, long n, uint8_t* out) {
        for (long k = 0; k < 2 * n; ++k) {
            const __m512i w = half(row, k);
            for (int j = 0; j < 2; ++j) {
                const __m256i part = j ? _mm512_extracti64x4_epi64(w, 1) : _mm512_castsi512_si256(w);
                _mm512_storeu_si512(out + 128 * k + 64 * j, _mm512_slli_epi32(_mm512_cvtepu16_epi32(part), 16));
            }
        }
    }
    template <int R>
    AVX512 static INLINE void run(const Job& job, const uint32_t* panel, long r, long o, long n) {
        const long width = job.blocks * BLOCK;
        const float* x = static_cast<const float*>(job.x) + r * width;
        __m512 sum[R][2];
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
        for (long k = 0; k < width; ++k) {
            const __m512 w[2] = {_mm512_load_ps(panel + 32 * k), _mm512_load_ps(panel + 32 * k + 16)};
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i)
                for (int j = 0; j < 2; ++j) sum[i][j] = _mm512_fmadd_ps(w[j], _mm512_set1_ps(x[i * width + k]), sum[i][j]);
        }
        Panel_dot_512::put_floats<R>(job, r, o, n, sum);
    }
};

struct Panel_float_256 {
    using Value = uint16_t;
    static constexpr long wide = 8, group = 1, R = 6;
    template <bool dense>
    AVX2 static INLINE void line(const Row<Value, dense>& row, long n, uint8_t* out) {
        for (long k = 0; k < n * BLOCK; k += 8)
            _mm256_storeu_ps(reinterpret_cast<float*>(out) + k, dense ? Bf16_256::dense(row.values + k)
                                                                      : Bf16_256::sparse(row.values + k / 2, row.codes + k / 8));
    }
    template <int R>
    AVX2 static INLINE void run(const Job& job, const uint32_t* panel, long r, long o, long n) {
        const long width = job.blocks * BLOCK;
        const float *x = static_cast<const float*>(job.x) + r * width, *w = reinterpret_cast<const float*>(panel);
        __m256 sum[R][2];
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_ps();
        for (long k = 0; k < width; ++k)
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i)
                for (int j = 0; j < 2; ++j)
                    sum[i][j] = _mm256_fmadd_ps(_mm256_load_ps(w + 16 * k + 8 * j), _mm256_broadcast_ss(x + i * width + k),
                                                sum[i][j]);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            alignas(32) float whole[16];
            for (int j = 0; j < 2; ++j) _mm256_store_ps(whole + 8 * j, sum[i][j]);
            job.put_many(r + i, o, n, whole);
        }
    }
};
struct Panel_int8_256 {
    using Value = int8_t;
    static constexpr long wide = 8, group = 2, R = 4;
    template <bool dense>
    AVX2 static INLINE void line(const Row<Value, dense>& row, long n, uint8_t* out) {
        for (long k = 0; k < n * BLOCK; k += 16)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 2 * k),
                                dense ? Int8_256::dense(row.values + k) : Int8_256::sparse(row.values + k / 2, row.codes + k / 8));
    }
    template <int R>
    AVX2 static INLINE void run(const Job& job, const uint32_t* panel, long r, long o, long n) {
        constexpr long FULL = 256;  // dwords after which lanes of 32 bits are handed on
        const long width = job.blocks * BLOCK;
        const int16_t* x = static_cast<const int16_t*>(job.x) + r * width;
        double whole[R][16] = {};
        for (long start = 0; start < width / group; start += FULL) {
            __m256i sum[R][2];
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
            for (long k = start; k < std::min(width / group, start + FULL); ++k) {
                const __m256i* at = reinterpret_cast<const __m256i*>(panel + 16 * k);
                const __m256i w[2] = {_mm256_load_si256(at), _mm256_load_si256(at + 1)};
#pragma GCC unroll 16
                for (int i = 0; i < R; ++i) {
                    int pair;
                    std::memcpy(&pair, x + i * width + 2 * k, 4);
                    for (int j = 0; j < 2; ++j)
                        sum[i][j] = _mm256_add_epi32(sum[i][j], _mm256_madd_epi16(w[j], _mm256_set1_epi32(pair)));
                }
            }
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i) {
                alignas(32) int32_t part[16];
                for (int j = 0; j < 2; ++j) _mm256_store_si256(reinterpret_cast<__m256i*>(part) + j, sum[i][j]);
                for (int j = 0; j < 16; ++j) whole[i][j] += part[j];
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) job.put_many(r + i, o, n, whole[i]);
    }
};

// Four lines of dwords [4][count] to columns c ... c + 3 of a panel [count][P].
template <long P>
INLINE void transpose(const uint32_t* line, long count, uint32_t* panel) {
    for (long k = 0; k < count; k += 4) {
        __m128i row[4];
        for (int i = 0; i < 4; ++i) row[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(line + i * count + k));
        const __m128i a = _mm_unpacklo_epi32(row[0], row[1]), b = _mm_unpackhi_epi32(row[0], row[1]);
        const __m128i c = _mm_unpacklo_epi32(row[2], row[3]), d = _mm_unpackhi_epi32(row[2], row[3]);
        const __m128i out[4] = {_mm_unpacklo_epi64(a, c), _mm_unpackhi_epi64(a, c), _mm_unpacklo_epi64(b, d),
                                _mm_unpackhi_epi64(b, d)};
        for (int i = 0; i < 4; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(panel + (k + i) * P), out[i]);
    }
}

// Rows `first` to `last` of the weight times all rows of x. panel, lines: scratch memory.
#define PANELS(TARGET, NAME)                                                                                        \
    template <class Kind, bool dense>                                                                               \
    TARGET void NAME(const Job& job, uint32_t* panel, uint8_t* lines, long rows, long first, long last) {           \
        constexpr long P = 2 * Kind::wide;                                                                          \
        const long count = job.blocks * BLOCK / Kind::group;                                                        \
        for (long o = first; o < last; o += P) {                                                                    \
            const long n = std::min(P, last - o);                                                                   \
            for (long i = 0; i < n; i += 4) {                                                                       \
                for (long j = 0; j < std::min(4L, n - i); ++j) {                                                    \
                    using Line = Row<typename Kind::Value, dense>;                                                  \
                    Line row{job.w + (o + i + j) * job.blocks * Line::bytes};                                       \
                    for (long b = 0; b < job.blocks; b += CHUNK) {                                                  \
                        const long some = std::min(CHUNK, job.blocks - b);                                          \
                        row.chunk(some);                                                                            \
                        Kind::template line<dense>(row, some, lines + 4 * (j * count + b * BLOCK / Kind::group));   \
                    }                                                                                               \
                }                                                                                                   \
                transpose<P>(reinterpret_cast<uint32_t*>(lines), count, panel + i);                                 \
            }                                                                                                       \
            long r = 0;                                                                                             \
            for (; r + Kind::R <= rows; r += Kind::R) Kind::template run<Kind::R>(job, panel, r, o, n);             \
            for (; r < rows; ++r) Kind::template run<1>(job, panel, r, o, n);                                       \
        }                                                                                                           \
    }
PANELS(AVX512, panel_512)
PANELS(AVX2, panel_avx2)

AVX512 uint64_t read_512(const uint8_t* at, long bytes) {
    __m512i sum[4] = {};
    for (long i = 0; i < bytes; i += 256)
        for (int k = 0; k < 4; ++k) {
            _mm_prefetch(reinterpret_cast<const char*>(at) + i + 64 * k + AHEAD, _MM_HINT_T1);
            sum[k] = _mm512_add_epi64(sum[k], _mm512_loadu_si512(at + i + 64 * k));
        }
    return _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3])));
}
#endif

uint64_t read_portable(const uint8_t* at, long bytes) {
    uint64_t sum[8] = {}, word;
    for (long i = 0; i < bytes; i += 64)
        for (int k = 0; k < 8; ++k) {
            std::memcpy(&word, at + i + 8 * k, 8);
            sum[k] += word;
        }
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

// A row of x in whole steps of its largest, -32767 to 32767, halves to even. Returns the step: NaN where the row has one.
inline __attribute__((always_inline)) float levels(const float* x, long width, int16_t* out) {
    constexpr float round = 12582912;  // 3 * 2^22: a float32 this large has no fraction
    uint32_t most = 0;                 // bits of the largest |x|: they are ordered as the numbers, NaN above infinity
    for (long i = 0; i < width; ++i) {
        uint32_t bits;
        std::memcpy(&bits, x + i, 4);
        most = std::max(most, bits & 0x7fffffff);
    }
    float step;
    std::memcpy(&step, &most, 4);
    step = step == 0 ? 1 : step / LEVELS;
    if (most >= 0x7f800000) {
        std::memset(out, 0, 2 * width);
        return most > 0x7f800000 ? std::numeric_limits<float>::quiet_NaN() : step;
    }
    for (long i = 0; i < width; ++i) out[i] = int16_t(int32_t((x[i] / step + round) - round));
    return step;
}

// Rows of x as a path wants them, padded with zeros to whole blocks.
struct Form {
    bool int8, wide, planes;  // planes: low bytes, then high ones
    int above;                // what is added to these
    long width, padded, item;
    const void* x;
    uint8_t* memory;
    float* step;
    int32_t* high;

    inline __attribute__((always_inline)) void row(long r, float* whole, int16_t* steps) const {
        const uint16_t* halves = static_cast<const uint16_t*>(x) + r * width;
        uint8_t* out = memory + r * padded * item;
        std::memset(out, 0, padded * item);
        if (item == 2 && !int8) {
            std::memcpy(out, halves, 2 * width);
            return;
        }
        float* floats = int8 ? whole : reinterpret_cast<float*>(out);
        const float* own = static_cast<const float*>(x) + r * width;
        if (!wide)
            for (long i = 0; i < width; ++i) floats[i] = widen(halves[i]);
        if (!int8) return;
        step[r] = levels(wide ? own : floats, width, planes ? steps : reinterpret_cast<int16_t*>(out));
        if (!planes) return;
        int32_t sum = 0;
        for (long i = 0; i < width; ++i) {
            out[i] = uint8_t(steps[i]);
            out[padded + i] = uint8_t((steps[i] >> 8) + above);
            sum += steps[i] >> 8;
        }
        high[r] = sum;
    }
};
void form_portable(const Form& form, long r, float* whole, int16_t* steps) { form.row(r, whole, steps); }
#if X86
AVX512 void form_512(const Form& form, long r, float* whole, int16_t* steps) { form.row(r, whole, steps); }
AVX2 void form_avx2(const Form& form, long r, float* whole, int16_t* steps) { form.row(r, whole, steps); }
#endif

enum Isa { portable, avx2, avx512, avx512bf16 };
using Rows = void (*)(const Job&, long, long);

template <bool dense, int R>
Rows choose(int isa, bool int8) {
#if X86
    if (isa >= avx512 && int8) return rows_int8_512<dense, R>;
    if (isa >= avx512) return isa == avx512 ? rows_bf16_512<Widened, dense, R> : rows_bf16_512<Dot, dense, R>;
    if (isa == avx2) return int8 ? rows_avx2<Int8_256, dense, R> : rows_avx2<Bf16_256, dense, R>;
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

// work(from, to) on shares of `count`, each a multiple of `unit`, a thread each.
template <class Work>
void share_out(long count, long unit, int threads, Work work) {
#if defined(_OPENMP)
    if (threads > 1 && count > unit) {
#pragma omp parallel num_threads(threads)
        {
            const long team = omp_get_num_threads(), me = omp_get_thread_num();
            const long share = ((count + team - 1) / team + unit - 1) / unit * unit;
            if (me * share < count) work(me * share, std::min(count, (me + 1) * share));
        }
        return;
    }
#endif
    (void)unit, (void)threads;
    work(0, count);
}

uint8_t* room(long bytes) {  // scratch memory of this thread, kept for the next call
    static thread_local std::vector<uint8_t> memory;
    if (long(memory.size()) < bytes) memory.resize(bytes);
    return memory.data();
}

#if X86
using Panels = void (*)(const Job&, uint32_t*, uint8_t*, long, long, long);
template <bool dense>
Panels choose_panel(int isa, bool int8) {
    if (isa >= avx512 && int8) return panel_512<Panel_int8_512, dense>;
    if (isa == avx512bf16) return panel_512<Panel_dot_512, dense>;
    if (isa == avx512) return panel_512<Panel_float_512, dense>;
    return int8 ? panel_avx2<Panel_int8_256, dense> : panel_avx2<Panel_float_256, dense>;
}
#endif

}  // namespace

extern "C" {

// The best path this processor has: 3 AVX-512 with BF16, 2 without (VBMI2 and VNNI both), 1 AVX2, 0 plain C++.
int kernel24_best() {
#if X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni"))
        return __builtin_cpu_supports("avx512bf16") ? avx512bf16 : avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2;
#endif
    return portable;
}

// y [rows, out] = x [rows, width] times w [out, whole blocks] transposed, and bias. int8: scale is [out], else null. wide: x
// is float32, which int8 alone takes. half: y and bias are bfloat16, else float32.
void kernel24_product(int isa, int dense, const uint8_t* w, const float* scale, const void* bias, const void* x, int wide,
                      long rows, long width, long out, void* y, int half, int threads) {
    const bool int8 = scale;
    const bool many = rows >= MANY && isa >= avx2 && width <= LONGEST * 4;
    Job job{w, scale, nullptr, nullptr, nullptr, (width + BLOCK - 1) / BLOCK, out, bias, y, bool(half)};
    const long padded = job.blocks * BLOCK, item = int8 || isa == avx512bf16 || (isa == avx512 && !many) ? 2 : 4;
    const long part = (rows * padded * item + 63) / 64 * 64;
    uint8_t* memory = room(part + 8 * rows);
    float* step = reinterpret_cast<float*>(memory + part);
    int32_t* high = reinterpret_cast<int32_t*>(step + rows);
    const Form form{int8, bool(wide), int8 && isa >= avx512, dense || many ? 0 : 128, width, padded, item, x, memory, step, high};
    share_out(rows, 4, threads, [&](long first, long last) {
        std::vector<float> whole(int8 ? width : 0);
        std::vector<int16_t> steps(int8 ? width : 0);
        auto work = form_portable;
#if X86
        if (isa >= avx2) work = isa >= avx512 ? form_512 : form_avx2;
#endif
        for (long r = first; r < last; ++r) work(form, r, whole.data(), steps.data());
    });
#if X86
    if (many) {
        job.x = memory, job.step = step, job.high = high;
        const Panels work = dense ? choose_panel<true>(isa, int8) : choose_panel<false>(isa, int8);
        share_out(out, 32, threads, [&](long first, long last) {
            std::vector<uint32_t> panel(32 * padded + 16);
            std::vector<uint8_t> line(8 * padded * 4);
            auto aligned = reinterpret_cast<uint32_t*>((reinterpret_cast<uintptr_t>(panel.data()) + 63) / 64 * 64);
            work(job, aligned, line.data(), rows, first, last);
        });
        return;
    }
#endif
    for (long a = 0; a < rows; a += ROWS) {
        const long some = std::min(ROWS, rows - a);
        job.x = memory + a * padded * item, job.step = step + a, job.high = high + a;
        job.y = static_cast<uint8_t*>(y) + a * out * (half ? 2 : 4);
        const Rows work = dense ? choose<true>(isa, int8, some) : choose<false>(isa, int8, some);
        share_out(out, 2, threads, [&](long first, long last) { work(job, first, last); });
    }
}

// The same for the graphs that torch compiles, which call it by this name with torch's handles of tensors. Python gives the
// addresses of torch's functions (torch/csrc/inductor/aoti_torch/c/shim.h), so that this library is linked without torch.
struct Torch {
    int (*data)(void*, void**);
    int (*sizes)(void*, int64_t**);
    int (*dim)(void*, int64_t*);
    int (*dtype)(void*, int32_t*);
    int (*empty)(int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, void**);
    int32_t (*bfloat16)();
};
static Torch torch;
void kernel24_bind(const Torch* functions) { torch = *functions; }

int aoti_torch_cpu_packed_linear(void* x, void* memory, void** scale, void** bias, int64_t isa, void** y) {
    int64_t *sizes, *shape, dim;
    int32_t dtype;
    void *from, *w, *s = nullptr, *b = nullptr, *to;
    if (torch.sizes(x, &sizes) || torch.dim(x, &dim) || torch.dtype(x, &dtype) || torch.sizes(memory, &shape) ||
        torch.data(x, &from) || torch.data(memory, &w) || (scale && torch.data(*scale, &s)) || (bias && torch.data(*bias, &b)))
        return 1;
    const int64_t out[2] = {sizes[0], shape[0]}, strides[2] = {shape[0], 1};
    if (dim != 2 || torch.empty(2, out, strides, dtype, 0, 0, y) || torch.data(*y, &to)) return 1;
    const bool half = dtype == torch.bfloat16(), dense = shape[1] == (sizes[1] + BLOCK - 1) / BLOCK * BLOCK * (s ? 1 : 2);
#if defined(_OPENMP)
    const int threads = omp_get_max_threads();
#else
    const int threads = 1;
#endif
    kernel24_product(int(isa), dense, static_cast<uint8_t*>(w), static_cast<float*>(s), b, from, !half, sizes[0], sizes[1],
                     shape[0], to, half, threads);
    return 0;
}

// The sum of `bytes` of memory, a multiple of 256, as 64-bit numbers: as fast as memory can be read.
uint64_t kernel24_read(int isa, const uint8_t* at, long bytes, int threads) {
    std::vector<uint64_t> sums(64);
    share_out(bytes, 256, threads, [&](long first, long last) {
#if X86
        if (isa >= avx512) {
            sums[first * 64 / bytes] += read_512(at + first, last - first);
            return;
        }
#endif
        sums[first * 64 / bytes] += read_portable(at + first, last - first);
    });
    uint64_t sum = 0;
    for (uint64_t each : sums) sum += each;
    return sum;
}
}
