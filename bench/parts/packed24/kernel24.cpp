// Products of a 2:4 matrix and a few vectors, for decoding on a CPU, and the same kernel dense to compare with.
//
// A row is cut into blocks of 64 weights, 32 of them kept, and eight blocks lie together in one stream: first their
// codes, 8 bytes a block, then their values: bfloat16, int8, or int4. A code is four bits a group of four weights: the places
// of the first and the second kept weight, two bits each. Values are read as they lie and x is fetched to them, which takes
// fewer instructions than spreading them over the row; AVX2, whose shuffles are short, spreads them.
// A dense row is its 64 values a block, integers plus 128, so that they are unsigned. int4 has value i of a block and the
// value half a block later in one byte. It is used as 16 times itself: the upper half of a byte is one without its lower half.
//
// x [rows, width] is bfloat16, or float32 beside integers, which see it as int16, each row by its largest. y [rows, out] is
// float32 or bfloat16. Sums of integers are exact: |x| <= 32639, and lanes of 32 bits are handed on before they are full.
// int8 has a scale a row; int4 one a block, and sums blocks in float64, exactly if its scales differ by less than 2^10.
//
// Few rows of x: each weight is read once and used where it is (rows_*). Many: a panel of weight rows is unpacked once, its
// dwords transposed so that a lane is an output, and multiplied by all rows of x (Panel). Dense and 2:4 then differ in the
// unpacking alone.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
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
constexpr long SEGMENT = 64;    // blocks after which 16 lanes of 32 bits are handed on
constexpr long WIDEST = 32768;  // width up to which a panel's lanes hold their sums of products of bytes
constexpr long WIDE = 24;       // blocks from which a row is long
constexpr long AHEAD = 8192;    // bytes between what is asked for and what is read: memory is that far away
constexpr float LEVELS = 32639;  // 127 * 256 + 127: two signed bytes hold it

// Whether a lane of 32 bits holds the sum of so many products of x and int8: 255 at most where a row is dense, 128 in 2:4.
constexpr bool lane_holds(int64_t products, int64_t largest) { return products * largest * int64_t(LEVELS) < 1LL << 31; }
static_assert(lane_holds(SEGMENT * BLOCK / 16, 255));

