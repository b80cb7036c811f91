/* Attention of one head over one sequence, all of it in 8 bits: what `fast` spends half its time beside products on.
 *
 * Softmax is a table of 32 steps of a power of two and a shift, in whole numbers: a share is off by 1.1 % at most,
 * less than scores of 8 bits are. Shares are cut to 8 bits after a threshold that differs from column to column was
 * added, so that many small ones count as much as they should together: rounded, each would be 0 (ordered dithering,
 * Bayer 1973). */
#ifndef HEADRACE_ATTENTION_BYTES_H
#define HEADRACE_ATTENTION_BYTES_H
#include "attention.h"

#define STEPS 32
#define BYTE_LIMIT 127.0f
#define THRESHOLDS 157 /* times the column, modulo 256: near the golden section, and odd */

/* Columns 0 to 31 in the order that packs() gives scores. */
INLINE __m512i packed_columns(void) {
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_packs_epi32(low, _mm512_add_epi32(low, _mm512_set1_epi32(16)));
}

/* Place among 8 fours of columns where packs() puts a four. */
INLINE int packed_four(int four) { return (four & ~7) + ((four & 3) << 1) + ((four & 4) >> 2); }

/* Values as (padded / 4, depth) of fours, each of four tokens. */
INLINE void pack_values_in_fours(const int depth, const float *v, int length, int padded, float scale,
                                 int8_t *values) {
    const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    for (int t = 0; t < padded; t += 4)
        for (int i = 0; i < depth; i += 16) {
            __m512i q[4];
            UNROLL
            for (int n = 0; n < 4; n++)
                q[n] = t + n < length ? _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(v + (t + n) * PANEL + i),
                                                                         _mm512_set1_ps(scale)))
                                      : _mm512_setzero_si512();
            const __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
            _mm512_storeu_si512(values + (size_t)packed_four(t / 4) * 4 * depth + 4 * i,
                                _mm512_shuffle_epi8(packed, order));
        }
}

/* 2^16 times 2^-(step + 1/2) / STEPS, for each step. */
INLINE __m512i powers_of_two(void) {
    const __m512 low = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512 step = _mm512_set1_ps(-1.0f / STEPS), most = _mm512_set1_ps(16.0f - 0.5f / STEPS);
    const __m512 second = _mm512_fmadd_ps(_mm512_add_ps(low, _mm512_set1_ps(16)), step, most);
    const __m256i first = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(power_of_two(_mm512_fmadd_ps(low, step, most))));
    return _mm512_inserti64x4(_mm512_castsi256_si512(first),
                              _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(power_of_two(second))), 1);
}

/* The highest score of a row; `last` are the columns that count of the last 32. */
INLINE int16_t highest_short(const int16_t *row, int length, __mmask32 last) {
    __m512i most = _mm512_set1_epi16(INT16_MIN);
    int c = 0;
    for (; c + 32 < length; c += 32) most = _mm512_max_epi16(most, _mm512_loadu_si512(row + c));
    most = _mm512_mask_max_epi16(most, last, most, _mm512_loadu_si512(row + c));
    const __m256i half = _mm256_max_epi16(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1));
    const __m128i quarter = _mm_max_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    /* There is an instruction for the least unsigned number. */
    const __m128i flip = _mm_set1_epi16(INT16_MAX);
    return (int16_t)(_mm_cvtsi128_si32(_mm_minpos_epu16(_mm_xor_si128(quarter, flip))) ^ INT16_MAX);
}

/* Shares of a row, 0 to 254, the rest of the last 32 columns 0. `factor` turns scores into steps times 2^16. Returns
 * their sum, in parts. */
INLINE __m512i weigh_short(const int16_t *row, int length, __mmask32 last, uint16_t factor, int16_t highest,
                           __m512i powers, __m512i thresholds, uint8_t *shares) {
    const __m512i factors = _mm512_set1_epi16((int16_t)factor), top = _mm512_set1_epi16(highest);
    const __m512i ones = _mm512_set1_epi16(1);
    __m512i sum = _mm512_setzero_si512();
    for (int c = 0; c < length; c += 32) {
        const __m512i steps = _mm512_mulhi_epu16(_mm512_sub_epi16(top, _mm512_loadu_si512(row + c)), factors);
        /* The table is looked up by the lowest five bits, the others are how often to halve. */
        const __m512i fine = _mm512_srlv_epi16(_mm512_permutexvar_epi16(steps, powers), _mm512_srli_epi16(steps, 5));
        __m512i share = _mm512_srli_epi16(_mm512_adds_epu16(fine, thresholds), 8);
        if (c + 32 >= length) share = _mm512_maskz_mov_epi16(last, share);
        _mm256_storeu_si256((__m256i *)(shares + c), _mm512_cvtepi16_epi8(share));
        sum = dot(16, sum, share, ones);
    }
    return sum;
}

