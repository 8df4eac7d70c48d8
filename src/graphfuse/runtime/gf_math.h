/* gf_math.h - float32 elementary functions on GF_W lanes, without branches.
 *
 * Coefficients are weighted minimax fits, rounded to float32 one by one from the lowest power with the rest refitted.
 * Largest error in units in the last place, denormal results in denormal steps: on a machine that holds tables in
 * registers (gf_lookup.h), on one with fused multiply-add, on one without. Found by comparing all 2^32 arguments with
 * libm in float64 (tests/runtime/ulp.c), from tan on every 61st (those are in gf_math64.h), pow at random ones. NaN,
 * infinities, overflow, underflow and zero's sign are libm's.
 *
 *   exp       0.99  1.03  1.00
 *   exp2      0.99  1.03  1.00
 *   expm1     1.46  1.46  1.54
 *   log       0.95  0.95  1.07
 *   log1p     1.57  1.57  1.68
 *   tanh      1.72  1.94  1.95
 *   sigmoid   1.99  1.98  1.97
 *   softplus  1.83  1.83  1.99
 *   erf       1.96  1.79  1.97
 *   sin       1.54  1.54  1.55
 *   cos       1.54  1.54  1.55
 *   tan       0.51  0.51  0.51
 *   asin      0.51  0.51  0.51
 *   acos      0.51  0.51  0.51
 *   atan      0.51  0.51  0.51
 *   sinh      0.51  0.51  0.51
 *   cosh      0.51  0.51  0.51
 *   asinh     0.51  0.51  0.51
 *   acosh     0.51  0.51  0.51
 *   atanh     0.51  0.51  0.51
 *   pow       0.51  0.51  0.51
 *
 * sqrt, division and the roundings are exact to the rules of IEEE 754. */
#ifndef GF_MATH_H
#define GF_MATH_H

#include "gf_lookup.h"

/* ---- helpers ---- */
GF_INLINE gf_f32 gf_bits_f32(gf_i32 i) { return (gf_f32)i; }

/* 1.5 * 2^23: x + this - this is the nearest integer for |x| < 2^22, and the sum's low bits hold it */
#define GF_MAGIC32 12582912.0f

/* x = n ln(2) + r, |r| <= ln(2)/2, for x in [-120, 100] or NaN; the low bits of k hold n */
typedef struct { gf_f32 k, n, r; } gf_reduced;
GF_INLINE gf_reduced gf_exp_reduce(gf_f32 x) {
    gf_reduced o;
    o.k = gf_fma_f32(x, gf_k32(1.44269504f), gf_k32(GF_MAGIC32));
    o.n = o.k - gf_k32(GF_MAGIC32);
    /* ln(2) in two parts, the first of 9 bits so that n times it is exact without a fused multiply-add too */
    o.r = gf_fma_f32(o.n, gf_k32(-0.693359375f), x);
    o.r = gf_fma_f32(o.n, gf_k32(2.12194440e-4f), o.r);
    return o;
}

/* p * 2^n, rounded once even where the result is denormal */
GF_INLINE gf_f32 gf_scale2_f32(gf_f32 p, gf_reduced e) {
#ifdef GF_LOOKUP
    return gf_scalef_f32(p, e.n);
#else
    gf_i32 i = (gf_i32)e.k - (gf_i32)gf_k32(GF_MAGIC32), h = i >> 1;
    return p * gf_bits_f32((h + 127) << 23) * gf_bits_f32((i - h + 127) << 23);
#endif
}

/* 2^n e^r */
GF_INLINE gf_f32 gf_exp_core(gf_reduced e) {
    gf_f32 r = e.r, s = r * r;
    gf_f32 p = gf_fma_f32(r, gf_k32(0.0013820742f), gf_k32(0.00836924836f));
    gf_f32 q = gf_fma_f32(r, gf_k32(0.041668281f), gf_k32(0.166665167f));
    p = gf_fma_f32(gf_fma_f32(p, s, q), r, gf_k32(0.49999994f));
    p = gf_fma_f32(p, s, r) + gf_k32(1.0f);
    return gf_scale2_f32(p, e);
}

#ifndef GF_LOOKUP
/* e^x */
GF_INLINE gf_f32 gf_exp_f32(gf_f32 x) {
    return gf_exp_core(gf_exp_reduce(gf_minb_f32(gf_k32(100.0f), gf_maxb_f32(gf_k32(-120.0f), x))));
}