inline float widen(uint16_t bits) {
    uint32_t whole = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &whole, 4);
    return value;
}
inline uint16_t narrow(float value) {  // to nearest, halves to even
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return uint16_t((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 64 : rounded);
}

struct Job {
    int bits;            // of a weight: 16, 8, 4
    const uint8_t* w;
    const void* scale;   // int8: float32 [out]; int4: bfloat16 [out, blocks]
    const void* x;       // [rows, blocks * 64], as the path wants it
    const float* step;   // integers alone: of each row of x
    const int32_t* less; // and -128 times the sum of x in each block: what a dense row has too much
    long blocks, out;
    const void* bias;    // [out], of the type of y, or null
    void* y;
    bool half;           // y and bias are bfloat16

    inline __attribute__((always_inline)) double block_scale(long o, long b) const {
        return widen(static_cast<const uint16_t*>(scale)[o * blocks + b]);
    }

    inline __attribute__((always_inline)) int64_t row_less(long r) const {
        int64_t sum = 0;
        for (long b = 0; b < blocks; ++b) sum += less[r * blocks + b];
        return sum;
    }

    // Outputs o + j of row r for j < n, at most 32, in loops over vectors.
    template <class Sum>
    inline __attribute__((always_inline)) void put(long r, long o, long n, const Sum* sum) const {
        float value[32];
        const float* rows = static_cast<const float*>(scale) + o;
        if (bits == 8)
            for (long j = 0; j < n; ++j) value[j] = float(double(sum[j]) * double(rows[j])) * step[r];
        else if (bits == 4)
            for (long j = 0; j < n; ++j) value[j] = float(double(sum[j]) / 16) * step[r];
        else
            for (long j = 0; j < n; ++j) value[j] = float(sum[j]);
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
};

// Walks the blocks of a row, chunk by chunk. A dense row has no codes.
template <int bits, bool dense>
struct Row {
    static constexpr long kept = BLOCK / (dense ? 1 : 2), stored = kept * bits / 8, bytes = stored + (dense ? 0 : CODES);
    const uint8_t* at;
    const uint8_t* codes = nullptr;
    const uint8_t* values = nullptr;
    Row(const Job& job, long o) : at(job.w + o * job.blocks * bytes) {}
    inline __attribute__((always_inline)) void chunk(long n) {
        codes = at;
        values = dense ? at : at + n * CODES;
        at += n * bytes;
    }
    const uint8_t* code(long k) const { return codes + k * CODES; }
    const uint8_t* value(long k) const { return values + k * stored; }
};

inline long place_of(const uint8_t* codes, long k) {  // of kept weight k, from the block's beginning
    return 4 * (k / 2) + (codes[k / 4] >> (k % 4 * 2) & 3);
}

template <int bits, bool dense>
auto value_of(const uint8_t* values, long k) {  // kept weight k of a block
    if constexpr (bits == 16) {
        uint16_t value;
        std::memcpy(&value, values + 2 * k, 2);
        return widen(value);
    } else {
        constexpr long half = BLOCK / (dense ? 2 : 4);
        const int value = bits == 8 ? values[k] : k < half ? values[k] << 4 & 0xf0 : values[k - half] & 0xf0;
        return int64_t(dense ? value - 128 : int8_t(value));
    }
}

template <int bits, bool dense, int R>
void rows_portable(const Job& job, long from, long to) {
    using Part = decltype(value_of<bits, dense>(nullptr, 0));
    using X = std::conditional_t<bits == 16, float, int16_t>;
    const X* x = static_cast<const X*>(job.x);
    const long width = job.blocks * BLOCK;
    for (long o = from; o < to; ++o) {
        Row<bits, dense> row(job, o);
        std::conditional_t<bits == 4, double, Part> sum[R] = {};
        for (long b = 0; b < job.blocks; ++b) {
            if (b % CHUNK == 0) row.chunk(std::min(CHUNK, job.blocks - b));
            Part part[R] = {};
            for (long i = 0; i < row.kept; ++i) {
                const long place = dense ? i : place_of(row.code(b % CHUNK), i);
                const Part value = value_of<bits, dense>(row.value(b % CHUNK), i);
                for (int r = 0; r < R; ++r) part[r] += value * Part(x[r * width + b * BLOCK + place]);
            }
            for (int r = 0; r < R; ++r) sum[r] += bits == 4 ? part[r] * job.block_scale(o, b) : part[r];
        }
        for (int r = 0; r < R; ++r) job.put(r, o, 1, sum + r);
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
    alignas(64) uint8_t nibbles[2][64];     // where a byte begins whose upper half is an int4: 2:4, dense
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
        for (int k = 0; k < 64; ++k) 
            for (int dense : {0, 1}) nibbles[dense][k] = uint8_t((k % 8 * 8 + (k / (dense ? 32 : 16) % 2 ? 0 : 60)) % 64);
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

// The coming lines of a row, as many as a chunk of n blocks has, into the second cache.
template <int bits, bool dense>
INLINE void ask(const Row<bits, dense>& row, long n) {
    const char* at = reinterpret_cast<const char*>(row.at) + AHEAD;
    for (long i = 0; i < n * row.bytes; i += 64) _mm_prefetch(at + i, _MM_HINT_T1);
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

// Rows o ... o + O - 1 of the weight.
template <int bits, bool dense, int O>
struct Lines {
    Row<bits, dense> row[O];
    INLINE Lines(const Job& job, long o) : Lines(job, o, std::make_integer_sequence<int, O>()) {}
    template <int... i>
    INLINE Lines(const Job& job, long o, std::integer_sequence<int, i...>) : row{Row<bits, dense>(job, o + i)...} {}
    INLINE const Row<bits, dense>& operator[](int i) const { return row[i]; }
    INLINE void chunk(long n) {
        for (Row<bits, dense>& each : row) {
            ask(each, n);
            each.chunk(n);
        }
    }
};

// O rows of the weight and R of x at once: several streams from memory, and no sum waits for its last step.
template <class Sum, bool dense, int R, int O>
AVX512 INLINE void some_bf16_512(const Job& job, long o) {
    const uint16_t* x = static_cast<const uint16_t*>(job.x);
    const long width = job.blocks * BLOCK;
    const __m512i shifts = _mm512_load_si512(tables.shifts), groups = _mm512_load_si512(tables.groups);
    const __m512i low = _mm512_set1_epi16(3);
    Lines<16, dense, O> row(job, o);
    Sum sum[O][R];
    for (int i = 0; i < O; ++i)
        for (int r = 0; r < R; ++r) sum[i][r].clear();
    for (long b = 0; b < job.blocks; b += CHUNK) {
        const long n = std::min(CHUNK, job.blocks - b);
        row.chunk(n);
        for (long k = 0; k < n; ++k) {
            const uint16_t* here = x + (b + k) * BLOCK;
            for (int i = 0; i < O; ++i) {
                if (dense) {
                    const __m512i w0 = _mm512_loadu_si512(row[i].value(k)), w1 = _mm512_loadu_si512(row[i].value(k) + 64);
                    for (int r = 0; r < R; ++r) {
                        sum[i][r].step(w0, _mm512_loadu_si512(here + r * width));
                        sum[i][r].step(w1, _mm512_loadu_si512(here + r * width + 32));
                    }
                } else {
                    long long code;
                    std::memcpy(&code, row[i].code(k), 8);
                    const __m512i bits = _mm512_multishift_epi64_epi8(shifts, _mm512_set1_epi64(code));
                    const __m512i place = _mm512_ternarylogic_epi64(bits, low, groups, 0xEA);  // bits & low | groups
                    const __m512i w = _mm512_loadu_si512(row[i].value(k));
                    for (int r = 0; r < R; ++r) {
                        const __m512i lower = _mm512_loadu_si512(here + r * width);
                        const __m512i upper = _mm512_loadu_si512(here + r * width + 32);
                        sum[i][r].step(w, _mm512_permutex2var_epi16(lower, place, upper));
                    }
                }
            }
        }
    }
    for (int r = 0; r < R; ++r) {
        float total[O];
        for (int i = 0; i < O; ++i) total[i] = sum[i][r].total();
        job.put(r, o, O, total);
    }
}

// 64 values of 2:4 as int8, or 32 if there are no two blocks; those of a dense block.
template <int bits, bool dense>
AVX512 INLINE __m512i bytes_512(const uint8_t* at, bool two) {
    if (bits == 8) return dense ? _mm512_loadu_si512(at) : _mm512_maskz_loadu_epi64(two ? 0xff : 0xf, at);
    const __m256i pairs = _mm256_maskz_loadu_epi64(dense || two ? 0xf : 3, at);
    const __m512i order = _mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0);
    const __m512i units = dense ? _mm512_broadcast_i64x4(pairs) : _mm512_permutexvar_epi64(order, _mm512_castsi256_si512(pairs));
    const __m512i parts = _mm512_multishift_epi64_epi8(_mm512_load_si512(tables.nibbles[dense]), units);
    return _mm512_and_si512(parts, _mm512_set1_epi8(-16));
}

// x is two bytes a place: of row r its low ones, then its high ones. vpdpbusd takes unsigned bytes beside signed ones. Dense:
// the weights are unsigned, both bytes of x signed. 2:4 fetches x to the kept weights of two blocks; both are unsigned, as 128
// was added to the high ones: x w = low w + 256 ((high + 128) w - 128 w).
template <int bits, bool dense, int R, int O>
AVX512 INLINE void some_int_512(const Job& job, long o) {
    const uint8_t* x = static_cast<const uint8_t*>(job.x);
    const long width = job.blocks * BLOCK;
    const __m512i ones = _mm512_set1_epi8(1), none = _mm512_setzero_si512();
    const __m512i shifts = _mm512_load_si512(tables.byte_shifts), groups = _mm512_load_si512(tables.byte_groups);
    const __m512i low_bits = _mm512_set1_epi8(3), halves = _mm512_set_epi64(1, 1, 1, 1, 0, 0, 0, 0);
    Lines<bits, dense, O> row(job, o);
    __m512i whole[O][R];
    __m512d scaled[O][R];
    alignas(64) double scale[O][CHUNK];
#pragma GCC unroll 4
    for (int i = 0; i < O; ++i)
        for (int r = 0; r < R; ++r) whole[i][r] = none, scaled[i][r] = _mm512_setzero_pd();
    for (long start = 0; start < job.blocks; start += SEGMENT) {
        __m512i weight[O], lower[O][R], upper[O][R];
#pragma GCC unroll 4
        for (int i = 0; i < O; ++i) {
            weight[i] = none;
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) lower[i][r] = upper[i][r] = none;
        }
        const long end = std::min(job.blocks, start + SEGMENT);
        for (long b = start; b < end; b += CHUNK) {
            const long n = std::min(CHUNK, end - b);
            row.chunk(n);
            if (bits == 4)
                for (int i = 0; i < O; ++i) {
                    const uint16_t* own = static_cast<const uint16_t*>(job.scale) + (o + i) * job.blocks + b;
                    const __m256i wide = _mm256_cvtepu16_epi32(_mm_maskz_loadu_epi16(uint8_t((1 << n) - 1), own));
                    _mm512_store_pd(scale[i], _mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))));
                }
            for (long k = 0; k < n; k += dense ? 1 : 2) {
                const uint8_t* here = x + (b + k) * BLOCK;
                const bool two = k + 1 < n;
#pragma GCC unroll 4
                for (int i = 0; i < O; ++i) {
                    const __m512i w = bytes_512<bits, dense>(row[i].value(k), two);
                    __m512i place = none, sum = none;
                    if (!dense) {
                        const __m128i* code = reinterpret_cast<const __m128i*>(row[i].code(k));
                        const __m128i own = two ? _mm_loadu_si128(code) : _mm_loadl_epi64(code);
                        const __m512i both = _mm512_permutexvar_epi64(halves, _mm512_castsi128_si512(own));
                        const __m512i within = _mm512_multishift_epi64_epi8(shifts, both);
                        place = _mm512_ternarylogic_epi64(within, low_bits, groups, 0xEA);  // within & low_bits | groups
                        sum = _mm512_dpbusd_epi32(bits == 4 ? none : weight[i], ones, w);
                        weight[i] = sum;
                    }
#pragma GCC unroll 4
                    for (int r = 0; r < R; ++r) {
                        const uint8_t *low = here + 2 * r * width, *next = low + (two ? BLOCK : 0);
                        const auto fetch = [&](long plane) __attribute__((always_inline)) AVX512 {
                            const __m512i first = _mm512_loadu_si512(low + plane);
                            return dense ? first : _mm512_permutex2var_epi8(first, place, _mm512_loadu_si512(next + plane));
                        };
                        const auto add = [&](__m512i to, long plane) __attribute__((always_inline)) AVX512 {
                            return dense ? _mm512_dpbusd_epi32(to, w, fetch(plane)) : _mm512_dpbusd_epi32(to, fetch(plane), w);
                        };
                        if (bits == 8) {
                            lower[i][r] = add(lower[i][r], 0);
                            upper[i][r] = add(upper[i][r], width);
                            continue;
                        }
                        __m512i high = add(none, width);
                        if (!dense) high = _mm512_sub_epi32(high, _mm512_slli_epi32(sum, 7));
                        const __m512i all = add(_mm512_slli_epi32(high, 8), 0);
                        __m256i first = _mm512_castsi512_si256(all);
                        const __m256i second = _mm512_extracti64x4_epi64(all, 1);
                        if (dense) {
                            const __m128i less = _mm_cvtsi32_si128(job.less[r * job.blocks + b + k]);
                            first = _mm256_add_epi32(_mm256_add_epi32(first, second), _mm256_zextsi128_si256(less));
                        }
                        scaled[i][r] = _mm512_fmadd_pd(_mm512_cvtepi32_pd(first), _mm512_set1_pd(scale[i][k]), scaled[i][r]);
                        if (!dense && two)
                            scaled[i][r] =
                                _mm512_fmadd_pd(_mm512_cvtepi32_pd(second), _mm512_set1_pd(scale[i][k + 1]), scaled[i][r]);
                    }
                }
            }
        }
#pragma GCC unroll 4
        for (int i = 0; bits == 8 && i < O; ++i)
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
                const __m512i high = _mm512_sub_epi32(upper[i][r], _mm512_slli_epi32(weight[i], 7));
                const __m512i all = _mm512_add_epi32(lower[i][r], _mm512_slli_epi32(high, 8));
                whole[i][r] = _mm512_add_epi64(whole[i][r], widen_lanes(all));
            }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
        double total[O];
        const int64_t less = dense && bits == 8 ? job.row_less(r) : 0;
#pragma GCC unroll 4
        for (int i = 0; i < O; ++i)
            total[i] = bits == 8 ? double(_mm512_reduce_add_epi64(whole[i][r]) + less) : _mm512_reduce_add_pd(scaled[i][r]);
        job.put(r, o, O, total);
    }
}

