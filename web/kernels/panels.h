// Products of several rows of activations with 8 rows of weights at a time, in digits (see digits.h).
// Rule of the file: sums of products are exact, and activations have 24 bits of the largest of 32 (21 for weights of 8
// bits), or where that is asked for 16. Weights are unpacked once for all rows of activations, into lanes that belong to
// one output each, so that a block costs each row one multiplication with its scales and no sums over lanes.
//
// Each digit costs as many instructions as the one before, and these are what several rows are bound by: with two digits
// instead of three a long prompt takes two thirds of the time, and its logits differ by some 1e-3, a millionth of what a
// format of 4 bits costs (make bench ARGS=quality). One digit is not enough: other tokens come out.
//
// Six digits at a time, two rows of three or three rows of two: with 8 outputs these are twelve sums. An instruction waits
// five cycles for the sum of the one before, and two can begin in each, so that fewer sums would wait; more would not fit
// into the registers.

#pragma once
#include "digits.h"

#ifdef __wasm_relaxed_simd__

#define OUTPUTS 8 // of a panel
#define ROWS 3    // of activations that are multiplied at a time, at most
#define DIGITS 6  // of theirs

// 8 rows of weights by 32 columns: [columns / 4][outputs / 4] times 4 columns of 4 outputs; for each half of the columns
// (or for all in the first) a scale, and what is added for each number that is multiplied. Of weights of 8 bits `base`
// is 64 times their sum, as whole numbers.
typedef struct {
  v4 weights[8][2], scale[2][2], base[2][2];
} Panel;

// Rows of activations by 32 columns: x = scale * number, whose digits lie [columns / 4][row and place] times 4. `start` is
// what is taken from the weights times each digit's sum, [half][row and place].
typedef struct {
  int8_t digit[8][DIGITS][4];
  int32_t start[2][DIGITS];
  float scale[ROWS], total[2][ROWS];
} Group;

// Digits of one number, and rows of a group.
INLINE int places_of(int type, int coarse) { return coarse && type != Q8_0 ? 2 : 3; }
INLINE int rows_of(int type, int coarse) { return DIGITS / places_of(type, coarse); }

// What is taken from weights so that they lie around zero; sums of products are then half as large.
INLINE int offset_of(int type) {
  switch (type) {
  case Q8_0: case Q2_K: return 0;
  case Q3_K: return 4;
  case Q5_0: case Q5_1: case Q5_K: return 16;
  case Q6_K: return 32;
  default: return 8;
  }
}

INLINE int has_minimum(int type) { return type == Q4_1 || type == Q5_1 || type == Q4_K || type == Q5_K || type == Q2_K; }
// How many scales 32 columns have.
INLINE int halves_of(int type) { return type == Q6_K || type == Q3_K || type == Q2_K ? 2 : 1; }

// Whether a sum of three digits over a scale's columns may need more than 32 bits: more than 258 times 127 * 2^16.
INLINE int is_wide(int type) { return type == Q8_0 || offset_of(type) * 32 / halves_of(type) > 258; }

INLINE v4 bits_at(v4 bytes, int place, int mask) { return wasm_v128_and(wasm_u16x8_shr(bytes, place), wasm_i8x16_splat(mask)); }

INLINE void unpack_k(int type, const uint8_t *block, int part, v4 *out) {
  const uint8_t *q = block + (type == Q2_K ? 16u : type == Q3_K ? 32u : type == Q6_K ? 0u : type == Q5_K ? 48u : 16u);
  for (unsigned i = 0; i < 2; i++, q += 16) {
    if (type == Q2_K || type == Q3_K) {
      out[i] = bits_at(load(q + part / 4 * 32u), part % 4 * 2, 3);
      v4 bit = wasm_i8x16_splat(1 << part);
      if (type == Q3_K) out[i] = wasm_v128_or(out[i], wasm_v128_and(wasm_i8x16_eq(wasm_v128_and(load(block + 16 * i), bit), bit), wasm_i8x16_splat(4)));
    } else if (type == Q6_K) {
      v4 bytes = load(q + part / 4 * 64u + part % 2 * 32u), two = load(block + 128u + part / 4 * 32u + 16 * i);
      out[i] = wasm_v128_or(bits_at(bytes, part % 4 / 2 * 4, 15), wasm_i16x8_shl(bits_at(two, part % 4 * 2, 3), 4));
    } else {
      out[i] = bits_at(load(q + part / 2 * 32u), part % 2 * 4, 15);
      v4 bit = wasm_i8x16_splat(1 << part);
      if (type == Q5_K) out[i] = wasm_v128_or(out[i], wasm_v128_and(wasm_i8x16_eq(wasm_v128_and(load(block + 16u + 16 * i), bit), bit), wasm_i8x16_splat(16)));
    }
  }
}

