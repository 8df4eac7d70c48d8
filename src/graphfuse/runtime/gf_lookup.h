/* gf_lookup.h - float32 functions by tables of 16 and 32 entries, for machines that hold such a table in registers.
 *
 * A table is looked up by the low bits of k = x + 1.5 2^m: they number the multiple of 2^(m - 23) that is nearest to x.
 * Where x is NaN or too large the number is arbitrary, but is one of the table's. */
#ifndef GF_LOOKUP_H
#define GF_LOOKUP_H

#include "gf_exact.h"

#ifdef GF_LOOKUP
#define GF_TABLE __attribute__((aligned(64), unused))

/* x = n ln(2) + r with n a multiple of 1/16, where e^x is a finite number above zero; elsewhere n is so large that 2^n
 * decides alone, and r is anything small. The low bits of k number the sixteenths of n. */
typedef struct { gf_i32 k; gf_f32 n, r; } gf_sixteenths;
#define GF_MAGIC_16TH 786432.0f
GF_INLINE gf_sixteenths gf_exp_sixteenths(gf_f32 x) {
    gf_f32 k = gf_fma_f32(x, gf_k32(1.44269504f), gf_k32(GF_MAGIC_16TH)), n = k - gf_k32(GF_MAGIC_16TH);
    /* ln(2) in two parts */
    gf_f32 r = gf_fma_f32(n, gf_k32(1.90465421e-9f), gf_fma_f32(n, gf_k32(-0.693147182f), x));
    return (gf_sixteenths){(gf_i32)k, n, gf_limit_f32(r, gf_k32(0.5f))};
}

/* e^r - 1 for |r| <= ln(2) / 32 */
GF_INLINE gf_f32 gf_exp_near(gf_f32 r) {
    return gf_fma_f32(gf_fma_f32(r, gf_k32(0.166669443f), gf_k32(0.500016272f)), r * r, r);
}

/* 2^(i/16) */
static const float gf_two_up[1][16] GF_TABLE = {
    {1.0f, 1.0442737f, 1.0905077f, 1.1387886f, 1.1892071f, 1.2418578f, 1.2968396f, 1.3542556f, 1.4142135f, 1.4768262f,
     1.5422108f, 1.6104903f, 1.6817929f, 1.7562522f, 1.8340081f, 1.9152066f},
};

/* e^x */
GF_INLINE gf_f32 gf_exp_f32(gf_f32 x) {
    gf_sixteenths e = gf_exp_sixteenths(x);
    gf_f32 t = gf_lookup16_f32(gf_two_up[0], e.k);
    return gf_scalef_f32(gf_fma_f32(t, gf_exp_near(e.r), t), e.n);
}

/* 2^x */
GF_INLINE gf_f32 gf_exp2_f32(gf_f32 x) {
    gf_f32 k = x + gf_k32(GF_MAGIC_16TH), n = k - gf_k32(GF_MAGIC_16TH);
    gf_f32 r = gf_limit_f32((x - n) * gf_k32(0.693147182f), gf_k32(0.5f));
    gf_f32 t = gf_lookup16_f32(gf_two_up[0], (gf_i32)k);
    return gf_scalef_f32(gf_fma_f32(t, gf_exp_near(r), t), n);
}

/* 2^(1/32 - i/16), and the logarithm of what its rounding left out */
static const float gf_two_down[2][16] GF_TABLE = {
    {1.0218972f, 0.9785721f, 0.9370838f, 0.89735454f, 0.8593096f, 0.8228777f, 0.7879904f, 0.7545822f, 0.7225904f,
     0.6919549f, 0.66261834f, 0.6345255f, 0.6076237f, 0.58186245f, 0.55719334f, 0.5335702f},
    {-5.5781847e-08f, -1.7394534e-08f, 3.002885e-08f, -1.5057655e-08f, 3.244804e-08f, 3.2596578e-08f, 3.102342e-08f,
     -2.5235805e-08f, 1.43047e-08f, 3.4985867e-08f, -3.5080276e-08f, -7.578845e-09f, -3.5583934e-08f, -4.3511694e-08f,
     4.9499665e-08f, 4.7407603e-08f},
};

/* 1 / (1 + e^-x) = s / (s + t e^(r - ln(2) / 32)), s a power of two and t looked up. That power of e is below 1, where
 * it is rounded to half as much. */
GF_INLINE gf_f32 gf_sigmoid_f32(gf_f32 x) {
    gf_f32 c = gf_mink_f32(gf_k32(30.0f), gf_maxk_f32(gf_k32(-110.0f), x));
    gf_f32 k = gf_fma_f32(c, gf_k32(1.44269504f), gf_k32(GF_MAGIC_16TH)), n = k - gf_k32(GF_MAGIC_16TH);
    gf_f32 s = gf_scalef_f32(gf_k32(1.0f), n), t = gf_lookup16_f32(gf_two_down[0], (gf_i32)k);
    gf_f32 low = gf_fma_f32(n, gf_k32(-1.90465421e-9f), gf_lookup16_f32(gf_two_down[1], (gf_i32)k));
    gf_f32 r = gf_fma_f32(n, gf_k32(0.693147182f), gf_neg_f32(c)) + low;
    gf_f32 top = gf_k32(0.9785721f), p = gf_fma_f32(gf_fma_f32(r, gf_k32(0.16309807f), gf_k32(0.48930195f)), r, top);
    return s / gf_fma_f32(t, gf_fma_f32(p, r, top), s);
}