// Rows of the weight that are read at once for one row of x. Streams from memory hide what a step waits for, but more of them
// are read slower where rows are long: measured on Zen 5, from 576 to 8960 columns.
template <int bits, bool dense>
constexpr int streams(bool wide) {
    if (bits == 16) return dense ? 2 : 1;
    if (bits == 4 || !wide) return 4;
    return dense ? 1 : 2;
}

// SOME<..., R, O> on rows of the weight.
#define ROWS_512(NAME, SOME, PARAMETER, ARGUMENT, BITS)                                              \
    template <PARAMETER, bool dense, int R, int O>                                                   \
    AVX512 INLINE void NAME##_by(const Job& job, long from, long to) {                               \
        for (; from + O <= to; from += O) SOME<ARGUMENT, dense, R, O>(job, from);                    \
        for (; from < to; ++from) SOME<ARGUMENT, dense, R, 1>(job, from);                            \
    }                                                                                                \
    template <PARAMETER, bool dense, int R>                                                          \
    AVX512 void NAME(const Job& job, long from, long to) {                                           \
        if constexpr (R > 1)                                                                         \
            NAME##_by<ARGUMENT, dense, R, R == 2 ? 2 : 1>(job, from, to);                            \
        else if (job.blocks < WIDE)                                                                  \
            NAME##_by<ARGUMENT, dense, R, streams<BITS, dense>(false)>(job, from, to);               \
        else                                                                                         \
            NAME##_by<ARGUMENT, dense, R, streams<BITS, dense>(true)>(job, from, to);                \
    }
