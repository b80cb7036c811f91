/* Attention of one head over one sequence: scores in the encoder's own width, what is attended in 16 bits.
 *
 * Queries, keys and values come in panels of 64 columns, one panel after the other, so that a head reads few lines.
 */
#ifndef HEADRACE_ATTENTION_H
#define HEADRACE_ATTENTION_H
#include "arithmetic.h"

#define QUERIES 12 /* at once: 12 x 2 registers of sums, of 32 columns */
#define LOG2E 1.44269504f

/* What keeps sums of int32 from overflowing: depth * limit * limit < 2^31 for scores, and for what is attended
 * length * share * limit < 2^31, where a share is at most 2^share_bits. */
#define SCORE_LIMIT(bits, depth) ((bits) == 8 ? 127.0f : (depth) == 32 ? 8191.0f : 5792.0f)
#define VALUE_LIMIT 2047.0f

INLINE int share_bits(int length) {
    const int bits = length > 1 ? 20 - (32 - __builtin_clz((unsigned)length - 1)) : 15;
    return bits < 15 ? bits : 15;
}

INLINE __mmask16 first(int columns) { return columns >= 16 ? 0xffff : columns > 0 ? (1u << columns) - 1 : 0; }

/* ---- queries, keys and values as whole numbers ---- */

/* The largest of queries, keys and values, by amount. */
INLINE void largest(const float *q, size_t part, int length, const int depth, float most[3]) {
    __m512 found[3][4];
    UNROLL
    for (int p = 0; p < 3; p++) UNROLL
    for (int i = 0; i < depth / 16; i++) found[p][i] = _mm512_setzero_ps();
    for (int t = 0; t < length; t++) UNROLL
    for (int p = 0; p < 3; p++) UNROLL
    for (int i = 0; i < depth / 16; i++)
        found[p][i] = _mm512_max_ps(found[p][i], _mm512_abs_ps(_mm512_loadu_ps(q + p * part + t * PANEL + 16 * i)));
    for (int p = 0; p < 3; p++) {
        for (int i = 1; i < depth / 16; i++) found[p][0] = _mm512_max_ps(found[p][0], found[p][i]);
        most[p] = _mm512_reduce_max_ps(found[p][0]);
    }
}

INLINE float factor(float limit, float largest) { return largest > 1e-30f ? limit / largest : 0.0f; }

/* 16 floats as signed numbers; 8 bits are moved up by `zero`. */
INLINE void narrow(const int bits, const float *from, __m512 factor, const int zero, uint8_t *to) {
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(from), factor));
    if (bits == 8) _mm_storeu_si128((__m128i *)to, _mm_add_epi8(_mm512_cvtsepi32_epi8(q), _mm_set1_epi8((char)zero)));
    else
        _mm256_storeu_si256((__m256i *)to, _mm512_cvtsepi32_epi16(q));
}

/* Queries as (length, depth) of one or two bytes. */
INLINE void pack_queries(const int bits, const int depth, const float *q, int length, float scale, uint8_t *queries) {
    for (int t = 0; t < length; t++)
        for (int i = 0; i < depth; i += 16)
            narrow(bits, q + t * PANEL + i, _mm512_set1_ps(scale), 128, queries + (t * depth + i) * bits / 8);
}

