// Products of several rows of activations with 8 rows of weights at a time, in words of 16 bits: bit for bit those of
// digits (see panels.h), of two by one word and of three by two, by other instructions.
// Rule of the file: sums of products are exact. Which of both is faster is the machine's: eight products of words and
// their sums are two instructions of an x86 processor, sixteen of digits three; those that know sums of products of bytes
// (VNNI, Arm's dot product) need one.

#pragma once
#include "panels.h"

#ifdef __wasm_relaxed_simd__

#define WORD_COUNT 4 // words of activations that are multiplied at a time: with 8 outputs eight sums

// As Panel, with weights around zero: [columns / 4][even ones, odd ones][outputs / 4] times 2 columns of 4 outputs.
typedef struct {
  v4 weights[8][2][2], scale[2][2], base[2][2];
} WordPanel;

// Rows of activations by 32 columns: x = scale * number, [columns / 4][even ones, odd ones][row and word] times 2.
typedef struct {
  int16_t word[8][2][WORD_COUNT][2];
  float scale[WORD_COUNT], total[2][WORD_COUNT];
} WordGroup;

// Rows of a group, whose numbers have one word or two.
INLINE int word_rows(int words) { return WORD_COUNT / words; }

// Eight numbers as words, in the order of a group.
INLINE void words_of(int words, const float *x, v4 inverse, v4 *word) {
  v4 a = nearest4(x, inverse), b = nearest4(x + 4, inverse);
  if (words == 2) {
    v4 half = wasm_i32x4_splat(128), c = wasm_i32x4_shr(wasm_i32x4_add(a, half), 8), d = wasm_i32x4_shr(wasm_i32x4_add(b, half), 8);
    word[1] = wasm_i16x8_narrow_i32x4(wasm_i32x4_sub(a, wasm_i32x4_shl(c, 8)), wasm_i32x4_sub(b, wasm_i32x4_shl(d, 8)));
    a = c, b = d;
  }
  word[0] = wasm_i16x8_narrow_i32x4(a, b);
  for (int i = 0; i < words; i++) word[i] = wasm_i16x8_shuffle(word[i], word[i], 0, 2, 1, 3, 4, 6, 5, 7);
}

// One row of a group, from its 32 numbers.
INLINE void words_of_row(int type, int words, const float *x, int row, WordGroup *out) {
  v4 total;
  float largest = wasm_f32x4_extract_lane(largest_of(x, &total), 0), all = sum(total);
  float scale = out->scale[row] = scale_of(type, words == 1, largest) + 0 * all; // NaN where one of them is
  v4 inverse = splat(scale > 1e-37f ? 1.0f / scale : 0.0f);
  for (int i = 0; i < 8; i += 2) {
    v4 word[2];
    words_of(words, x + 4 * i, inverse, word);
    for (int j = 0, at = words * row; j < words; j++, at++) {
      wasm_v128_store32_lane(out->word[i][0][at], word[j], 0), wasm_v128_store32_lane(out->word[i][1][at], word[j], 1);
      wasm_v128_store32_lane(out->word[i + 1][0][at], word[j], 2), wasm_v128_store32_lane(out->word[i + 1][1][at], word[j], 3);
    }
  }
  totals_of(type, x, all, &out->total[0][row], &out->total[1][row]);
}

// See groups.
INLINE void word_groups(int type, int words, const float *x, int rows, int columns, WordGroup *out) {
  int each = word_rows(words);
  for (int k = 0; k < columns; k += CHUNK) {
    int length = columns - k < CHUNK ? columns - k : CHUNK;
    for (int m = 0; m < rows; m += each)
      for (int b = 0; b < length; b += 32, out++) {
        if (m + each > rows) __builtin_memset(out, 0, sizeof *out);
        for (int row = 0; row < each && m + row < rows; row++) words_of_row(type, words, x + (m + row) * columns + k + b, row, out);
      }
  }
}