ROWS_512(rows_bf16_512, some_bf16_512, class Sum, Sum, 16)
ROWS_512(rows_int_512, some_int_512, int bits, bits, bits)

// A block of weights in vectors: eight of 8 for bfloat16, four of 16 for integers.
struct Bf16_256 {
    using X = float;
    using Vector = __m256;
    using Sum = __m256;
    using Whole = __m256;
    static constexpr int bits = 16, wide = 8;
    AVX2 static INLINE Sum zero() { return _mm256_setzero_ps(); }
    template <bool dense>
    AVX2 static INLINE Vector part(const Row<16, dense>& row, long k, int u) {
        if (dense) {
            const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row.value(k)) + u);
            return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
        }
        long long kept;
        std::memcpy(&kept, row.value(k) + 8 * u, 8);
        const __m256i* spread = reinterpret_cast<const __m256i*>(tables.floats[row.code(k)[u]]);
        return _mm256_castsi256_ps(_mm256_shuffle_epi8(_mm256_set1_epi64x(kept), _mm256_load_si256(spread)));
    }
    AVX2 static INLINE Sum step(Sum s, Vector w, const X* x) { return _mm256_fmadd_ps(w, _mm256_loadu_ps(x), s); }
    AVX2 static INLINE Whole hand_on(Whole whole, Sum sum, int32_t, double) { return _mm256_add_ps(whole, sum); }
    AVX2 static INLINE Sum join(Sum a, Sum b) { return _mm256_add_ps(a, b); }
    AVX2 static INLINE float total(Whole whole) {
        alignas(32) float lanes[8];
        _mm256_store_ps(lanes, whole);
        return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
    }
};
template <int width>
struct Int_256 {
    using X = int16_t;
    using Vector = __m256i;
    using Sum = __m256i;
    using Whole = __m256d;
    static constexpr int bits = width, wide = 16;
    AVX2 static INLINE Sum zero() { return _mm256_setzero_si256(); }
    AVX2 static INLINE __m128i load(const uint8_t* values, int part, bool upper) {  // 16 values
        const __m128i found = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values) + part);
        if (bits == 8) return found;
        return _mm_and_si128(upper ? found : _mm_slli_epi16(found, 4), _mm_set1_epi8(-16));
    }
    template <bool dense>
    AVX2 static INLINE Vector part(const Row<bits, dense>& row, long k, int u) {
        if (dense) return _mm256_cvtepu8_epi16(load(row.value(k), bits == 8 ? u : u % 2, u > 1));
        const uint8_t* code = row.code(k) + 2 * u;
        const __m128i both = bits == 8 ? _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row.value(k) + 8 * u))
                                       : load(row.value(k), 0, u > 1);
        const __m128i kept = bits == 4 && u % 2 ? _mm_unpackhi_epi64(both, both) : both;
        const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(tables.bytes[0][code[0]]));
        const double* high = reinterpret_cast<const double*>(tables.bytes[1][code[1]]);
        const __m128i spread = _mm_castpd_si128(_mm_loadh_pd(_mm_castsi128_pd(low), high));
        return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(kept, spread));
    }
    AVX2 static INLINE Sum step(Sum s, Vector w, const X* x) {
        const __m256i here = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
        return _mm256_add_epi32(s, _mm256_madd_epi16(w, here));
    }
    AVX2 static INLINE Sum join(Sum a, Sum b) { return _mm256_add_epi32(a, b); }
    AVX2 static INLINE Whole hand_on(Whole whole, Sum sum, int32_t less, double scale) {
        const __m128i low = _mm256_castsi256_si128(sum), high = _mm256_extracti128_si256(sum, 1);
        if (bits == 8) return _mm256_add_pd(whole, _mm256_add_pd(_mm256_cvtepi32_pd(low), _mm256_cvtepi32_pd(high)));
        const __m128i all = _mm_add_epi32(_mm_add_epi32(low, high), _mm_cvtsi32_si128(less));
        return _mm256_fmadd_pd(_mm256_cvtepi32_pd(all), _mm256_set1_pd(scale), whole);
    }
    AVX2 static INLINE double total(Whole whole) {
        const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(whole), _mm256_extractf128_pd(whole, 1));
        return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
    }
};

