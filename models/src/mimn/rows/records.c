/* Many records at once: which user's they are, what event they hold, and which of them are one user's. Only what is common
 * is decided here; whatever else a record is, Python decides. */
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

/* A number of at most nine bytes behind the tag `tag`; 0 if the field is left out. Returns 0 if it is not one. */
static inline int number(const u8 **at, const u8 *end, u8 tag, u64 *out) {
    const u8 *p = *at;
    *out = 0;
    if (p == end || *p != tag) return 1;
    p++;
    for (int shift = 0; shift < 63; shift += 7) {
        if (p == end) return 0;
        u8 byte = *p++;
        *out |= (u64)(byte & 127) << shift;
        if (byte < 128) {
            *at = p;
            return 1;
        }
    }
    return 0;
}

/* A BehaviorEvent in the common form: known fields only, each at most once, in the order of their numbers; an event id of at
 * most 64 ASCII characters, or none; the user id equal to the key. */
static int read(const u8 *p, i64 size, const u8 *key, i64 key_size, u64 *item, u64 *category, u64 *action, u64 *time) {
    const u8 *end = p + size;
    if (size >= 2 && p[0] == 0x0A) {
        i64 id = p[1];
        if (id > 64 || id > size - 2) return 0;
        u8 all = 0;
        for (i64 i = 0; i < id; i++) all |= p[2 + i];
        if (all > 127) return 0;
        p += 2 + id;
    }
    if (end - p < 2 + key_size || key_size > 127 || p[0] != 0x12 || p[1] != key_size || memcmp(p + 2, key, (size_t)key_size))
        return 0;
    p += 2 + key_size;
    return number(&p, end, 0x18, item) && number(&p, end, 0x20, category) && number(&p, end, 0x28, action) &&
           number(&p, end, 0x30, time) && p == end;
}

/* The events of n records, and in `common` whether a record's value has the common form and an action up to `last_action`:
 * otherwise its numbers are 0. */
void records_read(const u8 *const *value, const i64 *size, const u8 *const *key, const i64 *key_size, i64 last_action,
                  u64 *item, u64 *category, i64 *time, u8 *action, u8 *common, i64 n) {
    for (i64 i = 0; i < n; i++) {
        u64 a, t;
        common[i] = value[i] && key[i] && read(value[i], size[i], key[i], key_size[i], item + i, category + i, &a, &t) &&
                    a <= (u64)last_action;
        if (common[i]) action[i] = (u8)a, time[i] = (i64)t;
        else item[i] = category[i] = 0, time[i] = 0, action[i] = 0;
    }
}

/* Rows by key: an open table of 2^k slots, at most half of them used. A slot is 0, or a hash's upper half and row + 1. */
typedef struct {
    u64 *slots;
    u8 *bytes; /* the keys, one behind another */
    i64 *ends; /* by row + 1, where its key ends; ends[0] is 0 */
    i64 *place; /* by row, its partition */
    u64 mask, seed;
    i64 rows;
} table;

static inline u64 mixed(u64 h) {
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}

static u64 hash(const table *t, const u8 *key, i64 size) {
    u64 h = t->seed ^ (u64)size * 0x9e3779b97f4a7c15u, word;
    for (; size >= 8; size -= 8, key += 8) {
        memcpy(&word, key, 8);
        h = mixed(h ^ word) * 0x9e3779b97f4a7c15u;
    }
    word = 0;
    memcpy(&word, key, (size_t)size);
    return mixed(mixed(h ^ word) + t->seed);
}

static u32 murmur2(const u8 *key, i64 size) { /* mimn.state.key */
    const u32 m = 0x5bd1e995;
    u32 h = 0x9747b28c ^ (u32)size, k;
    for (; size >= 4; size -= 4, key += 4) {
        memcpy(&k, key, 4);
        k *= m;
        h = h * m ^ (k ^ k >> 24) * m;
    }
    if (size) {
        k = 0;
        memcpy(&k, key, (size_t)size);
        h = (h ^ k) * m;
    }
    h = (h ^ h >> 13) * m;
    return h ^ h >> 15;
}