/* As head_attention() without a bias. Returns 0, nothing done, where scores differ too much for 16 bits. */
INLINE int head_attention_in_bytes(const int depth, const float *q, size_t part, int length, float *out,
                                   size_t out_stride, uint8_t *space) {
    const int padded = (length + 31) & ~31;
    uint8_t *queries = space;                                                  /* (length, depth) */
    int32_t *keys = (int32_t *)(queries + (size_t)(padded + QUERIES) * depth); /* (depth / 4, padded) of fours */
    int32_t *start = keys + (size_t)padded * depth / 4;                        /* (padded) */
    int8_t *values = (int8_t *)(start + padded);                               /* (padded / 4, depth) of fours */
    int16_t *scores = (int16_t *)(values + (size_t)padded * depth);            /* (QUERIES, padded) */
    uint8_t *shares = (uint8_t *)(scores + (size_t)QUERIES * padded);          /* (QUERIES, padded) */
    float most[3];
    largest(q, part, length, depth, most);
    /* Scores are at most depth * 127 * 127, and kept divided by 2^down. */
    const int down = depth == 32 ? 4 : 5;
    const float scale = LOG2E * most[0] * most[1] / (BYTE_LIMIT * BYTE_LIMIT) / __builtin_sqrtf((float)depth);
    const float units = scale * (float)(STEPS << down) * 65536.0f + 0.5f;
    if (!(units < 65536.0f)) return 0;
    pack_queries(8, depth, q, length, factor(BYTE_LIMIT, most[0]), queries);
    pack_keys(8, depth, q + part, length, padded, factor(BYTE_LIMIT, most[1]), keys, start);
    pack_values_in_fours(depth, q + 2 * part, length, padded, factor(BYTE_LIMIT, most[2]), values);
    const __m512i columns = packed_columns(), powers = powers_of_two();
    const __m512i thresholds =
        _mm512_and_si512(_mm512_mullo_epi16(columns, _mm512_set1_epi16(THRESHOLDS)), _mm512_set1_epi16(255));
    const __mmask32 last = _mm512_cmplt_epi16_mask(columns, _mm512_set1_epi16((int16_t)((length - 1) % 32 + 1)));
    for (int t = 0; t < length; t += QUERIES) {
        const int rows = length - t < QUERIES ? length - t : QUERIES;
        for (int c = 0; c < padded; c += 32) {
            __m512i sums[QUERIES][2];
            tile(8, QUERIES, 2, queries + (size_t)t * depth, depth, (const uint8_t *)(keys + c), 4 * (size_t)padded,
                 depth / 4, start + c, sums);
            UNROLL
            for (int r = 0; r < QUERIES; r++)
                _mm512_storeu_si512(scores + r * padded + c, _mm512_packs_epi32(_mm512_srai_epi32(sums[r][0], down),
                                                                                _mm512_srai_epi32(sums[r][1], down)));
        }
        /* Step by step over all rows, since each step waits for the one before. */
        int16_t top[QUERIES];
        float share_scale[QUERIES];
        __m512i total[QUERIES];
        for (int r = 0; r < rows; r++) top[r] = highest_short(scores + (size_t)r * padded, length, last);
        for (int r = 0; r < rows; r++)
            total[r] = weigh_short(scores + (size_t)r * padded, length, last, (uint16_t)units, top[r], powers,
                                   thresholds, shares + (size_t)r * padded);
        for (int r = 0; r < rows; r++)
            share_scale[r] = most[2] / BYTE_LIMIT / (float)_mm512_reduce_add_epi32(total[r]);
        for (int half = 0; half < depth; half += 32) {
            __m512i sums[QUERIES][2];
            tile(8, QUERIES, 2, shares, (size_t)padded, (const uint8_t *)(values + 4 * half), 4 * (size_t)depth,
                 padded / 4, NULL, sums);
            store_attended(rows, sums, share_scale, out + (size_t)t * out_stride + half, out_stride);
        }
    }
    return 1;
}

#endif
