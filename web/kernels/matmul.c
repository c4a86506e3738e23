// Products of activations with weights of any format, for one row of activations or for hundreds.
// Rule of the file: sums of products of blocks are exact; how finely activations are rounded for them is said in digits.h
// for one row and in panels.h for several, and tests hold both.
//
// Weights that are whole numbers are multiplied as such, in digits: one row as it lies in the file, several rows, or one
// of the K formats', in panels. Others, and without relaxed SIMD several rows, are expanded to float32 a few at a time.

#include "tile.h"
#include "words.h"

INLINE v4 four_halves(const uint8_t *at, int size) {
  v4 halves = wasm_v128_load16_lane(at, wasm_i32x4_splat(0), 0);
  halves = wasm_v128_load16_lane(at + size, halves, 2);
  halves = wasm_v128_load16_lane(at + 2 * size, halves, 4);
  return widen(wasm_v128_load16_lane(at + 3 * size, halves, 6));
}

// One or two rows of weights, `row` bytes apart, times one row of activations; their sums `apart` floats apart. Two share
// what they read of these; four blocks at a time share the work on their scales.
INLINE void row_dots(int type, const uint8_t *weights, int row, const Digits *x, const float *scales, const float *totals, int blocks, int rows, float *y, int apart) {
  int size = block_bytes(type), b = 0;
  const uint8_t *w[2] = {weights, weights + row};
  v4 result[2] = {splat(0), splat(0)}, d[2], own[2];
  for (; b + 4 <= blocks; b += 4) {
    for (int r = 0; r < rows; r++) {
      d[r] = wasm_f32x4_mul(four_halves(w[r], size), load(scales + b));
      if (type == Q4_1) result[r] = madd(four_halves(w[r] + 2, size), load(totals + b), result[r]);
    }
    together(d, rows);
#define BLOCK(I) \
    quants_dots(type, w, x + b + I, rows, own); \
    for (int r = 0; r < rows; r++) result[r] = madd(own[r], wasm_i32x4_shuffle(d[r], d[r], I, I, I, I), result[r]), w[r] += size; \
    together(result, rows);
    BLOCK(0) BLOCK(1) BLOCK(2) BLOCK(3)
  }
  for (; b < blocks; b++) {
    quants_dots(type, w, x + b, rows, own);
    for (int r = 0; r < rows; r++) {
      result[r] = madd(own[r], splat(half(w[r]) * scales[b]), result[r]);
      if (type == Q4_1) result[r] = wasm_f32x4_add(result[r], wasm_f32x4_make(half(w[r] + 2) * totals[b], 0, 0, 0));
      w[r] += size;
    }
  }
  for (int r = 0; r < rows; r++) y[r * apart] = sum(result[r]);
}

// Two rows that are side by side are far apart: a processor fetches ahead one stream of a page, so that neighbours come
// from memory slower than one row alone, and these faster.
INLINE void rows_dot(int type, const uint8_t *weights, int columns, const uint8_t *prepared, float *y, int first, int last) {
  int blocks = columns / 32, size = blocks * block_bytes(type), count = last - first, apart = SIDE_BY_SIDE == 2 ? count / 2 : 0;
  const Digits *x = (const Digits *)prepared;
  const float *scales = (const float *)(x + blocks), *totals = scales + blocks;
  weights += first * size;
  for (int n = 0; n < apart; n++) row_dots(type, weights + n * size, apart * size, x, scales, totals, blocks, 2, y + n, apart);
  for (int n = 2 * apart; n < count; n++) row_dots(type, weights + n * size, 0, x, scales, totals, blocks, 1, y + n, 0);
}

// y[., n .. n + 4] += x[., k .. k + length] times four rows of weights
static void columns4(const float *const w[TILE], const float *x, int rows, int columns, int k, int length, float *y, int outputs, int n, int wanted) {
  int m = 0;
  float spare[TILE];
  for (; m < rows; m += 2) {
    v4 a, b;
    const float *own = x + m * columns + k;
    float *to = y + m * outputs + n;
    if (m + 1 < rows) dots8(w, own, own + columns, length, &a, &b);
    else a = b = dots4(w, own, length);
    if (wanted == TILE) {
      wasm_v128_store(to, wasm_f32x4_add(load(to), a));
      if (m + 1 < rows) wasm_v128_store(to + outputs, wasm_f32x4_add(load(to + outputs), b));
      continue;
    }
    wasm_v128_store(spare, a);
    for (int i = 0; i < wanted; i++) to[i] += spare[i];
    wasm_v128_store(spare, b);
    for (int i = 0; m + 1 < rows && i < wanted; i++) to[outputs + i] += spare[i];
  }
}

