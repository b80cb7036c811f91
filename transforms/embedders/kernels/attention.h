/* Attention of one head over one sequence, its two products in 16 bits. */
#ifndef HEADRACE_ATTENTION_H
#define HEADRACE_ATTENTION_H
#include "arithmetic.h"

#define QUERIES 12 /* at once: 12 x 2 registers of sums, of 32 columns */

/* What keeps sums of int32 from overflowing: depth * limit * limit < 2^31, and shares that add up to less than
 * 2^31 / limit. */
#define KEY_LIMIT(depth) ((depth) == 32 ? 8191.0f : 5792.0f)
#define VALUE_LIMIT 4095.0f
#define SHARES_LIMIT 520000.0f

INLINE float largest(const float *rows, size_t stride, int count, int columns) {
    __m512 most = _mm512_setzero_ps();
    for (int r = 0; r < count; r++)
        for (int i = 0; i < columns; i += 16)
            most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(rows + r * stride + i)));
    return _mm512_reduce_max_ps(most);
}

INLINE void head_attention(const int depth, const float *q, size_t stride, int length, const float *bias,
                           size_t bias_stride, float *out, size_t out_stride, uint8_t *space) {
    const float *k = q + stride / 3, *v = q + 2 * (stride / 3);
    const int padded = (length + 31) & ~31;
    int16_t *queries = (int16_t *)space;                              /* (length, depth) */
    int32_t *keys = (int32_t *)(queries + (size_t)padded * depth);    /* (depth / 2, padded) of pairs */
    int16_t *values = (int16_t *)(keys + (size_t)padded * depth / 2); /* (padded / 2, depth) of pairs */
    float *scores = (float *)(values + (size_t)padded * depth);       /* (QUERIES, padded) */
    int16_t *shares = (int16_t *)(scores + (size_t)QUERIES * padded); /* (QUERIES, padded) */
    const float value_largest = largest(v, stride, length, depth);
    const __m512 value_factor = _mm512_set1_ps(value_largest > 1e-30f ? VALUE_LIMIT / value_largest : 0.0f);
    const float key_largest = largest(k, stride, length, depth), query_largest = largest(q, stride, length, depth);
    const __m512 key_factor = _mm512_set1_ps(key_largest > 1e-30f ? KEY_LIMIT(depth) / key_largest : 0.0f);
    const __m512 query_factor = _mm512_set1_ps(query_largest > 1e-30f ? KEY_LIMIT(depth) / query_largest : 0.0f);
    for (int t = 0; t < length; t++) {
        for (int i = 0; i < depth; i += 16) {
            _mm256_storeu_si256((__m256i *)(queries + t * depth + i),
                                _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(
                                    _mm512_mul_ps(_mm512_loadu_ps(q + t * stride + i), query_factor))));
            int32_t pairs[8];
            _mm256_storeu_si256((__m256i *)pairs, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(
                                                      _mm512_loadu_ps(k + t * stride + i), key_factor))));
            for (int p = 0; p < 8; p++) keys[(size_t)(i / 2 + p) * padded + t] = pairs[p];
        }
    }
    for (int p = 0; p < depth / 2; p++)
        for (int t = length; t < padded; t++) keys[(size_t)p * padded + t] = 0;
    for (int t = 0; t < padded; t += 2)
        for (int i = 0; i < depth; i += 16) {
            const __m512i none = _mm512_setzero_si512();
            const __m512i first =
                t < length ? _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(v + t * stride + i), value_factor))
                           : none;
            const __m512i second =
                t + 1 < length
                    ? _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(v + (t + 1) * stride + i), value_factor))
                    : none;
            const __m512i pair =
                _mm512_or_si512(_mm512_and_si512(first, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(second, 16));
            _mm512_storeu_si512(values + (size_t)t * depth + 2 * i, pair);
        }
    const float unscale =
        key_largest * query_largest / (KEY_LIMIT(depth) * KEY_LIMIT(depth)) / __builtin_sqrtf((float)depth);
    const __m512 score_scale = _mm512_set1_ps(unscale);
    for (int t = 0; t < length; t += QUERIES) {
        const int rows = length - t < QUERIES ? length - t : QUERIES;
        const uint8_t *a = (const uint8_t *)(queries + t * depth);
        for (int c = 0; c < padded; c += 32) {
            __m512i sums[QUERIES][2];
            tile(16, QUERIES, 2, a, 2 * depth, (const uint8_t *)(keys + c), 4 * (size_t)padded, depth / 2, sums);
            UNROLL
            for (int r = 0; r < QUERIES; r++)
                for (int i = 0; i < 2; i++)
                    _mm512_storeu_ps(scores + r * padded + c + 16 * i,
                                     _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][i]), score_scale));
        }
        float share_scale[QUERIES];
        for (int r = 0; r < rows; r++) {
            float *row = scores + r * padded;
            __m512 most = _mm512_set1_ps(-1e30f);
            for (int c = 0; c < padded; c += 16) {
                const int left = length - c;
                const __mmask16 inside = left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
                __m512 s = _mm512_loadu_ps(row + c);
                if (bias) s = _mm512_add_ps(s, _mm512_maskz_loadu_ps(inside, bias + (t + r) * bias_stride + c));
                s = _mm512_mask_blend_ps(inside, _mm512_set1_ps(-1e30f), s);
                if (bias || left < 16) _mm512_storeu_ps(row + c, s);
                most = _mm512_max_ps(most, s);
            }
            const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most));
            __m512 sum = _mm512_setzero_ps();
            for (int c = 0; c < padded; c += 16) {
                const __m512 p = exponential(_mm512_sub_ps(_mm512_loadu_ps(row + c), top));
                _mm512_storeu_ps(row + c, p);
                sum = _mm512_add_ps(sum, p);
            }
            const float total = _mm512_reduce_add_ps(sum);
            const float limit = SHARES_LIMIT / total, factor = limit < 32767.0f ? limit : 32767.0f;
            for (int c = 0; c < padded; c += 16)
                _mm256_storeu_si256((__m256i *)(shares + r * padded + c),
                                    _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(
                                        _mm512_mul_ps(_mm512_loadu_ps(row + c), _mm512_set1_ps(factor)))));
            share_scale[r] = value_largest / (VALUE_LIMIT * factor * total);
        }
        for (int half = 0; half < depth; half += 32) {
            __m512i sums[QUERIES][2];
            tile(16, QUERIES, 2, (const uint8_t *)shares, 2 * (size_t)padded, (const uint8_t *)(values + 2 * half),
                 4 * (size_t)depth, padded / 2, sums);
            UNROLL
            for (int r = 0; r < QUERIES; r++)
                if (r < rows)
                    for (int i = 0; i < 2; i++)
                        _mm512_storeu_ps(
                            out + (size_t)(t + r) * out_stride + half + 16 * i,
                            _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][i]), _mm512_set1_ps(share_scale[r])));
        }
    }
}

#endif
