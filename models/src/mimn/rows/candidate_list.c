/* Ids of the candidates of a request from its JSON (mimn.rows.candidate_list):
 *
 *     {…, "candidates": [{"item_id": 12, "category_id": 3}, …], …}
 *
 * Only a plain form is read: no backslash anywhere, so that a quote always begins or ends a string; no other object or list
 * before the candidates, which so belong to the outermost object; their name once; ids as digits, which may be in quotes. The
 * caller reads the rest of the text, with the list cut out, and any text that is not plain.
 */
#include <stdint.h>
#include <string.h>

typedef int64_t i64;
typedef uint64_t u64;

enum { MOST_DIGITS = 20 }; /* of an id; one less always fits into 64 bits */
enum { ITEM = 1, CATEGORY = 2 };

static inline const char *behind_spaces(const char *p) {
    while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t') p++;
    return p;
}

/* Whether a string literal is next, before `end`. */
#define NEXT_IS(literal, p, end) ((end) - (p) >= (i64)sizeof(literal) - 1 && !memcmp(p, literal, sizeof(literal) - 1))

/* The following return where they end, or NULL if there is something else. Texts end with a NUL, which is part of nothing. */

static inline const char *id(const char *p, u64 *out) {
    const int quoted = *p == '"';
    const char *first = p += quoted;
    u64 value = 0;
    for (; *p >= '0' && *p <= '9'; p++) {
        const u64 digit = (u64)(*p - '0');
        if (p - first >= MOST_DIGITS - 1 && (p - first == MOST_DIGITS || value > (UINT64_MAX - digit) / 10)) return NULL;
        value = 10 * value + digit;
    }
    if (p == first || (*first == '0' && p - first > 1)) return NULL;
    if (quoted && *p++ != '"') return NULL;
    *out = value;
    return p;
}

static inline const char *candidate(const char *p, const char *end, u64 *item, u64 *category) {
    if (*p++ != '{') return NULL;
    for (int missing = ITEM | CATEGORY; missing;) {
        u64 *out = NULL;
        p = behind_spaces(p);
        if (missing & ITEM && NEXT_IS("\"item_id\"", p, end)) out = item, missing -= ITEM, p += 9;
        else if (missing & CATEGORY && NEXT_IS("\"category_id\"", p, end)) out = category, missing -= CATEGORY, p += 13;
        if (!out) return NULL;
        p = behind_spaces(p);
        if (*p++ != ':') return NULL;
        p = id(behind_spaces(p), out);
        if (!p) return NULL;
        p = behind_spaces(p);
        if (*p++ != (missing ? ',' : '}')) return NULL;
    }
    return *item ? p : NULL;
}

/* Ids of items [most] and of categories [most] into `ids`, and from where to where the list is into `span`. Returns how many
 * candidates there are; 0 if the text is not plain, or has none or too many, or an item 0. */
i64 candidates_parse(const char *text, i64 size, i64 most, u64 *ids, i64 *span) {
    const char *p = behind_spaces(text), *end = text + size;
    i64 count = 0;
    if (memchr(text, '\\', (size_t)size) || *p++ != '{') return 0;
    for (; !NEXT_IS("\"candidates\"", p, end); p++)
        if (p >= end || *p == '{' || *p == '[') return 0;
    p = behind_spaces(p + 12);
    if (*p++ != ':') return 0;
    p = behind_spaces(p);
    span[0] = p - text;
    if (*p != '[') return 0;
    do {
        if (count == most) return 0;
        p = candidate(behind_spaces(p + 1), end, ids + count, ids + most + count);
        if (!p) return 0;
        p = behind_spaces(p);
        count++;
    } while (*p == ',');
    if (*p++ != ']') return 0;
    span[1] = p - text;
    for (; p < end; p++)
        if (NEXT_IS("\"candidates\"", p, end)) return 0;
    return count;
}
