// Small pieces that the kernels share: fused or separate multiply-add, sums over lanes, half floats, exp and tanh.
// Rule of the file: four float32 lanes at a time, nothing that allocates, nothing from a C library.
//
// Built twice: with relaxed SIMD a multiply-add is one instruction and rounds once, without it is two and rounds twice.

#pragma once
#include <stdint.h>
#include <wasm_simd128.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

typedef v128_t v4; // four float32, or what the operation at hand says

// ggml's numbers of the types that a weight can have
enum { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, BF16 = 30 };

INLINE v4 load(const void *at) { return wasm_v128_load(at); }
INLINE v4 splat(float value) { return wasm_f32x4_splat(value); }

// The same, kept in a register: V8 takes three instructions to write a constant down again wherever it is used.
INLINE v4 kept(v4 constant) {
  __asm__("" : "+r"(constant));
  return constant;
}

INLINE v4 madd(v4 a, v4 b, v4 sum) {
#ifdef __wasm_relaxed_simd__
  return wasm_f32x4_relaxed_madd(a, b, sum);
#else
  return wasm_f32x4_add(wasm_f32x4_mul(a, b), sum);
#endif
}

// The sums of the lanes of a, b, c and d, in this order.
INLINE v4 sums(v4 a, v4 b, v4 c, v4 d) {
  v4 ab = wasm_f32x4_add(wasm_i32x4_shuffle(a, b, 0, 4, 1, 5), wasm_i32x4_shuffle(a, b, 2, 6, 3, 7));
  v4 cd = wasm_f32x4_add(wasm_i32x4_shuffle(c, d, 0, 4, 1, 5), wasm_i32x4_shuffle(c, d, 2, 6, 3, 7));
  return wasm_f32x4_add(wasm_i32x4_shuffle(ab, cd, 0, 1, 4, 5), wasm_i32x4_shuffle(ab, cd, 2, 3, 6, 7));
}

INLINE float sum(v4 a) {
  v4 b = wasm_f32x4_add(a, wasm_i32x4_shuffle(a, a, 2, 3, 0, 1));
  return wasm_f32x4_extract_lane(b, 0) + wasm_f32x4_extract_lane(b, 1);
}

// Four half floats in the low halves of 32-bit lanes, exactly (subnormals too; infinities become large numbers).
INLINE v4 widen(v4 halves) {
  v4 magnitude = wasm_i32x4_shl(wasm_v128_and(halves, wasm_i32x4_splat(0x7fff)), 13);
  v4 sign = wasm_i32x4_shl(wasm_v128_and(halves, wasm_i32x4_splat(0x8000)), 16);
  return wasm_v128_or(sign, wasm_f32x4_mul(magnitude, splat(0x1p112f)));
}

INLINE float half(const void *at) {
  uint16_t bits;
  __builtin_memcpy(&bits, at, 2);
  return wasm_f32x4_extract_lane(widen(wasm_i32x4_make(bits, 0, 0, 0)), 0);
}

// exp to about 1e-7 of its value (Cephes' polynomial); 0 below -87.3, its largest value above 88, NaN of NaN.
INLINE v4 exp4(v4 x) {
  v4 tiny = wasm_f32x4_lt(x, kept(splat(-87.3f))), none = wasm_f32x4_ne(x, x);
  x = wasm_f32x4_pmin(kept(splat(88.0f)), wasm_f32x4_pmax(kept(splat(-87.3f)), x));
  v4 magic = kept(splat(0x1.8p23f)); // the last bits of what lies above it are the nearest whole number
  v4 bits = wasm_f32x4_add(wasm_f32x4_mul(x, kept(splat(1.44269504f))), magic), n = wasm_f32x4_sub(bits, magic);
  v4 r = madd(n, kept(splat(-0.693359375f)), x);
  r = madd(n, kept(splat(2.12194440e-4f)), r);
  v4 p = kept(splat(1.9875691500e-4f));
  p = madd(p, r, kept(splat(1.3981999507e-3f)));
  p = madd(p, r, kept(splat(8.3334519073e-3f)));
  p = madd(p, r, kept(splat(4.1665795894e-2f)));
  p = madd(p, r, kept(splat(1.6666665459e-1f)));
  p = madd(p, r, kept(splat(5.0000001201e-1f)));
  p = wasm_f32x4_add(madd(wasm_f32x4_mul(r, r), p, r), kept(splat(1.0f)));
  v4 power = wasm_i32x4_add(wasm_i32x4_shl(bits, 23), kept(wasm_i32x4_splat(127 << 23)));
  return wasm_v128_or(wasm_v128_andnot(wasm_f32x4_mul(p, power), tiny), none);
}

INLINE v4 tanh4(v4 x) {
  v4 e = exp4(wasm_f32x4_add(x, x));
  return wasm_f32x4_sub(splat(1.0f), wasm_f32x4_div(splat(2.0f), wasm_f32x4_add(e, splat(1.0f))));
}