// Added to the type where 16 bits of an activation are enough; what has no such product is as fine as ever.
#define COARSE 256
// Added to a type where products of several rows should be computed in words instead of digits, with the same result; what
// has no such product is computed in digits.
#define WORDS 512

INLINE int is_single(int type, int rows) { return rows == 1 && (type == Q4_0 || type == Q4_1 || type == Q8_0); }

#ifdef __wasm_relaxed_simd__
#define HAS_PANELS 1
#define EACH_FINE_WORD(DO) DO(Q4_0) DO(Q4_1) DO(Q2_K) DO(Q3_K) DO(Q4_K) // that is not wide
#define EACH_COARSE_PANEL(DO) EACH_FINE_WORD(DO) DO(Q5_0) DO(Q5_1) DO(Q5_K) DO(Q6_K)
#define EACH_PANEL(DO) EACH_COARSE_PANEL(DO) DO(Q8_0)
// Functions of their own: in one large one V8 finds worse places for what loops need.
#define PANELS_AS(NAME, TYPE, CALL) \
  static __attribute__((noinline)) void NAME##TYPE(const uint8_t *w, int columns, const void *x, int rows, float *y, int stride, Panel *own, int first, int last) { CALL; }
#define PANELS_OF(TYPE) PANELS_AS(panels_, TYPE, panels_dot(TYPE, 0, w, columns, x, rows, y, stride, own, first, last))
#define COARSE_PANELS_OF(TYPE) \
  PANELS_AS(coarse_panels_, TYPE, panels_dot(TYPE, 1, w, columns, x, rows, y, stride, own, first, last)) \
  PANELS_AS(word_panels_, TYPE, words_dot(TYPE, 1, w, columns, x, rows, y, stride, own, first, last))
#define WORDS_OF(TYPE) PANELS_AS(fine_words_, TYPE, words_dot(TYPE, 2, w, columns, x, rows, y, stride, own, first, last))
EACH_PANEL(PANELS_OF)
EACH_COARSE_PANEL(COARSE_PANELS_OF)
EACH_FINE_WORD(WORDS_OF)
#else
#define HAS_PANELS 0
typedef struct { int8_t none; } Panel, Group, WordPanel, WordGroup;
INLINE int word_rows(int words) { return words; }
INLINE int is_wide(int type) { return type != 0; }
INLINE int rows_of(int type, int coarse) { return type >= coarse; }
#endif

INLINE int is_panel(int type) { return HAS_PANELS && type != F32 && type != F16 && type != BF16; }

INLINE int kind_of(int type) { return type & ~(COARSE | WORDS); }
INLINE int words_of_type(int type) {
  if (!(type & WORDS) || kind_of(type) == Q8_0) return 0;
  return type & COARSE ? 1 : is_wide(kind_of(type)) ? 0 : 2;
}

// Bytes that `prepare` writes.
EXPORT int prepared_bytes(int type, int rows, int columns) {
  int words = words_of_type(type), each = words ? word_rows(words) : rows_of(kind_of(type), type & COARSE);
  type = kind_of(type);
  if (is_single(type, rows)) return columns / 32 * (sizeof(Digits) + 8);
  return is_panel(type) ? (rows + each - 1) / each * (columns / 32) * (words ? sizeof(WordGroup) : sizeof(Group)) : 0;
}

// Whether what is prepared for one type is good for another.
EXPORT int prepared_alike(int type, int other, int rows) {
  if (is_single(type, rows) && is_single(other, rows)) return (type == Q8_0) == (other == Q8_0);
  if (is_single(type, rows) || is_single(other, rows) || !is_panel(type) || !is_panel(other)) return is_panel(type) == is_panel(other);
#ifdef __wasm_relaxed_simd__
  return (type == Q8_0) == (other == Q8_0) && halves_of(type) == halves_of(other) && offset_of(type) == offset_of(other);
#else
  return 1;
#endif
}

// x [rows, columns] as products with weights of a type need it, which is done once for all of them.
EXPORT void prepare(int type, const float *x, int rows, int columns, uint8_t *prepared) {
  int asked = words_of_type(type) ? type : type & ~WORDS;
  type = kind_of(type), (void)asked;
  if (is_single(type, rows)) {
    Digits *own = (Digits *)prepared;
    float *scales = (float *)(own + columns / 32);
    if (type == Q8_0) digits(x, own, scales, scales + columns / 32, columns, 1);
    else digits(x, own, scales, scales + columns / 32, columns, 0);
    return;
  }
#ifdef __wasm_relaxed_simd__
  switch (asked) {
#define PREPARE(TYPE) case TYPE: groups(TYPE, 0, x, rows, columns, (Group *)prepared); return;
#define PREPARE_COARSE(TYPE) \
    case TYPE | COARSE: groups(TYPE, 1, x, rows, columns, (Group *)prepared); return; \
    case TYPE | COARSE | WORDS: word_groups(TYPE, 1, x, rows, columns, (WordGroup *)prepared); return;
#define PREPARE_WORDS(TYPE) case TYPE | WORDS: word_groups(TYPE, 2, x, rows, columns, (WordGroup *)prepared); return;
    EACH_PANEL(PREPARE)
    EACH_COARSE_PANEL(PREPARE_COARSE)
    EACH_FINE_WORD(PREPARE_WORDS)
    case Q8_0 | COARSE: groups(Q8_0, 0, x, rows, columns, (Group *)prepared); return;
  default: break;
  }
#endif
}

