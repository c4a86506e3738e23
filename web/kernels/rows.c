// What happens to each row of activations by itself: norm, bias, rotary embedding, activation and gate, addition.
// Rule of the file: float32 rows one after another; a result may take the place of an operand of its size.

#include "simd.h"

// RMS norm of `rows` rows of `width`, as Hugging Face's LlamaRMSNorm.
EXPORT void rms_norm(const float *x, const float *weight, float *y, int rows, int width, float epsilon) {
  for (int row = 0; row < rows; row++, x += width, y += width) {
    v4 squares = splat(0);
    int whole = width & ~3;
    for (int i = 0; i < whole; i += 4) squares = madd(load(x + i), load(x + i), squares);
    float total = sum(squares);
    for (int i = whole; i < width; i++) total += x[i] * x[i];
    float factor = 1.0f / __builtin_sqrtf(total / width + epsilon);
    for (int i = 0; i < whole; i += 4)
      wasm_v128_store(y + i, wasm_f32x4_mul(wasm_f32x4_mul(load(x + i), splat(factor)), load(weight + i)));
    for (int i = whole; i < width; i++) y[i] = x[i] * factor * weight[i];
  }
}

EXPORT void add(float *x, const float *y, int count) {
  for (int i = 0; i < count; i++) x[i] += y[i];
}

// x[row] += weights[row] * y[row]: what an expert says, as much as the router trusts it.
EXPORT void add_weighted(float *x, const float *y, const float *weights, int rows, int width) {
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < width; i++) x[row * width + i] += weights[row] * y[row * width + i];
}

EXPORT void add_bias(float *y, const float *bias, int rows, int width) {
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < width; i++) y[row * width + i] += bias[i];
}

INLINE v4 silu(v4 x) { return wasm_f32x4_div(x, wasm_f32x4_add(splat(1.0f), exp4(wasm_f32x4_neg(x)))); }

// The tanh form of GELU: x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2.
INLINE v4 gelu(v4 x) {
  v4 cube = wasm_f32x4_mul(wasm_f32x4_mul(x, x), x);
  v4 inner = wasm_f32x4_mul(splat(0.7978845608f), madd(cube, splat(0.044715f), x));
  return wasm_f32x4_mul(wasm_f32x4_mul(splat(0.5f), x), wasm_f32x4_add(splat(1.0f), tanh4(inner)));
}

INLINE v4 activate(v4 x, int kind) { return kind == 0 ? silu(x) : gelu(x); }

// gate = activation(gate) * up; kind 0 is SiLU, 1 GELU by tanh.
EXPORT void gated(float *gate, const float *up, int count, int kind) {
  int i = 0;
  for (; i + 4 <= count; i += 4)
    wasm_v128_store(gate + i, wasm_f32x4_mul(activate(load(gate + i), kind), load(up + i)));
  for (; i < count; i++) gate[i] = wasm_f32x4_extract_lane(activate(splat(gate[i]), kind), 0) * up[i];
}

// Rotary embedding of the first `turned` of each head's numbers, half against half, in place.
// x [rows, heads, head_dim]; cos and sin [positions, turned / 2]; `positions` says where each row stands.
EXPORT void rope(float *x, const float *cos, const float *sin, const int *positions, int rows, int heads,
                 int head_dim, int turned) {
  int half = turned / 2;
  for (int row = 0; row < rows; row++) {
    const float *c = cos + positions[row] * half, *s = sin + positions[row] * half;
    for (int head = 0; head < heads; head++, x += head_dim) {
      float *a = x, *b = x + half;
      int i = 0;
      for (; i + 4 <= half; i += 4) {
        v4 p = load(a + i), q = load(b + i), u = load(c + i), v = load(s + i);
        wasm_v128_store(a + i, wasm_f32x4_sub(wasm_f32x4_mul(p, u), wasm_f32x4_mul(q, v)));
        wasm_v128_store(b + i, wasm_f32x4_add(wasm_f32x4_mul(q, u), wasm_f32x4_mul(p, v)));
      }
      for (; i < half; i++) {
        float p = a[i], q = b[i];
        a[i] = p * c[i] - q * s[i];
        b[i] = q * c[i] + p * s[i];
      }
    }
  }
}
