/* gf_math64.h - the less frequent float32 functions, evaluated in float64 inside, and the float64 functions.
 *
 * The float32 functions here round a float64 result of about 2^-36 relative error, so they are off by little more than
 * half a ULP. The float64 functions call libm lane by lane. */
#ifndef GF_MATH64_H
#define GF_MATH64_H

#include "gf_math.h"

/* 1.5 * 2^52, see GF_MAGIC32 */
#define GF_MAGIC64 6755399441055744.0

GF_INLINE gf_f64 gf_k64(double x) { return gf_splat_f64(x); }

/* c[0] + c[1] x + ... + c[n-1] x^(n-1) */
GF_INLINE gf_f64 gf_poly_f64(gf_f64 x, const double *c, int n) {
    gf_f64 y = gf_k64(c[n - 1]);
    for (int i = n - 2; i >= 0; i--) y = gf_fma_f64(y, x, gf_k64(c[i]));
    return y;
}

/* 2^n for integers |n| < 1022 */
GF_INLINE gf_f64 gf_exp2i_f64(gf_f64 n) {
    gf_u64 k = (gf_u64)(n + gf_k64(GF_MAGIC64 + 1023.0));
    return (gf_f64)(k << 52);
}

/* e^x = s + s p and e^x - 1 = s p + (s - 1), with s = 2^n, for |x| < 700 */
typedef struct { gf_f64 s, p; } gf_exp_parts;
GF_INLINE gf_exp_parts gf_exp_split(gf_f64 x) {
    static const double c[] = {0.49999999999784228, 0.16666666666594498, 0.041666666903328958, 0.0083333333797624403,
                               0.0013888819142596728, 0.00019841172215170414, 2.48775831173612e-05,
                               2.7640712354704598e-06};
    gf_f64 n = (x * gf_k64(1.4426950408889634) + gf_k64(GF_MAGIC64)) - gf_k64(GF_MAGIC64);
    gf_f64 r = gf_fma_f64(n, gf_k64(-0.69314718055994531), x);
    gf_exp_parts o;
    o.s = gf_exp2i_f64(n);
    o.p = gf_fma_f64(gf_poly_f64(r, c, 8), r * r, r);
    return o;
}
GF_INLINE gf_f64 gf_exp_inside(gf_f64 x) {
    gf_exp_parts e = gf_exp_split(x);
    return gf_fma_f64(e.p, e.s, e.s);
}
GF_INLINE gf_f64 gf_expm1_inside(gf_f64 x) {
    gf_exp_parts e = gf_exp_split(x);
    return gf_fma_f64(e.p, e.s, e.s - gf_k64(1.0));
}

/* The exponent field e << 52 (e may be negative) that brings u into [2/3, 4/3), and 2^-e */
GF_INLINE gf_u64 gf_log_field(gf_f64 u) { return ((gf_u64)u - 0x3fe5555555555555u) & 0xfff0000000000000u; }
GF_INLINE gf_f64 gf_field_scale(gf_u64 field) { return (gf_f64)(0x3ff0000000000000u - field); }

/* log(1 + f) + e ln(2), f in [-1/3, 1/3]; log(1 + f) = 2 artanh(f / (2 + f)) */
GF_INLINE gf_f64 gf_log_inside_core(gf_f64 f, gf_u64 field) {
    static const double c[] = {0.33333333355717765, 0.19999992157116375, 0.14286605134052108, 0.11067129250719916,
                               0.10066096833638724};
    gf_f64 e = gf_cast_i32_f64(gf_cast_u64_i32(field >> 32) >> 20);
    gf_f64 q = f / (f + gf_k64(2.0)), z = q * q;
    q = q + q;
    return gf_fma_f64(e, gf_k64(0.69314718055994531), gf_fma_f64(q * z, gf_poly_f64(z, c, 5), q));
}

