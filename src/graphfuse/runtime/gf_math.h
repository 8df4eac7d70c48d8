/* gf_math.h - float32 elementary functions on GF_W lanes, without branches.
 *
 * Coefficients are weighted minimax fits (Remez), rounded to float32 one by one from the lowest power with the rest
 * refitted. Every function holds its bound with and without fused multiply-add. */
#ifndef GF_MATH_H
#define GF_MATH_H

#include "gf_int.h"

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

/* ---- helpers ---- */
GF_INLINE gf_f32 gf_k32(float x) { return gf_splat_f32(x); }
GF_INLINE gf_f32 gf_bits_f32(gf_i32 i) { return (gf_f32)i; }

/* 1.5 * 2^23: x + this - this is the nearest integer for |x| < 2^22, and the sum's low bits hold it */
#define GF_MAGIC32 12582912.0f

/* p * 2^n, rounded once even where the result is denormal; n an integer, |n| < 260 */
#if GF_W == 16 && __has_builtin(__builtin_ia32_scalefps512_mask)
GF_INLINE gf_f32 gf_scale2_f32(gf_f32 p, gf_f32 n) {
    return __builtin_ia32_scalefps512_mask(p, n, p, (uint16_t)-1, 4);
}
#else
GF_INLINE gf_f32 gf_scale2_f32(gf_f32 p, gf_f32 n) {
    gf_i32 i = (gf_i32)(n + gf_k32(GF_MAGIC32)) - (gf_i32)gf_k32(GF_MAGIC32), h = i >> 1;
    return p * gf_bits_f32((h + 127) << 23) * gf_bits_f32((i - h + 127) << 23);
}
#endif

/* exp(r) for |r| <= ln(2)/2, and n with x = n ln(2) + r; x in [-120, 100] or NaN */
typedef struct { gf_f32 n, r; } gf_reduced;
GF_INLINE gf_reduced gf_exp_reduce(gf_f32 x) {
    gf_reduced o;
    o.n = gf_fma_f32(x, gf_k32(1.44269504f), gf_k32(GF_MAGIC32)) - gf_k32(GF_MAGIC32);
    /* ln(2) in two parts, the first of 9 bits so that n times it is exact without a fused multiply-add too */
    o.r = gf_fma_f32(o.n, gf_k32(-0.693359375f), x);
    o.r = gf_fma_f32(o.n, gf_k32(2.12194440e-4f), o.r);
    return o;
}

/* e^x */
GF_INLINE gf_f32 gf_exp_f32(gf_f32 x) {
    x = gf_minb_f32(gf_k32(100.0f), gf_maxb_f32(gf_k32(-120.0f), x));
    gf_reduced e = gf_exp_reduce(x);
    gf_f32 r = e.r, p = gf_k32(0.0013820742f);
    p = gf_fma_f32(p, r, gf_k32(0.00836924836f));
    p = gf_fma_f32(p, r, gf_k32(0.041668281f));
    p = gf_fma_f32(p, r, gf_k32(0.166665167f));
    p = gf_fma_f32(p, r, gf_k32(0.49999994f));
    p = gf_fma_f32(p, r, gf_k32(1.0f));
    p = gf_fma_f32(p, r, gf_k32(1.0f));
    return gf_scale2_f32(p, e.n);
}

/* e^x - 1 for x in [-120, 88] or NaN */
GF_INLINE gf_f32 gf_expm1_core(gf_f32 x) {
    gf_reduced e = gf_exp_reduce(x);
    gf_f32 r = e.r, p = gf_k32(0.00139387429f);
    p = gf_fma_f32(p, r, gf_k32(0.00836715288f));
    p = gf_fma_f32(p, r, gf_k32(0.0416664258f));
    p = gf_fma_f32(p, r, gf_k32(0.16666539f));
    p = gf_fma_f32(p, r, gf_k32(0.5f));
    p = gf_fma_f32(p * r, r, r);
    gf_i32 n = (gf_i32)(e.n + gf_k32(GF_MAGIC32)) - (gf_i32)gf_k32(GF_MAGIC32);
    gf_f32 s = gf_bits_f32((n + 127) << 23);
    return gf_fma_f32(p, s, s - gf_k32(1.0f));
}