// 32 weights as bytes: those of `block`, or of its part if it has eight.
INLINE void unpack(int type, const uint8_t *block, int part, v4 *out) {
  if (block_length(type) == 256) {
    unpack_k(type, block, part, out);
    return;
  }
  if (type == Q8_0) {
    out[0] = load(block + 2u), out[1] = load(block + 18u);
    return;
  }
  const uint8_t *at = block + (type == Q4_0 ? 2u : type == Q4_1 ? 4u : type == Q5_0 ? 6u : 8u);
  v4 q = load(at);
  out[0] = low_nibbles(q), out[1] = high_nibbles(q);
  if (type == Q5_0 || type == Q5_1) {
    uint32_t bits;
    __builtin_memcpy(&bits, at - 4, 4);
    out[0] = wasm_v128_or(out[0], fifth_bits(bits, 0)), out[1] = wasm_v128_or(out[1], fifth_bits(bits, 16));
  }
}

INLINE void turn(v4 a, v4 b, v4 c, v4 d, v4 (*to)[2]) {
  v4 ab = wasm_i32x4_shuffle(a, b, 0, 4, 1, 5), cd = wasm_i32x4_shuffle(c, d, 0, 4, 1, 5);
  to[0][0] = wasm_i64x2_shuffle(ab, cd, 0, 2), to[1][0] = wasm_i64x2_shuffle(ab, cd, 1, 3);
  ab = wasm_i32x4_shuffle(a, b, 2, 6, 3, 7), cd = wasm_i32x4_shuffle(c, d, 2, 6, 3, 7);
  to[2][0] = wasm_i64x2_shuffle(ab, cd, 0, 2), to[3][0] = wasm_i64x2_shuffle(ab, cd, 1, 3);
}

INLINE v4 halves(const uint8_t *const w[4], unsigned at) {
  v4 four = wasm_v128_load16_lane(w[0] + at, wasm_i32x4_splat(0), 0);
  four = wasm_v128_load16_lane(w[1] + at, four, 2);
  four = wasm_v128_load16_lane(w[2] + at, four, 4);
  return widen(wasm_v128_load16_lane(w[3] + at, four, 6));
}

// The scale and the minimum of part `part`, half `half`, of a K block, without those of the whole block.
INLINE void part_scale(int type, const uint8_t *block, int part, int half, float *scale, float *minimum) {
  int i = 2 * part + half;
  *minimum = 0;
  if (type == Q4_K || type == Q5_K) scale_min(block + 4, part, scale, minimum);
  else if (type == Q6_K) *scale = ((const int8_t *)block)[192 + i];
  else if (type == Q2_K) *scale = block[i] & 15, *minimum = block[i] >> 4;
  else *scale = q3_scale(block + 96, i);
}

// The scales of four outputs of a panel, and what is added for each number: the minimum, and what the offset took away.
INLINE void fill_scales(int type, const uint8_t *const w[4], int part, Panel *panel, int side) {
  v4 offset = splat(offset_of(type));
  if (block_length(type) != 256) {
    v4 scale = panel->scale[0][side] = halves(w, 0);
    if (type == Q4_1 || type == Q5_1) panel->base[0][side] = madd(offset, scale, halves(w, 2));
    return;
  }
  v4 whole = halves(w, type == Q6_K ? 208 : type == Q3_K ? 108 : type == Q2_K ? 80 : 0);
  v4 smallest = has_minimum(type) ? wasm_f32x4_neg(halves(w, type == Q2_K ? 82 : 2)) : splat(0);
  for (int half = 0; half < halves_of(type); half++) {
    float s[4], m[4];
    for (int i = 0; i < 4; i++) part_scale(type, w[i], part, half, &s[i], &m[i]);
    v4 scale = panel->scale[half][side] = wasm_f32x4_mul(whole, load(s));
    if (has_minimum(type)) panel->base[half][side] = madd(offset, scale, wasm_f32x4_mul(smallest, load(m)));
  }
}

