// The number formats of weights, as they lie in GGUF files: how long a row is, and its numbers as float32.
// Follows ggml's ggml-quants.c (dequantize_row_*). Rule of the file: bytes are read where the file has them,
// at any address; nothing is repacked, so that a weight takes in memory what it takes in the file.

#pragma once
#include "simd.h"

#define CHUNK 768 // columns of weights expanded at a time: a multiple of every block's length

// Numbers in a block of a type, and the bytes that a block takes; 0 for types that are not known here.
INLINE int block_length(int type) {
  return type >= Q2_K && type <= Q6_K ? 256 : type == F32 || type == F16 || type == BF16 ? 1 : 32;
}

INLINE int block_bytes(int type) {
  switch (type) {
  case F32: return 4;
  case F16: case BF16: return 2;
  case Q4_0: return 18;
  case Q4_1: return 20;
  case Q5_0: return 22;
  case Q5_1: return 24;
  case Q8_0: return 34;
  case Q2_K: return 84;
  case Q3_K: return 110;
  case Q4_K: return 144;
  case Q5_K: return 176;
  case Q6_K: return 210;
  default: return 0;
  }
}

INLINE int row_bytes(int type, int count) { return count / block_length(type) * block_bytes(type); }

// Sixteen signed bytes as float32, each times d plus m.
INLINE void store16(v4 bytes, v4 d, v4 m, float *out) {
  v4 low = wasm_i16x8_extend_low_i8x16(bytes), high = wasm_i16x8_extend_high_i8x16(bytes);
  wasm_v128_store(out, madd(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(low)), d, m));
  wasm_v128_store(out + 4, madd(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(low)), d, m));
  wasm_v128_store(out + 8, madd(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(high)), d, m));
  wasm_v128_store(out + 12, madd(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(high)), d, m));
}

INLINE v4 low_nibbles(v4 bytes) { return wasm_v128_and(bytes, kept(wasm_i8x16_splat(15))); }
// Not by a shift of bytes, for which V8 takes five instructions.
INLINE v4 high_nibbles(v4 bytes) { return low_nibbles(wasm_u16x8_shr(bytes, 4)); }

