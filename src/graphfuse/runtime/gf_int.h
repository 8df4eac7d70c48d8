/* gf_int.h - integer operations that C leaves undefined somewhere, casts between all dtypes, and scalar index maths.
 *
 * Stated where C or ONNX is silent: x / 0 and x mod 0 are 0; INT_MIN / -1 wraps; a shift by the lane's width or more
 * gives 0; float to int truncates, saturates out of range, and maps NaN to 0. */
#ifndef GF_INT_H
#define GF_INT_H

#include "gf_vector.h"

#define GF_BITS(T, C, S, U)                                                                       \
    GF_INLINE gf_##T gf_and_##T(gf_##T a, gf_##T b) { return a & b; }                             \
    GF_INLINE gf_##T gf_or_##T(gf_##T a, gf_##T b) { return a | b; }                              \
    GF_INLINE gf_##T gf_xor_##T(gf_##T a, gf_##T b) { return a ^ b; }                             \
    GF_INLINE gf_##T gf_not_##T(gf_##T a) { return ~a; }                                          \
    GF_INLINE gf_##T gf_shl_##T(gf_##T a, gf_##T n) {                                             \
        gf_##S in_range = (gf_##S)((gf_##U)n < (gf_##U){0} + (uint8_t)(8 * sizeof(C)));           \
        return (gf_##T)(((gf_##U)a << ((gf_##U)n & (gf_##U)in_range)) & (gf_##U)in_range);        \
    }                                                                                             \
    /* logical for unsigned, arithmetic for signed dtypes; a count out of range gives 0 */        \
    GF_INLINE gf_##T gf_shr_##T(gf_##T a, gf_##T n) {                                             \
        gf_##S in_range = (gf_##S)((gf_##U)n < (gf_##U){0} + (uint8_t)(8 * sizeof(C)));           \
        return (a >> (n & (gf_##T)in_range)) & (gf_##T)in_range;                                  \
    }                                                                                             \
    /* a to the power n by squaring, wrapping; 0 for a negative n unless |a| is 1 (as 1 / a^|n| truncates) */ \
    GF_INLINE gf_##T gf_pow_##T(gf_##T a, gf_##T n) {                                             \
        gf_##T r;                                                                                 \
        for (int i = 0; i < GF_W; i++) {                                                          \
            uint64_t base = (uint64_t)a[i], power = 1, e = (uint64_t)n[i];                        \
            int negative = n[i] < (C)1 && n[i] != 0;                                              \
            if (negative && a[i] != (C)1 && a[i] != (C)-1) power = e = 0;                         \
            for (; e; e >>= 1) {                                                                  \
                if (e & 1) power *= base;                                                         \
                base *= base;                                                                     \
            }                                                                                     \
            r[i] = (C)power;                                                                      \
        }                                                                                         \
        return r;                                                                                 \
    }
GF_INTS(GF_BITS)

#define GF_SIGNED_ONLY(T, C, S, U)                                                                  \
    GF_INLINE gf_##T gf_abs_##T(gf_##T a) { return gf_pick_##T((gf_##S)(a < 0), gf_neg_##T(a), a); } \
    GF_INLINE gf_##T gf_sign_##T(gf_##T a) { return (gf_##T)(a < 0) - (gf_##T)(a > 0); }            \
    /* truncates, as C does */                                                                      \
    GF_INLINE gf_##T gf_div_##T(gf_##T a, gf_##T b) {                                               \
        gf_##S zero = (gf_##S)(b == 0), minus = (gf_##S)(b == -1);                                  \
        gf_##T q = a / gf_pick_##T(zero | minus, (gf_##T){0} + 1, b);                               \
        return gf_pick_##T(minus, gf_neg_##T(a), q) & ~zero;                                        \
    }                                                                                               \
    /* remainder with the sign of a (C's %, ONNX Mod with fmod=1) */                                \
    GF_INLINE gf_##T gf_fmod_##T(gf_##T a, gf_##T b) {                                              \
        gf_##S one = (gf_##S)(b == 0) | (gf_##S)(b == -1);                                          \
        return a % gf_pick_##T(one, (gf_##T){0} + 1, b);                                            \
    }                                                                                               \
    /* remainder with the sign of b (Python's %, ONNX Mod with fmod=0) */                           \
    GF_INLINE gf_##T gf_mod_##T(gf_##T a, gf_##T b) {                                               \
        gf_##T r = gf_fmod_##T(a, b);                                                               \
        return gf_add_##T(r, b & (gf_##S)(r != 0) & (gf_##S)((r ^ b) < 0));                         \
    }