// Four outputs of a panel from their blocks `w`.
INLINE void fill(int type, const uint8_t *const w[4], int part, Panel *panel, int side) {
  v4 bytes[4][2];
  for (int i = 0; i < 4; i++) unpack(type, w[i], part, bytes[i]);
  for (int i = 0; i < 2; i++) turn(bytes[0][i], bytes[1][i], bytes[2][i], bytes[3][i], (v4(*)[2])&panel->weights[4 * i][side]);
  fill_scales(type, w, part, panel, side);
  if (type != Q8_0) return;
  v4 base = wasm_i32x4_splat(0);
  for (int k = 0; k < 8; k++) base = dot(panel->weights[k][side], wasm_i8x16_splat(64), base);
  panel->base[0][side] = base;
}

// `length` columns from k on of the outputs from n on; where there are fewer than 8, the last one takes their places.
INLINE void panels(int type, const uint8_t *weights, int size, int n, int last, int k, int length, Panel *out) {
  int parts = block_length(type) / 32;
  const uint8_t *w[OUTPUTS];
  for (int i = 0; i < OUTPUTS; i++) w[i] = weights + (n + i < last ? n + i : last - 1) * size + row_bytes(type, k);
  for (int b = 0; b < length / 32; b++, out++) {
    fill(type, w, b % parts, out, 0);
    fill(type, w + 4, b % parts, out, 1);
    if ((b + 1) % parts == 0)
      for (int i = 0; i < OUTPUTS; i++) w[i] += block_bytes(type);
  }
}

// The sums of the lanes of a and b, in the first two.
INLINE v4 two_sums(v4 a, v4 b) {
  v4 both = wasm_i32x4_add(wasm_i32x4_shuffle(a, b, 0, 4, 1, 5), wasm_i32x4_shuffle(a, b, 2, 6, 3, 7));
  return wasm_i32x4_add(both, wasm_i32x4_shuffle(both, both, 2, 3, 0, 1));
}

INLINE v4 nearest4(const float *x, v4 inverse) {
  return wasm_i32x4_relaxed_trunc_f32x4(wasm_f32x4_nearest(wasm_f32x4_mul(load(x), inverse)));
}

// Sixteen numbers as two digits of 8 bits.
INLINE void two_digits_of(const float *x, v4 inverse, v4 *digit) {
  v4 high[2], low[2];
  for (int i = 0; i < 2; i++) {
    v4 number = wasm_i16x8_narrow_i32x4(nearest4(x + 8 * i, inverse), nearest4(x + 8 * i + 4, inverse));
    high[i] = wasm_i16x8_shr(wasm_i16x8_add(number, wasm_i16x8_splat(128)), 8);
    low[i] = wasm_i16x8_sub(number, wasm_i16x8_shl(high[i], 8));
  }
  digit[0] = wasm_i8x16_narrow_i16x8(high[0], high[1]), digit[1] = wasm_i8x16_narrow_i16x8(low[0], low[1]);
}

// Where the largest of 32 numbers is as large as its digits can be.
INLINE float scale_of(int type, int coarse, float largest) {
  return largest / (places_of(type, coarse) == 2 ? 127.0f * 0x1p8f : type == Q8_0 ? 63.0f * 0x1p14f : 127.0f * 0x1p16f);
}

// The sums of 32 numbers, of which `all` is known, by the columns that have a scale.
INLINE void totals_of(int type, const float *x, float all, float *first, float *second) {
  *first = all;
  if (halves_of(type) == 1) return;
  v4 own = splat(0);
  for (int i = 0; i < 16; i += 4) own = wasm_f32x4_add(own, load(x + i));
  *first = sum(own), *second = all - *first;
}

