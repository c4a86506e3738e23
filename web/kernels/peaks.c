// What this processor does of one thing when nothing else is asked of it: the benchmark's measure for all other kernels.
// Rule of the file: nothing here is used by the engine.

#include "simd.h"

// Reads `count` bytes.
EXPORT int read_all(const char *bytes, int count) {
  v4 a = wasm_i32x4_splat(0), b = a, c = a, d = a;
  for (int i = 0; i + 64 <= count; i += 64) {
    a = wasm_v128_xor(a, load(bytes + i));
    b = wasm_v128_xor(b, load(bytes + i + 16));
    c = wasm_v128_xor(c, load(bytes + i + 32));
    d = wasm_v128_xor(d, load(bytes + i + 48));
  }
  return wasm_i32x4_extract_lane(wasm_v128_xor(wasm_v128_xor(a, b), wasm_v128_xor(c, d)), 0);
}

#define SUMS 12 // as many as there are registers for: an instruction waits for the sum of the one before

// `count` times twelve instructions of the kind that panels are multiplied with; without relaxed SIMD none.
EXPORT int dot_peak(int count) {
  v4 total = wasm_i32x4_splat(0);
#ifdef __wasm_relaxed_simd__
  v4 a = wasm_i8x16_splat(count), b = wasm_i8x16_splat(count & 7), sum[SUMS];
  for (int i = 0; i < SUMS; i++) sum[i] = wasm_i32x4_splat(i);
  for (int n = 0; n < count; n++)
#pragma unroll
    for (int i = 0; i < SUMS; i++) sum[i] = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(a, b, sum[i]);
  for (int i = 0; i < SUMS; i++) total = wasm_i32x4_add(total, sum[i]);
#else
  (void)count;
#endif
  return wasm_i32x4_extract_lane(total, 0);
}

// `count` times twelve sums of eight products of 16 bits, each with its own sum: a compiler would do equal ones once.
EXPORT int word_peak(int count) {
  v4 total = wasm_i32x4_splat(0), a = wasm_i16x8_splat(count), sum[SUMS];
  for (int i = 0; i < SUMS; i++) sum[i] = wasm_i32x4_splat(i);
  for (int n = 0; n < count; n++)
#pragma unroll
    for (int i = 0; i < SUMS; i++) sum[i] = wasm_i32x4_add(sum[i], wasm_i32x4_dot_i16x8(a, sum[i]));
  for (int i = 0; i < SUMS; i++) total = wasm_i32x4_add(total, sum[i]);
  return wasm_i32x4_extract_lane(total, 0);
}

// `count` times twelve multiply-adds of four float32.
EXPORT float madd_peak(int count) {
  v4 a = splat(0.999f), b = splat(count), total = splat(0), sum[SUMS];
  for (int i = 0; i < SUMS; i++) sum[i] = splat(i);
  for (int n = 0; n < count; n++)
#pragma unroll
    for (int i = 0; i < SUMS; i++) sum[i] = madd(sum[i], a, b);
  for (int i = 0; i < SUMS; i++) total = wasm_f32x4_add(total, sum[i]);
  return wasm_f32x4_extract_lane(total, 0);
}