GF_SIGNED(GF_SIGNED_ONLY)

#define GF_UNSIGNED_ONLY(T, C, S, U)                                                                \
    GF_INLINE gf_##T gf_abs_##T(gf_##T a) { return a; }                                             \
    GF_INLINE gf_##T gf_sign_##T(gf_##T a) { return (gf_##T)(a != 0) & 1; }                         \
    GF_INLINE gf_##T gf_div_##T(gf_##T a, gf_##T b) {                                               \
        gf_##T zero = (gf_##T)(b == 0);                                                             \
        return (a / (b | (zero & 1))) & ~zero;                                                      \
    }                                                                                               \
    GF_INLINE gf_##T gf_fmod_##T(gf_##T a, gf_##T b) { return a % (b | ((gf_##T)(b == 0) & 1)); }   \
    GF_INLINE gf_##T gf_mod_##T(gf_##T a, gf_##T b) { return gf_fmod_##T(a, b); }
GF_UNSIGNED(GF_UNSIGNED_ONLY)

/* ---- casts gf_cast_FROM_TO ---- */
#define GF_CAST(A, B) \
    GF_INLINE gf_##B gf_cast_##A##_##B(gf_##A v) { return __builtin_convertvector(v, gf_##B); }
#define GF_CASTS_FROM_INT(A, C, S, U)                                                                       \
    GF_CAST(A, f32) GF_CAST(A, f64) GF_CAST(A, i8) GF_CAST(A, u8) GF_CAST(A, i16) GF_CAST(A, u16)           \
    GF_CAST(A, i32) GF_CAST(A, u32) GF_CAST(A, i64) GF_CAST(A, u64)
GF_INTS(GF_CASTS_FROM_INT)
GF_CAST(f32, f32) GF_CAST(f32, f64) GF_CAST(f64, f32) GF_CAST(f64, f64)

/* HI: the largest value of dtype A that B can hold. Where that is not B's maximum, what lies above becomes it. */
#define GF_CAST_FLOAT_INT(A, CA, B, CB, LO, HI, MAX)                                             \
    GF_INLINE gf_##B gf_cast_##A##_##B(gf_##A v) {                                               \
        gf_##A c = gf_minb_##A(gf_splat_##A((CA)(HI)), gf_maxb_##A(gf_splat_##A((CA)(LO)), v));  \
        c = gf_pick_##A(v == v, c, (gf_##A){0});                                                 \
        gf_##B r = __builtin_convertvector(c, gf_##B);                                           \
        if ((CB)(HI) == (CB)(MAX)) return r;                                                     \
        return gf_select_##B(gf_gt_##A(v, gf_splat_##A((CA)(HI))), gf_splat_##B((CB)(MAX)), r);  \
    }