template <class Kind, bool dense, int R>
AVX2 void rows_avx2(const Job& job, long from, long to) {
    constexpr int W = Kind::wide, U = R == 1 ? 4 : 2, bits = Kind::bits;  // U sums, so that none waits for its last step
    constexpr long HALF = SEGMENT / 2;  // 8 lanes are full after half as many blocks as 16
    static_assert(lane_holds(HALF * BLOCK / 8, 255) && HALF % CHUNK == 0);
    const typename Kind::X* x = static_cast<const typename Kind::X*>(job.x);
    const long width = job.blocks * BLOCK;
    for (long o = from; o < to; ++o) {
        Row<bits, dense> row(job, o);
        typename Kind::Sum sum[R][U];
        typename Kind::Whole whole[R] = {};
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int u = 0; u < U; ++u) sum[r][u] = Kind::zero();
        const auto hand_on = [&](long b) __attribute__((always_inline)) AVX2 {
            const double scale = bits == 4 ? job.block_scale(o, b) : 1;
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
                const int32_t less = bits == 4 && dense ? job.less[r * job.blocks + b] : 0;
#pragma GCC unroll 4
                for (int u = 1; u < U; ++u) sum[r][0] = Kind::join(sum[r][0], sum[r][u]);
                whole[r] = Kind::hand_on(whole[r], sum[r][0], less, scale);
#pragma GCC unroll 4
                for (int u = 0; u < U; ++u) sum[r][u] = Kind::zero();
            }
        };
        for (long b = 0; b < job.blocks; b += CHUNK) {
            const long n = std::min(CHUNK, job.blocks - b);
            ask(row, n);
            row.chunk(n);
            for (long k = 0; k < n; ++k) {
                const typename Kind::X* here = x + (b + k) * BLOCK;
#pragma GCC unroll 8
                for (int u = 0; u < BLOCK / W; ++u) {
                    const auto w = Kind::template part<dense>(row, k, u);
#pragma GCC unroll 4
                    for (int r = 0; r < R; ++r) sum[r][u % U] = Kind::step(sum[r][u % U], w, here + r * width + u * W);
                }
                if (bits == 4) hand_on(b + k);
            }
            if (bits == 8 && (b + CHUNK) % HALF == 0) hand_on(0);
        }
        if (bits != 4) hand_on(0);
        for (int r = 0; r < R; ++r) {
            auto total = Kind::total(whole[r]);
            if (bits == 8 && dense) total += job.row_less(r);
            job.put(r, o, 1, &total);
        }
    }
}

// A panel: `2 * wide` rows of the weight, unpacked, as dwords [in / group][row]. R rows of x meet it at a time: a dword of
// x is broadcast, and no sum goes across lanes. A kind unpacks a line, steps through a dword of x, and hands sums on to `whole`
// after `full` dwords, before lanes of 32 bits are full or when the scale changes.
template <int width>
struct Panel_int_512 {
    using Whole = double;
    struct Sum {
        __m512i lower, upper;
    };
    static constexpr int bits = width;
    static constexpr long wide = 16, group = 4, R = 6, full = bits == 4 ? BLOCK / group : WIDEST;
    static_assert(WIDEST * 255 * 128 < 1LL << 31);  // products of a byte of w and a byte of x
    AVX512 static INLINE Sum zero() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
    template <bool dense>
    AVX512 static INLINE void line(const Row<bits, dense>& row, long n, uint8_t* out) {
        for (long k = 0; k < n; ++k) {
            __m512i w = bytes_512<bits, dense>(row.value(k), false);
            uint64_t mask = 0;
            if (!dense) {
                for (int i = 0; i < 8; ++i) mask |= uint64_t(tables.masks[row.code(k)[i]]) << 8 * i;
                w = _mm512_xor_si512(_mm512_maskz_expand_epi8(mask, w), _mm512_set1_epi8(-128));
            }
            _mm512_storeu_si512(out + k * 64, w);
        }
    }
    AVX512 static INLINE void step(Sum& sum, const uint32_t* panel, const uint8_t* x, long k, long count) {
        const __m512i w = _mm512_load_si512(panel);
        int low, high;
        std::memcpy(&low, x + 4 * k, 4);
        std::memcpy(&high, x + 4 * (count + k), 4);
        sum.lower = _mm512_dpbusd_epi32(sum.lower, w, _mm512_set1_epi32(low));
        sum.upper = _mm512_dpbusd_epi32(sum.upper, w, _mm512_set1_epi32(high));
    }
    AVX512 static INLINE void hand_on(Sum sum, Whole* whole, const float* scales, double less) {
        alignas(64) int32_t low[16], high[16];
        _mm512_store_si512(low, sum.lower);
        _mm512_store_si512(high, sum.upper);
        if (bits == 4)
            for (int j = 0; j < 16; ++j) whole[j] += double(low[j] + 256 * high[j] + int32_t(less)) * scales[j];
        else
            for (int j = 0; j < 16; ++j) whole[j] += low[j] + 256.0 * high[j] + less;
    }
};

