/* A BERT-like encoder on AVX-512 VNNI: integer matrix products, everything else in float32.
 *
 * Tokens of a batch lie one after the other, without padding. A row of activations (one token) is quantised with a
 * scale of its own right before each product, a row of weights once at loading; products are summed in int32,
 * exactly. Two widths share the code, since both instructions take four bytes of a row at a time.
 *
 * 8 bits, vpdpbusd: activations 0..255 around a zero point, weights -127..127.
 *
 * 16 bits, vpdpwssd: activations -4095..4095, weights as wide as the sum over a row provably allows.
 *
 * One call computes one batch on the thread that calls. Nothing is allocated; nothing outlives the call.
 */
#include "arithmetic.h"
#include "attention.h"
#include "attention_bytes.h"

typedef struct {
    const uint8_t *weight; /* panels of 64 outputs, each (inputs / step, 64, step), step = 4 bytes of inputs */
    const float *scale;    /* (outputs) */
    const float *sum;      /* (outputs), of quantised weights, times scale */
    const float *bias;     /* (outputs) */
} Linear;

typedef struct {
    const float *scale, *shift;
} LayerNorm;

typedef struct {
    Linear qkv, attention_output, up, down;
    LayerNorm attention_norm, output_norm;
} Layer;

typedef struct {
    int32_t bits, hidden, heads, intermediate, layers, max_positions, first_token_pooling, normalize;
    float epsilon;
    const float *words, *positions;
    LayerNorm embedding_norm;
    const Layer *layer_of;
    const float *relative_bias; /* (heads, max_positions, max_positions) or NULL */
    const float *gelu;          /* 3 x 32 coefficients of the normal distribution function, see gelu() */
} Encoder;

typedef struct {
    float *x;           /* (tokens, hidden), what flows from layer to layer */
    float *wide;        /* (3 hidden / 64, tokens, 64) query, key, value */
    float *attended;    /* (tokens, hidden) */
    uint16_t *half;     /* (tokens, intermediate) as float16 */
    uint8_t *rows;      /* (tokens, intermediate) quantised */
    float *scale;       /* (tokens) */
    float *offset;      /* (tokens) */
    uint8_t *attention; /* of one head of one sequence */
} Buffers;

enum { PANELS, ADD, GELU }; /* what becomes of a product: panels of 64 columns, added to rows, rows of halves */

INLINE void linear_tile(const int bits, const int rows, const int then, const uint8_t *a, size_t a_stride,
                        const float *a_scale, const float *a_offset, const Linear *linear, int column,
                        const uint8_t *b, int steps, void *out, size_t out_stride, const __m512 *gelu_table) {
    __m512i sums[ROWS][VECTORS];
    tile(bits, rows, VECTORS, a, a_stride, b, 4 * PANEL, steps, NULL, sums);
    UNROLL
    for (int v = 0; v < VECTORS; v++) {
        const int at = column + 16 * v;
        const __m512 scale = _mm512_loadu_ps(linear->scale + at), bias = _mm512_loadu_ps(linear->bias + at);
        const __m512 sum_scale = _mm512_loadu_ps(linear->sum + at);
        UNROLL
        for (int r = 0; r < rows; r++) {
            __m512 y = bits == 8 ? _mm512_fnmadd_ps(_mm512_set1_ps(a_offset[r]), sum_scale, bias) : bias;
            y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][v]), _mm512_mul_ps(scale, _mm512_set1_ps(a_scale[r])), y);
            if (then == GELU) {
                uint16_t *to = (uint16_t *)out + r * out_stride + 16 * v;
                _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(gelu(y, gelu_table), _MM_FROUND_TO_NEAREST_INT));
            } else {
                float *to = (float *)out + r * out_stride + 16 * v;
                if (then == ADD) y = _mm512_add_ps(y, _mm512_loadu_ps(to));
                _mm512_storeu_ps(to, y);
            }
        }
    }
}