/* tanh(i/4 + u) = c[0][i] + c[1][i] u + ... */
static const float gf_tanh_c[6][32] GF_TABLE = {
    {0, 0.24491866f, 0.46211717f, 0.63514894f, 0.7615942f, 0.84828365f, 0.90514827f, 0.94137555f, 0.9640276f,
     0.9780261f, 0.9866143f, 0.99185973f, 0.9950548f, 0.99699765f, 0.9981779f, 0.99889445f, 0.9993293f, 0.99959314f,
     0.99975324f, 0.99985033f, 0.9999092f, 0.9999449f, 0.9999666f, 0.99997973f, 0.9999877f, 0.99999255f, 0.99999547f,
     0.99999726f, 0.99999833f, 0.999999f, 0.9999994f, 0.99999964f},
    {1.0f, 0.940015f, 0.78644776f, 0.5965858f, 0.41997436f, 0.28041488f, 0.18070664f, 0.1138121f, 0.07065082f,
     0.043464918f, 0.026592227f, 0.016214287f, 0.009866037f, 0.005995715f, 0.0036408848f, 0.0022098923f,
     0.0013409507f, 0.0008135424f, 0.00049351744f, 0.00029936252f, 0.00018158324f, 0.00011013973f, 6.6804576e-05f,
     4.0519553e-05f, 2.4576548e-05f, 1.4906502e-05f, 9.041277e-06f, 5.4838215e-06f, 3.3261094e-06f, 2.0173886e-06f,
     1.2236086e-06f, 7.453736e-07f},
    {0, -0.23021911f, -0.3634284f, -0.37891567f, -0.31986254f, -0.23787735f, -0.16357434f, -0.10714787f, -0.06811112f,
     -0.04249816f, -0.026230443f, -0.016087074f, -0.009831362f, -0.005987355f, -0.0036283114f, -0.0022127053f,
     -0.0013547401f, -0.00080945663f, -0.00050662167f, -0.000312172f, -0.00019068179f, -0.00010844415f,
     -7.917344e-05f, -3.7662125e-05f, -2.957335e-05f, -1.6283135e-05f, -4.292971e-06f, -5.535193e-06f,
     -3.2847268e-07f, 3.2200063e-07f, -9.265212e-06f, -7.3251556e-07f},
    {-0.3333277f, -0.25699356f, -0.09421918f, 0.041809198f, 0.10359753f, 0.1083074f, 0.08781654f, 0.06292102f,
     0.042109285f, 0.027087979f, 0.01702109f, 0.010546533f, 0.0064798743f, 0.0039611114f, 0.0024140002f,
     0.0014683725f, 0.00089214696f, 0.0005416971f, 0.000328756f, 0.00019947834f, 0.000121020115f, 7.341492e-05f,
     4.4530476e-05f, 2.7011434e-05f, 1.6383583e-05f, 9.937378e-06f, 6.0274356e-06f, 3.6558063e-06f, 2.2173788e-06f,
     1.3449198e-06f, 8.157182e-07f, 2.816352e-07f},
    {0, 0.13812642f, 0.16373545f, 0.09940361f, 0.028807204f, -0.011967457f, -0.024340266f, -0.022980802f,
     -0.017780134f, -0.013078305f, -0.0084309215f, -0.0048036855f, -0.0022804276f, -0.0013451042f, -0.0015796651f,
     -0.00039692086f, 0.00049177697f, -0.00051063095f, 0.00067964965f, 0.0007205929f, 0.00052119355f, -0.00014461658f,
     0.00076733145f, -0.00019586847f, 0.000310754f, 8.2897925e-05f, -0.0003060992f, 1.448267e-06f, -0.0001924482f,
     -0.00014999571f, 0.0005128826f, 0},
    {0.13216747f, 0.0742975f, -0.025702158f, -0.06374296f, -0.045843128f, -0.019094523f, -0.0027153112f, 0.003703681f,
     0.0047606f, 0.0039513987f, 0.0028513502f, 0.0019108352f, 0.0012302456f, 0.00076962035f, 0.00047248f,
     0.0002907459f, 0.00017865162f, 0.000108035165f, 6.632347e-05f, 4.027618e-05f, 2.4357583e-05f, 1.46710645e-05f,
     8.997415e-06f, 5.4056163e-06f, 3.2921664e-06f, 1.9940733e-06f, 1.2064836e-06f, 7.343189e-07f, 4.4470892e-07f,
     2.6940515e-07f, 1.6446151e-07f, 0},
};