// One row of a group, from its 32 numbers. The first digit has room for what the others carry.
INLINE void one_of_group(int type, int coarse, const float *x, int row, Group *out) {
  int places = places_of(type, coarse), at = places * row;
  v4 total, digit[2][3];
  float largest = wasm_f32x4_extract_lane(largest_of(x, &total), 0), all = sum(total);
  float scale = scale_of(type, coarse, largest) + 0 * all; // NaN where one of them is
  v4 inverse = splat(scale > 1e-37f ? 1.0f / scale : 0.0f);
  out->scale[row] = scale;
  totals_of(type, x, all, &out->total[0][row], &out->total[1][row]);
  for (int half = 0; half < 2; half++) {
    v4 *own = digit[half];
    if (places == 3) {
      v4 number[4];
      for (int i = 0; i < 4; i++) number[i] = nearest4(x + 16 * half + 4 * i, inverse);
      cut(number, own, 3, type == Q8_0 ? 7 : 8, type == Q8_0 ? 64 : 0);
      wasm_v128_store32_lane(out->digit[4 * half][at + 2], own[2], 0), wasm_v128_store32_lane(out->digit[4 * half + 1][at + 2], own[2], 1);
      wasm_v128_store32_lane(out->digit[4 * half + 2][at + 2], own[2], 2), wasm_v128_store32_lane(out->digit[4 * half + 3][at + 2], own[2], 3);
    } else two_digits_of(x + 16 * half, inverse, own);
    v4 first = wasm_i32x4_shuffle(own[0], own[1], 0, 4, 1, 5), last = wasm_i32x4_shuffle(own[0], own[1], 2, 6, 3, 7);
    wasm_v128_store64_lane(out->digit[4 * half][at], first, 0), wasm_v128_store64_lane(out->digit[4 * half + 1][at], first, 1);
    wasm_v128_store64_lane(out->digit[4 * half + 2][at], last, 0), wasm_v128_store64_lane(out->digit[4 * half + 3][at], last, 1);
  }
  if (offset_of(type) == 0) return;
  v4 offset = wasm_i8x16_splat(offset_of(type)), none = wasm_i32x4_splat(0);
  for (int half = 0; half < halves_of(type); half++) {
    v4 s[3];
    for (int place = 0; place < places; place++) {
      s[place] = dot(digit[half][place], offset, none);
      if (halves_of(type) == 1) s[place] = dot(digit[1][place], offset, s[place]);
    }
    wasm_v128_store64_lane(&out->start[half][at], wasm_i32x4_neg(two_sums(s[0], s[1])), 0);
    if (places == 3) wasm_v128_store32_lane(&out->start[half][at + 2], wasm_i32x4_neg(two_sums(s[2], s[2])), 0);
  }
}

// Rows of activations in groups: [columns / 768][groups of rows][32 columns]; rows that are not there are zero.
INLINE void groups(int type, int coarse, const float *x, int rows, int columns, Group *out) {
  int each = rows_of(type, coarse);
  for (int k = 0; k < columns; k += CHUNK) {
    int length = columns - k < CHUNK ? columns - k : CHUNK;
    for (int m = 0; m < rows; m += each)
      for (int b = 0; b < length; b += 32, out++) {
        if (m + each > rows) __builtin_memset(out, 0, sizeof *out);
        for (int row = 0; row < each && m + row < rows; row++) one_of_group(type, coarse, x + (m + row) * columns + k + b, row, out);
      }
  }
}

// Nothing of what comes later before this, of all sums at once: else the compiler finishes one sum after the other, and
// holds all else in registers that there are not.
INLINE void in_step(v4 *s, int sums) {
  if (sums == 4) __asm__("" : "+r"(s[0]), "+r"(s[1]), "+r"(s[2]), "+r"(s[3]));
  else if (sums == 6) __asm__("" : "+r"(s[0]), "+r"(s[1]), "+r"(s[2]), "+r"(s[3]), "+r"(s[4]), "+r"(s[5]));
  else if (sums == 8) __asm__("" : "+r"(s[0]), "+r"(s[1]), "+r"(s[2]), "+r"(s[3]), "+r"(s[4]), "+r"(s[5]), "+r"(s[6]), "+r"(s[7]));
  else __asm__("" : "+r"(s[0]), "+r"(s[1]), "+r"(s[2]), "+r"(s[3]), "+r"(s[4]), "+r"(s[5]), "+r"(s[6]), "+r"(s[7]), "+r"(s[8]), "+r"(s[9]), "+r"(s[10]), "+r"(s[11]));
}

