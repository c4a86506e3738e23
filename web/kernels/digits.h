// One row of activations as whole numbers in digits of their block, and its products with 32 weights of 4 or 8 bits.
// Rule of the file: a product is at least as fine as 24 bits of the largest of the block's 32 activations, which is what
// float32 has, and sums of products are exact.
//
// With relaxed SIMD sixteen products of a signed byte and one of 0 to 127 and their sums are one instruction. Where the
// weights are the second, activations are three signed digits to the base of 256. Weights of 8 bits are the first, and
// activations four digits to the base of 128 with 64 added, which comes off again as 64 times the weights. No operand ever
// has bits that machines may treat differently. Without relaxed SIMD it is 8 products of 16 bits: activations are two
// such digits.

#pragma once
#include "weights.h"

// All lanes are the largest magnitude of 32 numbers (of NaN, any); total has their sum.
INLINE v4 largest_of(const float *x, v4 *total) {
  v4 most = splat(0);
  *total = splat(0);
  for (int i = 0; i < 32; i += 4) {
    most = wasm_f32x4_pmax(wasm_f32x4_abs(load(x + i)), most);
    *total = wasm_f32x4_add(*total, load(x + i));
  }
  most = wasm_f32x4_pmax(most, wasm_i32x4_shuffle(most, most, 2, 3, 0, 1));
  return wasm_f32x4_pmax(most, wasm_i32x4_shuffle(most, most, 1, 0, 3, 2));
}

#ifdef __wasm_relaxed_simd__

// Of 32 activations: x = scale * number, whose digits are in order; `eight` has 8 times the sums of the numbers, by the
// lanes that they are multiplied in.
typedef struct {
  int8_t digit[4][32];
  int32_t eight[4];
} Digits;

#define dot wasm_i32x4_relaxed_dot_i8x16_i7x16_add // of any signed bytes, bytes of 0 to 127 and a sum

INLINE v4 narrow(const v4 *x) {
  return wasm_i8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(x[0], x[1]), wasm_i16x8_narrow_i32x4(x[2], x[3]));
}

INLINE v4 with_digit(v4 sum, const int8_t *digit, v4 first, v4 second) {
  return dot(load(digit), first, dot(load(digit + 16), second, sum));
}

// The lane sums of 32 bytes of 0 to 31 times numbers of three digits.
INLINE v4 nibbles_dot(v4 first, v4 second, const Digits *x) {
  v4 sum = with_digit(wasm_i32x4_splat(0), x->digit[0], first, second);
  sum = with_digit(wasm_i32x4_shl(sum, 8), x->digit[1], first, second);
  return with_digit(wasm_i32x4_shl(sum, 8), x->digit[2], first, second);
}

#define SIDE_BY_SIDE 2 // rows of weights that are multiplied with the same activations

// Nothing of what comes later before this: else the compiler computes one row after the other, and what they have in
// common is in no register any more.
INLINE void together(v4 *s, int rows) {
  if (rows == 2) __asm__("" : "+r"(s[0]), "+r"(s[1]));
}

// sum += the products of one digit with nibbles, or with signed bytes.
INLINE void add_digit(v4 *sum, const int8_t *digit, const v4 *first, const v4 *second, int rows, int bytes) {
  for (int i = 0; i < 2; i++) {
    v4 own = load(digit + 16 * i);
    const v4 *weights = i ? second : first;
    for (int r = 0; r < rows; r++) sum[r] = bytes ? dot(weights[r], own, sum[r]) : dot(own, weights[r], sum[r]);
    together(sum, rows);
  }
}

INLINE void two_digits(v4 *sum, const int8_t (*digit)[32], const v4 *first, const v4 *second, const v4 *added, int rows) {
  for (int r = 0; r < rows; r++) sum[r] = added[r];
  add_digit(sum, digit[0], first, second, rows, 1);
  for (int r = 0; r < rows; r++) sum[r] = wasm_i32x4_add(wasm_i32x4_shl(sum[r], 7), added[r]);
  add_digit(sum, digit[1], first, second, rows, 1);
}

// out = the lane sums, as float32, of 32 signed bytes times numbers of four digits.
INLINE void bytes_dots(const v4 *first, const v4 *second, const Digits *x, int rows, v4 *out) {
  v4 added[2], low[2], all = wasm_i8x16_splat(64), zero = wasm_i32x4_splat(0);
  for (int r = 0; r < rows; r++) added[r] = wasm_i32x4_sub(zero, dot(first[r], all, dot(second[r], all, zero)));
  together(added, rows);
  two_digits(out, x->digit, first, second, added, rows);
  for (int r = 0; r < rows; r++) out[r] = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(out[r]), splat(16384.0f));
  together(out, rows);
  two_digits(low, x->digit + 2, first, second, added, rows);
  for (int r = 0; r < rows; r++) out[r] = wasm_f32x4_add(out[r], wasm_f32x4_convert_i32x4(low[r]));
}