/* Keys as (depth bytes / 4, padded) of four bytes, and what each column of scores starts from. */
INLINE void pack_keys(const int bits, const int depth, const float *k, int length, int padded, float scale,
                      int32_t *keys, int32_t *start) {
    const int groups = depth * bits / 32;
    for (int t = 0; t < length; t++) {
        int32_t row[32];
        for (int i = 0; i < depth; i += 16)
            narrow(bits, k + t * PANEL + i, _mm512_set1_ps(scale), 0, (uint8_t *)row + i * bits / 8);
        UNROLL
        for (int g = 0; g < groups; g++) keys[(size_t)g * padded + t] = row[g];
    }
    for (int g = 0; g < groups; g++)
        for (int t = length; t < padded; t++) keys[(size_t)g * padded + t] = 0;
    for (int t = 0; t < padded; t += 16) {
        __m512i sum = _mm512_setzero_si512();
        if (bits == 8) /* queries are 128 too high */
            for (int g = 0; g < groups; g++)
                sum = dot(8, sum, _mm512_set1_epi8((char)128), _mm512_loadu_si512(keys + (size_t)g * padded + t));
        _mm512_storeu_si512(start + t, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
    }
}

/* Place among 16 pairs of values where packs() in weigh() puts the pair's shares. */
INLINE int packed_pair(int pair) { return (pair & ~15) + ((pair & 6) << 1) + ((pair & 8) >> 2) + (pair & 1); }

/* Values as (padded / 2, depth) of pairs, each of two tokens. */
INLINE void pack_values(const int depth, const float *v, int length, int padded, float scale, int16_t *values) {
    const __m512i none = _mm512_setzero_si512();
    for (int t = 0; t < padded; t += 2)
        for (int i = 0; i < depth; i += 16) {
            const float *at = v + t * PANEL + i;
            const __m512 by = _mm512_set1_ps(scale);
            const __m512i even = t < length ? _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(at), by)) : none;
            const __m512i odd =
                t + 1 < length ? _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(at + PANEL), by)) : none;
            _mm512_storeu_si512(values + (size_t)packed_pair(t / 2) * 2 * depth + 2 * i,
                                _mm512_mask_blend_epi16(0xaaaaaaaa, even, _mm512_slli_epi32(odd, 16)));
        }
}

/* ---- softmax ---- */

/* The highest score of a row, in units of 2^x. With a bias, scores become floats in place. */
INLINE float highest(int32_t *row, int length, float scale, const float *bias) {
    if (!bias) {
        __m512i most = _mm512_set1_epi32(INT32_MIN);
        int c = 0;
        for (; c + 16 <= length; c += 16) most = _mm512_max_epi32(most, _mm512_loadu_si512(row + c));
        most = _mm512_mask_max_epi32(most, first(length - c), most, _mm512_loadu_si512(row + c));
        return (float)_mm512_reduce_max_epi32(most) * scale;
    }
    __m512 most = _mm512_set1_ps(-1e30f);
    for (int c = 0; c < length; c += 16) {
        const __mmask16 inside = first(length - c);
        const __m512 score = _mm512_cvtepi32_ps(_mm512_loadu_si512(row + c));
        const __m512 x = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(inside, bias + c), _mm512_set1_ps(LOG2E),
                                         _mm512_mul_ps(score, _mm512_set1_ps(scale)));
        _mm512_storeu_ps(row + c, x);
        most = _mm512_mask_max_ps(most, inside, most, x);
    }
    return _mm512_reduce_max_ps(most);
}

INLINE __m512i share(const int32_t *scores, const int is_biased, __m512 scale, __m512 shift, __mmask16 inside) {
    const __m512 x = is_biased ? _mm512_add_ps(_mm512_loadu_ps(scores), shift)
                               : _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(scores)), scale, shift);
    return _mm512_maskz_cvtps_epi32(inside, power_of_two(x));
}

/* Shares of a row: 2^(score - highest) times 2^bits. Returns their sum, in parts. */
INLINE __m512i weigh(const int32_t *row, int length, float scale, float highest, const int is_biased, int bits,
                     int16_t *shares) {
    const __m512 scales = _mm512_set1_ps(scale), shift = _mm512_set1_ps((float)bits - highest);
    const __m512i ones = _mm512_set1_epi16(1);
    __m512i sum = _mm512_setzero_si512();
    int c = 0;
    for (; c + 32 <= length; c += 32) {
        const __m512i packed = _mm512_packs_epi32(share(row + c, is_biased, scales, shift, 0xffff),
                                                  share(row + c + 16, is_biased, scales, shift, 0xffff));
        _mm512_storeu_si512(shares + c, packed);
        sum = dot(16, sum, packed, ones);
    }
    if (c == length) return sum;
    const __m512i packed = _mm512_packs_epi32(share(row + c, is_biased, scales, shift, first(length - c)),
                                              share(row + c + 16, is_biased, scales, shift, first(length - c - 16)));
    _mm512_storeu_si512(shares + c, packed);
    return dot(16, sum, packed, ones);
}