INLINE void product(const int bits, const int then, const Encoder *e, const Linear *linear, const Buffers *buffers,
                    int tokens, int inputs, int outputs, void *out) {
    const size_t row_bytes = (size_t)inputs * (bits / 8);
    const int steps = (int)(row_bytes / 4);
    const size_t tiles = (size_t)(tokens + ROWS - 1) / ROWS;
    const size_t stride = then == PANELS ? PANEL : (size_t)outputs;
    __m512 table[6];
    for (int i = 0; i < 6; i++) table[i] = _mm512_loadu_ps(e->gelu + 16 * i);
    for (int column = 0; column < outputs; column += PANEL) {
        const uint8_t *panel = linear->weight + (size_t)column * row_bytes;
        const size_t panel_bytes = PANEL * row_bytes, fetched_bytes = (panel_bytes / tiles + 64) & ~(size_t)63;
        const uint8_t *next = panel + panel_bytes, *end = next + panel_bytes;
        for (int t = 0; t < tokens; t += ROWS) {
            for (size_t i = 0; i < fetched_bytes && next < end; i += 64, next += 64)
                _mm_prefetch((const char *)next, _MM_HINT_T1);
            const uint8_t *a = buffers->rows + t * row_bytes;
            const float *scale = buffers->scale + t;
            const float *offset = buffers->offset + t;
            const size_t at =
                then == PANELS ? (size_t)column * tokens + (size_t)t * PANEL : (size_t)t * outputs + column;
            void *to = then == GELU ? (void *)((uint16_t *)out + at) : (void *)((float *)out + at);
#define TILE(n)                                                                                                      \
    case n:                                                                                                          \
        linear_tile(bits, n, then, a, row_bytes, scale, offset, linear, column, panel, steps, to, stride, table);    \
        break;
            switch (tokens - t < ROWS ? tokens - t : ROWS) {
                TILE(1);
                TILE(2);
                TILE(3);
                TILE(4);
                TILE(5);
                TILE(6);
            }
#undef TILE
        }
    }
}

/* Functions of their own, so that the compiler has all registers for the tile. */
#define PRODUCT(name, bits, then)                                                                                    \
    static __attribute__((noinline)) void name(const Encoder *e, const Linear *linear, const Buffers *buffers,       \
                                               int tokens, int inputs, int outputs, void *out) {                     \
        product(bits, then, e, linear, buffers, tokens, inputs, outputs, out);                                       \
    }
PRODUCT(store_8, 8, PANELS)
PRODUCT(store_16, 16, PANELS)
PRODUCT(add_8, 8, ADD)
PRODUCT(add_16, 16, ADD)
PRODUCT(gelu_8, 8, GELU)
PRODUCT(gelu_16, 16, GELU)

/* ---- layer normalisation ---- */

INLINE void normalise(float *row, int columns, const LayerNorm *norm, float epsilon) {
    __m512 sum[LANES], squares[LANES];
    EACH_LANE sum[lane] = squares[lane] = _mm512_setzero_ps();
    for (int i = 0; i < columns; i += 16 * LANES) EACH_LANE {
            const __m512 x = _mm512_loadu_ps(row + i + 16 * lane);
            sum[lane] = _mm512_add_ps(sum[lane], x);
            squares[lane] = _mm512_fmadd_ps(x, x, squares[lane]);
        }
    const float mean = _mm512_reduce_add_ps(total(sum)) / (float)columns;
    const float variance = _mm512_reduce_add_ps(total(squares)) / (float)columns - mean * mean;
    const float inverse = 1.0f / __builtin_sqrtf((variance > 0.0f ? variance : 0.0f) + epsilon);
    const __m512 factor = _mm512_set1_ps(inverse), shift = _mm512_set1_ps(-mean * inverse);
    for (int i = 0; i < columns; i += 16) {
        const __m512 d = _mm512_fmadd_ps(_mm512_loadu_ps(row + i), factor, shift);
        _mm512_storeu_ps(row + i,
                         _mm512_fmadd_ps(d, _mm512_loadu_ps(norm->scale + i), _mm512_loadu_ps(norm->shift + i)));
    }
}

