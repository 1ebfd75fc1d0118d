// y = W x of trellis codes, decoded in the product, on one thread with AVX-512. For
// trellis_products.py, which packs the codes.
//
// A tile of 16 x 16 weights is 256 symbols of K bits, a ring. Symbol t, input t / 16 and output
// t % 16, is at bit (255 - t) K of a number of 32 K bytes, so a state is K bits and those above.

#include <cstdint>
#include <cstring>
#include <immintrin.h>

namespace {

inline uint64_t load(const uint8_t* from) {
    uint64_t word;
    std::memcpy(&word, from, 8);
    return word;
}

// The numbers of 16 states: 1MAD of QTIP (arXiv 2406.11235), not divided by its standard deviation.
inline __m512 numbers(__m512i state) {
    const __m512i factor = _mm512_set1_epi32(34038481), term = _mm512_set1_epi32(76625530);
    const __m512i x = _mm512_add_epi32(_mm512_mullo_epi32(state, factor), term);
    const __m512i mean = _mm512_set1_epi32(-510), ones = _mm512_set1_epi8(1);
    return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(mean, x, ones));  // the sum of four bytes
}

template <int K>
void multiply(int memory, const uint8_t* tile, const float* x, float* y, long outputs, long inputs) {
    const __m512i below = _mm512_set1_epi32((1 << memory) - 1);
    const __m512i shifts = _mm512_set_epi64(0, K, 2 * K, 3 * K, 4 * K, 5 * K, 6 * K, 7 * K);
    const __m512i lower = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    for (long out = 0; out < outputs; out += 16) {
        __m512 sum = _mm512_setzero_ps();
        for (long in = 0; in < inputs; in += 16, tile += 32 * K) {
            for (int i = 0; i < 16; ++i) {
                // Eight symbols are K bytes. The first eight follow the last, as in a ring.
                const uint64_t last = load(tile + 32 * K - 8) >> (64 - 8 * K);
                const uint64_t a = i ? load(tile + (31 - 2 * i) * K) : load(tile) << 8 * K | last;
                const uint64_t b = load(tile + (30 - 2 * i) * K);
                const __m512i first = _mm512_srlv_epi64(_mm512_set1_epi64(long(a)), shifts);
                const __m512i second = _mm512_srlv_epi64(_mm512_set1_epi64(long(b)), shifts);
                const __m512i both = _mm512_permutex2var_epi32(first, lower, second);
                const __m512i state = _mm512_and_si512(both, below);
                const __m512 input = _mm512_set1_ps(x[in + i]);
                sum = _mm512_fmadd_ps(numbers(state), input, sum);
            }
        }
        _mm512_storeu_ps(y + out, sum);
    }
}

}  // namespace

// tiles: all tiles of 16 outputs, then the next, and 8 bytes more.
extern "C" void trellis_product(int bits, int memory, const uint8_t* tiles, const float* x, float* y,
                                long outputs, long inputs) {
    const auto product = bits == 2 ? multiply<2> : bits == 3 ? multiply<3> : multiply<4>;
    product(memory, tiles, x, y, outputs, inputs);
}