/* 2^x */
GF_INLINE gf_f32 gf_exp2_f32(gf_f32 x) {
    gf_reduced e;
    x = gf_minb_f32(gf_k32(140.0f), gf_maxb_f32(gf_k32(-170.0f), x));
    e.k = x + gf_k32(GF_MAGIC32);
    e.n = e.k - gf_k32(GF_MAGIC32);
    e.r = (x - e.n) * gf_k32(0.693147182f);
    return gf_exp_core(e);
}
#endif

/* e^x - 1 = s p + (s - 1) with s = 2^n and p = e^r - 1, for x in [-80, 89] or NaN; bias 126 halves s */
typedef struct { gf_f32 s, p; } gf_expm1_parts;
GF_INLINE gf_expm1_parts gf_expm1_split(gf_f32 x, uint32_t bias) {
    gf_reduced e = gf_exp_reduce(x);
    gf_f32 r = e.r, s = r * r;
    gf_f32 p = gf_fma_f32(r, gf_k32(0.000199442555f), gf_k32(0.00139335648f));
    gf_f32 q = gf_fma_f32(r, gf_k32(0.00833320804f), gf_k32(0.0416664816f));
    gf_f32 t = gf_fma_f32(r, gf_k32(0.166666672f), gf_k32(0.5f));
    p = gf_fma_f32(gf_fma_f32(p, s, q), s, t);
    gf_expm1_parts o;
    o.p = gf_fma_f32(p, s, r);
    /* the low bits of k hold n, magic's own vanish in the shift */
    o.s = gf_bits_f32((gf_i32)(((gf_u32)e.k + bias) << 23));
    return o;
}

/* e^x - 1. Halves the scale, as 2^128 is no float; tiny x, -0 among them, are their own result. */
GF_INLINE gf_f32 gf_expm1_f32(gf_f32 x) {
    gf_expm1_parts e = gf_expm1_split(gf_minb_f32(gf_k32(89.0f), gf_maxb_f32(gf_k32(-40.0f), x)), 126);
    gf_f32 y = gf_fma_f32(e.p, e.s, e.s - gf_k32(0.5f));
    return gf_select_f32((gf_mask)(gf_abs_f32(x) < gf_k32(1e-30f)), x, y + y);
}

/* log(1 + f) + n ln(2), f in [-1/3, 1/3] */
GF_INLINE gf_f32 gf_log_core(gf_f32 f, gf_f32 n) {
    gf_f32 s = f * f;
    gf_f32 p = gf_fma_f32(f, gf_k32(-0.128984362f), gf_k32(0.139907211f));
    gf_f32 q = gf_fma_f32(f, gf_k32(-0.121828526f), gf_k32(0.140047222f));
    gf_f32 t = gf_fma_f32(f, gf_k32(-0.166805789f), gf_k32(0.200104669f));
    gf_f32 u = gf_fma_f32(f, gf_k32(-0.249997959f), gf_k32(0.333332151f));
    p = gf_fma_f32(gf_fma_f32(p, s, q), s * s, gf_fma_f32(t, s, u));
    p = gf_fma_f32(p, f, gf_k32(-0.5f));
    p = gf_fma_f32(p, s, f);
    return gf_fma_f32(n, gf_k32(0.693147182f), p);
}

/* y where x is positive and finite; infinity keeps, zero gives -infinity, NaN and below zero give NaN */
GF_INLINE gf_f32 gf_log_domain(gf_f32 x, gf_f32 y) {
    gf_f32 outside = gf_select_f32((gf_mask)(x == gf_k32(0.0f)), gf_k32(-INFINITY), gf_k32(NAN));
    y = gf_select_f32((gf_mask)(x == gf_k32(INFINITY)), x, y);
    return gf_select_f32((gf_mask)(x > gf_k32(0.0f)), y, outside);
}

/* the exponent e that brings y 2^-e into [2/3, 4/3) */
GF_INLINE gf_i32 gf_log_exponent(gf_f32 y) { return ((gf_i32)((gf_u32)y - 0x3f2aaaabu)) >> 23; }

/* natural logarithm; NaN below zero */
GF_INLINE gf_f32 gf_log_f32(gf_f32 x) {
    gf_mask tiny = (gf_mask)(x < gf_k32(1.17549435e-38f));
    gf_f32 y = gf_select_f32(tiny, x * gf_k32(8388608.0f), x);
    gf_i32 e = gf_log_exponent(y);
    gf_f32 f = gf_bits_f32((gf_i32)((gf_u32)y - ((gf_u32)e << 23))) - gf_k32(1.0f);
    return gf_log_domain(x, gf_log_core(f, gf_cast_i32_f32(e + (tiny & -23))));
}