/* log(x) for normal, positive, finite x */
GF_INLINE gf_f64 gf_log_inside(gf_f64 x) {
    gf_u64 field = gf_log_field(x);
    return gf_log_inside_core(x * gf_field_scale(field) - gf_k64(1.0), field);
}

/* log(1 + x) for x > -1, finite; 1 + x rounds, (1 + x) 2^-e - 1 = x 2^-e + (2^-e - 1) hardly */
GF_INLINE gf_f64 gf_log1p_inside(gf_f64 x) {
    gf_u64 field = gf_log_field(x + gf_k64(1.0));
    gf_f64 s = gf_field_scale(field);
    return gf_log_inside_core(gf_fma_f64(x, s, s - gf_k64(1.0)), field);
}

/* ---- trigonometry ---- */
/* The quotient's quadrant, and x - quadrant pi/2 in float64 */
typedef struct { gf_f64 r; gf_i32 quadrant; } gf_angle;

/* Beyond this the two-part pi/2 loses digits: such lanes are reduced by libm */
#define GF_ANGLE_MAX 1048576.0f

/* Payne-Hanek is libm's business: the sine and cosine give the angle back */
GF_NOINLINE double gf_reduce_far(double x) {
    return x - x != 0 ? (double)NAN : atan2(sin(x), cos(x));
}

GF_INLINE gf_angle gf_reduce_angle(gf_f32 x) {
    gf_f64 v = gf_cast_f32_f64(x);
    gf_mask far = ~(gf_mask)(gf_abs_f32(x) < gf_k32(GF_ANGLE_MAX));
    if (GF_UNLIKELY(gf_any(far))) {
        for (int i = 0; i < GF_W; i++) {
            if (far[i]) v[i] = gf_reduce_far(v[i]);
        }
    }
    gf_f64 k = v * gf_k64(0.63661977236758134) + gf_k64(GF_MAGIC64), n = k - gf_k64(GF_MAGIC64);
    gf_angle o;
    o.quadrant = gf_cast_u64_i32((gf_u64)k);
    /* the first part of pi/2 has 33 bits: its product with n is exact */
    o.r = gf_fma_f64(n, gf_k64(-6.0771005065061922e-11), gf_fma_f64(n, gf_k64(-1.5707963267341256), v));
    return o;
}

/* sine (shift 0) or cosine (shift 1) of the angle */
GF_INLINE gf_f32 gf_sincos_f32(gf_angle a, int shift) {
    gf_f32 r = gf_cast_f64_f32(a.r), s = r * r;
    gf_i32 quadrant = gf_add_i32(a.quadrant, gf_splat_i32(shift));
    gf_f32 p = gf_fma_f32(gf_fma_f32(s, gf_k32(-0.000195184082f), gf_k32(0.0083321901f)), s, gf_k32(-0.166666552f));
    gf_f32 q = gf_fma_f32(gf_fma_f32(s, gf_k32(2.44323273e-05f), gf_k32(-0.00138873095f)), s, gf_k32(0.0416666456f));
    p = gf_fma_f32(p * s, r, r);
    q = gf_fma_f32(gf_fma_f32(q, s, gf_k32(-0.5f)), s, gf_k32(1.0f));
    gf_f32 y = gf_select_f32((gf_mask)((quadrant & 1) != 0), q, p);
    return gf_select_f32((gf_mask)((quadrant & 2) != 0), gf_neg_f32(y), y);
}

GF_INLINE gf_f32 gf_sin_f32(gf_f32 x) {
    /* the polynomial would return 0 for -0 */
    return gf_select_f32((gf_mask)(x == gf_k32(0.0f)), x, gf_sincos_f32(gf_reduce_angle(x), 0));
}
GF_INLINE gf_f32 gf_cos_f32(gf_f32 x) { return gf_sincos_f32(gf_reduce_angle(x), 1); }