GF_CAST_FLOAT_INT(f32, float, i32, int32_t, -2147483648.0, 2147483520.0, INT32_MAX)
GF_CAST_FLOAT_INT(f32, float, u32, uint32_t, 0, 4294967040.0, UINT32_MAX)
GF_CAST_FLOAT_INT(f32, float, i64, int64_t, -9223372036854775808.0, 9223371487098961920.0, INT64_MAX)
GF_CAST_FLOAT_INT(f32, float, u64, uint64_t, 0, 18446742974197923840.0, UINT64_MAX)
GF_CAST_FLOAT_INT(f64, double, i32, int32_t, -2147483648.0, 2147483647.0, INT32_MAX)
GF_CAST_FLOAT_INT(f64, double, u32, uint32_t, 0, 4294967295.0, UINT32_MAX)
GF_CAST_FLOAT_INT(f64, double, i64, int64_t, -9223372036854775808.0, 9223372036854774784.0, INT64_MAX)
GF_CAST_FLOAT_INT(f64, double, u64, uint64_t, 0, 18446744073709549568.0, UINT64_MAX)
/* 8 and 16 bits: int32 first, which every machine converts at once, then saturate */
#define GF_CAST_FLOAT_SMALL(A, B, LO, HI)                                                                           \
    GF_INLINE gf_##B gf_cast_##A##_##B(gf_##A v) {                                                                  \
        gf_i32 r = gf_cast_##A##_i32(v);                                                                            \
        return gf_cast_i32_##B(gf_min_i32(gf_max_i32(r, gf_splat_i32(LO)), gf_splat_i32(HI)));                      \
    }
#define GF_CASTS_FLOAT_SMALL(A, C, S, U)                                            \
    GF_CAST_FLOAT_SMALL(A, i8, -128, 127) GF_CAST_FLOAT_SMALL(A, u8, 0, 255)        \
    GF_CAST_FLOAT_SMALL(A, i16, -32768, 32767) GF_CAST_FLOAT_SMALL(A, u16, 0, 65535)
GF_FLOATS(GF_CASTS_FLOAT_SMALL)

/* bool: anything but zero is true, NaN included; true is 1 */
#define GF_CASTS_BOOL(T, C, S, U)                                                                            \
    GF_INLINE gf_mask gf_cast_##T##_bool(gf_##T v) { return gf_ne_##T(v, (gf_##T){0}); }                     \
    GF_INLINE gf_##T gf_cast_bool_##T(gf_mask m) { return gf_select_##T(m, gf_splat_##T((C)1), (gf_##T){0}); }
GF_DTYPES(GF_CASTS_BOOL)
GF_INLINE gf_mask gf_cast_bool_bool(gf_mask m) { return m; }

/* ---- scalar index maths; the divisor is positive ---- */
/* sizes: a size of 0 that data comes to divides to 0, nothing is computed with the quotient then */
GF_INLINE int64_t gf_floordiv(int64_t a, int64_t b) { return b == 0 ? 0 : a / b - (a % b < 0); }
GF_INLINE int64_t gf_floormod(int64_t a, int64_t b) { return b == 0 ? 0 : a % b + (a % b < 0 ? b : 0); }
GF_INLINE int64_t gf_min64(int64_t a, int64_t b) { return a < b ? a : b; }
GF_INLINE int64_t gf_max64(int64_t a, int64_t b) { return a > b ? a : b; }
/* an index from data: as it is where it lies inside an axis of n elements */
GF_INLINE int64_t gf_held(int64_t i, int64_t n) { return (uint64_t)i < (uint64_t)n ? i : 0; }
GF_INLINE int64_t gf_clamp64(int64_t x, int64_t lo, int64_t hi) { return gf_min64(gf_max64(x, lo), hi); }

/* an index computed in floating point: truncated, out of range and NaN held at the ends */
GF_INLINE int64_t gf_to_int64(double x) {
    if (!(x > -9.2e18)) return x != x ? 0 : INT64_MIN;
    return x < 9.2e18 ? (int64_t)x : INT64_MAX;
}

/* the bits of one number */
GF_INLINE uint32_t gf_word_f32(float x) { return (union { float x; uint32_t u; }){x}.u; }
GF_INLINE uint64_t gf_word_f64(double x) { return (union { double x; uint64_t u; }){x}.u; }

#endif