/* a polynomial about the nearest quarter of |x|: the first one is odd, the last one reaches as far as tanh changes */
GF_INLINE gf_f32 gf_tanh_f32(gf_f32 x) {
    gf_f32 t = gf_mink_f32(gf_k32(9.02f), gf_abs_f32(x)), m = gf_mink_f32(gf_k32(7.75f), t) + gf_k32(3145728.0f);
    gf_f32 u = t - (m - gf_k32(3145728.0f)), s = u * u;
    gf_i32 k = (gf_i32)m;
    gf_f32 p = gf_fma_f32(gf_lookup32_f32(gf_tanh_c[4], k), u, gf_lookup32_f32(gf_tanh_c[3], k));
    gf_f32 q = gf_fma_f32(gf_lookup32_f32(gf_tanh_c[2], k), u, gf_lookup32_f32(gf_tanh_c[1], k));
    p = gf_fma_f32(gf_fma_f32(gf_lookup32_f32(gf_tanh_c[5], k), s, p), s, q);
    return gf_copysign_f32(gf_fma_f32(p, u, gf_lookup32_f32(gf_tanh_c[0], k)), x);
}

/* erf(i/4 + u) = c[0][i] + u + c[1][i] u + c[2][i] u^2 + ... */
static const float gf_erf_c[7][16] GF_TABLE = {
    {0, 0.2763264f, 0.5204999f, 0.71115565f, 0.8427008f, 0.92290014f, 0.96610516f, 0.9866717f, 0.9953223f, 0.9985373f,
     0.999593f, 0.9998994f, 0.9999779f, 0.9999957f, 0.9999993f, 0.9999999f},
    {0.12837917f, 0.06001412f, -0.12121741f, -0.35706893f, -0.5848925f, -0.7634789f, -0.8810697f, -0.947225f,
     -0.97933304f, -0.9928577f, -0.9978217f, -0.9994137f, -0.99986076f, -0.9999708f, -0.9999946f, -0.9999989f},
    {0, -0.2650015f, -0.439399f, -0.48221982f, -0.41509244f, -0.29566512f, -0.17841451f, -0.09237313f, -0.04135916f,
     -0.016091522f, -0.0054131346f, -0.0016228912f, -0.00039163016f, -0.00010766383f, -5.0736977e-05f,
     -1.1254311e-07f},
    {-0.3761233f, -0.3091645f, -0.14647324f, 0.0267793f, 0.13837409f, 0.16753355f, 0.13875481f, 0.090147376f,
     0.04823255f, 0.021729153f, 0.008340911f, 0.0027623752f, 0.0007947065f, 0.00018998253f, 3.3965956e-05f,
     8.223928e-06f},
    {0, 0.12668055f, 0.18429767f, 0.15424259f, 0.06669118f, -0.0038412581f, -0.041348297f, -0.04527288f,
     -0.030180348f, -0.015466103f, -0.01414401f, -0.0014535045f, -0.00547908f, 0.00187383f, 0.0053307344f, 0},
    {0.1122413f, 0.07936934f, 0.008133015f, -0.05214928f, -0.06939494f, -0.04694397f, -0.015086968f, 0.0071790684f,
     0.012456163f, 0.010369842f, 0.006692594f, 0.002642872f, 0.0006777557f, 0.00068073685f, 0.0005992795f, 0},
    {0, -0.029156193f, -0.09821009f, -0.17400531f, 0.10790802f, -0.07678801f, -0.11926637f, -0.10963515f,
     -0.18017522f, -0.15656191f, 0.2313545f, -0.07831478f, 0.18756099f, -0.09149613f, -0.22907677f, 0},
};

/* a polynomial about the nearest quarter of |x|, as tanh; the last one ends in 1 */
GF_INLINE gf_f32 gf_erf_f32(gf_f32 x) {
    gf_f32 t = gf_mink_f32(gf_k32(3.8749998f), gf_abs_f32(x)), m = t + gf_k32(3145728.0f);
    gf_f32 u = t - (m - gf_k32(3145728.0f)), s = u * u;
    gf_i32 k = (gf_i32)m;
    gf_f32 p = gf_fma_f32(gf_lookup16_f32(gf_erf_c[6], k), u, gf_lookup16_f32(gf_erf_c[5], k));
    gf_f32 q = gf_fma_f32(gf_lookup16_f32(gf_erf_c[4], k), u, gf_lookup16_f32(gf_erf_c[3], k));
    gf_f32 v = gf_fma_f32(gf_lookup16_f32(gf_erf_c[2], k), u, gf_lookup16_f32(gf_erf_c[1], k));
    p = gf_fma_f32(gf_fma_f32(p, s, q), s, v);
    return gf_copysign_f32(gf_fma_f32(p, u, gf_lookup16_f32(gf_erf_c[0], k) + u), x);
}

#endif
#endif
