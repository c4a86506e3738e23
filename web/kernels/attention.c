// Causal grouped-query attention over key and value caches that grow in place.
// Rule of the file: a pair (row, key-value head) by itself reads its keys and values as often as there are tiles of
// queries; rows have lengths of their own; softmax in float32.

#include "tile.h"

#define QUERIES 16    // that share one pass over the keys and one over the values
#define POSITIONS 128 // of values at a time: with heads of 64 floats they stay in the first cache

// One tile: which queries, where their scores are, and which positions each may see.
typedef struct {
  const float *query[QUERIES];
  float *out[QUERIES];
  float *scores[QUERIES]; // by position, from `start` of the tile on
  int from[QUERIES], to[QUERIES];
  int count, start, end;
} Tile;

static void score(const Tile *tile, const float *keys, int head_dim) {
  for (int at = tile->start; at < tile->end; at += TILE) {
    const float *w[TILE];
    for (int i = 0; i < TILE; i++) w[i] = keys + (at + i < tile->end ? at + i : tile->end - 1) * head_dim;
    int place = at - tile->start, q = 0;
    for (; q + 2 <= tile->count; q += 2) {
      v4 a, b;
      dots8(w, tile->query[q], tile->query[q + 1], head_dim, &a, &b);
      wasm_v128_store(tile->scores[q] + place, a); // scratch has room for a last few too many
      wasm_v128_store(tile->scores[q + 1] + place, b);
    }
    if (q < tile->count) wasm_v128_store(tile->scores[q] + place, dots4(w, tile->query[q], head_dim));
  }
}

// Scores become weights that add up to one; those of positions that a query may not see become zero.
static void soften(float *scores, int from, int to, int end, float scale, float softcap) {
  for (int i = 0; i < from; i++) scores[i] = 0;
  for (int i = to; i < end + TILE; i++) scores[i] = -3e38f; // so that whole vectors may be looked at
  v4 most = splat(-3e38f), total = splat(0);
  for (int i = from; i < to; i += 4) {
    v4 s = wasm_f32x4_mul(load(scores + i), splat(scale));
    if (softcap > 0) s = wasm_f32x4_mul(splat(softcap), tanh4(wasm_f32x4_div(s, splat(softcap))));
    wasm_v128_store(scores + i, s);
    most = wasm_f32x4_pmax(most, s);
  }
  most = wasm_f32x4_pmax(most, wasm_i32x4_shuffle(most, most, 2, 3, 0, 1));
  most = wasm_f32x4_pmax(most, wasm_i32x4_shuffle(most, most, 1, 0, 3, 2));
  int i = from;
  for (; i + 4 <= to; i += 4) {
    v4 e = exp4(wasm_f32x4_sub(load(scores + i), most));
    wasm_v128_store(scores + i, e);
    total = wasm_f32x4_add(total, e);
  }
  float all = sum(total);
  for (; i < to; i++) {
    scores[i] = wasm_f32x4_extract_lane(exp4(wasm_f32x4_sub(splat(scores[i]), most)), 0);
    all += scores[i];
  }
  for (i = to; i < end + TILE; i++) scores[i] = 0;
  float factor = 1.0f / all;
  for (i = from; i < to; i++) scores[i] *= factor;
}

// out += the weighted values of positions at .. at + count, for two queries (or one twice) and 16 dimensions.
INLINE void weigh16(const float *p, const float *q, const float *values, int count, int head_dim, float *out, float *other) {
  v4 a0 = load(out), a1 = load(out + 4), a2 = load(out + 8), a3 = load(out + 12);
  v4 b0 = load(other), b1 = load(other + 4), b2 = load(other + 8), b3 = load(other + 12);
  for (int i = 0; i < count; i++, values += head_dim) {
    v4 u = wasm_v128_load32_splat(p + i), v = wasm_v128_load32_splat(q + i), r;
    r = load(values);
    a0 = madd(r, u, a0);
    b0 = madd(r, v, b0);
    r = load(values + 4);
    a1 = madd(r, u, a1);
    b1 = madd(r, v, b1);
    r = load(values + 8);
    a2 = madd(r, u, a2);
    b2 = madd(r, v, b2);
    r = load(values + 12);
    a3 = madd(r, u, a3);
    b3 = madd(r, v, b3);
  }
  wasm_v128_store(out, a0), wasm_v128_store(out + 4, a1), wasm_v128_store(out + 8, a2), wasm_v128_store(out + 12, a3);
  if (other == out) return;
  wasm_v128_store(other, b0), wasm_v128_store(other + 4, b1), wasm_v128_store(other + 8, b2), wasm_v128_store(other + 12, b3);
}