// The sum that a number's digits have, [place][side], as float32.
INLINE v4 joined(int type, int places, const v4 *sum) {
  int bits = type == Q8_0 ? 7 : 8;
  if (places == 2) return wasm_f32x4_convert_i32x4(wasm_i32x4_add(wasm_i32x4_shl(sum[0], bits), sum[2]));
  v4 high = is_wide(type) ? sum[2] : wasm_i32x4_add(wasm_i32x4_shl(sum[0], bits), sum[2]);
  v4 low = wasm_f32x4_convert_i32x4(wasm_i32x4_add(wasm_i32x4_shl(high, bits), sum[4]));
  return is_wide(type) ? madd(wasm_f32x4_convert_i32x4(sum[0]), splat(1 << 2 * bits), low) : low;
}

// y[row] [8] += panels times groups, of one row or of as many as a group has
INLINE void multiply(int type, int places, const Panel *w, const Group *x, int blocks, int rows, float *const *y) {
  int steps = 8 / halves_of(type), digits = rows * places;
  for (; blocks > 0; blocks--, w++, x++) {
#pragma unroll
    for (int half = 0; half < halves_of(type); half++) {
      v4 sum[2 * DIGITS]; // [row and place][side]
#pragma unroll
      for (int i = 0; i < 2 * digits; i++) {
        if (type == Q8_0) sum[i] = wasm_i32x4_neg(w->base[0][i % 2]);
        else sum[i] = offset_of(type) ? wasm_v128_load32_splat(&x->start[half][i / 2]) : wasm_i32x4_splat(0);
      }
#pragma unroll
      for (int k = half * steps; k < (half + 1) * steps; k++) {
        v4 a = w->weights[k][0], b = w->weights[k][1];
#pragma unroll
        for (int i = 0; i < digits; i++) {
          v4 four = wasm_v128_load32_splat(x->digit[k][i]), *own = sum + 2 * i;
          own[0] = type == Q8_0 ? dot(a, four, own[0]) : dot(four, a, own[0]);
          own[1] = type == Q8_0 ? dot(b, four, own[1]) : dot(four, b, own[1]);
        }
        in_step(sum, 2 * digits);
      }
#pragma unroll
      for (int i = 0; i < 2 * rows; i++) {
        int row = i / 2, side = i % 2;
        v4 value = load(y[row] + 4 * side), number = joined(type, places, sum + 2 * places * row + side);
        value = madd(number, wasm_f32x4_mul(w->scale[half][side], wasm_v128_load32_splat(&x->scale[row])), value);
        if (has_minimum(type)) value = madd(w->base[half][side], wasm_v128_load32_splat(&x->total[half][row]), value);
        wasm_v128_store(y[row] + 4 * side, value);
      }
    }
  }
}

INLINE void multiply_rows(int type, int coarse, const Panel *w, const Group *x, int blocks, int rows, float *y, int stride, int wanted) {
  float spare[ROWS][OUTPUTS], *to[ROWS];
  __builtin_memset(spare, 0, sizeof spare);
  for (int r = 0; r < ROWS; r++) to[r] = r < rows && wanted == OUTPUTS ? y + r * stride : spare[r];
  if (rows == 1 && !coarse) multiply(type, 3, w, x, blocks, 1, to);
  else multiply(type, places_of(type, coarse), w, x, blocks, rows_of(type, coarse), to);
  for (int r = 0; r < rows && wanted < OUTPUTS; r++, y += stride)
    for (int i = 0; i < wanted; i++) y[i] += spare[r][i];
}

// See matmul; needs CHUNK / 32 panels of scratch.
INLINE void panels_dot(int type, int coarse, const uint8_t *weights, int columns, const Group *x, int rows, float *y, int stride, Panel *scratch, int first, int last) {
  int size = row_bytes(type, columns), each = rows_of(type, coarse);
  for (int k = 0; k < columns; k += CHUNK) {
    int length = columns - k < CHUNK ? columns - k : CHUNK, blocks = length / 32;
    for (int n = first; n < last; n += OUTPUTS) {
      int wanted = last - n < OUTPUTS ? last - n : OUTPUTS;
      panels(type, weights, size, n, last, k, length, scratch);
      for (int m = 0; m < rows; m += each)
        multiply_rows(type, coarse, scratch, x + m / each * blocks, blocks, rows - m < each ? rows - m : each, y + m * stride + n - first, stride, wanted);
    }
    x += (rows + each - 1) / each * blocks;
  }
}

#endif
