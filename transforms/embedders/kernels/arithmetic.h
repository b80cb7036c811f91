/* Functions of vectors, quantisation of a row, and the tile that every product is made of. */
#ifndef HEADRACE_ARITHMETIC_H
#define HEADRACE_ARITHMETIC_H
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define ROWS 6    /* of a tile: 6 x 4 registers of sums, 4 of weights, 2 to spare */
#define VECTORS 4 /* of 16 columns each */
#define PANEL (16 * VECTORS)

INLINE __m512 gelu(__m512 x, const __m512 *c) {
    /* x * Phi(x), Phi by a parabola around each quarter of [-3.87, 3.87]: off by at most 6e-5. With so large a number
     * added, quarters are the lowest bits. */
    const __m512 inside = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(3.87f)), _mm512_set1_ps(-3.87f));
    const __m512i piece = _mm512_castps_si512(_mm512_add_ps(inside, _mm512_set1_ps(3145728.0f)));
    const __m512 c0 = _mm512_permutex2var_ps(c[0], piece, c[1]);
    const __m512 c1 = _mm512_permutex2var_ps(c[2], piece, c[3]);
    const __m512 c2 = _mm512_permutex2var_ps(c[4], piece, c[5]);
    return _mm512_mul_ps(x, _mm512_fmadd_ps(_mm512_fmadd_ps(c2, inside, c1), inside, c0));
}

INLINE __m512 power_of_two(__m512 x) {
    /* 2^n * 2^f, f in [-0.5, 0.5], the second by a polynomial of degree 3: off by 7.5e-5 of the value */
    const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_sub_ps(x, n);
    __m512 p = _mm512_set1_ps(5.5171645e-2f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4261138e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9326101e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.9992806e-1f));
    return _mm512_scalef_ps(p, n);
}

/* ---- quantisation of one row ---- */

#define ACTIVATION_LIMIT 4095.0f

INLINE __m512 floats_at(const void *row, int column, const int is_half) {
    if (is_half) return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)((const uint16_t *)row + column)));
    return _mm512_loadu_ps((const float *)row + column);
}

/* Four sums, least or greatest values at once hide how long each instruction takes. */
#define LANES 4
#define EACH_LANE                                                                                                    \
    UNROLL                                                                                                           \
    for (int lane = 0; lane < LANES; lane++)

INLINE __m512 total(const __m512 *v) { return _mm512_add_ps(_mm512_add_ps(v[0], v[1]), _mm512_add_ps(v[2], v[3])); }

#define GELU_LEAST -0.1702f /* of x * Phi(x), halves and parabolas being what they are */

/* The highest of halves and 0: as whole numbers they are in order, but for the negative ones. */
INLINE float highest_half(const uint16_t *row, int columns) {
    __m512i most = _mm512_setzero_si512();
    for (int i = 0; i < columns; i += 32) most = _mm512_max_epi16(most, _mm512_loadu_si512(row + i));
    return _mm512_reduce_max_ps(
        _mm512_cvtph_ps(_mm256_max_epi16(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1))));
}

/* `columns` is a multiple of 64. */
INLINE void quantise(const int bits, const int is_half, const void *row, int columns, uint8_t *out, float *scale,
                     float *offset) {
    float least, most;
    if (is_half) {
        least = GELU_LEAST;
        most = highest_half(row, columns);
    } else {
        __m512 low[LANES], high[LANES];
        EACH_LANE low[lane] = high[lane] = _mm512_setzero_ps();
        for (int i = 0; i < columns; i += 16 * LANES) EACH_LANE {
                const __m512 value = _mm512_loadu_ps((const float *)row + i + 16 * lane);
                low[lane] = _mm512_min_ps(low[lane], value);
                high[lane] = _mm512_max_ps(high[lane], value);
            }
        least = _mm512_reduce_min_ps(_mm512_min_ps(_mm512_min_ps(low[0], low[1]), _mm512_min_ps(low[2], low[3])));
        most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(high[0], high[1]), _mm512_max_ps(high[2], high[3])));
    }
    if (bits == 8) {
        const float range = most - least, inverse = range > 1e-30f ? 255.0f / range : 0.0f;
        const int32_t zero = (int32_t)(-least * inverse + 0.5f);
        const __m512 factor = _mm512_set1_ps(inverse);
        const __m512i shift = _mm512_set1_epi16((int16_t)zero);
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        for (int i = 0; i < columns; i += 16 * LANES) {
            __m512i q[LANES];
            EACH_LANE q[lane] = _mm512_cvtps_epi32(_mm512_mul_ps(floats_at(row, i + 16 * lane, is_half), factor));
            const __m512i first = _mm512_add_epi16(_mm512_packs_epi32(q[0], q[1]), shift);
            const __m512i second = _mm512_add_epi16(_mm512_packs_epi32(q[2], q[3]), shift);
            _mm512_storeu_si512(out + i, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(first, second)));
        }
        *scale = range / 255.0f;
        *offset = *scale * (float)zero;
    } else {
        const float largest = most > -least ? most : -least;
        const __m512 factor = _mm512_set1_ps(largest > 1e-30f ? ACTIVATION_LIMIT / largest : 0.0f);
        for (int i = 0; i < columns; i += 16) {
            const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(floats_at(row, i, is_half), factor));
            _mm256_storeu_si256((__m256i *)(out + 2 * i), _mm512_cvtsepi32_epi16(q));
        }
        *scale = largest / ACTIVATION_LIMIT;
        *offset = 0;
    }
}

/* ---- matrix products ---- */

/* In assembly because compilers know better: LLVM takes vpdpwssd apart into two instructions, GCC spills the sums. */
INLINE __m512i dot(const int bits, __m512i sum, __m512i row, __m512i columns) {
    if (bits == 8) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(row), "v"(columns));
    else
        __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(row), "v"(columns));
    return sum;
}

/* Sums of products of `rows` rows with 16 * `vectors` columns, each column's from its `start` (NULL: 0) on; 24
 * registers of sums at most. */
INLINE void tile(const int bits, const int rows, const int vectors, const uint8_t *a, size_t a_stride,
                 const uint8_t *b, size_t b_stride, int steps, const int32_t *start, __m512i sums[rows][vectors]) {
    UNROLL
    for (int r = 0; r < rows; r++) UNROLL
    for (int v = 0; v < vectors; v++)
        sums[r][v] = start ? _mm512_loadu_si512(start + 16 * v) : _mm512_setzero_si512();
    for (int k = 0; k < steps; k++, b += b_stride) {
        __m512i columns[VECTORS];
        UNROLL
        for (int v = 0; v < vectors; v++) columns[v] = _mm512_loadu_si512(b + 64 * v);
        UNROLL
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, a + r * a_stride + 4 * k, 4);
            const __m512i row = _mm512_set1_epi32(four);
            UNROLL
            for (int v = 0; v < vectors; v++) sums[r][v] = dot(bits, sums[r][v], row, columns[v]);
        }
    }
}

#endif
