/* BERT's tokenizer for plain text: words are cut at white space and around ASCII punctuation, then into the longest
 * pieces that the vocabulary has, from left to right (Devlin et al. 2019).
 *
 * Words with any byte that is no ASCII letter, digit or punctuation mark are "foreign": they are copied out for the
 * caller, who knows more of Unicode.
 *
 * The vocabulary is a trie in a hash table. Texts are any bytes of any length; nothing is allocated, no call changes
 * the table once it is built, and all that is written lies within the buffers given.
 */
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

/* Kinds of bytes: between words, a word of its own, one that begins a special token's name as well, part of a word. */
enum { BLANK, ALONE, OPENING, PLAIN = 4, FOREIGN };
enum { HOLE = -1, GIVEN_UP = -1, NO_TOKEN = -1 };

static const uint32_t NOWHERE = UINT32_MAX;

typedef struct {
    uint32_t edge; /* parent << 7 | byte; NOWHERE if the slot is free */
    int32_t token; /* that ends here, or NO_TOKEN */
} Node;

typedef struct {
    Node *nodes;          /* (1 << slots_log2), at most half of them taken; a node's number is its slot */
    const uint8_t *names; /* of special tokens, in lower case, each with a line feed behind it */
    int64_t names_bytes;
    int64_t max_word_bytes; /* a longer word is unknown */
    int32_t slots_log2, taken, unknown;
    uint8_t kind[256], folded[256]; /* by byte; folded: as the vocabulary has it, 7 bits where it is not foreign */
} WordPieces;

/* Parents of the first byte of a word's first piece, and of a later one. */
INLINE uint32_t first_piece(const WordPieces *v) { return UINT32_C(1) << v->slots_log2; }
INLINE uint32_t later_piece(const WordPieces *v) { return first_piece(v) + 1; }

/* The slot where an edge is, or would be. Ends, since half of the slots are free. */
INLINE uint32_t slot_of(const WordPieces *v, uint32_t edge) {
    uint32_t mask = first_piece(v) - 1, slot = (edge * UINT32_C(2654435769)) >> (32 - v->slots_log2);
    while (v->nodes[slot].edge != edge && v->nodes[slot].edge != NOWHERE) slot = (slot + 1) & mask;
    return slot;
}

/* Adds words of 7-bit bytes, each with a line feed behind it, as first or as later pieces. False: the table is full. */
EXPORT int32_t headrace_wordpiece_add(WordPieces *v, const uint8_t *words, int64_t words_bytes, const int32_t *tokens,
                                      int32_t is_later) {
    uint32_t root = is_later ? later_piece(v) : first_piece(v), parent = root;
    for (int64_t at = 0; at < words_bytes; at++) {
        if (words[at] == '\n') {
            if (parent != root) v->nodes[parent].token = *tokens;
            tokens++, parent = root;
            continue;
        }
        uint32_t edge = parent << 7 | (words[at] & 127);
        parent = slot_of(v, edge);
        if (v->nodes[parent].edge == NOWHERE) {
            if (++v->taken > 1 << (v->slots_log2 - 1)) return 0;
            v->nodes[parent] = (Node){edge, NO_TOKEN};
        }
    }
    return 1;
}

/* Tokens written, or to be written, after those of a word without foreign bytes. */
INLINE int64_t after_word(const WordPieces *v, const uint8_t *word, const uint8_t *end, int64_t tokens, int32_t *ids) {
    int64_t before = tokens;
    uint32_t parent = first_piece(v);
    int known = end - word <= v->max_word_bytes;
    while (known && word < end) {
        int32_t longest = NO_TOKEN;
        const uint8_t *rest = word;
        for (const uint8_t *at = word; at < end; at++) {
            parent = slot_of(v, parent << 7 | v->folded[*at]);
            if (v->nodes[parent].edge == NOWHERE) break;
            if (v->nodes[parent].token != NO_TOKEN) longest = v->nodes[parent].token, rest = at + 1;
        }
        known = longest != NO_TOKEN;
        if (ids) ids[tokens] = longest;
        tokens++, word = rest, parent = later_piece(v);
    }
    if (known) return tokens;
    if (ids) ids[before] = v->unknown;
    return before + 1;
}

/* Whether the name of a special token begins here; in any case, since some models look for names in lower case. */
static int is_name(const WordPieces *v, const uint8_t *text, int64_t length) {
    int64_t matched = 0;
    for (const uint8_t *name = v->names; name < v->names + v->names_bytes; name++) {
        if (*name == '\n') {
            if (matched > 0) return 1;
            matched = 0;
        } else if (matched >= 0) {
            uint8_t byte = matched < length ? text[matched] : 0;
            if (byte >= 'A' && byte <= 'Z') byte += 'a' - 'A';
            matched = byte == *name ? matched + 1 : -1;
        }
    }
    return 0;
}

INLINE int64_t scan(const WordPieces *v, const uint8_t *text, int64_t length, int64_t limit, int32_t *ids,
                    uint8_t *foreign, int64_t *foreign_bytes) {
    const uint8_t *at = text, *end = text + length;
    int64_t tokens = 0, copied = 0;
    while (at < end && tokens <= limit) {
        const uint8_t *word = at++;
        uint8_t kind = v->kind[*word];
        if (kind == BLANK) continue;
        if (ids && kind == OPENING && is_name(v, word, end - word)) return GIVEN_UP;
        if (kind >= PLAIN) {
            for (; at < end && v->kind[*at] >= PLAIN; at++) kind |= v->kind[*at];
        }
        if (kind != FOREIGN) {
            tokens = after_word(v, word, at, tokens, ids);
        } else if (foreign == NULL) {
            return GIVEN_UP;
        } else {
            while (word < at) foreign[copied++] = *word++;
            foreign[copied++] = '\n';
            if (ids) ids[tokens++] = HOLE;
        }
    }
    if (foreign) *foreign_bytes = copied;
    return tokens;
}

/* Tokens of the words that are not foreign; may end as soon as there are more than `limit`.
 *
 * foreign: room for length + 1 bytes, each foreign word with a line feed behind it; NULL to give up at the first. */
EXPORT int64_t headrace_wordpiece_count(const WordPieces *v, const uint8_t *text, int64_t length, int64_t limit,
                                        uint8_t *foreign, int64_t *foreign_bytes) {
    return scan(v, text, length, limit, NULL, foreign, foreign_bytes);
}

/* Ids, with a HOLE for each foreign word. Gives up where the name of a special token stands.
 *
 * ids: room for as many as the text has bytes. */
EXPORT int64_t headrace_wordpiece_encode(const WordPieces *v, const uint8_t *text, int64_t length, int32_t *ids,
                                         uint8_t *foreign, int64_t *foreign_bytes) {
    return scan(v, text, length, INT64_MAX, ids, foreign, foreign_bytes);
}
