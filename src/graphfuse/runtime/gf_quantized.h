/* gf_quantized.h - what quantised arithmetic is made of: rounding into narrow integers, sums of products of bytes.
 *
 * Everything here is exact: a portable twin gives the same bits. */
#ifndef GF_QUANTIZED_H
#define GF_QUANTIZED_H

#include "gf_int.h"

/* ---- gf_nearest_i32: the nearest integer, halves to even, of |v| < 2^22 ---- */
#if GF_W == 16 && __has_builtin(__builtin_ia32_cvtps2dq512_mask)
GF_INLINE gf_i32 gf_nearest_i32(gf_f32 v) {
    return __builtin_ia32_cvtps2dq512_mask(v, (gf_i32){0}, (uint16_t)-1, 4);
}
#elif GF_W == 8 && defined(__AVX__) && __has_builtin(__builtin_ia32_cvtps2dq256)
GF_INLINE gf_i32 gf_nearest_i32(gf_f32 v) { return __builtin_ia32_cvtps2dq256(v); }
#elif GF_W == 4 && defined(__SSE2__) && __has_builtin(__builtin_ia32_cvtps2dq)
GF_INLINE gf_i32 gf_nearest_i32(gf_f32 v) { return __builtin_ia32_cvtps2dq(v); }
#else
/* 1.5 * 2^23: in a sum with it the last bit is worth 1 */
GF_INLINE gf_i32 gf_nearest_i32(gf_f32 v) {
    const gf_f32 shift = gf_splat_f32(12582912.0f);
    return __builtin_convertvector((v + shift) - shift, gf_i32);
}
#endif

/* gf_saturate_FROM_TO: the nearest integer, halves to even, held inside TO's range; NaN gives the least */
#define GF_SATURATE(B, LO, HI)                                                                                         \
    GF_INLINE gf_##B gf_saturate_f32_##B(gf_f32 v) {                                                                   \
        const gf_f32 held = gf_minb_f32(gf_maxb_f32(v, gf_splat_f32(LO)), gf_splat_f32(HI));                           \
        return __builtin_convertvector(gf_nearest_i32(held), gf_##B);                                                  \
    }
GF_SATURATE(i8, -128.0f, 127.0f)
GF_SATURATE(u8, 0.0f, 255.0f)
GF_SATURATE(i16, -32768.0f, 32767.0f)
GF_SATURATE(u16, 0.0f, 65535.0f)

/* ---- sums of products of bytes: lane i of the result is s[i] + the sum over j < 4 of a[i].j * b[i].j, where x.j is byte
 * j of a 32-bit lane; the bytes of b are signed, those of a unsigned (gf_dot_us) or signed (gf_dot_ss). Wraps. ---- */
#if GF_W == 16 && defined(__AVX512BW__) && __has_builtin(__builtin_ia32_pmaddwd512)
typedef int16_t gf_pairs __attribute__((vector_size(64)));
GF_INLINE gf_i32 gf_madd(gf_i32 a, gf_i32 b) { return (gf_i32)__builtin_ia32_pmaddwd512((gf_pairs)a, (gf_pairs)b); }
#define GF_MADD 1
#elif GF_W == 16 && defined(__AVX512BW__) && __has_builtin(__builtin_ia32_pmaddwd512_mask)
typedef int16_t gf_pairs __attribute__((vector_size(64)));
GF_INLINE gf_i32 gf_madd(gf_i32 a, gf_i32 b) {
    return (gf_i32)__builtin_ia32_pmaddwd512_mask((gf_pairs)a, (gf_pairs)b, (gf_i32){0}, (uint16_t)-1);
}
#define GF_MADD 1
#elif GF_W == 8 && defined(__AVX2__) && __has_builtin(__builtin_ia32_pmaddwd256)
typedef int16_t gf_pairs __attribute__((vector_size(32)));
GF_INLINE gf_i32 gf_madd(gf_i32 a, gf_i32 b) { return (gf_i32)__builtin_ia32_pmaddwd256((gf_pairs)a, (gf_pairs)b); }
#define GF_MADD 1
#elif GF_W == 4 && defined(__SSE2__) && __has_builtin(__builtin_ia32_pmaddwd128)
typedef int16_t gf_pairs __attribute__((vector_size(16)));
GF_INLINE gf_i32 gf_madd(gf_i32 a, gf_i32 b) { return (gf_i32)__builtin_ia32_pmaddwd128((gf_pairs)a, (gf_pairs)b); }
#define GF_MADD 1
#endif