struct Panel_dot_512 {
    using Whole = float;
    using Sum = __m512;
    static constexpr int bits = 16;
    static constexpr long wide = 16, group = 2, R = 12, full = WIDEST;
    AVX512 static INLINE Sum zero() { return _mm512_setzero_ps(); }
    template <bool dense>
    AVX512 static INLINE __m512i half(const Row<16, dense>& row, long k) {  // 32 weights
        if (dense) return _mm512_loadu_si512(row.values + k * 64);
        uint32_t mask = 0;
        for (int i = 0; i < 4; ++i) mask |= uint32_t(tables.masks[row.codes[4 * k + i]]) << 8 * i;
        const __m256i kept = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row.values + k * 32));
        return _mm512_maskz_expand_epi16(mask, _mm512_castsi256_si512(kept));
    }
    template <bool dense>
    AVX512 static INLINE void line(const Row<16, dense>& row, long n, uint8_t* out) {
        for (long k = 0; k < 2 * n; ++k) _mm512_storeu_si512(out + 64 * k, half(row, k));
    }
    AVX512 static INLINE void step(Sum& sum, const uint32_t* panel, const uint8_t* x, long k, long) {
        int pair;
        std::memcpy(&pair, x + 4 * k, 4);
        sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_load_si512(panel), (__m512bh)_mm512_set1_epi32(pair));
    }
    AVX512 static INLINE void hand_on(Sum sum, Whole* whole, const float*, double) {
        _mm512_storeu_ps(whole, _mm512_add_ps(_mm512_loadu_ps(whole), sum));
    }
};
struct Panel_float_512 : Panel_dot_512 {
    static constexpr long group = 1;
    template <bool dense>
    AVX512 static INLINE void line(const Row<16, dense>& row, long n, uint8_t* out) {
        for (long k = 0; k < 2 * n; ++k) {
            const __m512i w = half(row, k);
            for (int j = 0; j < 2; ++j) {
                const __m256i part = j ? _mm512_extracti64x4_epi64(w, 1) : _mm512_castsi512_si256(w);
                _mm512_storeu_si512(out + 128 * k + 64 * j, _mm512_slli_epi32(_mm512_cvtepu16_epi32(part), 16));
            }
        }
    }
    AVX512 static INLINE void step(Sum& sum, const uint32_t* panel, const uint8_t* x, long k, long) {
        float value;
        std::memcpy(&value, x + 4 * k, 4);
        sum = _mm512_fmadd_ps(_mm512_load_ps(panel), _mm512_set1_ps(value), sum);
    }
};

template <class Kind>
struct Panel_256 {
    using Sum = typename Kind::Sum;
    static constexpr int bits = Kind::bits;
    static constexpr long wide = 8;
    AVX2 static INLINE Sum zero() { return Kind::zero(); }
    template <bool dense>
    AVX2 static INLINE void line(const Row<bits, dense>& row, long n, uint8_t* out) {
        for (long k = 0; k < n; ++k)
#pragma GCC unroll 8
            for (int u = 0; u < BLOCK / Kind::wide; ++u, out += 32) {
                auto part = Kind::template part<dense>(row, k, u);
                if constexpr (dense && bits < 16) part = _mm256_sub_epi16(part, _mm256_set1_epi16(128));
                std::memcpy(out, &part, 32);
            }
    }
};
struct Panel_float_256 : Panel_256<Bf16_256> {
    using Whole = float;
    static constexpr long group = 1, R = 6, full = WIDEST;
    AVX2 static INLINE void step(Sum& sum, const uint32_t* panel, const uint8_t* x, long k, long) {
        const __m256 value = _mm256_broadcast_ss(reinterpret_cast<const float*>(x) + k);
        sum = _mm256_fmadd_ps(_mm256_load_ps(reinterpret_cast<const float*>(panel)), value, sum);
    }
    AVX2 static INLINE void hand_on(Sum sum, Whole* whole, const float*, double) {
        _mm256_storeu_ps(whole, _mm256_add_ps(_mm256_loadu_ps(whole), sum));
    }
};
template <int width>
struct Panel_int_256 : Panel_256<Int_256<width>> {
    using Whole = double;
    static constexpr long group = 2, R = 4, full = width == 4 ? BLOCK / group : 256;
    static_assert(lane_holds(full * group, 128));
    AVX2 static INLINE void step(__m256i& sum, const uint32_t* panel, const uint8_t* x, long k, long) {
        int pair;
        std::memcpy(&pair, x + 4 * k, 4);
        const __m256i w = _mm256_load_si256(reinterpret_cast<const __m256i*>(panel));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(w, _mm256_set1_epi32(pair)));
    }
    AVX2 static INLINE void hand_on(__m256i sum, Whole* whole, const float* scales, double) {
        alignas(32) int32_t part[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(part), sum);
        for (int j = 0; j < 8; ++j) whole[j] += part[j] * (width == 4 ? double(scales[j]) : 1);
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

// Rows `first` to `last` of the weight times all rows of x. panel, scales [blocks][P], lines: scratch memory.
// Sums are copied before an index that is no constant takes them, which would keep them out of registers.
#define PANELS(TARGET, NAME)                                                                                           \
    template <class Kind, int R>                                                                                       \
    TARGET INLINE void NAME##_some(const Job& job, const uint32_t* panel, const float* scales, long r, long o, long n) { \
        constexpr long W = Kind::wide;                                                                                 \
        const long count = job.blocks * BLOCK / Kind::group, bytes = 4 * count * (Kind::bits < 16 && W == 16 ? 2 : 1); \
        const uint8_t* x = static_cast<const uint8_t*>(job.x) + r * bytes;                                             \
        typename Kind::Whole whole[R][2 * W] = {};                                                                     \
        for (long start = 0; start < count; start += Kind::full) {                                                     \
            typename Kind::Sum sum[R][2];                                                                              \
            _Pragma("GCC unroll 16") for (int i = 0; i < R; ++i) sum[i][0] = sum[i][1] = Kind::zero();                 \
            for (long k = start; k < std::min(count, start + Kind::full); ++k)                                         \
                _Pragma("GCC unroll 16") for (int i = 0; i < R; ++i)                                                   \
                    for (int j = 0; j < 2; ++j) Kind::step(sum[i][j], panel + W * (2 * k + j), x + i * bytes, k, count); \
            typename Kind::Sum out[R][2];                                                                              \
            _Pragma("GCC unroll 16") for (int i = 0; i < R; ++i) out[i][0] = sum[i][0], out[i][1] = sum[i][1];         \
            const long b = start / Kind::full;                                                                         \
            for (int i = 0; i < R; ++i) {                                                                              \
                const double less = Kind::bits == 16 ? 0.0                                                             \
                                    : Kind::bits == 8 ? double(job.row_less(r + i)) : job.less[(r + i) * job.blocks + b]; \
                for (int j = 0; j < 2; ++j) Kind::hand_on(out[i][j], whole[i] + W * j, scales + W * (2 * b + j), less); \
            }                                                                                                          \
        }                                                                                                              \
        for (int i = 0; i < R; ++i) job.put(r + i, o, n, whole[i]);                                                    \
    }                                                                                                                  \
    template <class Kind, bool dense>                                                                                  \
    TARGET void NAME(const Job& job, uint32_t* panel, float* scales, uint8_t* lines, long rows, long first, long last) { \
        constexpr long P = 2 * Kind::wide;                                                                             \
        const long count = job.blocks * BLOCK / Kind::group;                                                           \
        for (long o = first; o < last; o += P) {                                                                       \
            const long n = std::min(P, last - o);                                                                      \
            for (long i = 0; i < n; i += 4) {                                                                          \
                for (long j = 0; j < std::min(4L, n - i); ++j) {                                                       \
                    Row<Kind::bits, dense> row(job, o + i + j);                                                        \
                    for (long b = 0; b < job.blocks; b += CHUNK) {                                                     \
                        const long some = std::min(CHUNK, job.blocks - b);                                             \
                        row.chunk(some);                                                                               \
                        Kind::template line<dense>(row, some, lines + 4 * (j * count + b * BLOCK / Kind::group));      \
                    }                                                                                                  \
                    for (long b = 0; Kind::bits == 4 && b < job.blocks; ++b)                                           \
                        scales[b * P + i + j] = float(job.block_scale(o + i + j, b));                                  \
                }                                                                                                      \
                transpose<P>(reinterpret_cast<uint32_t*>(lines), count, panel + i);                                    \
            }                                                                                                          \
            long r = 0;                                                                                                \
            for (; r + Kind::R <= rows; r += Kind::R) NAME##_some<Kind, Kind::R>(job, panel, scales, r, o, n);         \
            for (; r < rows; ++r) NAME##_some<Kind, 1>(job, panel, scales, r, o, n);                                   \
        }                                                                                                              \
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
    // Steps of a row of subnormals are too coarse for int16, so its values become 0.
    step = step < std::numeric_limits<float>::min() ? 1 : step / LEVELS;
    if (most >= 0x7f800000) {
        std::memset(out, 0, 2 * width);
        return most > 0x7f800000 ? std::numeric_limits<float>::quiet_NaN() : step;
    }
    for (long i = 0; i < width; ++i) out[i] = int16_t(int32_t((x[i] / step + round) - round));
    return step;
}

