// Products of several rows of activations with 8 rows of weights at a time, in digits (see digits.h).
// Rule of the file: weights are unpacked once for 32 rows of activations, into lanes that belong to one output each, so
// that a block costs each row one multiplication with its scales and no sums over lanes.

#pragma once
#include "digits.h"

#ifdef __wasm_relaxed_simd__

#define OUTPUTS 8 // of a panel
#define ROWS 32   // of activations for which a panel is unpacked once

// 8 rows of weights by 32 columns: [columns / 4][outputs / 4] times 4 columns of 4 outputs. `base` is the minimum, or
// of weights of 8 bits 64 times their sum, as whole numbers.
typedef struct {
  v4 weights[8][2], scale[2], base[2];
} Panel;

// Four rows of activations by 32 columns, as Digits has them, [columns / 4][rows] times 4. `offset` is the sum of the
// first digits times what is taken from the weights, and that of the other two.
typedef struct {
  int8_t digit[4][8][4][4];
  int32_t offset[2][4];
  float scale[4], total[4];
} Quad;

INLINE int offset_of(int type) { return type == Q4_0 ? 8 : type == Q5_0 ? 16 : 0; }

// 32 weights as bytes: those of `block`, or of its part if it has eight.
INLINE void unpack(int type, const uint8_t *block, int part, v4 *first, v4 *second) {
  if (type == Q8_0) {
    *first = load(block + 2u), *second = load(block + 18u);
    return;
  }
  int five = type == Q5_0 || type == Q5_1;
  const uint8_t *at = block + (type == Q4_0 ? 2u : type == Q4_1 ? 4u : type == Q5_0 ? 6u : 8u);
  if (type == Q4_K || type == Q5_K) at = block + (type == Q5_K ? 48u : 16u) + part / 2 * 32u;
  v4 q = load(at), r = type == Q4_K || type == Q5_K ? load(at + 16u) : q;
  if (type == Q4_K || type == Q5_K) {
    *first = part % 2 ? high_nibbles(q) : low_nibbles(q), *second = part % 2 ? high_nibbles(r) : low_nibbles(r);
  } else *first = low_nibbles(q), *second = high_nibbles(r);
  if (five) {
    uint32_t bits;
    __builtin_memcpy(&bits, at - 4, 4);
    *first = wasm_v128_or(*first, fifth_bits(bits, 0)), *second = wasm_v128_or(*second, fifth_bits(bits, 16));
  }
  if (type == Q5_K) {
    v4 bit = wasm_i8x16_splat(1 << part), sixteen = wasm_i8x16_splat(16), a = load(block + 16u), b = load(block + 32u);
    *first = wasm_v128_or(*first, wasm_v128_and(wasm_i8x16_eq(wasm_v128_and(a, bit), bit), sixteen));
    *second = wasm_v128_or(*second, wasm_v128_and(wasm_i8x16_eq(wasm_v128_and(b, bit), bit), sixteen));
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

// Four outputs of a panel from their blocks `w`.
INLINE void fill(int type, const uint8_t *const w[4], int part, Panel *panel, int side) {
  v4 first[4], second[4], scale = halves(w, 0);
  for (int i = 0; i < 4; i++) unpack(type, w[i], part, &first[i], &second[i]);
  turn(first[0], first[1], first[2], first[3], (v4(*)[2])&panel->weights[0][side]);
  turn(second[0], second[1], second[2], second[3], (v4(*)[2])&panel->weights[4][side]);
  v4 base = wasm_i32x4_splat(0);
  if (type == Q4_1 || type == Q5_1) base = halves(w, 2);
  if (type == Q4_K || type == Q5_K) {
    float s[4], m[4];
    for (int i = 0; i < 4; i++) scale_min(w[i] + 4, part, &s[i], &m[i]);
    scale = wasm_f32x4_mul(scale, load(s)), base = wasm_f32x4_neg(wasm_f32x4_mul(halves(w, 2), load(m)));
  }
  if (type == Q8_0)
    for (int k = 0; k < 8; k++) base = dot(panel->weights[k][side], wasm_i8x16_splat(64), base);
  panel->scale[side] = scale, panel->base[side] = base;
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

// `count` rows of up to four, from their digits; the rows that are not there are zero.
INLINE void quads(const float *x, int count, int columns, int length, int offset, int bytes, Quad *out) {
  for (int b = 0; b < length / 32; b++, out++, x += 32)
    for (int row = 0; row < 4; row++) {
      Digits one;
      if (row < count) digits(x + row * columns, &one, &out->scale[row], &out->total[row], 32, bytes);
      else __builtin_memset(&one, 0, sizeof one), out->scale[row] = out->total[row] = 0;
      for (int place = 0; place < (bytes ? 4 : 3); place++)
        for (int i = 0; i < 8; i++) __builtin_memcpy(out->digit[place][i][row], one.digit[place] + 4 * i, 4);
      v4 all = wasm_i8x16_splat(offset), zero = wasm_i32x4_splat(0), high = with_digit(zero, one.digit[0], all, all);
      v4 low = with_digit(wasm_i32x4_shl(with_digit(zero, one.digit[1], all, all), 8), one.digit[2], all, all);
      out->offset[0][row] = lanes(high), out->offset[1][row] = lanes(low);
    }
}

// Nothing of what comes later before this: else the compiler finishes one sum after the other, and holds all else in
// registers that there are not.
INLINE void in_step(v4 sum[4][2], int rows) {
  if (rows == 4) {
    __asm__("" : "+r"(sum[0][0]), "+r"(sum[0][1]), "+r"(sum[1][0]), "+r"(sum[1][1]), "+r"(sum[2][0]), "+r"(sum[2][1]), "+r"(sum[3][0]), "+r"(sum[3][1]));
  } else if (rows == 3) {
    __asm__("" : "+r"(sum[0][0]), "+r"(sum[0][1]), "+r"(sum[1][0]), "+r"(sum[1][1]), "+r"(sum[2][0]), "+r"(sum[2][1]));
  } else if (rows == 2) {
    __asm__("" : "+r"(sum[0][0]), "+r"(sum[0][1]), "+r"(sum[1][0]), "+r"(sum[1][1]));
  } else __asm__("" : "+r"(sum[0][0]), "+r"(sum[0][1]));
}

// y += what the first digits gave and what the others did, with their scales.
INLINE void add_scaled(int bytes, int minimum, const Panel *w, const Quad *x, int r, int side, v4 high, v4 low, v4 *y) {
  if (!minimum && !bytes) {
    high = wasm_i32x4_sub(high, wasm_v128_load32_splat(&x->offset[0][r]));
    low = wasm_i32x4_sub(low, wasm_v128_load32_splat(&x->offset[1][r]));
  }
  v4 value = madd(wasm_f32x4_convert_i32x4(high), splat(bytes ? 0x1p14f : 0x1p16f), wasm_f32x4_convert_i32x4(low));
  *y = madd(value, wasm_f32x4_mul(w->scale[side], wasm_v128_load32_splat(&x->scale[r])), *y);
  if (minimum) *y = madd(w->base[side], wasm_v128_load32_splat(&x->total[r]), *y);
}

// y [4, 8] += panels times quads
INLINE void multiply(int bytes, int minimum, const Panel *w, const Quad *x, int blocks, int rows, v4 y[4][2]) {
  for (; blocks > 0; blocks--, w++, x++) {
    v4 sum[4][2], high[4][2];
    for (int i = 0; i < 2 * rows; i++) sum[i / 2][i % 2] = wasm_i32x4_splat(0);
#pragma unroll
    for (int place = 0; place < (bytes ? 4 : 3); place++) {
#pragma unroll
      for (unsigned k = 0; k < 8; k++) {
        v4 a = w->weights[k][0], b = w->weights[k][1];
#pragma unroll
        for (int r = 0; r < rows; r++) {
          v4 four = wasm_v128_load32_splat(x->digit[place][k][r]);
          sum[r][0] = bytes ? dot(a, four, sum[r][0]) : dot(four, a, sum[r][0]);
          sum[r][1] = bytes ? dot(b, four, sum[r][1]) : dot(four, b, sum[r][1]);
        }
        in_step(sum, rows);
      }
#pragma unroll
      for (int i = 0; i < 2 * rows; i++) {
        v4 *own = &sum[i / 2][i % 2];
        if (bytes) *own = wasm_i32x4_sub(*own, w->base[i % 2]);
        if (place == bytes) high[i / 2][i % 2] = *own, *own = wasm_i32x4_splat(0);
        else if (place < 2 + bytes) *own = wasm_i32x4_shl(*own, bytes ? 7 : 8);
      }
    }
#pragma unroll
    for (int i = 0; i < 2 * rows; i++) add_scaled(bytes, minimum, w, x, i / 2, i % 2, high[i / 2][i % 2], sum[i / 2][i % 2], &y[i / 2][i % 2]);
  }
}

// One row, whose digits have sums of their own, as an instruction waits for the sum of the one before.
INLINE void multiply_one(int minimum, const Panel *w, const Quad *x, int blocks, v4 y[4][2]) {
  for (; blocks > 0; blocks--, w++, x++) {
    v4 sum[4][2];
    for (int i = 0; i < 6; i++) sum[i / 2][i % 2] = wasm_i32x4_splat(0);
#pragma unroll
    for (unsigned k = 0; k < 8; k++) {
      v4 a = w->weights[k][0], b = w->weights[k][1];
#pragma unroll
      for (int place = 0; place < 3; place++) {
        v4 four = wasm_v128_load32_splat(x->digit[place][k][0]);
        sum[place][0] = dot(four, a, sum[place][0]);
        sum[place][1] = dot(four, b, sum[place][1]);
      }
      in_step(sum, 3);
    }
    for (int side = 0; side < 2; side++)
      add_scaled(0, minimum, w, x, 0, side, sum[0][side], wasm_i32x4_add(wasm_i32x4_shl(sum[1][side], 8), sum[2][side]), &y[0][side]);
  }
}

INLINE void multiply_rows(int bytes, int minimum, const Panel *w, const Quad *x, int blocks, int rows, float *y, int outputs, int wanted) {
  v4 result[4][2];
  for (int r = 0; r < 4; r++) result[r][0] = result[r][1] = splat(0);
  if (rows >= 3) multiply(bytes, minimum, w, x, blocks, 4, result);
  else if (rows == 2) multiply(bytes, minimum, w, x, blocks, 2, result);
  else if (bytes) multiply(bytes, minimum, w, x, blocks, 1, result);
  else multiply_one(minimum, w, x, blocks, result);
  for (int r = 0; r < rows; r++, y += outputs)
    for (int i = 0; i < wanted; i++) y[i] += ((float *)result[r])[i];
}

// See matmul; needs ROWS * CHUNK / 128 quads and CHUNK / 32 panels of scratch.
INLINE void panels_dot(int type, const uint8_t *weights, int outputs, int columns, const float *x, int rows, float *y, uint8_t *scratch, int first, int last) {
  Panel *own = (Panel *)scratch;
  Quad *digits = (Quad *)(own + CHUNK / 32);
  int minimum = type == Q4_1 || type == Q5_1 || type == Q4_K || type == Q5_K, size = row_bytes(type, columns);
  for (int m = 0; m < rows; m += ROWS) {
    int count = rows - m < ROWS ? rows - m : ROWS;
    for (int k = 0; k < columns; k += CHUNK) {
      int length = columns - k < CHUNK ? columns - k : CHUNK, blocks = length / 32;
      for (int r = 0; r < count; r += 4)
        quads(x + (m + r) * columns + k, count - r < 4 ? count - r : 4, columns, length, offset_of(type), type == Q8_0, digits + r / 4 * blocks);
      for (int n = first; n < last; n += OUTPUTS) {
        int wanted = last - n < OUTPUTS ? last - n : OUTPUTS;
        panels(type, weights, size, n, last, k, length, own);
        for (int r = 0; r < count; r += 4)
          multiply_rows(type == Q8_0, minimum, own, digits + r / 4 * blocks, blocks, count - r < 4 ? count - r : 4, y + (m + r) * outputs + n, outputs, wanted);
      }
    }
  }
}

#endif
