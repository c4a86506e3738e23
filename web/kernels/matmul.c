// Products of activations with weights of any format, for one row of activations or for hundreds.
// Rule of the file: activations are never rounded to fewer bits than float32 has, of the largest of 32 of them, and
// sums of products of blocks are exact.
//
// Weights that are whole numbers are multiplied as such, in digits (digits.h): one row as it lies in the file, several
// rows in panels (panels.h). Others, and without relaxed SIMD several rows, are expanded to float32 a few at a time.

#include "panels.h"
#include "tile.h"

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
  digits(x, own, scales, totals, columns, type == Q8_0);
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
// `last`. scratch, at 16 bytes: the larger of 128 KiB and 5 bytes a column.
EXPORT void matmul(int type, const uint8_t *weights, int outputs, int columns, const float *x, int rows, float *y, uint8_t *scratch, int first, int last) {
  if (rows == 1) switch (type) {
    case Q4_0: rows_dot(Q4_0, weights, columns, x, y, scratch, first, last); return;
    case Q4_1: rows_dot(Q4_1, weights, columns, x, y, scratch, first, last); return;
    case Q8_0: rows_dot(Q8_0, weights, columns, x, y, scratch, first, last); return;
    default: break;
    }
#ifdef __wasm_relaxed_simd__
  switch (type) {
  case Q4_0: panels_dot(Q4_0, weights, outputs, columns, x, rows, y, scratch, first, last); return;
  case Q4_1: panels_dot(Q4_1, weights, outputs, columns, x, rows, y, scratch, first, last); return;
  case Q5_0: panels_dot(Q5_0, weights, outputs, columns, x, rows, y, scratch, first, last); return;
  case Q5_1: panels_dot(Q5_1, weights, outputs, columns, x, rows, y, scratch, first, last); return;
  case Q8_0: panels_dot(Q8_0, weights, outputs, columns, x, rows, y, scratch, first, last); return;
  case Q4_K: panels_dot(Q4_K, weights, outputs, columns, x, rows, y, scratch, first, last); return;
  case Q5_K: panels_dot(Q5_K, weights, outputs, columns, x, rows, y, scratch, first, last); return;
  default: break;
  }
#endif
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