/* log(1 + x), exact in f = (1 + x) 2^-e - 1 = x 2^-e + (2^-e - 1) */
GF_INLINE gf_f32 gf_log1p_f32(gf_f32 x) {
    gf_f32 u = x + gf_k32(1.0f);
    gf_i32 e = gf_log_exponent(u), h = e >> 1;
    /* two factors: 2^-128 is no normal number */
    gf_f32 s = gf_bits_f32((127 - h) << 23), t = gf_bits_f32((127 - (e - h)) << 23);
    gf_f32 f = gf_fma_f32(x * s, t, s * t - gf_k32(1.0f));
    gf_f32 y = gf_log_domain(u, gf_log_core(f, gf_cast_i32_f32(e)));
    /* tiny and -0 stay what they are */
    return gf_select_f32((gf_mask)(x == gf_k32(0.0f)), x, y);
}

/* log(1 + e^x) = max(x, 0) + log(1 + z), z = e^-|x| in (0, 1]. By the polynomial: its error is smaller for z < 1/2. */
GF_INLINE gf_f32 gf_softplus_f32(gf_f32 x) {
    gf_f32 z = gf_exp_core(gf_exp_reduce(gf_maxk_f32(gf_k32(-120.0f), gf_neg_f32(gf_abs_f32(x)))));
    gf_mask high = (gf_mask)(z > gf_k32(0.333333333f));
    gf_f32 f = gf_select_f32(high, gf_fma_f32(z, gf_k32(0.5f), gf_k32(-0.5f)), z);
    return gf_relu_f32(x) + gf_log_core(f, gf_select_f32(high, gf_k32(1.0f), gf_k32(0.0f)));
}

#ifndef GF_LOOKUP
/* tanh |x| with e = e^(-2|x|): (1 - e) / (1 + e) by e - 1 near zero, where that cancels nothing, and
 * 1 - 2 e / (1 + e) beyond, where the quotient's error fades */
GF_INLINE gf_f32 gf_tanh_f32(gf_f32 x) {
    gf_f32 t = gf_abs_f32(x);
    gf_expm1_parts e = gf_expm1_split(gf_maxb_f32(gf_k32(-40.0f), t * gf_k32(-2.0f)), 127);
    gf_mask far = (gf_mask)(t > gf_k32(0.55f));
    gf_f32 one = gf_k32(1.0f), s = gf_select_f32(far, e.s + e.s, e.s);
    gf_f32 n = gf_fma_f32(e.p, s, gf_select_f32(far, s, s - one));
    gf_f32 y = gf_select_f32(far, one, gf_k32(0.0f)) - n / gf_fma_f32(e.p, e.s, e.s + one);
    return gf_copysign_f32(y, x);
}

/* 1 / (1 + e^-x), by e^-|x| so that the far negative side keeps its digits; l is what 1 + e lost in rounding */
GF_INLINE gf_f32 gf_sigmoid_f32(gf_f32 x) {
    gf_f32 one = gf_k32(1.0f), e = gf_exp_f32(gf_neg_f32(gf_abs_f32(x)));
    gf_f32 d = one + e, l = e - (d - one);
    gf_f32 y = gf_select_f32((gf_mask)(x < gf_k32(0.0f)), e, one) / d;
    return gf_fma_f32(gf_neg_f32(l), y, y);
}

/* erf |x| = 1 - e^(|x| Q(|x|)), Q = log(erfc) / |x|; e^.. - 1 in one piece keeps the digits near zero */
GF_INLINE gf_f32 gf_erf_f32(gf_f32 x) {
    gf_f32 t = gf_minb_f32(gf_k32(3.93f), gf_abs_f32(x));
    gf_f32 s = t * t;
    gf_f32 p = gf_fma_f32(s, gf_k32(9.38799349e-06f), gf_fma_f32(t, gf_k32(-0.000118861579f), gf_k32(0.000637364108f)));
    gf_f32 q = gf_fma_f32(t, gf_k32(-0.00167567714f), gf_k32(0.000169504521f));
    gf_f32 u = gf_fma_f32(t, gf_k32(0.0191478226f), gf_k32(-0.102776304f));
    gf_f32 v = gf_fma_f32(t, gf_k32(-0.636619568f), gf_k32(-0.128379166f));
    q = gf_fma_f32(gf_fma_f32(gf_fma_f32(p, s, q), s, u), s, v);
    gf_expm1_parts e = gf_expm1_split(gf_fma_f32(q, t, gf_neg_f32(t)), 127);
    return gf_copysign_f32(gf_fma_f32(e.p, e.s, e.s - gf_k32(1.0f)), x);
}
#endif

#endif
