// Products of activations with weights of any format, for one row of activations or for hundreds.
// Rule of the file: exact. Activations are never rounded to fewer bits than float32 has.
//
// Many rows: a few weights are expanded to float32 in the first cache and used for all rows. One row: expanding takes
// longer than using, so that 4- and 8-bit weights are multiplied as integers. An activation is two digits of 16 bits, of
// the largest of its 32: together they are finer than float32, and a product of 8 pairs and its sums is one instruction
// a digit, where float32 takes one to convert and one to multiply for every 4.

#include "tile.h"
#include "weights.h"

#define CHUNK 512 // columns of weights expanded at a time: a multiple of every block's length
#define DIGIT 65534.0f

// What `digits` makes of 32 activations: x = scale * (high + low / DIGIT); total is the sum of x.
typedef struct {
  int16_t high[32], low[32];
} Digits;

static void digits(const float *x, Digits *out, float *scales, float *totals, int count) {
  for (int b = 0; b < count / 32; b++, x += 32, out++) {
    v4 most = splat(0), total = splat(0);
    for (int i = 0; i < 32; i += 4) {
      most = wasm_f32x4_max(most, wasm_f32x4_abs(load(x + i)));
      total = wasm_f32x4_add(total, load(x + i));
    }
    most = wasm_f32x4_max(most, wasm_i32x4_shuffle(most, most, 2, 3, 0, 1));
    most = wasm_f32x4_max(most, wasm_i32x4_shuffle(most, most, 1, 0, 3, 2));
    float largest = wasm_f32x4_extract_lane(most, 0);
    scales[b] = largest / 32767.0f;
    totals[b] = sum(total);
    v4 inverse = splat(scales[b] > 1e-37f ? 1.0f / scales[b] : 0.0f);
    for (int i = 0; i < 32; i += 8) {
      v4 p = wasm_f32x4_mul(load(x + i), inverse), q = wasm_f32x4_mul(load(x + i + 4), inverse);
      v4 r = wasm_f32x4_nearest(p), s = wasm_f32x4_nearest(q), digit = splat(DIGIT);
      p = wasm_f32x4_nearest(wasm_f32x4_mul(wasm_f32x4_sub(p, r), digit));
      q = wasm_f32x4_nearest(wasm_f32x4_mul(wasm_f32x4_sub(q, s), digit));
      wasm_v128_store(out->high + i, wasm_i16x8_narrow_i32x4(wasm_i32x4_trunc_sat_f32x4(r), wasm_i32x4_trunc_sat_f32x4(s)));
      wasm_v128_store(out->low + i, wasm_i16x8_narrow_i32x4(wasm_i32x4_trunc_sat_f32x4(p), wasm_i32x4_trunc_sat_f32x4(q)));
    }
  }
}

#define dot wasm_i32x4_dot_i16x8
#define plus wasm_i32x4_add

// Lane sums of 32 signed bytes times 32 activations, in units of the activations' scale.
INLINE v4 block_dot(v4 first, v4 second, const Digits *x) {
  v4 a = wasm_i16x8_extend_low_i8x16(first), b = wasm_i16x8_extend_high_i8x16(first);
  v4 c = wasm_i16x8_extend_low_i8x16(second), d = wasm_i16x8_extend_high_i8x16(second);
  const int16_t *h = x->high, *l = x->low;
  v4 high = plus(plus(dot(a, load(h)), dot(b, load(h + 8))), plus(dot(c, load(h + 16)), dot(d, load(h + 24))));
  v4 low = plus(plus(dot(a, load(l)), dot(b, load(l + 8))), plus(dot(c, load(l + 16)), dot(d, load(l + 24))));
  return madd(wasm_f32x4_convert_i32x4(low), splat(1.0f / DIGIT), wasm_f32x4_convert_i32x4(high));
}

INLINE v4 quants_dot(int type, const uint8_t *block, const Digits *x) {
  if (type == Q8_0) return block_dot(load(block + 2), load(block + 18), x);
  v4 q = load(block + (type == Q4_1 ? 4 : 2)), low = low_nibbles(q), high = high_nibbles(q), eight = wasm_i8x16_splat(8);
  if (type == Q4_1) return block_dot(low, high, x);
  return block_dot(wasm_i8x16_sub(low, eight), wasm_i8x16_sub(high, eight), x);
}