// Rows of x as a path wants them, padded with zeros to whole blocks.
struct Form {
    bool integer, wide, planes;  // planes: low bytes, then high ones
    int above;                   // what is added to these; 0: the bytes are signed
    long width, padded, item;
    const void* x;
    uint8_t* memory;
    float* step;
    int32_t* less;

    inline __attribute__((always_inline)) void row(long r, float* whole, int16_t* steps) const {
        const uint16_t* halves = static_cast<const uint16_t*>(x) + r * width;
        uint8_t* out = memory + r * padded * item;
        std::memset(out, 0, padded * item);
        if (item == 2 && !integer) {
            std::memcpy(out, halves, 2 * width);
            return;
        }
        float* floats = integer ? whole : reinterpret_cast<float*>(out);
        const float* own = static_cast<const float*>(x) + r * width;
        if (!wide)
            for (long i = 0; i < width; ++i) floats[i] = widen(halves[i]);
        if (!integer) return;
        step[r] = levels(wide ? own : floats, width, planes ? steps : reinterpret_cast<int16_t*>(out));
        const int16_t* seen = planes ? steps : reinterpret_cast<int16_t*>(out);
        for (long b = 0; b < padded / BLOCK; ++b) {
            int32_t sum = 0;
            for (long i = b * BLOCK; i < std::min(width, (b + 1) * BLOCK); ++i) sum += seen[i];
            less[r * (padded / BLOCK) + b] = -128 * sum;
        }
        if (!planes) return;
        for (long i = 0; i < width; ++i) {
            out[i] = uint8_t(steps[i]);
            out[padded + i] = uint8_t(((steps[i] + (above ? 0 : 128)) >> 8) + above);
        }
    }
};
void form_portable(const Form& form, long r, float* whole, int16_t* steps) { form.row(r, whole, steps); }
#if X86
AVX512 void form_512(const Form& form, long r, float* whole, int16_t* steps) { form.row(r, whole, steps); }
AVX2 void form_avx2(const Form& form, long r, float* whole, int16_t* steps) { form.row(r, whole, steps); }
#endif

enum Isa { portable, avx2, avx512, avx512bf16 };
using Rows = void (*)(const Job&, long, long);

template <int bits, bool dense, int R>
Rows choose(int isa) {
#if X86
    if constexpr (bits == 16) {
        if (isa >= avx512) return isa == avx512 ? rows_bf16_512<Widened, dense, R> : rows_bf16_512<Dot, dense, R>;
        if (isa == avx2) return rows_avx2<Bf16_256, dense, R>;
    } else {
        if (isa >= avx512) return rows_int_512<bits, dense, R>;
        if (isa == avx2) return rows_avx2<Int_256<bits>, dense, R>;
    }
#endif
    return rows_portable<bits, dense, R>;
}

