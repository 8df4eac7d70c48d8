/* gf_exact.h - what IEEE 754 rounds exactly: fused multiply-add, square root, roundings to integers, scaling by 2^n.
 *
 * A machine without fused multiply-add rounds gf_fma twice. */
#ifndef GF_EXACT_H
#define GF_EXACT_H

#include "gf_int.h"

GF_INLINE gf_f32 gf_k32(float x) { return gf_splat_f32(x); }

/* a * b + c, rounded once where the machine can */
#if defined(__clang__) && (defined(__FMA__) || defined(__aarch64__)) && __has_builtin(__builtin_elementwise_fma)
GF_INLINE gf_f32 gf_fma_f32(gf_f32 a, gf_f32 b, gf_f32 c) { return __builtin_elementwise_fma(a, b, c); }
GF_INLINE gf_f64 gf_fma_f64(gf_f64 a, gf_f64 b, gf_f64 c) { return __builtin_elementwise_fma(a, b, c); }
#else
#if !defined(__clang__) && GF_W == 16 && __has_builtin(__builtin_ia32_vfmaddps512_mask)
GF_INLINE gf_f32 gf_fma_f32(gf_f32 a, gf_f32 b, gf_f32 c) {
    return __builtin_ia32_vfmaddps512_mask(a, b, c, (short)-1, 4);
}
#elif !defined(__clang__) && GF_W == 8 && __has_builtin(__builtin_ia32_vfmaddps256)
GF_INLINE gf_f32 gf_fma_f32(gf_f32 a, gf_f32 b, gf_f32 c) { return __builtin_ia32_vfmaddps256(a, b, c); }
#elif !defined(__clang__) && GF_W == 4 && __has_builtin(__builtin_ia32_vfmaddps)
GF_INLINE gf_f32 gf_fma_f32(gf_f32 a, gf_f32 b, gf_f32 c) { return __builtin_ia32_vfmaddps(a, b, c); }
#else
GF_INLINE gf_f32 gf_fma_f32(gf_f32 a, gf_f32 b, gf_f32 c) { return a * b + c; }
#endif
GF_INLINE gf_f64 gf_fma_f64(gf_f64 a, gf_f64 b, gf_f64 c) { return a * b + c; }
#endif

/* ---- square root and rounding: one instruction where the machine has it ---- */
#define GF_PER_LANE(T, NAME, CALL)                          \
    GF_INLINE gf_##T gf_##NAME##_##T(gf_##T x) {            \
        gf_##T r;                                           \
        for (int i = 0; i < GF_W; i++) r[i] = CALL(x[i]);   \
        return r;                                           \
    }

#if __has_builtin(__builtin_elementwise_sqrt)
GF_INLINE gf_f32 gf_sqrt_f32(gf_f32 x) { return __builtin_elementwise_sqrt(x); }
GF_INLINE gf_f64 gf_sqrt_f64(gf_f64 x) { return __builtin_elementwise_sqrt(x); }
#else
#if GF_W == 16 && __has_builtin(__builtin_ia32_sqrtps512_mask)
GF_INLINE gf_f32 gf_sqrt_f32(gf_f32 x) { return __builtin_ia32_sqrtps512_mask(x, x, (short)-1, 4); }
#elif GF_W == 8 && __has_builtin(__builtin_ia32_sqrtps256)
GF_INLINE gf_f32 gf_sqrt_f32(gf_f32 x) { return __builtin_ia32_sqrtps256(x); }
#elif GF_W == 4 && __has_builtin(__builtin_ia32_sqrtps)
GF_INLINE gf_f32 gf_sqrt_f32(gf_f32 x) { return __builtin_ia32_sqrtps(x); }
#else
GF_PER_LANE(f32, sqrt, sqrtf)
#endif
GF_PER_LANE(f64, sqrt, sqrt)
#endif

/* round: half to even. The immediate of the x86 forms: 0 even, 1 down, 2 up, 3 to zero; 8 raises no inexact. */
#define GF_ROUNDINGS(X) X(round, 8, roundeven) X(floor, 9, floor) X(ceil, 10, ceil) X(trunc, 11, trunc)
#if defined(__clang__) && (!defined(__SSE2__) || defined(__SSE4_1__)) && __has_builtin(__builtin_elementwise_roundeven)
#define GF_ROUNDING(NAME, IMM, C)                                                                         \
    GF_INLINE gf_f32 gf_##NAME##_f32(gf_f32 x) { return __builtin_elementwise_##C(x); }                   \
    GF_INLINE gf_f64 gf_##NAME##_f64(gf_f64 x) { return __builtin_elementwise_##C(x); }
