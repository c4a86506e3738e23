// Dot products of a few rows with a few others: the inside of matrix products and of attention scores.
// Rule of the file: rows are float32, as long as told, anywhere in memory; sums stay in registers.

#pragma once
#include "simd.h"

#define TILE 4 // rows of weights (or keys) at a time

INLINE float rest(const float *a, const float *b, int from, int to) {
  float s = 0;
  for (int k = from; k < to; k++) s += a[k] * b[k];
  return s;
}

// out[i] = w[i] . x for four rows w
INLINE v4 dots4(const float *const w[TILE], const float *x, int length) {
  v4 a = splat(0), b = a, c = a, d = a;
  int whole = length & ~3;
  for (int k = 0; k < whole; k += 4) {
    v4 p = load(x + k);
    a = madd(load(w[0] + k), p, a);
    b = madd(load(w[1] + k), p, b);
    c = madd(load(w[2] + k), p, c);
    d = madd(load(w[3] + k), p, d);
  }
  v4 result = sums(a, b, c, d);
  if (whole == length) return result;
  return wasm_f32x4_add(result, wasm_f32x4_make(rest(w[0], x, whole, length), rest(w[1], x, whole, length),
                                                rest(w[2], x, whole, length), rest(w[3], x, whole, length)));
}

// The same for two rows x at once: eight sums in registers, each vector loaded used in two or four of them.
INLINE void dots8(const float *const w[TILE], const float *x, const float *y, int length, v4 *xs, v4 *ys) {
  v4 a0 = splat(0), b0 = a0, c0 = a0, d0 = a0, a1 = a0, b1 = a0, c1 = a0, d1 = a0;
  const float *wa = w[0], *wb = w[1], *wc = w[2], *wd = w[3];
  int whole = length & ~3;
  for (int k = 0; k < whole; k += 4) {
    v4 p = load(x + k), q = load(y + k), r;
    r = load(wa + k);
    a0 = madd(r, p, a0);
    a1 = madd(r, q, a1);
    r = load(wb + k);
    b0 = madd(r, p, b0);
    b1 = madd(r, q, b1);
    r = load(wc + k);
    c0 = madd(r, p, c0);
    c1 = madd(r, q, c1);
    r = load(wd + k);
    d0 = madd(r, p, d0);
    d1 = madd(r, q, d1);
  }
  *xs = sums(a0, b0, c0, d0);
  *ys = sums(a1, b1, c1, d1);
  if (whole == length) return;
  *xs = wasm_f32x4_add(*xs, wasm_f32x4_make(rest(wa, x, whole, length), rest(wb, x, whole, length),
                                            rest(wc, x, whole, length), rest(wd, x, whole, length)));
  *ys = wasm_f32x4_add(*ys, wasm_f32x4_make(rest(wa, y, whole, length), rest(wb, y, whole, length),
                                            rest(wc, y, whole, length), rest(wd, y, whole, length)));
}