static void expanded_dot(int type, const uint8_t *weights, int columns, const float *x, int rows, float *y, int stride, float *scratch, int first, int last) {
  int size = row_bytes(type, columns), chunk = type == F32 && rows <= 16 ? columns : CHUNK;
  for (int row = 0; row < rows; row++) __builtin_memset(y + row * stride, 0, (last - first) * 4);
  for (int k = 0; k < columns; k += chunk) {
    int length = columns - k < chunk ? columns - k : chunk;
    for (int n = first; n < last; n += TILE) {
      int wanted = last - n < TILE ? last - n : TILE;
      const float *w[TILE];
      for (int i = 0; i < TILE; i++) {
        const uint8_t *at = weights + (n + (i < wanted ? i : 0)) * size + row_bytes(type, k);
        float *own = scratch + i * CHUNK;
        w[i] = type == F32 ? (const float *)at : own;
        if (type != F32 && i < wanted) expand(type, at, own, length);
      }
      columns4(w, x, rows, columns, k, length, y, stride, n - first, wanted);
    }
  }
}

// Bytes of scratch that `matmul` needs, at an address that 16 divides.
EXPORT int matmul_scratch(void) {
  int expanded = TILE * CHUNK * 4, unpacked = CHUNK / 32 * (sizeof(Panel) + sizeof(WordPanel));
  return expanded > unpacked ? expanded : unpacked;
}

// y[row * stride + n - first] = x[row, columns] times row n of weights[., columns], for n from `first` to before `last`;
// `prepared` is what `prepare` made of x.
EXPORT void matmul(int type, const uint8_t *weights, int columns, const float *x, const uint8_t *prepared, int rows, float *y, int stride, uint8_t *scratch, int first, int last) {
  int asked = words_of_type(type) ? type : type & ~WORDS;
  type = kind_of(type), (void)asked;
  if (rows == 1) switch (type) {
    case Q4_0: rows_dot(Q4_0, weights, columns, prepared, y, first, last); return;
    case Q4_1: rows_dot(Q4_1, weights, columns, prepared, y, first, last); return;
    case Q8_0: rows_dot(Q8_0, weights, columns, prepared, y, first, last); return;
    default: break;
    }
#ifdef __wasm_relaxed_simd__
  for (int row = 0; is_panel(type) && row < rows; row++) __builtin_memset(y + row * stride, 0, (last - first) * 4);
  switch (asked) {
#define PANELS(TYPE) case TYPE: panels_##TYPE(weights, columns, prepared, rows, y, stride, (Panel *)scratch, first, last); return;
#define COARSE_PANELS(TYPE) \
    case TYPE | COARSE: coarse_panels_##TYPE(weights, columns, prepared, rows, y, stride, (Panel *)scratch, first, last); return; \
    case TYPE | COARSE | WORDS: word_panels_##TYPE(weights, columns, prepared, rows, y, stride, (Panel *)scratch, first, last); return;
    EACH_PANEL(PANELS)
#define FINE_WORDS(TYPE) case TYPE | WORDS: fine_words_##TYPE(weights, columns, prepared, rows, y, stride, (Panel *)scratch, first, last); return;
    EACH_COARSE_PANEL(COARSE_PANELS)
    EACH_FINE_WORD(FINE_WORDS)
    case Q8_0 | COARSE: panels_Q8_0(weights, columns, prepared, rows, y, stride, (Panel *)scratch, first, last); return;
  default: break;
  }
#endif
  expanded_dot(type, weights, columns, x, rows, y, stride, (float *)scratch, first, last);
}

// y[row * stride + i] = x[row * width + i], or has it added.
EXPORT void place(float *y, int stride, const float *x, int rows, int width, int added) {
  int whole = width & ~3;
  for (int row = 0; row < rows; row++, y += stride, x += width) {
    for (int i = 0; i < whole; i += 4) wasm_v128_store(y + i, added ? wasm_f32x4_add(load(y + i), load(x + i)) : load(x + i));
    for (int i = whole; i < width; i++) y[i] = added ? y[i] + x[i] : x[i];
  }
}
