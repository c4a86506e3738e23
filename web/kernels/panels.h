// Products of several rows of activations with 8 rows of weights at a time, in digits (see digits.h).
// Rule of the file: weights are unpacked once for all rows of activations, into lanes that belong to one output each, so
// that a block costs each row one multiplication with its scales and no sums over lanes.
//
// Two rows at a time: with 8 outputs and three digits these are twelve sums. An instruction waits five cycles for the sum
// of the one before, and two can begin in each, so that fewer sums would wait; more would not fit into the registers.

#pragma once
#include "digits.h"

#ifdef __wasm_relaxed_simd__

#define OUTPUTS 8 // of a panel

// 8 rows of weights by 32 columns: [columns / 4][outputs / 4] times 4 columns of 4 outputs; for each half of the columns
// (or for all in the first) a scale, and what is added for each number that is multiplied. Of weights of 8 bits `base`
// is 64 times their sum, as whole numbers.
typedef struct {
  v4 weights[8][2], scale[2][2], base[2][2];
} Panel;

// Two rows of activations by 32 columns, as Digits has them, [columns / 4][row][place] times 4. `start` is what is taken
// from the weights times each digit's sum, [half][place][row].
typedef struct {
  int8_t digit[8][2][4][4];
  int32_t start[2][3][2];
  float scale[2], total[2][2];
} Pair;

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
// Whether a sum over a scale's columns may need more than 32 bits: more than 258 times a number of 127 * 2^16.
INLINE int is_wide(int type) { return offset_of(type) * 32 / halves_of(type) > 258; }

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

INLINE int lanes(v4 a) {
  return wasm_i32x4_extract_lane(a, 0) + wasm_i32x4_extract_lane(a, 1) + wasm_i32x4_extract_lane(a, 2) + wasm_i32x4_extract_lane(a, 3);
}

// One row of a pair, from its 32 numbers.
INLINE void one_of_pair(int type, const float *x, int row, Pair *out) {
  Digits one;
  digits(x, &one, &out->scale[row], &out->total[0][row], 32, type == Q8_0);
  for (int place = 0; place < (type == Q8_0 ? 4 : 3); place++)
    for (int i = 0; i < 8; i++) __builtin_memcpy(out->digit[i][row][place], one.digit[place] + 4 * i, 4);
  if (type == Q8_0) return;
  v4 all = wasm_i8x16_splat(offset_of(type)), zero = wasm_i32x4_splat(0);
  for (int place = 0; place < 3; place++) {
    int first = lanes(dot(load(one.digit[place]), all, zero)), second = lanes(dot(load(one.digit[place] + 16), all, zero));
    out->start[0][place][row] = -first - (halves_of(type) == 1 ? second : 0), out->start[1][place][row] = -second;
  }
  if (halves_of(type) == 1) return;
  v4 sums = splat(0);
  for (int i = 0; i < 16; i += 4) sums = wasm_f32x4_add(sums, load(x + i));
  out->total[0][row] = sum(sums), sums = splat(0);
  for (int i = 16; i < 32; i += 4) sums = wasm_f32x4_add(sums, load(x + i));
  out->total[1][row] = sum(sums);
}

// Rows of activations, two and two: [columns / 768][rows / 2][32 columns]; the row that is not there is zero.
INLINE void pairs(int type, const float *x, int rows, int columns, Pair *out) {
  for (int k = 0; k < columns; k += CHUNK) {
    int length = columns - k < CHUNK ? columns - k : CHUNK;
    for (int m = 0; m < rows; m += 2)
      for (int b = 0; b < length; b += 32, out++) {
        if (m + 1 == rows) __builtin_memset(out, 0, sizeof *out);
        for (int row = 0; row < 2 && m + row < rows; row++) one_of_pair(type, x + (m + row) * columns + k + b, row, out);
      }
  }
}

// Nothing of what comes later before this: else the compiler finishes one sum after the other, and holds all else in
// registers that there are not.
INLINE void in_step(v4 *s, int rows) {
  __asm__("" : "+r"(s[0]), "+r"(s[1]), "+r"(s[2]), "+r"(s[3]), "+r"(s[4]), "+r"(s[5]));
  if (rows == 2) __asm__("" : "+r"(s[6]), "+r"(s[7]), "+r"(s[8]), "+r"(s[9]), "+r"(s[10]), "+r"(s[11]));
}

