/* Every primitive of gf_vector.h and gf_int.h over arrays, tails through the partial loads and stores. */
#include "gf_math64.h"

int64_t lanes(void) { return GF_W; }

/* result lanes O = F(lanes of A), over n elements */
#define UNARY(SYMBOL, F, A, CA, O, CO)                                                   \
    void SYMBOL(const CA *a, CO *o, int64_t n) {                                         \
        int64_t i = 0;                                                                   \
        for (; i + GF_W <= n; i += GF_W) gf_store_##O(o + i, F(gf_load_##A(a + i)));     \
        gf_store_part_##O(o + i, F(gf_load_part_##A(a + i, n - i)), n - i);              \
    }
#define BINARY(SYMBOL, F, A, CA, O, CO)                                                                               \
    void SYMBOL(const CA *a, const CA *b, CO *o, int64_t n) {                                                         \
        int64_t i = 0;                                                                                                \
        for (; i + GF_W <= n; i += GF_W) gf_store_##O(o + i, F(gf_load_##A(a + i), gf_load_##A(b + i)));              \
        gf_store_part_##O(o + i, F(gf_load_part_##A(a + i, n - i), gf_load_part_##A(b + i, n - i)), n - i);           \
    }

#define U1(NAME, T, C) UNARY(NAME##_##T, gf_##NAME##_##T, T, C, T, C)
#define B1(NAME, T, C) BINARY(NAME##_##T, gf_##NAME##_##T, T, C, T, C)
#define C1(NAME, T, C) BINARY(NAME##_##T, gf_##NAME##_##T, T, C, bool, uint8_t)
#define CAST(A, CA, B, CB) UNARY(cast_##A##_##B, gf_cast_##A##_##B, A, CA, B, CB)

#define ALL(T, C, S, U)                                                                                               \
    U1(neg, T, C) U1(abs, T, C) U1(sign, T, C) U1(relu, T, C) B1(add, T, C) B1(sub, T, C) B1(mul, T, C)               \
    B1(min, T, C) B1(max, T, C) B1(div, T, C) B1(mod, T, C) B1(fmod, T, C) B1(pow, T, C)                              \
    C1(lt, T, C) C1(le, T, C) C1(gt, T, C) C1(ge, T, C) C1(eq, T, C) C1(ne, T, C)                                     \
    CAST(T, C, bool, uint8_t) CAST(bool, uint8_t, T, C)                                                               \
    CAST(T, C, f32, float) CAST(T, C, f64, double)                                                                    \
    CAST(T, C, i8, int8_t) CAST(T, C, i16, int16_t) CAST(T, C, i32, int32_t) CAST(T, C, i64, int64_t)                 \
    CAST(T, C, u8, uint8_t) CAST(T, C, u16, uint16_t) CAST(T, C, u32, uint32_t) CAST(T, C, u64, uint64_t)             \
    void select_##T(const uint8_t *m, const C *a, const C *b, C *o, int64_t n) {                                      \
        for (int64_t i = 0; i + GF_W <= n; i += GF_W) {                                                               \
            gf_store_##T(o + i, gf_select_##T(gf_load_bool(m + i), gf_load_##T(a + i), gf_load_##T(b + i)));          \
        }                                                                                                             \
    }                                                                                                                 \
    void splat_##T(const C *a, C *o) { gf_store_##T(o, gf_splat_##T(*a)); }                                           \
    /* sum, product, maximum, minimum of one vector */                                                                \
    void horizontal_##T(const C *a, C *o) {                                                                           \
        gf_##T v = gf_load_##T(a);                                                                                    \
        o[0] = gf_hsum_##T(v);                                                                                        \
        o[1] = gf_hprod_##T(v);                                                                                       \
        o[2] = gf_hmax_##T(v);                                                                                        \
        o[3] = gf_hmin_##T(v);                                                                                        \
    }                                                                                                                 \
    /* the first n lanes (all for n = GF_W), from one stride to another */                                            \
    void strided_##T(const C *a, int64_t from, C *o, int64_t to, int64_t n) {                                         \
        gf_##T v = n == GF_W ? gf_loads_##T(a, from) : gf_loads_part_##T(a, from, n);                                 \
        if (n == GF_W) gf_stores_##T(o, to, v);                                                                       \
        else gf_stores_part_##T(o, to, v, n);                                                                         \
    }                                                                                                                 \
    /* what a partial load leaves in the other lanes */                                                               \
    void partial_##T(const C *a, C *o, int64_t n) { gf_store_##T(o, gf_load_part_##T(a, n)); }                        \
    void partial_store_##T(const C *a, C *o, int64_t n) { gf_store_part_##T(o, gf_load_##T(a), n); }
GF_DTYPES(ALL)

#define INTEGERS(T, C, S, U)                                                                                \
    B1(and, T, C) B1(or, T, C) B1(xor, T, C) B1(shl, T, C) B1(shr, T, C) U1(not, T, C)
GF_INTS(INTEGERS)

#define FLOATS(T, C, S, U)                                                                                  \
    UNARY(isnan_##T, gf_isnan_##T, T, C, bool, uint8_t) UNARY(isinf_##T, gf_isinf_##T, T, C, bool, uint8_t) \
    B1(copysign, T, C) U1(floor, T, C) U1(ceil, T, C) U1(round, T, C) U1(trunc, T, C) U1(sqrt, T, C)        \
    U1(recip, T, C) U1(rsqrt, T, C) B1(maxk, T, C) B1(mink, T, C)
GF_FLOATS(FLOATS)

#define LIBM(NAME) U1(NAME, f64, double)
GF_LIBM(LIBM)
U1(sigmoid, f64, double)
U1(softplus, f64, double)

B1(limit, f32, float)
B1(scalef, f32, float)
void lookup(const float *t, const int32_t *k, float *small, float *large) {
    gf_store_f32(small, gf_lookup16_f32(t, gf_load_i32(k)));
    gf_store_f32(large, gf_lookup32_f32(t, gf_load_i32(k)));
}

#define BOOLEAN(NAME) BINARY(NAME##_bool, gf_##NAME##_bool, bool, uint8_t, bool, uint8_t)
BOOLEAN(and) BOOLEAN(or) BOOLEAN(xor) BOOLEAN(eq) BOOLEAN(ne)
UNARY(not_bool, gf_not_bool, bool, uint8_t, bool, uint8_t)
void strided_bool(const uint8_t *a, int64_t from, uint8_t *o, int64_t to, int64_t n) {
    gf_mask v = n == GF_W ? gf_loads_bool(a, from) : gf_loads_part_bool(a, from, n);
    if (n == GF_W) gf_stores_bool(o, to, v);
    else gf_stores_part_bool(o, to, v, n);
}
void any_all(const uint8_t *a, uint8_t *o) {
    gf_mask m = gf_load_bool(a);
    o[0] = (uint8_t)gf_any(m);
    o[1] = (uint8_t)gf_all(m);
}
void first(int64_t n, uint8_t *o) { gf_store_bool(o, gf_first(n)); }

/* q = floor, remainder, minimum, maximum, clamp of a and b (b > 0) */
void index_maths(int64_t a, int64_t b, int64_t *o) {
    o[0] = gf_floordiv(a, b);
    o[1] = gf_floormod(a, b);
    o[2] = gf_min64(a, b);
    o[3] = gf_max64(a, b);
    o[4] = gf_clamp64(a, 0, b);
}
int64_t to_int64(double x) { return gf_to_int64(x); }
