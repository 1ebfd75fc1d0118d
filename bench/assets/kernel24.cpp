// Products of a 2:4 matrix and a few vectors, for decoding on a CPU, and the same kernel dense to compare with.
//
// A row is cut into blocks of 64 weights, 32 of them kept, and eight blocks lie together in one stream: first their
// codes, 8 bytes a block, then their values, bfloat16 or int8. A code is four bits a group of four weights. Beside
// bfloat16 it holds the places of the first and the second kept weight, two bits each: values are read as they lie and x
// is fetched to them, which takes fewer instructions than spreading them over the row. Beside int8 it is packed24's mask,
// bit j for weight j: a byte-wise expand puts 64 weights in their places at once, and x is read as it lies.
// A dense row is its 64 values a block, one after the other.
//
// x [rows, width] is bfloat16, or float32 beside int8, which sees it as int16, each row by its largest; y is float32
// [rows, out]. Sums of integers are exact: |x| <= 32767, and lanes of 32 bits are handed on before they are full.

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
constexpr long SEGMENT = 128;   // blocks after which sums of 16-bit products are handed on to 64 bits
constexpr long LONGEST = 8192;  // the same of 8-bit ones: 4 products of at most 255 * 128 a lane and block
constexpr long AHEAD = 16384;   // bytes between what is asked for and what is read: memory is that far away
constexpr float LEVELS = 32767;

struct Job {
    const uint8_t* w;
    const float* scale;  // [out], int8 alone
    const void* x;       // [rows, blocks * 64], as the path wants it
    float step[ROWS];    // int8 alone: of each row of x
    long blocks, out;
    float* y;

    template <class Sum>
    void put(long r, long o, Sum sum) const {
        y[r * out + o] = scale ? float(double(sum) * double(scale[o])) * step[r] : float(sum);
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

inline float widen(uint16_t bits) {
    uint32_t whole = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &whole, 4);
    return value;
}
inline float widen(int8_t value) { return value; }

// The two places that each mask of four bits keeps; of others none is ever asked for.
struct Places {
    uint8_t first[16] = {}, second[16] = {};
    constexpr Places() {
        for (int mask = 0; mask < 16; ++mask)
            for (int j = 3, seen = 0; j >= 0; --j)
                if (mask >> j & 1) (seen++ ? first : second)[mask] = uint8_t(j);
    }
};
constexpr Places PLACES;

inline long place_of(const uint8_t* codes, long k, bool mask) {  // of kept weight k, from the block's beginning
    const int code = codes[k / 4] >> (k / 2 % 2 * 4) & 15;
    const int own = mask ? (k % 2 ? PLACES.second : PLACES.first)[code] : code >> (k % 2 * 2) & 3;
    return 4 * (k / 2) + own;
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
                const long place = dense ? k : place_of(row.codes, k, sizeof(Value) == 1);
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
    alignas(64) uint8_t shifts[64];          // word k of a quadword of codes: its bits 2k, 2k + 1 to the bottom
    alignas(64) uint16_t groups[32];         // where the group of kept weight k begins
    alignas(64) uint8_t by_place[256][16];   // four 16-bit values to their places among eight, for two codes
    alignas(64) uint8_t by_mask[256][16];    // the same for masks
    Tables() {
        for (int k = 0; k < 32; ++k) {
            shifts[2 * k] = shifts[2 * k + 1] = uint8_t(k % 32 * 2);
            groups[k] = uint16_t(4 * (k / 2));
        }
        for (int code = 0; code < 256; ++code) {
            const uint8_t own = uint8_t(code);
            for (auto spread : {by_place[code], by_mask[code]}) {
                std::memset(spread, 0x80, 16);
                for (int k = 0; k < 4; ++k) {
                    const long place = place_of(&own, k, spread == by_mask[code]);
                    spread[2 * place] = uint8_t(2 * k);
                    spread[2 * place + 1] = uint8_t(2 * k + 1);
                }
            }
        }
    }
};
const Tables tables;

AVX512 INLINE int64_t lanes_of(__m512i lanes) {
    const __m512i wide = _mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(lanes)),
                                          _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(lanes, 1)));
    return _mm512_reduce_add_epi64(wide);
}
INLINE int64_t sum_of(const int32_t* lanes, int count) {
    int64_t sum = 0;
    for (int i = 0; i < count; ++i) sum += lanes[i];
    return sum;
}

