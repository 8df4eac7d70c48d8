/* gf_narrow.h - element types narrower than what is computed with.
 *
 * f16 and bf16 are uint16_t in memory and gf_f32 in registers: loads widen, which is exact, stores round to nearest,
 * ties to even. Types of a byte or less (float 8, float 4, integers of 4 and 2 bits) are one uint8_t each, in memory and
 * in registers, with zeros above their bits; gf_of_NAME widens them to f32, i8 or u8, gf_to_NAME narrows.
 * Formats: IEEE 754 (f16, and bf16, which is the upper half of an f32), "FP8 Formats for Deep Learning" and "OCP
 * Microscaling Formats v1.0"; what becomes of numbers out of range: ONNX, operator Cast. */
#ifndef GF_NARROW_H
#define GF_NARROW_H

#include "gf_int.h"

/* ---- half precision, by the machine where it can ---- */
#if defined(__AVX512F__) && GF_W == 16 && __has_builtin(__builtin_ia32_vcvtps2ph512_mask) && \
    __has_builtin(__builtin_ia32_vcvtph2ps512_mask)
GF_INLINE gf_f32 gf_of_f16(gf_u16 h) {
    typedef short gf_halves __attribute__((vector_size(32)));
    return __builtin_ia32_vcvtph2ps512_mask((gf_halves)h, (gf_f32){0}, (short)-1, 4);
}
GF_INLINE gf_u16 gf_to_f16(gf_f32 x) { return (gf_u16)__builtin_ia32_vcvtps2ph512_mask(x, 0, (gf_i16){0}, (short)-1); }
#elif defined(__F16C__) && GF_W == 8 && __has_builtin(__builtin_ia32_vcvtps2ph256) && \
    __has_builtin(__builtin_ia32_vcvtph2ps256)
GF_INLINE gf_f32 gf_of_f16(gf_u16 h) { return __builtin_ia32_vcvtph2ps256((gf_i16)h); }
GF_INLINE gf_u16 gf_to_f16(gf_f32 x) { return (gf_u16)__builtin_ia32_vcvtps2ph256(x, 0); }
#elif defined(__clang__) && (defined(__F16C__) || defined(__aarch64__))
typedef _Float16 gf_half __attribute__((vector_size(GF_W * 2)));
GF_INLINE gf_f32 gf_of_f16(gf_u16 h) { return __builtin_convertvector((gf_half)h, gf_f32); }
GF_INLINE gf_u16 gf_to_f16(gf_f32 x) { return (gf_u16)__builtin_convertvector(x, gf_half); }
#else
GF_INLINE gf_f32 gf_of_f16(gf_u16 h) {
    gf_u32 bits = __builtin_convertvector(h, gf_u32), a = (bits & 0x7fff) << 13;
    /* the exponent's bias grows from 15 to 127; a product, so that subnormals become normal */
    gf_u32 r = (gf_u32)((gf_f32)a * gf_splat_f32(0x1p112f));
    return (gf_f32)(gf_pick_u32((gf_i32)(a >= 0x0f800000), a | 0x7f800000, r) | (bits & 0x8000) << 16);
}
GF_INLINE gf_u16 gf_to_f16(gf_f32 x) {
    gf_u32 bits = (gf_u32)x, a = bits & 0x7fffffff;
    gf_u32 normal = (a - 0x38000000 + 0xfff + ((a >> 13) & 1)) >> 13;
    /* below the normal numbers: the sum with 1/2 ends where the last bit of a subnormal is */
    gf_u32 small = (gf_u32)((gf_f32)a + gf_splat_f32(0.5f)) - 0x3f000000;
    gf_u32 r = gf_pick_u32((gf_i32)(a < 0x38800000), small, normal);
    r = gf_pick_u32((gf_i32)(a >= 0x477ff000), gf_splat_u32(0x7c00), r);
    r = gf_pick_u32((gf_i32)(a > 0x7f800000), 0x7e00 | ((a >> 13) & 0x3ff), r);
    return __builtin_convertvector(r | ((bits >> 16) & 0x8000), gf_u16);
}
#endif

GF_INLINE gf_f32 gf_of_bf16(gf_u16 h) { return (gf_f32)(__builtin_convertvector(h, gf_u32) << 16); }
GF_INLINE gf_u32 gf_upper_bf16(gf_f32 x) {
    gf_u32 a = (gf_u32)x, r = a + 0x7fff + ((a >> 16) & 1);
    return gf_pick_u32((gf_i32)(x != x), a | 0x400000, r); /* a NaN stays one */
}
GF_INLINE gf_u16 gf_to_bf16(gf_f32 x) { return __builtin_convertvector(gf_upper_bf16(x) >> 16, gf_u16); }