template <int bits, bool dense>
Rows choose(int isa, long rows) {
    switch (rows) {
        case 1: return choose<bits, dense, 1>(isa);
        case 2: return choose<bits, dense, 2>(isa);
        case 3: return choose<bits, dense, 3>(isa);
        default: return choose<bits, dense, 4>(isa);
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
using Panels = void (*)(const Job&, uint32_t*, float*, uint8_t*, long, long, long);
template <int bits, bool dense>
Panels choose_panel(int isa) {
    if constexpr (bits == 16) {
        if (isa == avx512bf16) return panel_512<Panel_dot_512, dense>;
        return isa == avx512 ? panel_512<Panel_float_512, dense> : panel_avx2<Panel_float_256, dense>;
    } else {
        return isa >= avx512 ? panel_512<Panel_int_512<bits>, dense> : panel_avx2<Panel_int_256<bits>, dense>;
    }
}
#endif

// CALL<bits, dense>(...) for bits and dense of a call.
#define FOR_KIND(CALL, ...)                                                                       \
    (bits == 16 ? dense ? CALL<16, true>(__VA_ARGS__) : CALL<16, false>(__VA_ARGS__)              \
     : bits == 8 ? dense ? CALL<8, true>(__VA_ARGS__) : CALL<8, false>(__VA_ARGS__)               \
     : dense ? CALL<4, true>(__VA_ARGS__) : CALL<4, false>(__VA_ARGS__))

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

// y [rows, out] = x [rows, width] times w [out, whole blocks] transposed, and bias. bits: of a weight, 16, 8 or 4. scale: null,
// float32 [out] or bfloat16 [out, blocks]. wide: x is float32, which integers alone take. half: y and bias are bfloat16, else
// float32.
void kernel24_product(int isa, int bits, int dense, const uint8_t* w, const void* scale, const void* bias, const void* x,
                      int wide, long rows, long width, long out, void* y, int half, int threads) {
    const bool integer = bits < 16;
    const bool many = rows >= MANY && isa >= avx2 && width <= WIDEST;
    Job job{bits, w, scale, nullptr, nullptr, nullptr, (width + BLOCK - 1) / BLOCK, out, bias, y, bool(half)};
    const long padded = job.blocks * BLOCK, item = integer || isa == avx512bf16 || (isa == avx512 && !many) ? 2 : 4;
    const long part = (rows * padded * item + 63) / 64 * 64;
    uint8_t* memory = room(part + 4 * rows * (1 + job.blocks));
    float* step = reinterpret_cast<float*>(memory + part);
    int32_t* less = reinterpret_cast<int32_t*>(step + rows);
    const Form form{integer, bool(wide), integer && isa >= avx512, dense || many ? 0 : 128, width, padded, item, x, memory, step, less};
    share_out(rows, 4, threads, [&](long first, long last) {
        std::vector<float> whole(integer ? width : 0);
        std::vector<int16_t> steps(integer ? width : 0);
        auto work = form_portable;
#if X86
        if (isa >= avx2) work = isa >= avx512 ? form_512 : form_avx2;
#endif
        for (long r = first; r < last; ++r) work(form, r, whole.data(), steps.data());
    });
#if X86
    if (many) {
        job.x = memory, job.step = step, job.less = less;
        const Panels work = FOR_KIND(choose_panel, isa);
        share_out(out, 32, threads, [&](long first, long last) {
            std::vector<uint32_t> panel(32 * padded + 16);
            std::vector<float> scales(bits == 4 ? 32 * job.blocks : 0);
            std::vector<uint8_t> line(8 * padded * 4);
            auto aligned = reinterpret_cast<uint32_t*>((reinterpret_cast<uintptr_t>(panel.data()) + 63) / 64 * 64);
            work(job, aligned, scales.data(), line.data(), rows, first, last);
        });
        return;
    }
#endif
    for (long a = 0; a < rows; a += ROWS) {
        const long some = std::min(ROWS, rows - a);
        job.x = memory + a * padded * item, job.step = step + a, job.less = less + a * job.blocks;
        job.y = static_cast<uint8_t*>(y) + a * out * (half ? 2 : 4);
        const Rows work = FOR_KIND(choose, isa, some);
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
    int32_t dtype, kind = 0;
    void *from, *w, *s = nullptr, *b = nullptr, *to;
    if (torch.sizes(x, &sizes) || torch.dim(x, &dim) || torch.dtype(x, &dtype) || torch.sizes(memory, &shape) ||
        torch.data(x, &from) || torch.data(memory, &w) || (scale && (torch.data(*scale, &s) || torch.dtype(*scale, &kind))) || (bias && torch.data(*bias, &b)))
        return 1;
    const int64_t out[2] = {sizes[0], shape[0]}, strides[2] = {shape[0], 1};
    if (dim != 2 || torch.empty(2, out, strides, dtype, 0, 0, y) || torch.data(*y, &to)) return 1;
    const int bits = !s ? 16 : kind == torch.bfloat16() ? 4 : 8;
    const bool half = dtype == torch.bfloat16(), dense = shape[1] == (sizes[1] + BLOCK - 1) / BLOCK * BLOCK * bits / 8;
#if defined(_OPENMP)
    const int threads = omp_get_max_threads();
#else
    const int threads = 1;
#endif
    kernel24_product(int(isa), bits, dense, static_cast<uint8_t*>(w), s, b, from, !half, sizes[0], sizes[1], shape[0], to, half,
                     threads);
    return 0;
}

// The sum of `bytes` of memory, a multiple of 256, as 64-bit numbers: as fast as memory can be read.
uint64_t kernel24_read(int isa, const uint8_t* at, long bytes, int threads) {
    std::atomic<uint64_t> sum{0};
    share_out(bytes, 256, threads, [&](long first, long last) {
#if X86
        if (isa >= avx512) {
            sum += read_512(at + first, last - first);
            return;
        }
#endif
        sum += read_portable(at + first, last - first);
    });
    return sum;
}
}