// The coming lines of a row into the second cache: as many as a chunk of n blocks has.
template <class Value, bool dense>
INLINE void ask(const Row<Value, dense>& row, long n) {
    for (long i = 0; i < n * Row<Value, dense>::bytes; i += 64)
        _mm_prefetch(reinterpret_cast<const char*>(row.at) + AHEAD + i, _MM_HINT_T1);
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
    constexpr int O = R > 2 ? 1 : 2;
    for (; from + O <= to; from += O) some_bf16_512<Sum, dense, R, O>(job, from);
    for (; from < to; ++from) some_bf16_512<Sum, dense, R, 1>(job, from);
}

// x is two bytes a place: of row r its low ones, then its high ones, these with 128 added, since vpdpbusd takes unsigned
// bytes beside signed weights. x w = 256 high w + low w - 256 * 128 w.
template <bool dense, int R, int O>
AVX512 INLINE void some_int8_512(const Job& job, long o) {
    using Line = Row<int8_t, dense>;
    const uint8_t* x = static_cast<const uint8_t*>(job.x);
    const long width = job.blocks * BLOCK;
    const __m512i ones = _mm512_set1_epi8(1), none = _mm512_setzero_si512();
    Line row[O];
    int64_t whole[O][R] = {};
    for (int i = 0; i < O; ++i) row[i].at = job.w + (o + i) * job.blocks * Line::bytes;
    for (long start = 0; start < job.blocks; start += LONGEST) {
        __m512i weight[O], lower[O][R], upper[O][R];
        for (int i = 0; i < O; ++i) {
            weight[i] = none;
            for (int r = 0; r < R; ++r) lower[i][r] = upper[i][r] = none;
        }
        const long end = std::min(job.blocks, start + LONGEST);
        for (long b = start; b < end; b += CHUNK) {
            const long n = std::min(CHUNK, end - b);
            for (int i = 0; i < O; ++i) {
                ask(row[i], n);
                row[i].chunk(n);
            }
            for (long k = 0; k < n; ++k) {
                const uint8_t* here = x + (b + k) * BLOCK;
                for (int i = 0; i < O; ++i) {
                    __m512i w;
                    if (dense) {
                        w = _mm512_loadu_si512(row[i].values + k * 64);
                    } else {
                        uint64_t mask;
                        std::memcpy(&mask, row[i].codes + k * CODES, 8);
                        const __m256i kept =
                            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row[i].values + k * 32));
                        w = _mm512_maskz_expand_epi8(mask, _mm512_castsi256_si512(kept));
                    }
                    weight[i] = _mm512_dpbusd_epi32(weight[i], ones, w);
                    for (int r = 0; r < R; ++r) {
                        const uint8_t* low = here + 2 * r * width;
                        lower[i][r] = _mm512_dpbusd_epi32(lower[i][r], _mm512_loadu_si512(low), w);
                        upper[i][r] = _mm512_dpbusd_epi32(upper[i][r], _mm512_loadu_si512(low + width), w);
                    }
                }
            }
        }
        for (int i = 0; i < O; ++i)
            for (int r = 0; r < R; ++r)
                whole[i][r] += lanes_of(lower[i][r]) + 256 * (lanes_of(upper[i][r]) - 128 * lanes_of(weight[i]));
    }
    for (int i = 0; i < O; ++i)
        for (int r = 0; r < R; ++r) job.put(r, o + i, whole[i][r]);
}
template <bool dense, int R>
AVX512 void rows_int8_512(const Job& job, long from, long to) {
    constexpr int O = R > 2 ? 1 : 2;
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
        const __m128i kept = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(v));
        const __m128i* spread = reinterpret_cast<const __m128i*>(tables.by_place[*code]);
        return floats(_mm_shuffle_epi8(kept, _mm_load_si128(spread)));
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
        const __m128i* spread = reinterpret_cast<const __m128i*>(tables.by_mask);
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
            ask(row, n);
            row.chunk(n);
            for (long i = 0; i < n * BLOCK; i += 2 * W)
                for (int u = 0; u < 2; ++u) {
                    const long k = i + u * W;
                    const auto w = dense ? Kind::dense(row.values + k) : Kind::sparse(row.values + k / 2, row.codes + k / 8);
                    for (int r = 0; r < R; ++r)
                        sum[r][u] = Kind::step(sum[r][u], w, x + r * width + b * BLOCK + k);
                }
            if (sizeof(Value) == 1 && (b + CHUNK) % SEGMENT == 0)
                for (int r = 0; r < R; ++r) {
                    whole[r] += Kind::total(sum[r][0], sum[r][1]);
                    sum[r][0] = sum[r][1] = Kind::zero();
                }
        }
        for (int r = 0; r < R; ++r) job.put(r, o, whole[r] + Kind::total(sum[r][0], sum[r][1]));
    }
}

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