static void weigh(const Tile *tile, const float *values, int head_dim) {
  for (int q = 0; q < tile->count; q++)
    for (int d = 0; d < head_dim; d++) tile->out[q][d] = 0;
  for (int at = tile->start; at < tile->end; at += POSITIONS) {
    int count = tile->end - at < POSITIONS ? tile->end - at : POSITIONS, place = at - tile->start;
    const float *chunk = values + at * head_dim;
    for (int q = 0; q < tile->count; q += 2) {
      int other = q + 1 < tile->count ? q + 1 : q;
      int d = 0;
      for (; d + 16 <= head_dim; d += 16)
        weigh16(tile->scores[q] + place, tile->scores[other] + place, chunk + d, count, head_dim, tile->out[q] + d, tile->out[other] + d);
      for (; d < head_dim; d++)
        for (int i = 0; i < count; i++) {
          tile->out[q][d] += tile->scores[q][place + i] * chunk[i * head_dim + d];
          if (other != q) tile->out[other][d] += tile->scores[other][place + i] * chunk[i * head_dim + d];
        }
    }
  }
}

// One row's new keys and values [tokens, kv_heads, head_dim] into its caches [kv_heads, capacity, head_dim] behind `past`.
EXPORT void append(const float *k, const float *v, float *keys, float *values, int past, int tokens, int kv_heads, int head_dim, int capacity) {
  for (int t = 0; t < tokens; t++)
    for (int head = 0; head < kv_heads; head++, k += head_dim, v += head_dim) {
      int to = (head * capacity + past + t) * head_dim;
      __builtin_memcpy(keys + to, k, head_dim * 4);
      __builtin_memcpy(values + to, v, head_dim * 4);
    }
}

// What the queries of one key-value head find, for the row's tokens from `first` to before `last`, that stand behind
// `past` positions: q [., group, head_dim] and y [last - first, group, head_dim], tokens of q so many floats apart; keys
// and values [capacity, head_dim]. A query sees its own position and those before it, the last `window` of them if that
// is not 0. scratch: 16 * (capacity + 8) floats.
EXPORT void attend(const float *q, int stride, float *y, const float *keys, const float *values, int past, int first, int last,
                   int group, int head_dim, int capacity, float scale, int window, float softcap, float *scratch) {
  Tile tile;
  for (int i = 0; i < QUERIES; i++) tile.scores[i] = scratch + i * (capacity + 2 * TILE);
  for (int next = 0; next < group * (last - first); next += tile.count) {
    tile.count = group * (last - first) - next < QUERIES ? group * (last - first) - next : QUERIES;
    for (int i = 0; i < tile.count; i++) {
      int t = first + (next + i) / group;
      tile.query[i] = q + t * stride + (next + i) % group * head_dim;
      tile.out[i] = y + (next + i) * head_dim;
      tile.to[i] = past + t + 1;
      tile.from[i] = window > 0 && tile.to[i] > window ? tile.to[i] - window : 0;
    }
    tile.start = tile.from[0], tile.end = tile.to[tile.count - 1];
    score(&tile, keys, head_dim);
    for (int i = 0; i < tile.count; i++)
      soften(tile.scores[i], tile.from[i] - tile.start, tile.to[i] - tile.start, tile.end - tile.start, scale, softcap);
    weigh(&tile, values, head_dim);
  }
}