GF_INLINE gf_f32 gf_tan_f32(gf_f32 x) {
    static const double sine[] = {-0.1666666664142642, 0.0083333293622643682, -0.00019839327131307771,
                                  2.7182372288624236e-06};
    static const double cosine[] = {-0.4999999999954059, 0.041666666561249309, -0.0013888881032349536,
                                    2.4799030970979576e-05, -2.7179356676046893e-07};
    gf_angle a = gf_reduce_angle(x);
    gf_f64 z = a.r * a.r, s = gf_fma_f64(gf_poly_f64(z, sine, 4) * z, a.r, a.r);
    gf_f64 c = gf_fma_f64(gf_poly_f64(z, cosine, 5), z, gf_k64(1.0));
    gf_mask odd = (gf_mask)((a.quadrant & 1) != 0);
    gf_f64 y = gf_select_f64(odd, gf_neg_f64(c), s) / gf_select_f64(odd, s, c);
    return gf_select_f32((gf_mask)(x == gf_k32(0.0f)), x, gf_cast_f64_f32(y));
}

/* arctan(x), by 1/x beyond 1 */
GF_INLINE gf_f32 gf_atan_f32(gf_f32 x) {
    static const double c[] = {-0.33333333130225468, 0.19999985333521703, -0.14285343347882737, 0.11106369669463169,
                               -0.090549530302347955, 0.075153778706654351, -0.060686768884260826, 0.04436678506888956,
                               -0.026745830009932959, 0.011910960415033837, -0.0033772083557224021,
                               0.00044919151928702597};
    gf_mask far = (gf_mask)(gf_abs_f32(x) > gf_k32(1.0f));
    gf_f64 t = gf_cast_f32_f64(gf_abs_f32(x));
    t = gf_select_f64(far, gf_k64(1.0) / t, t);
    gf_f64 z = t * t, p = gf_fma_f64(gf_poly_f64(z, c, 12) * z, t, t);
    p = gf_select_f64(far, gf_k64(1.5707963267948966) - p, p);
    return gf_copysign_f32(gf_cast_f64_f32(p), x);
}

/* arcsin |x| for |x| <= 1/2, and arcsin sqrt((1 - |x|) / 2) beyond; NaN outside [-1, 1] */
GF_INLINE gf_f64 gf_asin_inside(gf_f64 t, gf_mask far) {
    static const double c[] = {0.1666666662657553, 0.075000050587793216, 0.044640681424414318, 0.030426953983832054,
                               0.02186195337201402, 0.020664469090496958, 0.00193402966143736, 0.032957214859412644};
    gf_f64 z = gf_select_f64(far, (gf_k64(1.0) - t) * gf_k64(0.5), t * t);
    gf_f64 s = gf_select_f64(far, gf_sqrt_f64(z), t);
    return gf_fma_f64(gf_poly_f64(z, c, 8) * z, s, s);
}
GF_INLINE gf_f32 gf_asin_f32(gf_f32 x) {
    gf_mask far = (gf_mask)(gf_abs_f32(x) > gf_k32(0.5f));
    gf_f64 p = gf_asin_inside(gf_cast_f32_f64(gf_abs_f32(x)), far);
    p = gf_select_f64(far, gf_k64(1.5707963267948966) - (p + p), p);
    return gf_copysign_f32(gf_cast_f64_f32(p), x);
}
GF_INLINE gf_f32 gf_acos_f32(gf_f32 x) {
    gf_mask far = (gf_mask)(gf_abs_f32(x) > gf_k32(0.5f)), below = (gf_mask)(x < gf_k32(0.0f));
    gf_f64 v = gf_cast_f32_f64(x), p = gf_asin_inside(gf_abs_f64(v), far), twice = p + p;
    gf_f64 outer = gf_select_f64(below, gf_k64(3.1415926535897931) - twice, twice);
    return gf_cast_f64_f32(gf_select_f64(far, outer, gf_k64(1.5707963267948966) - gf_copysign_f64(p, v)));
}