#ifdef GF_MADD
/* Bytes 0 and 2, or 1 and 3, as pairs of 16 bits: their products and sums of two are exact, unlike those of pmaddubsw. */
GF_INLINE gf_i32 gf_even_bytes_u(gf_i32 v) { return v & 0x00ff00ff; }
GF_INLINE gf_i32 gf_odd_bytes_u(gf_i32 v) { return (gf_i32)((gf_u32)v >> 8) & 0x00ff00ff; }
GF_INLINE gf_i32 gf_even_bytes_s(gf_i32 v) { return (gf_i32)((gf_pairs)((gf_u32)v << 8) >> 8); }
GF_INLINE gf_i32 gf_odd_bytes_s(gf_i32 v) { return (gf_i32)((gf_pairs)v >> 8); }
#define GF_DOT(NAME, KIND)                                                                                             \
    GF_INLINE gf_i32 NAME(gf_i32 s, gf_i32 a, gf_i32 b) {                                                              \
        const gf_i32 even = gf_madd(gf_even_bytes_##KIND(a), gf_even_bytes_s(b));                                      \
        return gf_add_i32(s, gf_add_i32(even, gf_madd(gf_odd_bytes_##KIND(a), gf_odd_bytes_s(b))));                    \
    }
#else
GF_INLINE gf_i32 gf_byte_u(gf_i32 v, int j) { return (gf_i32)(((gf_u32)v >> (8 * j)) & 0xff); }
GF_INLINE gf_i32 gf_byte_s(gf_i32 v, int j) { return (gf_i32)((gf_u32)v << (24 - 8 * j)) >> 24; }
#define GF_DOT(NAME, KIND)                                                                                             \
    GF_INLINE gf_i32 NAME(gf_i32 s, gf_i32 a, gf_i32 b) {                                                              \
        for (int j = 0; j < 4; j++) s = gf_add_i32(s, gf_byte_##KIND(a, j) * gf_byte_s(b, j));                         \
        return s;                                                                                                      \
    }
#endif

/* One instruction where the machine has it; the compilers' builtins for it change their types from version to version. */
#if GF_W == 16 && defined(__AVX512VNNI__)
GF_INLINE gf_i32 gf_dot_us(gf_i32 s, gf_i32 a, gf_i32 b) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(a), "v"(b));
    return s;
}
#elif GF_W == 8 && defined(__AVXVNNI__)
GF_INLINE gf_i32 gf_dot_us(gf_i32 s, gf_i32 a, gf_i32 b) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(s) : "x"(a), "x"(b));
    return s;
}
#elif GF_W == 4 && defined(__aarch64__) && defined(__ARM_FEATURE_MATMUL_INT8)
GF_INLINE gf_i32 gf_dot_us(gf_i32 s, gf_i32 a, gf_i32 b) {
    __asm__("usdot %0.4s, %1.16b, %2.16b" : "+w"(s) : "w"(a), "w"(b));
    return s;
}
#else
GF_DOT(gf_dot_us, u)
#endif
#if GF_W == 4 && defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
GF_INLINE gf_i32 gf_dot_ss(gf_i32 s, gf_i32 a, gf_i32 b) {
    __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(s) : "w"(a), "w"(b));
    return s;
}
#else
GF_DOT(gf_dot_ss, s)
#endif

/* four bytes in every lane; `part`: the first n of them, 0 < n < 4, and zeros, none of the others read */
GF_INLINE gf_i32 gf_splat_bytes(const void *p) {
    int32_t four;
    memcpy(&four, p, 4);
    return gf_splat_i32(four);
}
GF_INLINE gf_i32 gf_splat_bytes_part(const void *p, int64_t n) {
    const uint8_t *const q = (const uint8_t *)p;
    uint32_t some = q[0];
    if (n > 1) some |= (uint32_t)q[1] << 8;
    if (n > 2) some |= (uint32_t)q[2] << 16;
    return gf_splat_i32((int32_t)some);
}

#endif