/* The partition of a key (mimn.state.partition_of). */
i64 records_place(const u8 *key, i64 size, i64 places) { return (murmur2(key, size) & 0x7fffffff) % (u32)places; }

static int plain(const u8 *key, i64 size) {
    u8 all = 0;
    for (i64 i = 0; i < size; i++) all |= key[i];
    return size >= 1 && size <= 128 && all < 128;
}

enum { AHEAD = 16 };

/* The row of each of n keys that belong to partition `place` of `places`. A key that is new gets the next row, if it is plain
 * (1 to 128 ASCII characters, and this its partition) or `trusted`; any other gets -1, and so does one that has a row in
 * another partition. There must be room. */
void records_rows(table *t, const u8 *const *key, const i64 *size, i64 place, i64 places, i64 trusted, i64 *row, i64 n) {
    for (i64 begin = 0; begin < n; begin += AHEAD) {
        i64 end = begin + AHEAD < n ? begin + AHEAD : n;
        u64 h[AHEAD];
        for (i64 i = begin; i < end; i++) {
            h[i - begin] = key[i] ? hash(t, key[i], size[i]) : 0;
            __builtin_prefetch(t->slots + (h[i - begin] & t->mask));
        }
        for (i64 i = begin; i < end; i++) {
            row[i] = -1;
            if (!key[i]) continue;
            u64 mark = h[i - begin] & 0xffffffff00000000u, at = h[i - begin] & t->mask, slot;
            for (; (slot = t->slots[at]); at = (at + 1) & t->mask) {
                i64 r = (i64)(slot & 0xffffffffu) - 1;
                if ((slot & 0xffffffff00000000u) == mark && t->ends[r + 1] - t->ends[r] == size[i] &&
                    !memcmp(t->bytes + t->ends[r], key[i], (size_t)size[i])) {
                    if (t->place[r] == place) row[i] = r;
                    break;
                }
            }
            if (slot || !(trusted || (plain(key[i], size[i]) && records_place(key[i], size[i], places) == place)))
                continue;
            i64 r = row[i] = t->rows++;
            memcpy(t->bytes + t->ends[r], key[i], (size_t)size[i]);
            t->ends[r + 1] = t->ends[r] + size[i];
            t->place[r] = place;
            t->slots[at] = mark | (u64)(r + 1);
        }
    }
}

/* Put the first `rows` rows into empty slots. */
void records_fill(table *t) {
    for (i64 r = 0; r < t->rows; r++) {
        u64 h = hash(t, t->bytes + t->ends[r], t->ends[r + 1] - t->ends[r]), at = h & t->mask;
        while (t->slots[at]) at = (at + 1) & t->mask;
        t->slots[at] = (h & 0xffffffff00000000u) | (u64)(r + 1);
    }
}

/* The distinct rows of n events in order of appearance, and how many events each has. `seen` has a 0 for each row there is;
 * records_order takes it back. Returns how many rows there are. */
i64 records_group(const i64 *row, i64 n, i64 *seen, i64 *rows, i64 *depth) {
    i64 found = 0;
    for (i64 i = 0; i < n; i++) {
        if (!seen[row[i]]) {
            rows[found] = row[i];
            depth[found] = 0;
            seen[row[i]] = ++found;
        }
        depth[seen[row[i]] - 1]++;
    }
    return found;
}

/* Then, with these rows in any order and where the events of each go: the events by row, each row's in their order. Moves
 * `first` to where each row ends, and leaves `seen` with zeros. */
void records_order(const i64 *row, i64 n, i64 *seen, const i64 *rows, i64 found, i64 *first, i64 *order) {
    for (i64 i = 0; i < found; i++) seen[rows[i]] = i;
    for (i64 i = 0; i < n; i++) order[first[seen[row[i]]]++] = i;
    for (i64 i = 0; i < found; i++) seen[rows[i]] = 0;
}