/* ---- hyperbolic functions ---- */
/* with u = e^|x| - 1: sinh |x| = (u + u / (1 + u)) / 2, cosh x = 1 + u^2 / (2 (1 + u)) */
GF_INLINE gf_f64 gf_expm1_of_abs(gf_f32 x) {
    return gf_expm1_inside(gf_cast_f32_f64(gf_minb_f32(gf_k32(100.0f), gf_abs_f32(x))));
}
GF_INLINE gf_f32 gf_sinh_f32(gf_f32 x) {
    gf_f64 u = gf_expm1_of_abs(x);
    return gf_copysign_f32(gf_cast_f64_f32((u + u / (u + gf_k64(1.0))) * gf_k64(0.5)), x);
}
GF_INLINE gf_f32 gf_cosh_f32(gf_f32 x) {
    gf_f64 u = gf_expm1_of_abs(x), one = gf_k64(1.0);
    return gf_cast_f64_f32(one + u * u / ((u + one) * gf_k64(2.0)));
}
/* arsinh |x| = log(1 + |x| + x^2 / (1 + sqrt(1 + x^2))) */
GF_INLINE gf_f32 gf_asinh_f32(gf_f32 x) {
    gf_f64 t = gf_cast_f32_f64(gf_abs_f32(x)), one = gf_k64(1.0), s = t * t;
    gf_f32 y = gf_cast_f64_f32(gf_log1p_inside(t + s / (one + gf_sqrt_f64(s + one))));
    y = gf_select_f32((gf_mask)(gf_abs_f32(x) < gf_k32(INFINITY)), y, gf_abs_f32(x));
    return gf_copysign_f32(y, x);
}
/* arcosh x = log(1 + t + sqrt(t (x + 1))), t = x - 1; NaN below 1 */
GF_INLINE gf_f32 gf_acosh_f32(gf_f32 x) {
    gf_f64 v = gf_cast_f32_f64(x), one = gf_k64(1.0), t = v - one;
    gf_f32 y = gf_cast_f64_f32(gf_log1p_inside(t + gf_sqrt_f64(t * (v + one))));
    y = gf_select_f32((gf_mask)(x < gf_k32(INFINITY)), y, x);
    return gf_select_f32((gf_mask)(x < gf_k32(1.0f)), gf_k32(NAN), y);
}
/* artanh |x| = log(1 + 2|x| / (1 - |x|)) / 2; NaN beyond 1 */
GF_INLINE gf_f32 gf_atanh_f32(gf_f32 x) {
    gf_f32 a = gf_abs_f32(x), one = gf_k32(1.0f);
    gf_f64 t = gf_cast_f32_f64(gf_minb_f32(gf_k32(0.99999994f), a));
    gf_f32 y = gf_cast_f64_f32(gf_log1p_inside((t + t) / (gf_k64(1.0) - t)) * gf_k64(0.5));
    y = gf_select_f32((gf_mask)(a < one), y, gf_select_f32((gf_mask)(a == one), gf_k32(INFINITY), gf_k32(NAN)));
    return gf_copysign_f32(y, x);
}