GF_ROUNDINGS(GF_ROUNDING)
#else
/* Adding and subtracting 2^(mantissa bits) leaves the nearest integer, ties to even; larger numbers are integers. */
#define GF_ROUND_BY_MAGIC(T, C, MAGIC)                                                                                \
    GF_INLINE gf_##T gf_round_##T(gf_##T x) {                                                                         \
        gf_##T magic = gf_copysign_##T(gf_splat_##T((C)(MAGIC)), x), y = (x + magic) - magic;                         \
        return gf_select_##T(gf_lt_##T(gf_abs_##T(x), gf_splat_##T((C)(MAGIC))), gf_copysign_##T(y, x), x);           \
    }                                                                                                                 \
    GF_INLINE gf_##T gf_floor_##T(gf_##T x) {                                                                         \
        gf_##T y = gf_round_##T(x);                                                                                   \
        return gf_copysign_##T(y - gf_select_##T(gf_gt_##T(y, x), gf_splat_##T((C)1), (gf_##T){0}), x);               \
    }                                                                                                                 \
    GF_INLINE gf_##T gf_ceil_##T(gf_##T x) { return gf_neg_##T(gf_floor_##T(gf_neg_##T(x))); }                        \
    GF_INLINE gf_##T gf_trunc_##T(gf_##T x) { return gf_copysign_##T(gf_floor_##T(gf_abs_##T(x)), x); }
#if !defined(__clang__) && GF_W == 16 && __has_builtin(__builtin_ia32_rndscaleps_mask)
#define GF_ROUNDING(NAME, IMM, C) \
    GF_INLINE gf_f32 gf_##NAME##_f32(gf_f32 x) { return __builtin_ia32_rndscaleps_mask(x, IMM, x, (short)-1, 4); }
GF_ROUNDINGS(GF_ROUNDING)
#elif !defined(__clang__) && GF_W == 8 && __has_builtin(__builtin_ia32_roundps256)
#define GF_ROUNDING(NAME, IMM, C) \
    GF_INLINE gf_f32 gf_##NAME##_f32(gf_f32 x) { return __builtin_ia32_roundps256(x, IMM); }
GF_ROUNDINGS(GF_ROUNDING)
#elif !defined(__clang__) && GF_W == 4 && __has_builtin(__builtin_ia32_roundps)
#define GF_ROUNDING(NAME, IMM, C) \
    GF_INLINE gf_f32 gf_##NAME##_f32(gf_f32 x) { return __builtin_ia32_roundps(x, IMM); }
GF_ROUNDINGS(GF_ROUNDING)
#else
GF_ROUND_BY_MAGIC(f32, float, 8388608.0)
#endif
GF_ROUND_BY_MAGIC(f64, double, 4503599627370496.0)
#endif

/* -1, 0 or 1; NaN stays NaN, zero keeps its sign */
#define GF_SIGN(T, C, S, U)                                                                                       \
    GF_INLINE gf_##T gf_sign_##T(gf_##T x) {                                                                      \
        gf_##S nonzero = (gf_##S)(gf_abs_##T(x) > (gf_##T){0});                                                   \
        return gf_pick_##T(nonzero, gf_copysign_##T(gf_splat_##T((C)1), x), x);                                   \
    }
GF_FLOATS(GF_SIGN)

/* gf_scalef: p 2^floor(n), rounded once even where the result is denormal, for 0.01 < |p| < 100; NaN for n NaN */
#if GF_W == 16 && __has_builtin(__builtin_ia32_scalefps512_mask)
GF_INLINE gf_f32 gf_scalef_f32(gf_f32 p, gf_f32 n) {
    return __builtin_ia32_scalefps512_mask(p, n, p, (short)-1, 4);
}
#else
GF_INLINE gf_f32 gf_scalef_f32(gf_f32 p, gf_f32 n) {
    gf_f32 within = gf_mink_f32(gf_k32(250.0f), gf_maxk_f32(gf_k32(-250.0f), n));
    gf_i32 i = gf_cast_f32_i32(gf_floor_f32(within)), h = i >> 1;
    gf_f32 y = p * (gf_f32)((h + 127) << 23) * (gf_f32)((i - h + 127) << 23);
    return gf_select_f32(gf_isnan_f32(n), n, y);
}
#endif

#endif