// A row of x in whole steps of its largest, -32767 to 32767, halves to even. Returns the step: NaN where the row has one.
float levels(const float* x, long width, int16_t* out) {
    constexpr float round = 12582912;  // 3 * 2^22: a float32 this large has no fraction
    float most = 0;
    bool nan = false;
    for (long i = 0; i < width; ++i) {
        most = std::max(most, std::fabs(x[i]));
        nan |= x[i] != x[i];
    }
    float step = nan ? std::numeric_limits<float>::quiet_NaN() : most / LEVELS;
    if (step == 0) step = 1;
    for (long i = 0; i < width; ++i) {
        out[i] = std::isfinite(step) ? int16_t((x[i] / step + round) - round) : int16_t(0);
    }
    return step;
}

// Up to four rows of x as a path wants them, padded with zeros to whole blocks.
struct Ready {
    std::vector<uint8_t> memory;
    Ready(Job& job, int isa, bool int8, const void* x, bool wide, long rows, long width) {
        const long padded = job.blocks * BLOCK, item = int8 || isa >= avx512 ? 2 : 4;
        memory.resize(rows * padded * item);
        std::vector<float> row(width);
        std::vector<int16_t> steps(width);
        for (long r = 0; r < rows; ++r) {
            const uint16_t* halves = static_cast<const uint16_t*>(x) + r * width;
            uint8_t* out = memory.data() + r * padded * item;
            if (item == 2 && !int8) {
                std::memcpy(out, halves, 2 * width);
                continue;
            }
            for (long i = 0; i < width; ++i)
                row[i] = wide ? static_cast<const float*>(x)[r * width + i] : widen(halves[i]);
            if (!int8) {
                std::memcpy(out, row.data(), 4 * width);
                continue;
            }
            job.step[r] = levels(row.data(), width, steps.data());
            if (isa < avx512) {
                std::memcpy(out, steps.data(), 2 * width);
                continue;
            }
            std::memset(out + padded, 128, padded);
            for (long i = 0; i < width; ++i) {
                out[i] = uint8_t(steps[i]);
                out[padded + i] = uint8_t((steps[i] >> 8) + 128);
            }
        }
        job.x = memory.data();
    }
};

// work(from, to) on shares of `count`, each a multiple of `unit`, a thread each.
template <class Work>
void share_out(long count, long unit, int threads, Work work) {
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
    {
        const long team = omp_get_num_threads(), me = omp_get_thread_num();
        const long share = ((count + team - 1) / team + unit - 1) / unit * unit;
        if (me * share < count) work(me * share, std::min(count, (me + 1) * share));
    }
#else
    (void)unit, (void)threads;
    work(0, count);
#endif
}

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

// y [rows, out] = x [rows, width] times w [out, whole blocks] transposed. wide: x is float32, which int8 alone takes.
void kernel24_product(int isa, int int8, int dense, const uint8_t* w, const float* scale, const void* x, int wide,
                      long rows, long width, long out, float* y, int threads) {
    for (long a = 0; a < rows; a += ROWS) {
        const long some = std::min(ROWS, rows - a);
        Job job{w, int8 ? scale : nullptr, nullptr, {}, (width + BLOCK - 1) / BLOCK, out, y + a * out};
        const uint8_t* from = static_cast<const uint8_t*>(x) + a * width * (wide ? 4 : 2);
        const Ready ready(job, isa, int8, from, wide, some, width);
        const Rows work = dense ? choose<true>(isa, int8, some) : choose<false>(isa, int8, some);
        share_out(out, 2, threads, [&](long first, long last) { work(job, first, last); });
    }
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