INLINE void head(const int bits, const int depth, const float *q, size_t part, int length, const float *bias,
                 size_t bias_stride, float *out, size_t out_stride, uint8_t *space) {
    if (bits == 8 && !bias && head_attention_in_bytes(depth, q, part, length, out, out_stride, space)) return;
    head_attention(bits, depth, q, part, length, bias, bias_stride, out, out_stride, space);
}

INLINE void attention(const int bits, const Encoder *e, const Buffers *b, const int32_t *lengths, int sequences,
                      int tokens) {
    const int depth = e->hidden / e->heads;
    const size_t part = (size_t)e->hidden * tokens;
    const float *qkv = b->wide;
    float *out = b->attended;
    for (int s = 0; s < sequences; s++) {
        for (int h = 0; h < e->heads; h++) {
            const float *bias =
                e->relative_bias ? e->relative_bias + (size_t)h * e->max_positions * e->max_positions : NULL;
            const int column = depth * h;
            const float *q = qkv + (size_t)(column / PANEL * PANEL) * tokens + column % PANEL;
            if (depth == 32)
                head(bits, 32, q, part, lengths[s], bias, e->max_positions, out + column, e->hidden, b->attention);
            else
                head(bits, 64, q, part, lengths[s], bias, e->max_positions, out + column, e->hidden, b->attention);
        }
        qkv += (size_t)PANEL * lengths[s];
        out += (size_t)e->hidden * lengths[s];
    }
}

static __attribute__((noinline)) void attention_8(const Encoder *e, const Buffers *b, const int32_t *lengths,
                                                  int sequences, int tokens) {
    attention(8, e, b, lengths, sequences, tokens);
}

static __attribute__((noinline)) void attention_16(const Encoder *e, const Buffers *b, const int32_t *lengths,
                                                   int sequences, int tokens) {
    attention(16, e, b, lengths, sequences, tokens);
}

/* ---- the whole encoder ---- */

INLINE void run(const int bits, const Encoder *e, const Buffers *b, const int32_t *ids, const int32_t *lengths,
                int sequences, float *out) {
    const int hidden = e->hidden, wide = e->intermediate;
    const size_t row_bytes = (size_t)hidden * (bits / 8), wide_bytes = (size_t)wide * (bits / 8);
    int tokens = 0;
    for (int s = 0; s < sequences; s++)
        for (int p = 0; p < lengths[s]; p++, tokens++) {
            const float *word = e->words + (size_t)ids[tokens] * hidden, *place = e->positions + (size_t)p * hidden;
            float *row = b->x + (size_t)tokens * hidden;
            for (int i = 0; i < hidden; i += 16)
                _mm512_storeu_ps(row + i, _mm512_add_ps(_mm512_loadu_ps(word + i), _mm512_loadu_ps(place + i)));
            normalise(row, hidden, &e->embedding_norm, e->epsilon);
        }
    for (int l = 0; l < e->layers; l++) {
        const Layer *layer = e->layer_of + l;
        for (int t = 0; t < tokens; t++)
            quantise(bits, 0, b->x + (size_t)t * hidden, hidden, b->rows + t * row_bytes, b->scale + t,
                     b->offset + t);
        (bits == 8 ? store_8 : store_16)(e, &layer->qkv, b, tokens, hidden, 3 * hidden, b->wide);
        (bits == 8 ? attention_8 : attention_16)(e, b, lengths, sequences, tokens);
        for (int t = 0; t < tokens; t++)
            quantise(bits, 0, b->attended + (size_t)t * hidden, hidden, b->rows + t * row_bytes, b->scale + t,
                     b->offset + t);
        (bits == 8 ? add_8 : add_16)(e, &layer->attention_output, b, tokens, hidden, hidden, b->x);
        for (int t = 0; t < tokens; t++) {
            normalise(b->x + (size_t)t * hidden, hidden, &layer->attention_norm, e->epsilon);
            quantise(bits, 0, b->x + (size_t)t * hidden, hidden, b->rows + t * row_bytes, b->scale + t,
                     b->offset + t);
        }
        (bits == 8 ? gelu_8 : gelu_16)(e, &layer->up, b, tokens, hidden, wide, b->half);
        for (int t = 0; t < tokens; t++)
            quantise(bits, 1, b->half + (size_t)t * wide, wide, b->rows + t * wide_bytes, b->scale + t,
                     b->offset + t);
        (bits == 8 ? add_8 : add_16)(e, &layer->down, b, tokens, wide, hidden, b->x);
        for (int t = 0; t < tokens; t++)
            normalise(b->x + (size_t)t * hidden, hidden, &layer->output_norm, e->epsilon);
    }
    const float *row = b->x;
    for (int s = 0; s < sequences; s++, out += hidden) {
        memcpy(out, row, hidden * sizeof(float));
        if (!e->first_token_pooling)
            for (int p = 1; p < lengths[s]; p++)
                for (int i = 0; i < hidden; i += 16)
                    _mm512_storeu_ps(out + i, _mm512_add_ps(_mm512_loadu_ps(out + i),
                                                            _mm512_loadu_ps(row + (size_t)p * hidden + i)));
        row += (size_t)lengths[s] * hidden;
        __m512 squares = _mm512_setzero_ps();
        for (int i = 0; i < hidden; i += 16)
            squares = _mm512_fmadd_ps(_mm512_loadu_ps(out + i), _mm512_loadu_ps(out + i), squares);
        const float length = __builtin_sqrtf(_mm512_reduce_add_ps(squares));
        const float divisor = e->normalize             ? (length > 1e-12f ? length : 1e-12f)
                              : e->first_token_pooling ? 1.0f
                                                       : (float)lengths[s];
        for (int i = 0; i < hidden; i += 16)
            _mm512_storeu_ps(out + i, _mm512_div_ps(_mm512_loadu_ps(out + i), _mm512_set1_ps(divisor)));
    }
}