/* an f32 with the value that it has as an f16 or bf16 */
GF_INLINE gf_f32 gf_round_f16(gf_f32 x) { return gf_of_f16(gf_to_f16(x)); }
GF_INLINE gf_f32 gf_round_bf16(gf_f32 x) { return (gf_f32)(gf_upper_bf16(x) & 0xffff0000); }

/* A number on its way to a narrow type, rounded to odd: what lies between two f32 becomes the one whose last bit is set,
 * so that rounding to nearest behind it gives what rounding once would. */
GF_INLINE gf_f32 gf_odd_f64(gf_f64 v) {
    gf_f32 r = __builtin_convertvector(v, gf_f32);
    gf_f64 back = __builtin_convertvector(r, gf_f64);
    gf_mask inexact = gf_narrow_f64((gf_i64)(back != v) & (gf_i64)(v == v));
    gf_mask away = gf_narrow_f64((gf_i64)(gf_abs_f64(back) > gf_abs_f64(v)));
    return (gf_f32)(((gf_i32)r + (away & inexact)) | (inexact & 1));
}
GF_INLINE gf_f32 gf_odd_f32(gf_f32 v) { return v; }
/* 64 bits: what does not fit into an f64 either */
GF_INLINE gf_f64 gf_odd_bits(gf_u64 a) {
    gf_u64 sticky = (gf_u64)((a & 0x7ff) != 0) & 0x800;
    gf_u64 held = gf_pick_u64((gf_i64)(a >> 53 != 0), (a & ~(gf_splat_u64(0x7ff))) | sticky, a);
    return __builtin_convertvector(held, gf_f64);
}
GF_INLINE gf_f32 gf_odd_u64(gf_u64 v) { return gf_odd_f64(gf_odd_bits(v)); }
GF_INLINE gf_f32 gf_odd_i64(gf_i64 v) {
    gf_f64 a = gf_odd_bits((gf_u64)gf_abs_i64(v));
    return gf_odd_f64(gf_pick_f64((gf_i64)(v < 0), gf_neg_f64(a), a));
}
#define GF_ODD_EXACT(T, VIA) \
    GF_INLINE gf_f32 gf_odd_##T(gf_##T v) { return gf_odd_##VIA(__builtin_convertvector(v, gf_##VIA)); }
GF_ODD_EXACT(i32, f64) GF_ODD_EXACT(u32, f64)
GF_ODD_EXACT(i16, f32) GF_ODD_EXACT(u16, f32) GF_ODD_EXACT(i8, f32) GF_ODD_EXACT(u8, f32)
GF_INLINE gf_f32 gf_odd_bool(gf_mask m) { return gf_cast_bool_f32(m); }

/* ---- f16 and bf16 in memory ---- */
#define GF_NARROW_MEMORY(N)                                                                                          \
    GF_INLINE gf_f32 gf_load_##N(const uint16_t *p) { return gf_of_##N(gf_load_u16(p)); }                            \
    GF_INLINE void gf_store_##N(uint16_t *p, gf_f32 v) { gf_store_u16(p, gf_to_##N(v)); }                            \
    GF_INLINE gf_f32 gf_splat_##N(uint16_t x) { return gf_of_##N(gf_splat_u16(x)); }                                 \
    GF_INLINE gf_f32 gf_loads_##N(const uint16_t *p, int64_t s) { return gf_of_##N(gf_loads_u16(p, s)); }            \
    GF_INLINE void gf_stores_##N(uint16_t *p, int64_t s, gf_f32 v) { gf_stores_u16(p, s, gf_to_##N(v)); }            \
    GF_INLINE gf_f32 gf_load_part_##N(const uint16_t *p, int64_t n) { return gf_of_##N(gf_load_part_u16(p, n)); }    \
    GF_INLINE void gf_store_part_##N(uint16_t *p, gf_f32 v, int64_t n) { gf_store_part_u16(p, gf_to_##N(v), n); }    \
    GF_INLINE gf_f32 gf_loads_part_##N(const uint16_t *p, int64_t s, int64_t n) {                                    \
        return gf_of_##N(gf_loads_part_u16(p, s, n));                                                                \
    }                                                                                                                \
    GF_INLINE void gf_stores_part_##N(uint16_t *p, int64_t s, gf_f32 v, int64_t n) {                                 \
        gf_stores_part_u16(p, s, gf_to_##N(v), n);                                                                   \
    }                                                                                                                \
    GF_INLINE float gf_get_##N(uint16_t x) { return gf_splat_##N(x)[0]; }