/* ---- the whole ---- */

INLINE void store_attended(int rows, __m512i sums[QUERIES][2], const float *scale, float *out, size_t out_stride) {
    UNROLL
    for (int r = 0; r < QUERIES; r++)
        if (r < rows) UNROLL
    for (int i = 0; i < 2; i++)
        _mm512_storeu_ps(out + r * out_stride + 16 * i,
                         _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][i]), _mm512_set1_ps(scale[r])));
}

/* Keys are `part` floats behind queries, values behind keys. */
INLINE void head_attention(const int bits, const int depth, const float *q, size_t part, int length,
                           const float *bias, size_t bias_stride, float *out, size_t out_stride, uint8_t *space) {
    const int padded = (length + 31) & ~31, row_bytes = depth * bits / 8;
    uint8_t *queries = space;                                                      /* (length, row_bytes) */
    int32_t *keys = (int32_t *)(queries + (size_t)(padded + QUERIES) * row_bytes); /* (row_bytes / 4, padded) */
    int32_t *start = keys + (size_t)padded * row_bytes / 4;                        /* (padded) */
    int16_t *values = (int16_t *)(start + padded);                                 /* (padded / 2, depth) of pairs */
    int32_t *scores = (int32_t *)(values + (size_t)padded * depth);                /* (QUERIES, padded) */
    int16_t *shares = (int16_t *)(scores + (size_t)QUERIES * padded);              /* (QUERIES, padded) */
    const float limit = SCORE_LIMIT(bits, depth);
    float most[3];
    largest(q, part, length, depth, most);
    pack_queries(bits, depth, q, length, factor(limit, most[0]), queries);
    pack_keys(bits, depth, q + part, length, padded, factor(limit, most[1]), keys, start);
    pack_values(depth, q + 2 * part, length, padded, factor(VALUE_LIMIT, most[2]), values);
    const float scale = LOG2E * most[0] * most[1] / (limit * limit) / __builtin_sqrtf((float)depth);
    const int fraction = share_bits(length);
    for (int t = 0; t < length; t += QUERIES) {
        const int rows = length - t < QUERIES ? length - t : QUERIES;
        for (int c = 0; c < padded; c += 32) {
            __m512i sums[QUERIES][2];
            tile(bits, QUERIES, 2, queries + (size_t)t * row_bytes, row_bytes, (const uint8_t *)(keys + c),
                 4 * (size_t)padded, row_bytes / 4, start + c, sums);
            UNROLL
            for (int r = 0; r < QUERIES; r++) UNROLL
            for (int i = 0; i < 2; i++) _mm512_storeu_si512(scores + r * padded + c + 16 * i, sums[r][i]);
        }
        /* Step by step over all rows, since each step waits for the one before. */
        float top[QUERIES], share_scale[QUERIES];
        __m512i total[QUERIES];
        for (int r = 0; r < rows; r++)
            top[r] = highest(scores + (size_t)r * padded, length, scale, bias ? bias + (t + r) * bias_stride : NULL);
        for (int r = 0; r < rows; r++) {
            const int32_t *row = scores + (size_t)r * padded;
            int16_t *to = shares + (size_t)r * padded;
            total[r] = bias ? weigh(row, length, scale, top[r], 1, fraction, to)
                            : weigh(row, length, scale, top[r], 0, fraction, to);
        }
        for (int r = 0; r < rows; r++)
            share_scale[r] = most[2] / VALUE_LIMIT / (float)_mm512_reduce_add_epi32(total[r]);
        for (int half = 0; half < depth; half += 32) {
            __m512i sums[QUERIES][2];
            tile(16, QUERIES, 2, (const uint8_t *)shares, 2 * (size_t)padded, (const uint8_t *)(values + 2 * half),
                 4 * (size_t)depth, padded / 2, NULL, sums);
            store_attended(rows, sums, share_scale, out + (size_t)t * out_stride + half, out_stride);
        }
    }
}

#endif
