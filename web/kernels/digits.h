// Activations as whole numbers in digits of their block, and their products with 32 weights of 4 or 8 bits.
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

INLINE v4 two_digits(v4 first, v4 second, const int8_t *high, const int8_t *low, v4 added) {
  v4 sum = dot(first, load(high), dot(second, load(high + 16), added));
  return dot(first, load(low), dot(second, load(low + 16), wasm_i32x4_add(wasm_i32x4_shl(sum, 7), added)));
}

// The same of 32 signed bytes and numbers of four digits, as float32.
INLINE v4 bytes_dot(v4 first, v4 second, const Digits *x) {
  v4 all = wasm_i8x16_splat(64), zero = wasm_i32x4_splat(0);
  v4 added = wasm_i32x4_sub(zero, dot(first, all, dot(second, all, zero)));
  v4 high = wasm_f32x4_convert_i32x4(two_digits(first, second, x->digit[0], x->digit[1], added));
  return madd(high, splat(16384.0f), wasm_f32x4_convert_i32x4(two_digits(first, second, x->digit[2], x->digit[3], added)));
}

// Sixteen whole numbers become `places` digits of so many bits, with `added` to each.
INLINE void write_digits(v4 number[4], int8_t (*digit)[32], int places, int bits, int added) {
  v4 half = wasm_i32x4_splat(1 << (bits - 1));
  for (int place = places - 1; place >= 0; place--) {
    v4 own[4];
    for (int j = 0; j < 4; j++) {
      v4 rest = wasm_i32x4_shr(wasm_i32x4_add(number[j], half), bits);
      own[j] = wasm_i32x4_sub(number[j], wasm_i32x4_shl(rest, bits));
      number[j] = rest;
    }
    wasm_v128_store(digit[place], wasm_i8x16_add(narrow(own), wasm_i8x16_splat(added)));
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
      write_digits(number, (int8_t(*)[32])(out->digit[0] + i), bytes ? 4 : 3, bytes ? 7 : 8, bytes ? 64 : 0);
    }
    v4 eight = wasm_i8x16_splat(8);
    if (!bytes) wasm_v128_store(out->eight, nibbles_dot(eight, eight, out));
  }
}

INLINE v4 quants_dot(int type, const uint8_t *block, const Digits *x) {
  if (type == Q8_0) return bytes_dot(load(block + 2), load(block + 18), x);
  v4 q = load(block + (type == Q4_1 ? 4 : 2)), product = nibbles_dot(low_nibbles(q), high_nibbles(q), x);
  return wasm_f32x4_convert_i32x4(type == Q4_1 ? product : wasm_i32x4_sub(product, load(x->eight)));
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

INLINE v4 quants_dot(int type, const uint8_t *block, const Digits *x) {
  if (type == Q8_0) return block_dot(load(block + 2), load(block + 18), x);
  v4 q = load(block + (type == Q4_1 ? 4 : 2)), low = low_nibbles(q), high = high_nibbles(q), eight = wasm_i8x16_splat(8);
  if (type == Q4_1) return block_dot(low, high, x);
  return block_dot(wasm_i8x16_sub(low, eight), wasm_i8x16_sub(high, eight), x);
}

#endif