INLINE void widen_panel(int type, const Panel *from, WordPanel *to) {
  v4 offset = wasm_i16x8_splat(offset_of(type)), low = wasm_i16x8_splat(255);
  for (int k = 0; k < 8; k++)
    for (int side = 0; side < 2; side++) {
      v4 bytes = from->weights[k][side];
      to->weights[k][0][side] = wasm_i16x8_sub(wasm_v128_and(bytes, low), offset);
      to->weights[k][1][side] = wasm_i16x8_sub(wasm_u16x8_shr(bytes, 8), offset);
    }
  __builtin_memcpy(to->scale, from->scale, sizeof to->scale + sizeof to->base);
}

// y[row] [8] += panels times groups
INLINE void multiply_words(int type, int words, const WordPanel *w, const WordGroup *x, int blocks, float *const *y) {
  int steps = 16 / halves_of(type);
  for (; blocks > 0; blocks--, w++, x++) {
#pragma unroll
    for (int half = 0; half < halves_of(type); half++) {
      v4 sum[2 * WORD_COUNT]; // [row and word][side]
#pragma unroll
      for (int i = 0; i < 2 * WORD_COUNT; i++) sum[i] = wasm_i32x4_splat(0);
#pragma unroll
      for (int k = half * steps; k < (half + 1) * steps; k++) {
        v4 a = w->weights[k / 2][k % 2][0], b = w->weights[k / 2][k % 2][1];
#pragma unroll
        for (int i = 0; i < WORD_COUNT; i++) {
          v4 two = wasm_v128_load32_splat(x->word[k / 2][k % 2][i]), *own = sum + 2 * i;
          own[0] = wasm_i32x4_add(own[0], wasm_i32x4_dot_i16x8(a, two));
          own[1] = wasm_i32x4_add(own[1], wasm_i32x4_dot_i16x8(b, two));
        }
        in_step(sum, 2 * WORD_COUNT);
      }
#pragma unroll
      for (int i = 0; i < 2 * word_rows(words); i++) {
        int row = i / 2, side = i % 2;
        v4 *own = sum + 2 * words * row + side, value = load(y[row] + 4 * side);
        v4 number = wasm_f32x4_convert_i32x4(words == 1 ? own[0] : wasm_i32x4_add(wasm_i32x4_shl(own[0], 8), own[2]));
        value = madd(number, wasm_f32x4_mul(w->scale[half][side], wasm_v128_load32_splat(&x->scale[row])), value);
        if (has_minimum(type)) value = madd(w->base[half][side], wasm_v128_load32_splat(&x->total[half][row]), value);
        wasm_v128_store(y[row] + 4 * side, value);
      }
    }
  }
}

INLINE void multiply_word_rows(int type, int words, const WordPanel *w, const WordGroup *x, int blocks, int rows, float *y, int stride, int wanted) {
  float spare[WORD_COUNT][OUTPUTS], *to[WORD_COUNT];
  __builtin_memset(spare, 0, sizeof spare);
  for (int r = 0; r < WORD_COUNT; r++) to[r] = r < rows && wanted == OUTPUTS ? y + r * stride : spare[r];
  multiply_words(type, words, w, x, blocks, to);
  for (int r = 0; r < rows && wanted < OUTPUTS; r++, y += stride)
    for (int i = 0; i < wanted; i++) y[i] += spare[r][i];
}

// See matmul; needs CHUNK / 32 panels of both kinds of scratch.
INLINE void words_dot(int type, int words, const uint8_t *weights, int columns, const WordGroup *x, int rows, float *y, int stride, Panel *scratch, int first, int last) {
  int size = row_bytes(type, columns), each = word_rows(words);
  WordPanel *wide = (WordPanel *)(scratch + CHUNK / 32);
  for (int k = 0; k < columns; k += CHUNK) {
    int length = columns - k < CHUNK ? columns - k : CHUNK, blocks = length / 32;
    for (int n = first; n < last; n += OUTPUTS) {
      int wanted = last - n < OUTPUTS ? last - n : OUTPUTS;
      panels(type, weights, size, n, last, k, length, scratch);
      for (int b = 0; b < blocks; b++) widen_panel(type, scratch + b, wide + b);
      for (int m = 0; m < rows; m += each)
        multiply_word_rows(type, words, wide, x + m / each * blocks, blocks, rows - m < each ? rows - m : each, y + m * stride + n - first, stride, wanted);
    }
    x += (rows + each - 1) / each * blocks;
  }
}

#endif