/* log(1 + f) + n ln(2), f in [-1/3, 1/3] */
GF_INLINE gf_f32 gf_log_core(gf_f32 f, gf_f32 n) {
    gf_f32 p = gf_k32(-0.128984362f);
    p = gf_fma_f32(p, f, gf_k32(0.139907211f));
    p = gf_fma_f32(p, f, gf_k32(-0.121828526f));
    p = gf_fma_f32(p, f, gf_k32(0.140047222f));
    p = gf_fma_f32(p, f, gf_k32(-0.166805789f));
    p = gf_fma_f32(p, f, gf_k32(0.200104669f));
    p = gf_fma_f32(p, f, gf_k32(-0.249997959f));
    p = gf_fma_f32(p, f, gf_k32(0.333332151f));
    gf_f32 s = f * f;
    p = gf_fma_f32(p, f, gf_k32(-0.5f));
    p = gf_fma_f32(p, s, f);
    return gf_fma_f32(n, gf_k32(0.693147182f), p);
}

/* natural logarithm; NaN below zero */
GF_INLINE gf_f32 gf_log_f32(gf_f32 x) {
    gf_mask tiny = (gf_mask)(x < gf_k32(1.17549435e-38f));
    gf_f32 y = gf_select_f32(tiny, x * gf_k32(8388608.0f), x);
    /* mantissa in [2/3, 4/3) */
    gf_i32 e = ((gf_i32)((gf_u32)y - 0x3f2aaaabu)) >> 23;
    gf_f32 f = gf_bits_f32((gf_i32)((gf_u32)y - ((gf_u32)e << 23))) - gf_k32(1.0f);
    gf_f32 n = gf_cast_i32_f32(e) - gf_select_f32(tiny, gf_k32(23.0f), gf_k32(0.0f));
    gf_f32 r = gf_log_core(f, n);
    gf_mask ordinary = (gf_mask)(x > gf_k32(0.0f)) & (gf_mask)(x < gf_k32(INFINITY));
    gf_f32 special = gf_select_f32((gf_mask)(x == gf_k32(0.0f)), gf_k32(-INFINITY),
                                   gf_select_f32((gf_mask)(x < gf_k32(0.0f)), gf_k32(NAN), x));
    return gf_select_f32(ordinary, r, special);
}

/* tanh |x| = -t / (2 + t) with t = e^(-2|x|) - 1, so nothing cancels */
GF_INLINE gf_f32 gf_tanh_f32(gf_f32 x) {
    gf_f32 t = gf_expm1_core(gf_maxb_f32(gf_k32(-40.0f), gf_abs_f32(x) * gf_k32(-2.0f)));
    gf_f32 y = gf_neg_f32(t) / (gf_k32(2.0f) + t);
    return gf_copysign_f32(y, x);
}

/* 1 / (1 + e^-x), by e^-|x| so that the far negative side keeps its digits */
GF_INLINE gf_f32 gf_sigmoid_f32(gf_f32 x) {
    gf_f32 e = gf_exp_f32(gf_neg_f32(gf_abs_f32(x)));
    return gf_select_f32((gf_mask)(x < gf_k32(0.0f)), e, gf_k32(1.0f)) / (gf_k32(1.0f) + e);
}

/* x + x P(x^2) near zero, 1 - exp(|x| Q(|x|)) beyond */
GF_INLINE gf_f32 gf_erf_f32(gf_f32 x) {
    gf_f32 t = gf_abs_f32(x), s = x * x;
    gf_f32 p = gf_k32(-0.000595957856f);
    p = gf_fma_f32(p, s, gf_k32(0.00498735206f));
    p = gf_fma_f32(p, s, gf_k32(-0.0267629661f));
    p = gf_fma_f32(p, s, gf_k32(0.11281731f));
    p = gf_fma_f32(p, s, gf_k32(-0.376124889f));
    p = gf_fma_f32(p, s, gf_k32(0.128379151f));
    p = gf_fma_f32(p, x, x);
    t = gf_minb_f32(gf_k32(3.95f), t);
    gf_f32 q = gf_k32(-1.12317703e-05f);
    q = gf_fma_f32(q, t, gf_k32(0.000322812324f));
    q = gf_fma_f32(q, t, gf_k32(-0.00364250573f));
    q = gf_fma_f32(q, t, gf_k32(0.0237621833f));
    q = gf_fma_f32(q, t, gf_k32(-0.106237039f));
    q = gf_fma_f32(q, t, gf_k32(-0.635151207f));
    q = gf_fma_f32(q, t, gf_k32(-0.12864852f));
    q = gf_fma_f32(q, t, gf_neg_f32(t));
    q = gf_copysign_f32(gf_k32(1.0f) - gf_exp_f32(q), x);
    return gf_select_f32((gf_mask)(t > gf_k32(0.92f)), q, p);
}

#endif