GF_NARROW_MEMORY(f16)
GF_NARROW_MEMORY(bf16)

/* ---- float 8 and float 4: M bits of mantissa, bias B ---- */
/* the number whose magnitude's code is a; special codes are the caller's */
GF_INLINE gf_f32 gf_decode(gf_u32 a, int m, int b) {
    return (gf_f32)(a << (23 - m)) * (gf_f32)(gf_splat_u32((uint32_t)(254 - b)) << 23);
}
/* The code of |x|, rounded to nearest, ties to even: `over` where it is above `max`, `nan` for NaN. */
GF_INLINE gf_u32 gf_encode(gf_f32 x, int m, int b, uint32_t max, uint32_t over, uint32_t nan) {
    gf_u32 a = (gf_u32)x & 0x7fffffff, drop = gf_splat_u32((uint32_t)(23 - m));
    gf_u32 normal = (a + (((gf_splat_u32(1) << drop) >> 1) - 1) + ((a >> drop) & 1)) >> drop;
    normal -= (uint32_t)(127 - b) << m;
    /* subnormals: the sum with 2^(24 - m - b) ends where their last bit is */
    gf_u32 magic = gf_splat_u32((uint32_t)(127 - b + 24 - m) << 23);
    gf_u32 small = (gf_u32)((gf_f32)a + (gf_f32)magic) - magic;
    gf_u32 r = gf_pick_u32((gf_i32)(a < (uint32_t)(128 - b) << 23), small, normal);
    r = gf_pick_u32((gf_i32)(r > max) | (gf_i32)(a >= 0x7f800000), gf_splat_u32(over), r);
    return gf_pick_u32((gf_i32)(a > 0x7f800000), gf_splat_u32(nan), r);
}
GF_INLINE gf_f32 gf_with_sign(gf_f32 magnitude, gf_u32 sign) { return (gf_f32)((gf_u32)magnitude | sign << 24); }
GF_INLINE gf_f32 gf_nan_where(gf_i32 m, gf_f32 x) { return gf_pick_f32(m, gf_splat_f32(NAN), x); }

/* NaN is 0x7f with either sign, no infinities */
GF_INLINE gf_f32 gf_of_e4m3fn(gf_u8 v) {
    gf_u32 bits = __builtin_convertvector(v, gf_u32), a = bits & 0x7f;
    return gf_with_sign(gf_nan_where((gf_i32)(a == 0x7f), gf_decode(a, 3, 7)), bits & 0x80);
}
GF_INLINE gf_f32 gf_of_e5m2(gf_u8 v) {
    gf_u32 bits = __builtin_convertvector(v, gf_u32), a = bits & 0x7f;
    gf_f32 x = gf_pick_f32((gf_i32)(a == 0x7c), gf_splat_f32(INFINITY), gf_decode(a, 2, 15));
    return gf_with_sign(gf_nan_where((gf_i32)(a > 0x7c), x), bits & 0x80);
}
/* "fnuz": finite but for a NaN, which is what would be -0 */
GF_INLINE gf_f32 gf_of_fnuz(gf_u8 v, int m, int b) {
    gf_u32 bits = __builtin_convertvector(v, gf_u32), a = bits & 0x7f;
    return gf_nan_where((gf_i32)(bits == 0x80), gf_with_sign(gf_decode(a, m, b), bits & 0x80));
}
GF_INLINE gf_f32 gf_of_e4m3fnuz(gf_u8 v) { return gf_of_fnuz(v, 3, 8); }
GF_INLINE gf_f32 gf_of_e5m2fnuz(gf_u8 v) { return gf_of_fnuz(v, 2, 16); }
GF_INLINE gf_f32 gf_of_e2m1(gf_u8 v) {
    gf_u32 bits = __builtin_convertvector(v, gf_u32);
    return gf_with_sign(gf_decode(bits & 7, 1, 1), (bits & 8) << 4);
}
/* 2^(code - 127); 255 is NaN */
GF_INLINE gf_f32 gf_of_e8m0(gf_u8 v) {
    gf_u32 e = __builtin_convertvector(v, gf_u32);
    gf_u32 x = gf_pick_u32((gf_i32)(e == 0), gf_splat_u32(0x00400000), e << 23);
    return gf_nan_where((gf_i32)(e == 255), (gf_f32)x);
}