// One row of weights times one row of activations; four blocks at a time share the work on their scales.
INLINE float row_dot(int type, const uint8_t *w, const Digits *x, const float *scales, const float *totals, int blocks) {
  int size = block_bytes(type), b = 0;
  v4 result = splat(0);
  for (; b + 4 <= blocks; b += 4, w += 4 * size) {
    v4 halves = wasm_i32x4_splat(0);
    halves = wasm_v128_load16_lane(w, halves, 0);
    halves = wasm_v128_load16_lane(w + size, halves, 2);
    halves = wasm_v128_load16_lane(w + 2 * size, halves, 4);
    halves = wasm_v128_load16_lane(w + 3 * size, halves, 6);
    v4 d = wasm_f32x4_mul(widen(halves), load(scales + b));
    result = madd(quants_dot(type, w, x + b), wasm_i32x4_shuffle(d, d, 0, 0, 0, 0), result);
    result = madd(quants_dot(type, w + size, x + b + 1), wasm_i32x4_shuffle(d, d, 1, 1, 1, 1), result);
    result = madd(quants_dot(type, w + 2 * size, x + b + 2), wasm_i32x4_shuffle(d, d, 2, 2, 2, 2), result);
    result = madd(quants_dot(type, w + 3 * size, x + b + 3), wasm_i32x4_shuffle(d, d, 3, 3, 3, 3), result);
    if (type != Q4_1) continue;
    halves = wasm_v128_load16_lane(w + 2, halves, 0);
    halves = wasm_v128_load16_lane(w + size + 2, halves, 2);
    halves = wasm_v128_load16_lane(w + 2 * size + 2, halves, 4);
    halves = wasm_v128_load16_lane(w + 3 * size + 2, halves, 6);
    result = madd(widen(halves), load(totals + b), result);
  }
  for (; b < blocks; b++, w += size) {
    result = madd(quants_dot(type, w, x + b), splat(half(w) * scales[b]), result);
    if (type == Q4_1) result = wasm_f32x4_add(result, wasm_f32x4_make(half(w + 2) * totals[b], 0, 0, 0));
  }
  return sum(result);
}

INLINE void rows_dot(int type, const uint8_t *weights, int columns, const float *x, float *y, uint8_t *scratch, int first, int last) {
  int blocks = columns / 32, size = blocks * block_bytes(type);
  Digits *own = (Digits *)scratch;
  float *scales = (float *)(own + blocks), *totals = scales + blocks;
  digits(x, own, scales, totals, columns);
  for (int n = first; n < last; n++) y[n] += row_dot(type, weights + n * size, own, scales, totals, blocks);
}

// y[., n .. n + 4] += x[., k .. k + length] times four rows of weights
static void columns4(const float *const w[TILE], const float *x, int rows, int columns, int k, int length, float *y, int outputs, int n, int wanted) {
  int m = 0;
  float spare[TILE];
  for (; m < rows; m += 2) {
    v4 a, b;
    const float *own = x + m * columns + k;
    float *to = y + m * outputs + n;
    if (m + 1 < rows) dots8(w, own, own + columns, length, &a, &b);
    else a = b = dots4(w, own, length);
    if (wanted == TILE) {
      wasm_v128_store(to, wasm_f32x4_add(load(to), a));
      if (m + 1 < rows) wasm_v128_store(to + outputs, wasm_f32x4_add(load(to + outputs), b));
      continue;
    }
    wasm_v128_store(spare, a);
    for (int i = 0; i < wanted; i++) to[i] += spare[i];
    wasm_v128_store(spare, b);
    for (int i = 0; m + 1 < rows && i < wanted; i++) to[outputs + i] += spare[i];
  }
}

// y[rows, outputs] += x[rows, columns] times weights[outputs, columns] transposed, for the outputs from `first` to before
// `last`. scratch, at 16 bytes: the larger of 8 KiB and 5 bytes a column.
EXPORT void matmul(int type, const uint8_t *weights, int outputs, int columns, const float *x, int rows, float *y, uint8_t *scratch, int first, int last) {
  if (rows == 1) switch (type) {
    case Q4_0: rows_dot(Q4_0, weights, columns, x, y, scratch, first, last); return;
    case Q4_1: rows_dot(Q4_1, weights, columns, x, y, scratch, first, last); return;
    case Q8_0: rows_dot(Q8_0, weights, columns, x, y, scratch, first, last); return;
    default: break;
    }
  int size = row_bytes(type, columns), chunk = type == F32 && rows <= 16 ? columns : CHUNK;
  for (int k = 0; k < columns; k += chunk) {
    int length = columns - k < chunk ? columns - k : chunk;
    for (int n = first; n < last; n += TILE) {
      int wanted = last - n < TILE ? last - n : TILE;
      const float *w[TILE];
      for (int i = 0; i < TILE; i++) {
        const uint8_t *at = weights + (n + (i < wanted ? i : 0)) * size + row_bytes(type, k);
        float *own = (float *)scratch + i * CHUNK;
        w[i] = type == F32 ? (const float *)at : own;
        if (type != F32 && i < wanted) expand(type, at, own, length);
      }
      columns4(w, x, rows, columns, k, length, y, outputs, n, wanted);
    }
  }
}
