/* Many records at once: which user's they are, what event they hold, and which of them are one user's. Only what is common
 * is decided here; whatever else a record is, Python decides. */
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

/* An unsigned number of at most nine bytes; returns 0 if there is none. */
static inline int varint(const u8 **at, const u8 *end, u64 *out) {
    const u8 *p = *at;
    *out = 0;
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

/* The same behind the tag `tag`; 0 if the field is left out. */
static inline int number(const u8 **at, const u8 *end, u8 tag, u64 *out) {
    const u8 *p = *at;
    *out = 0;
    if (p == end || *p != tag) return 1;
    p++;
    if (!varint(&p, end, out)) return 0;
    *at = p;
    return 1;
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

/* The records of a batch of Kafka's format v2, as they lie in its payload, in columns of n each: offset, time, where the key
 * lies (0: none) and its bytes, the same of the value, and of the headers with their count. `append_ms`: the time of all, or
 * below 0. Returns 0 if anything about them is unusual, and Python decides what it is. */
enum { OFFSET, TIME, KEY, KEY_SIZE, VALUE, VALUE_SIZE, HEADERS, HEADERS_SIZE };

static inline i64 zigzag(u64 n) { return (i64)(n >> 1) ^ -(i64)(n & 1); }

/* Bytes behind their length; none if that is negative. */
static inline int bytes_at(const u8 **at, const u8 *end, i64 *where, i64 *size) {
    u64 n;
    if (!varint(at, end, &n)) return 0;
    *where = *size = 0;
    if (n & 1) return 1;
    if (n >> 1 > (u64)(end - *at)) return 0;
    *where = (i64)(uintptr_t)*at, *size = (i64)(n >> 1);
    *at += n >> 1;
    return 1;
}

i64 records_parse(const u8 *data, i64 size, i64 base_offset, i64 first_ms, i64 append_ms, i64 *columns, i64 n) {
    const u8 *p = data, *all = data + size;
    for (i64 i = 0; i < n; i++) {
        u64 number;
        i64 *c = columns + i, where, length;
        if (!varint(&p, all, &number) || number & 1 || number >> 1 > (u64)(all - p)) return 0;
        const u8 *end = p + (number >> 1);
        if (p == end) return 0;
        p++; /* attributes, of which none are defined */
        if (!varint(&p, end, &number)) return 0;
        c[TIME * n] = append_ms;
        if (append_ms < 0 && __builtin_add_overflow(first_ms, zigzag(number), c + TIME * n)) return 0;
        if (!varint(&p, end, &number) || __builtin_add_overflow(base_offset, zigzag(number), c + OFFSET * n)) return 0;
        if (c[OFFSET * n] < 0) return 0;
        if (!bytes_at(&p, end, c + KEY * n, c + KEY_SIZE * n) || !bytes_at(&p, end, c + VALUE * n, c + VALUE_SIZE * n)) return 0;
        const u8 *headers = p;
        if (!varint(&p, end, &number) || number & 1) return 0;
        for (u64 left = number >> 1; left; left--)
            if (!bytes_at(&p, end, &where, &length) || !where || !bytes_at(&p, end, &where, &length)) return 0;
        c[HEADERS * n] = number ? (i64)(uintptr_t)headers : 0;
        c[HEADERS_SIZE * n] = number ? p - headers : 0;
        if (p != end) return 0;
    }
    return p == all;
}

/* Whether a header of each of n records, whose headers were parsed, has the name `name` (in lower case). */
void records_named(const u8 *const *headers, const i64 *size, const u8 *name, i64 name_size, u8 *found, i64 n) {
    for (i64 i = 0; i < n; i++) {
        found[i] = 0;
        if (!headers[i]) continue;
        const u8 *p = headers[i], *end = p + size[i];
        u64 count = 0;
        i64 where, length;
        for (varint(&p, end, &count), count >>= 1; count && !found[i]; count--) {
            if (!bytes_at(&p, end, &where, &length)) break;
            const u8 *at = (const u8 *)(uintptr_t)where;
            i64 k = length == name_size ? 0 : -1;
            while (k >= 0 && k < length && (at[k] | (at[k] >= 'A' && at[k] <= 'Z' ? 32 : 0)) == name[k]) k++;
            found[i] = k == length;
            bytes_at(&p, end, &where, &length);
        }
    }
}

static inline u64 mixed(u64 h) {
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}

static u64 hash(u64 seed, const u8 *key, i64 size) {
    u64 h = seed ^ (u64)size * 0x9e3779b97f4a7c15u, word;
    for (; size >= 8; size -= 8, key += 8) {
        memcpy(&word, key, 8);
        h = mixed(h ^ word) * 0x9e3779b97f4a7c15u;
    }
    word = 0;
    memcpy(&word, key, (size_t)size);
    return mixed(mixed(h ^ word) + seed);
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

/* The front of each of k partitions, whose records lie one behind another in columns of n: its longest beginning with at most
 * `states` users and at most `waves` events of each. The records of the partition `place[s]` of `places` begin at begin[s], and
 * their offsets rise from floor[s] or more. `slots`: mask + 1 numbers, twice as many as a front has users. By record, `user`:
 * which one of its front, in order of appearance; by user of all fronts, `first`: the first record, and `depth`: the events. By
 * partition, `taken`: how many records, or -1 if there is a key that is not plain or of this partition, or an offset out of
 * order: Python decides; and `users`: how many. */
void records_fronts(const i64 *columns, i64 n, i64 k, const i64 *begin, const i64 *floor, const i64 *place, i64 places,
                    i64 states, i64 waves, u64 seed, u64 *slots, u64 mask, i64 *user, i64 *first, i64 *depth, i64 *taken,
                    i64 *users) {
    const i64 *offset = columns + OFFSET * n, *size = columns + KEY_SIZE * n, *value = columns + VALUE * n;
    const u8 *const *key = (const u8 *const *)(columns + KEY * n);
    for (i64 s = 0; s < k; s++) {
        i64 found = 0, i = begin[s], low = floor[s];
        memset(slots, 0, (mask + 1) * sizeof *slots);
        for (; i < begin[s + 1]; i++) {
            if (!key[i]) break;
            u64 h = hash(seed, key[i], size[i]), mark = h & 0xffffffff00000000u, at = h & mask, slot;
            i64 u = -1;
            for (; (slot = slots[at]); at = (at + 1) & mask) {
                i64 one = (i64)(slot & 0xffffffffu) - 1, r = first[one];
                if ((slot & 0xffffffff00000000u) == mark && size[r] == size[i] && !memcmp(key[r], key[i], (size_t)size[i])) {
                    u = one;
                    break;
                }
            }
            if (u < 0) {
                if (!plain(key[i], size[i]) || records_place(key[i], size[i], places) != place[s]) break;
                if (found == states) goto full;
                u = found++;
                first[u] = i;
                depth[u] = 0;
                slots[at] = mark | (u64)(u + 1);
            } else if (value[i] && depth[u] == waves) goto full;
            if (offset[i] < low) break;
            low = offset[i] + 1;
            depth[u] += value[i] != 0;
            user[i] = u;
        }
        if (i < begin[s + 1]) i = begin[s] - 1, found = 0;
    full:
        taken[s] = i - begin[s];
        users[s] = found;
        first += found;
        depth += found;
    }
}

/* Texts one behind another. */
void records_join(const u8 *const *at, const i64 *size, u8 *out, i64 n) {
    for (i64 i = 0; i < n; out += size[i], i++) memcpy(out, at[i], (size_t)size[i]);
}