// y [rows, 8] += panels times pairs
INLINE void multiply(int type, const Panel *w, const Pair *x, int blocks, int rows, v4 (*y)[2]) {
  int steps = 8 / halves_of(type);
  for (; blocks > 0; blocks--, w++, x++) {
#pragma unroll
    for (int half = 0; half < halves_of(type); half++) {
      v4 sum[12]; // [row][side][place]
#pragma unroll
      for (int i = 0; i < 6 * rows; i++) sum[i] = wasm_v128_load32_splat(&x->start[half][i % 3][i / 6]);
#pragma unroll
      for (int k = half * steps; k < (half + 1) * steps; k++) {
        v4 a = w->weights[k][0], b = w->weights[k][1];
#pragma unroll
        for (int i = 0; i < 3 * rows; i++) {
          v4 four = wasm_v128_load32_splat(x->digit[k][i / 3][i % 3]);
          v4 *own = sum + i / 3 * 6 + i % 3;
          own[0] = dot(four, a, own[0]), own[3] = dot(four, b, own[3]);
        }
        in_step(sum, rows);
      }
#pragma unroll
      for (int i = 0; i < 2 * rows; i++) {
        v4 *own = sum + 3 * i, value;
        v4 high = is_wide(type) ? own[1] : wasm_i32x4_add(wasm_i32x4_shl(own[0], 8), own[1]);
        value = wasm_f32x4_convert_i32x4(wasm_i32x4_add(wasm_i32x4_shl(high, 8), own[2]));
        if (is_wide(type)) value = madd(wasm_f32x4_convert_i32x4(own[0]), splat(0x1p16f), value);
        v4 *to = &y[i / 2][i % 2];
        *to = madd(value, wasm_f32x4_mul(w->scale[half][i % 2], wasm_v128_load32_splat(&x->scale[i / 2])), *to);
        if (has_minimum(type)) *to = madd(w->base[half][i % 2], wasm_v128_load32_splat(&x->total[half][i / 2]), *to);
      }
    }
  }
}

INLINE void in_step8(v4 *s, int rows) {
  __asm__("" : "+r"(s[0]), "+r"(s[1]), "+r"(s[2]), "+r"(s[3]));
  if (rows == 2) __asm__("" : "+r"(s[4]), "+r"(s[5]), "+r"(s[6]), "+r"(s[7]));
}

// The same of weights of 8 bits, and the first two or the last two digits.
INLINE void multiply_two(const Panel *w, const Pair *x, int rows, int places, v4 *value) {
  v4 sum[8]; // [row][side][place]
#pragma unroll
  for (int i = 0; i < 4 * rows; i++) sum[i] = wasm_i32x4_neg(w->base[0][i / 2 % 2]);
#pragma unroll
  for (int k = 0; k < 8; k++) {
    v4 a = w->weights[k][0], b = w->weights[k][1];
#pragma unroll
    for (int i = 0; i < 2 * rows; i++) {
      v4 four = wasm_v128_load32_splat(x->digit[k][i / 2][places + i % 2]);
      v4 *own = sum + i / 2 * 4 + i % 2;
      own[0] = dot(a, four, own[0]), own[2] = dot(b, four, own[2]);
    }
    in_step8(sum, rows);
  }
#pragma unroll
  for (int i = 0; i < 2 * rows; i++) value[i] = wasm_f32x4_convert_i32x4(wasm_i32x4_add(wasm_i32x4_shl(sum[2 * i], 7), sum[2 * i + 1]));
}

INLINE void multiply_bytes(const Panel *w, const Pair *x, int blocks, int rows, v4 (*y)[2]) {
  for (; blocks > 0; blocks--, w++, x++) {
    v4 high[4], low[4];
    multiply_two(w, x, rows, 0, high);
    multiply_two(w, x, rows, 2, low);
#pragma unroll
    for (int i = 0; i < 2 * rows; i++) {
      v4 scale = wasm_f32x4_mul(w->scale[0][i % 2], wasm_v128_load32_splat(&x->scale[i / 2]));
      y[i / 2][i % 2] = madd(madd(high[i], splat(0x1p14f), low[i]), scale, y[i / 2][i % 2]);
    }
  }
}

INLINE void multiply_rows(int type, const Panel *w, const Pair *x, int blocks, int rows, float *y, int stride, int wanted) {
  v4 result[2][2];
  for (int r = 0; r < 2; r++) result[r][0] = result[r][1] = splat(0);
  if (type == Q8_0 && rows == 2) multiply_bytes(w, x, blocks, 2, result);
  else if (type == Q8_0) multiply_bytes(w, x, blocks, 1, result);
  else if (rows == 2) multiply(type, w, x, blocks, 2, result);
  else multiply(type, w, x, blocks, 1, result);
  for (int r = 0; r < rows; r++, y += stride)
    for (int i = 0; i < wanted; i++) y[i] += ((float *)result[r])[i];
}

// See matmul; needs CHUNK / 32 panels of scratch.
INLINE void panels_dot(int type, const uint8_t *weights, int columns, const Pair *x, int rows, float *y, int stride, Panel *scratch, int first, int last) {
  int size = row_bytes(type, columns);
  for (int k = 0; k < columns; k += CHUNK) {
    int length = columns - k < CHUNK ? columns - k : CHUNK, blocks = length / 32;
    for (int n = first; n < last; n += OUTPUTS) {
      int wanted = last - n < OUTPUTS ? last - n : OUTPUTS;
      panels(type, weights, size, n, last, k, length, scratch);
      for (int m = 0; m < rows; m += 2)
        multiply_rows(type, scratch, x + m / 2 * blocks, blocks, rows - m < 2 ? 1 : 2, y + m * stride + n - first, stride, wanted);
    }
    x += (rows + 1) / 2 * blocks;
  }
}

#endif