static size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

/* Places of the buffers in `space`; returns the bytes they take. Six rows are read beyond the last token. */
static size_t place(const Encoder *e, size_t tokens, size_t longest, uint8_t *space, Buffers *b) {
    const size_t rows = tokens + ROWS, padded = (longest + 31) & ~(size_t)31, depth = (size_t)(e->hidden / e->heads);
    const size_t widest = (size_t)(e->intermediate > e->hidden ? e->intermediate : e->hidden) * (size_t)(e->bits / 8);
    size_t at = 0;
#define PLACE(field, bytes)                                                                                          \
    b->field = (void *)(space + at);                                                                                 \
    at += aligned(bytes);
    PLACE(x, rows * (size_t)e->hidden * 4)
    PLACE(wide, rows * (size_t)e->hidden * 12)
    PLACE(attended, rows * (size_t)e->hidden * 4)
    PLACE(half, rows * (size_t)e->intermediate * 2)
    PLACE(rows, rows * widest)
    PLACE(scale, rows * 4)
    PLACE(offset, rows * 4)
    PLACE(attention, (padded + QUERIES) * (depth * 6 + 4) + QUERIES * padded * 6)
#undef PLACE
    return at;
}

#define EXPORT __attribute__((visibility("default")))

EXPORT size_t headrace_workspace_bytes(const Encoder *e, int32_t tokens, int32_t longest) {
    Buffers b;
    return place(e, (size_t)tokens, (size_t)longest, (uint8_t *)0, &b);
}

EXPORT void headrace_encode(const Encoder *e, const int32_t *ids, const int32_t *lengths, int32_t sequences,
                            float *out, void *workspace) {
    Buffers b;
    size_t tokens = 0, longest = 0;
    for (int s = 0; s < sequences; s++) {
        tokens += (size_t)lengths[s];
        if ((size_t)lengths[s] > longest) longest = (size_t)lengths[s];
    }
    place(e, tokens, longest, workspace, &b);
    if (e->bits == 8) run(8, e, &b, ids, lengths, sequences, out);
    else
        run(16, e, &b, ids, lengths, sequences, out);
}