// Sixteen of the 32 fifth bits from bit `from` on, as 16 in each byte.
INLINE v4 fifth_bits(uint32_t bits, int from) {
  v4 two = wasm_i8x16_swizzle(wasm_i32x4_make(bits >> from, 0, 0, 0), wasm_i8x16_make(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
  v4 bit = wasm_i8x16_make(1, 2, 4, 8, 16, 32, 64, -128, 1, 2, 4, 8, 16, 32, 64, -128);
  return wasm_v128_and(wasm_i8x16_eq(wasm_v128_and(two, bit), bit), wasm_i8x16_splat(16));
}

static void expand_q5(const uint8_t *at, v4 d, v4 m, int offset, const uint8_t *nibbles, float *out) {
  uint32_t bits;
  __builtin_memcpy(&bits, at, 4);
  v4 q = load(nibbles), shift = wasm_i8x16_splat(offset);
  store16(wasm_i8x16_sub(wasm_v128_or(low_nibbles(q), fifth_bits(bits, 0)), shift), d, m, out);
  store16(wasm_i8x16_sub(wasm_v128_or(high_nibbles(q), fifth_bits(bits, 16)), shift), d, m, out + 16);
}

// The scale and minimum, six bits each, of part j of eight.
INLINE void scale_min(const uint8_t *s, int j, float *scale, float *minimum) {
  *scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
  *minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
}

static void expand_q45_k(const uint8_t *block, int five, float *out) {
  float d = half(block), smallest = half(block + 2), scale, minimum;
  const uint8_t *scales = block + 4, *high = block + 16, *q = five ? block + 48 : block + 16;
  for (int part = 0; part < 8; part++) {
    scale_min(scales, part, &scale, &minimum);
    v4 factor = splat(d * scale), base = splat(-smallest * minimum);
    for (int i = 0; i < 32; i += 16) {
      v4 bytes = load(q + part / 2 * 32 + i);
      v4 nibbles = part % 2 ? high_nibbles(bytes) : low_nibbles(bytes);
      if (five) {
        v4 bit = wasm_i8x16_splat(1 << part), set = wasm_i8x16_eq(wasm_v128_and(load(high + i), bit), bit);
        nibbles = wasm_v128_or(nibbles, wasm_v128_and(set, wasm_i8x16_splat(16)));
      }
      store16(nibbles, factor, base, out + part * 32 + i);
    }
  }
}

static void expand_q6_k(const uint8_t *block, float *out) {
  float d = half(block + 208);
  const int8_t *scales = (const int8_t *)block + 192;
  for (int i = 0; i < 256; i += 16) { // sixteen numbers have one scale
    int part = i / 32 % 4, side = i / 128, within = i % 32;
    v4 bytes = load(block + side * 64 + part % 2 * 32 + within);
    v4 nibbles = part < 2 ? low_nibbles(bytes) : high_nibbles(bytes);
    v4 two = wasm_v128_and(wasm_u8x16_shr(load(block + 128 + side * 32 + within), 2 * part), wasm_i8x16_splat(3));
    v4 q = wasm_i8x16_sub(wasm_v128_or(nibbles, wasm_i8x16_shl(two, 4)), wasm_i8x16_splat(32));
    store16(q, splat(d * scales[i / 16]), splat(0), out + i);
  }
}

// The two bits of sixteen numbers, from i on, of 256; the lowest of the byte are the first 32's.
INLINE v4 two_bits(const uint8_t *q, int i) {
  return wasm_v128_and(wasm_u8x16_shr(load(q + i / 128 * 32 + i % 32), i / 32 % 4 * 2), wasm_i8x16_splat(3));
}

static void expand_q2_k(const uint8_t *block, float *out) {
  float d = half(block + 80), smallest = half(block + 82);
  for (int i = 0; i < 256; i += 16) {
    int scale = block[i / 16];
    store16(two_bits(block + 16, i), splat(d * (scale & 15)), splat(-smallest * (scale >> 4)), out + i);
  }
}

// The scale of sixteen numbers of Q3_K, the i-th of sixteen.
INLINE int q3_scale(const uint8_t *scales, int i) {
  int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
  return (low | (scales[8 + i % 4] >> i / 4 * 2 & 3) << 4) - 32;
}

static void expand_q3_k(const uint8_t *block, float *out) {
  float d = half(block + 108);
  for (int i = 0; i < 256; i += 16) {
    int scale = q3_scale(block + 96, i / 16);
    v4 bit = wasm_i8x16_splat(1 << i / 32), clear = wasm_i8x16_eq(wasm_v128_and(load(block + i % 32), bit), wasm_i8x16_splat(0));
    v4 q = wasm_i8x16_sub(two_bits(block + 32, i), wasm_v128_and(clear, wasm_i8x16_splat(4)));
    store16(q, splat(d * scale), splat(0), out + i);
  }
}

static void expand_block(int type, const uint8_t *at, float *out) {
  v4 d = splat(half(at)), zero = splat(0), eight = wasm_i8x16_splat(8), q = load(at + 2);
  switch (type) {
  case Q8_0:
    store16(q, d, zero, out);
    store16(load(at + 18), d, zero, out + 16);
    return;
  case Q4_0:
    store16(wasm_i8x16_sub(low_nibbles(q), eight), d, zero, out);
    store16(wasm_i8x16_sub(high_nibbles(q), eight), d, zero, out + 16);
    return;
  case Q4_1:
    q = load(at + 4);
    store16(low_nibbles(q), d, splat(half(at + 2)), out);
    store16(high_nibbles(q), d, splat(half(at + 2)), out + 16);
    return;
  case Q5_0: expand_q5(at + 2, d, zero, 16, at + 6, out); return;
  case Q5_1: expand_q5(at + 4, d, splat(half(at + 2)), 0, at + 8, out); return;
  case Q2_K: expand_q2_k(at, out); return;
  case Q3_K: expand_q3_k(at, out); return;
  case Q4_K: expand_q45_k(at, 0, out); return;
  case Q5_K: expand_q45_k(at, 1, out); return;
  default: expand_q6_k(at, out);
  }
}

static void expand_halves(int type, const uint16_t *at, float *out, int count) {
  int i = 0;
  for (; i + 4 <= count; i += 4) {
    v4 wide = wasm_u32x4_extend_low_u16x8(wasm_v128_load64_zero(at + i));
    wasm_v128_store(out + i, type == F16 ? widen(wide) : wasm_i32x4_shl(wide, 16));
  }
  for (; i < count; i++) {
    v4 wide = wasm_i32x4_make(at[i], 0, 0, 0);
    out[i] = wasm_f32x4_extract_lane(type == F16 ? widen(wide) : wasm_i32x4_shl(wide, 16), 0);
  }
}

// `count` numbers, which are whole blocks, as float32.
INLINE void expand(int type, const uint8_t *at, float *out, int count) {
  if (type == F16 || type == BF16) {
    expand_halves(type, (const uint16_t *)at, out, count);
    return;
  }
  int length = block_length(type), size = block_bytes(type);
  for (int i = 0; i < count; i += length, at += size) expand_block(type, at, out + i);
}