/* ---- power: C's pow, whose table of special cases ONNX and numpy share ---- */
/* y an integer, and an odd one; from 2^24 on every float is even */
GF_INLINE gf_mask gf_is_odd_f32(gf_f32 y) {
    gf_f32 small = gf_select_f32((gf_mask)(gf_abs_f32(y) < gf_k32(16777216.0f)), y, gf_k32(0.0f));
    return (gf_mask)(gf_trunc_f32(y) == y) & (gf_mask)((gf_cast_f32_i32(small) & 1) != 0);
}
GF_INLINE gf_f32 gf_pow_f32(gf_f32 x, gf_f32 y) {
    gf_f32 a = gf_abs_f32(x), zero = gf_k32(0.0f), one = gf_k32(1.0f);
    gf_mask ordinary = (gf_mask)(a > zero) & (gf_mask)(a < gf_k32(INFINITY));
    /* log |x|; infinity, -infinity and NaN carry themselves through the product */
    gf_f64 l = gf_log_inside(gf_cast_f32_f64(gf_select_f32(ordinary, a, one)));
    gf_f32 edge = gf_select_f32((gf_mask)(a == zero), gf_k32(-INFINITY), a);
    gf_f64 p = gf_cast_f32_f64(y) * gf_select_f64(ordinary, l, gf_cast_f32_f64(edge));
    p = gf_minb_f64(gf_k64(200.0), gf_maxb_f64(gf_k64(-200.0), p));
    gf_f32 r = gf_cast_f64_f32(gf_exp_inside(p));
    r = gf_select_f32(gf_isnan_f32(x) | gf_isnan_f32(y), x + y, r);
    gf_mask negative = (gf_mask)((gf_i32)x < 0), odd = gf_is_odd_f32(y);
    r = gf_select_f32(negative & odd, gf_neg_f32(r), r);
    gf_mask whole = (gf_mask)(gf_trunc_f32(y) == y);
    r = gf_select_f32((gf_mask)(x < zero) & ordinary & ~whole, gf_k32(NAN), r);
    /* (-1)^(+-infinity) is 1, and so are x^0 and 1^y for NaN too */
    gf_mask unit = (gf_mask)(y == zero) | (gf_mask)(x == one) | ((gf_mask)(a == one) & gf_isinf_f32(y));
    return gf_select_f32(unit, one, r);
}

/* ---- float64, and C's fmod, lane by lane ---- */
#define GF_LIBM(X) X(exp) X(exp2) X(log) X(log1p) X(expm1) X(tanh) X(erf) X(sin) X(cos) X(tan) X(asin) X(acos) X(atan) \
    X(sinh) X(cosh) X(asinh) X(acosh) X(atanh)
#define GF_LIBM_F64(NAME) GF_PER_LANE(f64, NAME, NAME)
GF_LIBM(GF_LIBM_F64)

GF_INLINE gf_f64 gf_sigmoid_f64(gf_f64 x) {
    gf_f64 e = gf_exp_f64(gf_neg_f64(gf_abs_f64(x))), one = gf_k64(1.0);
    return gf_select_f64(gf_lt_f64(x, gf_k64(0.0)), e, one) / (one + e);
}
GF_INLINE gf_f64 gf_softplus_f64(gf_f64 x) {
    return gf_relu_f64(x) + gf_log1p_f64(gf_exp_f64(gf_neg_f64(gf_abs_f64(x))));
}
#define GF_PER_LANE_PAIR(T, NAME, CALL)                          \
    GF_INLINE gf_##T gf_##NAME##_##T(gf_##T a, gf_##T b) {       \
        gf_##T r;                                                \
        for (int i = 0; i < GF_W; i++) r[i] = CALL(a[i], b[i]);  \
        return r;                                                \
    }
GF_PER_LANE_PAIR(f64, pow, pow)
GF_PER_LANE_PAIR(f32, fmod, fmodf)
GF_PER_LANE_PAIR(f64, fmod, fmod)

/* gf_mod: remainder with the sign of b (Python); gf_recip, gf_rsqrt: true divisions */
#define GF_DERIVED(T, C, S, U)                                                                                   \
    GF_INLINE gf_##T gf_mod_##T(gf_##T a, gf_##T b) {                                                            \
        gf_##T r = gf_fmod_##T(a, b);                                                                            \
        gf_##S other = (gf_##S)(r != (gf_##T){0}) & (gf_##S)((r < (gf_##T){0}) != (b < (gf_##T){0}));            \
        return gf_pick_##T((gf_##S)(r == (gf_##T){0}), gf_copysign_##T(r, b), gf_pick_##T(other, r + b, r));     \
    }                                                                                                            \
    GF_INLINE gf_##T gf_recip_##T(gf_##T x) { return gf_splat_##T((C)1) / x; }                                   \
    GF_INLINE gf_##T gf_rsqrt_##T(gf_##T x) { return gf_splat_##T((C)1) / gf_sqrt_##T(x); }
GF_FLOATS(GF_DERIVED)

#endif