// Sixteen whole numbers become `places` digits of so many bits, with `added` to each.
INLINE void cut(v4 number[4], v4 *digit, int places, int bits, int added) {
  v4 half = wasm_i32x4_splat(1 << (bits - 1));
  for (int place = places - 1; place >= 0; place--) {
    v4 own[4];
    for (int j = 0; j < 4; j++) {
      v4 rest = wasm_i32x4_shr(wasm_i32x4_add(number[j], half), bits);
      own[j] = wasm_i32x4_sub(number[j], wasm_i32x4_shl(rest, bits));
      number[j] = rest;
    }
    digit[place] = wasm_i8x16_add(narrow(own), wasm_i8x16_splat(added));
  }
}

// x becomes digits for weights of 8 bits, or for smaller ones: scales and totals [count / 32] are their scales and the
// sums of x. The first digit has room for what the others carry.
INLINE void digits(const float *x, Digits *out, float *scales, float *totals, int count, int bytes) {
  for (int b = 0; b < count / 32; b++, x += 32, out++) {
    v4 total;
    float largest = wasm_f32x4_extract_lane(largest_of(x, &total), 0);
    totals[b] = sum(total);
    scales[b] = largest / (bytes ? 63.0f * 0x1p21f : 127.0f * 0x1p16f) + 0 * totals[b]; // NaN where one of them is
    v4 inverse = splat(scales[b] > 1e-37f ? 1.0f / scales[b] : 0.0f);
    for (int i = 0; i < 32; i += 16) {
      v4 number[4];
      for (int j = 0; j < 4; j++) number[j] = wasm_i32x4_relaxed_trunc_f32x4(wasm_f32x4_nearest(wasm_f32x4_mul(load(x + i + 4 * j), inverse)));
      v4 digit[4];
      cut(number, digit, bytes ? 4 : 3, bytes ? 7 : 8, bytes ? 64 : 0);
      for (int place = 0; place < (bytes ? 4 : 3); place++) wasm_v128_store(out->digit[place] + i, digit[place]);
    }
    v4 eight = wasm_i8x16_splat(8);
    if (!bytes) wasm_v128_store(out->eight, nibbles_dot(eight, eight, out));
  }
}

// out = the lane sums, as float32, of the blocks at `w` of one or two rows times 32 activations, in units of their scale.
INLINE void quants_dots(int type, const uint8_t *const *w, const Digits *x, int rows, v4 *out) {
  v4 first[2], second[2];
  for (int r = 0; r < rows; r++) {
    first[r] = load(w[r] + (type == Q4_1 ? 4 : 2));
    if (type == Q8_0) second[r] = load(w[r] + 18);
    else second[r] = high_nibbles(first[r]), first[r] = low_nibbles(first[r]), out[r] = wasm_i32x4_splat(0);
  }
  together(first, rows);
  together(second, rows);
  if (type == Q8_0) {
    bytes_dots(first, second, x, rows, out);
    return;
  }
  for (int place = 0; place < 3; place++) {
    for (int r = 0; r < rows && place > 0; r++) out[r] = wasm_i32x4_shl(out[r], 8);
    add_digit(out, x->digit[place], first, second, rows, 0);
  }
  for (int r = 0; r < rows && type == Q4_0; r++) out[r] = wasm_i32x4_sub(out[r], load(x->eight));
  for (int r = 0; r < rows; r++) out[r] = wasm_f32x4_convert_i32x4(out[r]);
}

#else

// Of 32 activations: x = scale * (high + low / DIGIT).
#define DIGIT 65534.0f
typedef struct {
  int16_t high[32], low[32];
} Digits;

static void digits(const float *x, Digits *out, float *scales, float *totals, int count, int bytes) {
  (void)bytes;
  for (int b = 0; b < count / 32; b++, x += 32, out++) {
    v4 total;
    float largest = wasm_f32x4_extract_lane(largest_of(x, &total), 0);
    totals[b] = sum(total);
    scales[b] = largest / 32767.0f + 0 * totals[b]; // NaN where one of them is
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

INLINE void quants_dots(int type, const uint8_t *const *w, const Digits *x, int rows, v4 *out) {
  v4 eight = wasm_i8x16_splat(type == Q4_0 ? 8 : 0);
  for (int r = 0; r < rows; r++) {
    v4 q = load(w[r] + (type == Q4_1 ? 4 : 2));
    if (type == Q8_0) out[r] = block_dot(q, load(w[r] + 18), x);
    else out[r] = block_dot(wasm_i8x16_sub(low_nibbles(q), eight), wasm_i8x16_sub(high_nibbles(q), eight), x);
  }
}

#define SIDE_BY_SIDE 1
INLINE void together(v4 *s, int rows) { (void)s, (void)rows; }

#endif