GF_INLINE gf_u8 gf_signed_code(gf_u32 code, gf_f32 x) {
    return __builtin_convertvector(code | (((gf_u32)x >> 24) & 0x80), gf_u8);
}
/* a zero has no sign and a NaN is 0x80 */
GF_INLINE gf_u8 gf_fnuz_code(gf_u32 code, gf_f32 x) {
    gf_u32 sign = ((gf_u32)x >> 24) & 0x80 & (gf_u32)(code != 0);
    return __builtin_convertvector(code | sign, gf_u8);
}
/* Too large, infinite: the largest number; gf_open_NAME: infinity, or NaN where there is none. */
GF_INLINE gf_u8 gf_to_e4m3fn(gf_f32 x) { return gf_signed_code(gf_encode(x, 3, 7, 0x7e, 0x7e, 0x7f), x); }
GF_INLINE gf_u8 gf_open_e4m3fn(gf_f32 x) { return gf_signed_code(gf_encode(x, 3, 7, 0x7e, 0x7f, 0x7f), x); }
GF_INLINE gf_u8 gf_to_e5m2(gf_f32 x) { return gf_signed_code(gf_encode(x, 2, 15, 0x7b, 0x7b, 0x7e), x); }
GF_INLINE gf_u8 gf_open_e5m2(gf_f32 x) { return gf_signed_code(gf_encode(x, 2, 15, 0x7b, 0x7c, 0x7e), x); }
GF_INLINE gf_u8 gf_to_e4m3fnuz(gf_f32 x) { return gf_fnuz_code(gf_encode(x, 3, 8, 0x7f, 0x7f, 0x80), x); }
GF_INLINE gf_u8 gf_open_e4m3fnuz(gf_f32 x) { return gf_fnuz_code(gf_encode(x, 3, 8, 0x7f, 0x80, 0x80), x); }
GF_INLINE gf_u8 gf_to_e5m2fnuz(gf_f32 x) { return gf_fnuz_code(gf_encode(x, 2, 16, 0x7f, 0x7f, 0x80), x); }
GF_INLINE gf_u8 gf_open_e5m2fnuz(gf_f32 x) { return gf_fnuz_code(gf_encode(x, 2, 16, 0x7f, 0x80, 0x80), x); }
/* has neither infinity nor NaN: NaN becomes -0, as in ml_dtypes */
GF_INLINE gf_u8 gf_to_e2m1(gf_f32 x) {
    gf_u32 sign = ((gf_u32)x >> 28) & 8;
    return __builtin_convertvector(gf_encode(x, 1, 1, 7, 7, 0) | gf_pick_u32((gf_i32)(x != x), gf_splat_u32(8), sign), gf_u8);
}

/* The power of two for |x|: `step` is added to the bits of x, so that the exponent grows from the mantissa 2^23 - step
 * on: 0 rounds down, 2^22 to nearest with ties up, 2^23 - 1 up. Below 2^-127 and above 2^127: held at the ends, or NaN
 * where `open`. */
GF_INLINE gf_u8 gf_to_e8m0(gf_f32 x, uint32_t step, int open) {
    gf_u32 a = (gf_u32)x & 0x7fffffff;
    /* subnormals have their exponent in the mantissa: 2^-127 is 0x400000, and the spaces above it are half as wide */
    gf_u32 scaled = gf_pick_u32((gf_i32)(a < 0x800000), (a << 1) - 0x800000, a);
    gf_u32 e = (scaled + step) >> 23;
    gf_i32 below = (gf_i32)(a < 0x400000), above = (gf_i32)(a >= 0x7f800000) | (gf_i32)(e >= 255);
    e = gf_pick_u32(above, gf_splat_u32(open ? 255 : 254), e);
    e = gf_pick_u32(below, gf_splat_u32(open ? 255 : 0), e);
    return __builtin_convertvector(gf_pick_u32((gf_i32)(x != x), gf_splat_u32(255), e), gf_u8);
}

/* ---- integers of 4 and 2 bits: higher bits are dropped ---- */
GF_INLINE gf_u8 gf_of_u4(gf_u8 v) { return v & 15; }
GF_INLINE gf_u8 gf_of_u2(gf_u8 v) { return v & 3; }
GF_INLINE gf_i8 gf_of_i4(gf_u8 v) { return (gf_i8)(v << 4) >> 4; }
GF_INLINE gf_i8 gf_of_i2(gf_u8 v) { return (gf_i8)(v << 6) >> 6; }
#define GF_DROP_BITS(T, C, S, U)                                                                          \
    GF_INLINE gf_u8 gf_low4_##T(gf_##T v) { return gf_cast_##T##_u8(v) & 15; }                            \
    GF_INLINE gf_u8 gf_low2_##T(gf_##T v) { return gf_cast_##T##_u8(v) & 3; }
GF_INTS(GF_DROP_BITS)

#endif
