// Activations as whole numbers in digits of their block, and their products with 32 weights of 4 or 8 bits.
// Rule of the file: a product is at least as fine as 21 bits of the largest of the block's 32 activations, and sums
// of products are exact.
//
// With relaxed SIMD sixteen products of a signed byte and one of 0 to 127 and their sums are one instruction: activations
// are three digits to the base of 128. Nibbles are the bytes of 7 bits themselves; weights of 8 bits are the signed
// bytes, and the digits then have 64 added, which comes off again as 64 times the weights. No operand ever has bits that
// machines may treat differently. Without relaxed SIMD it is 8 products of 16 bits: activations are two such digits.

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

// Of 32 activations: x = scale * (digit[0] * 128^2 + digit[1] * 128 + digit[2]). `eight` has 8 times the sums of the
// numbers in brackets, by the lanes that they are multiplied in.
typedef struct {
  int8_t digit[3][32];
  int32_t eight[4];
} Digits;

#define LARGEST (63.0f * 16384.0f) // as the first digit goes to 63, and what it carries must fit
#define dot wasm_i32x4_relaxed_dot_i8x16_i7x16_add // of any signed bytes, bytes of 0 to 127 and a sum

INLINE v4 narrow(const v4 *x) {
  return wasm_i8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(x[0], x[1]), wasm_i16x8_narrow_i32x4(x[2], x[3]));
}

INLINE v4 with_digit(v4 sum, const int8_t *digit, v4 first, v4 second) {
  return dot(load(digit), first, dot(load(digit + 16), second, sum));
}

// The lane sums of 32 bytes of 0 to 127 times what the digits stand for, which have nothing added.
INLINE v4 nibbles_dot(v4 first, v4 second, const Digits *x) {
  v4 sum = with_digit(wasm_i32x4_splat(0), x->digit[0], first, second);
  sum = with_digit(wasm_i32x4_shl(sum, 7), x->digit[1], first, second);
  return with_digit(wasm_i32x4_shl(sum, 7), x->digit[2], first, second);
}

// The same of 32 signed bytes, and digits that have 64 added.
INLINE v4 bytes_dot(v4 first, v4 second, const Digits *x) {
  v4 all = wasm_i8x16_splat(64), added = dot(first, all, dot(second, all, wasm_i32x4_splat(0))), sum = wasm_i32x4_splat(0);
  for (int place = 0; place < 3; place++) {
    sum = wasm_i32x4_sub(wasm_i32x4_shl(sum, 7), added);
    sum = dot(first, load(x->digit[place]), dot(second, load(x->digit[place] + 16), sum));
  }
  return sum;
}

// x becomes digits, with `added` to each: scales and totals [count / 32] are their scales and the sums of x.
static void digits(const float *x, Digits *out, float *scales, float *totals, int count, int added) {
  for (int b = 0; b < count / 32; b++, x += 32, out++) {
    v4 total, offset = wasm_i8x16_splat(added);
    float largest = wasm_f32x4_extract_lane(largest_of(x, &total), 0);
    totals[b] = sum(total);
    scales[b] = largest / LARGEST + 0 * totals[b]; // NaN where one of them is
    v4 inverse = splat(scales[b] > 1e-37f ? 1.0f / scales[b] : 0.0f), half = wasm_i32x4_splat(64);
    for (int i = 0; i < 32; i += 16) {
      v4 number[4], digit[4];
      for (int j = 0; j < 4; j++) number[j] = wasm_i32x4_relaxed_trunc_f32x4(wasm_f32x4_nearest(wasm_f32x4_mul(load(x + i + 4 * j), inverse)));
      for (int place = 2; place >= 0; place--) {
        for (int j = 0; j < 4; j++) {
          v4 rest = wasm_i32x4_shr(wasm_i32x4_add(number[j], half), 7);
          digit[j] = wasm_i32x4_sub(number[j], wasm_i32x4_shl(rest, 7));
          number[j] = rest;
        }
        wasm_v128_store(out->digit[place] + i, wasm_i8x16_add(narrow(digit), offset));
      }
    }
    v4 eight = wasm_i8x16_splat(8);
    wasm_v128_store(out->eight, nibbles_dot(eight, eight, out));
  }
}

INLINE v4 quants_dot(int type, const uint8_t *block, const Digits *x) {
  if (type == Q8_0) return wasm_f32x4_convert_i32x4(bytes_dot(load(block + 2), load(block + 18), x));
  v4 q = load(block + (type == Q4_1 ? 4 : 2)), product = nibbles_dot(low_nibbles(q), high_nibbles(q), x);
  return wasm_f32x4_convert_i32x4(type == Q4_1 ? product : wasm_i32x4_sub(product, load(x->eight)));
}

#else

// Of 32 activations: x = scale * (high + low / DIGIT).
#define DIGIT 65534.0f
typedef struct {
  int16_t high[32], low[32];
} Digits;

static void digits(const float *x, Digits *out, float *scales, float *totals, int count, int added) {
  (void)added;
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

INLINE v4 quants_dot(int type, const uint8_t *block, const Digits *x) {
  if (type == Q8_0) return block_dot(load(block + 2), load(block + 18), x);
  v4 q = load(block + (type == Q4_1 ? 4 : 2)), low = low_nibbles(q), high = high_nibbles(q), eight = wasm_i8x16_splat(8);
  if (type == Q4_1) return block_dot(low, high, x);
  return block_dot(wasm_i8x16_sub(low, eight), wasm_i8x16_sub(high, eight), x);
}

#endif
