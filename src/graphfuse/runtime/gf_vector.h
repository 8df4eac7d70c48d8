/* gf_vector.h - GF_W lanes of every dtype through the compiler's vector extensions.
 *
 * One source serves AVX-512 (GF_W 16), AVX2 (8), SSE2 and NEON (4). Every dtype has the same number of lanes, so a
 * gf_f64 fills two registers. A gf_mask has one int32 per lane, 0 or -1. Bool is uint8_t in memory, gf_mask in
 * registers. Loads and stores need no alignment. Integer arithmetic wraps. The instruction set's own builtins appear
 * only behind a named primitive, and each of them has a portable twin with the same result. */
#ifndef GF_VECTOR_H
#define GF_VECTOR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef GF_W
#if defined(__AVX512F__)
#define GF_W 16
#elif defined(__AVX2__)
#define GF_W 8
#else
#define GF_W 4
#endif
#endif

#if GF_W != 4 && GF_W != 8 && GF_W != 16
#error "GF_W must be 4, 8 or 16"
#endif

#ifndef __has_builtin
#define __has_builtin(x) 0
#endif

/* A vector wider than the machine's registers has no stable calling convention; everything here is inlined, so the
 * compilers' note about that is noise. */
#pragma GCC diagnostic ignored "-Wpsabi"

#define GF_INLINE static inline __attribute__((always_inline, unused))
#define GF_NOINLINE static __attribute__((noinline, unused))
#define GF_LIKELY(x) __builtin_expect(!!(x), 1)
#define GF_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* X(T, C, S, U): dtype, C type, signed and unsigned integer dtypes of the same width. */
#define GF_FLOATS(X) X(f32, float, i32, u32) X(f64, double, i64, u64)
#define GF_SIGNED(X) X(i8, int8_t, i8, u8) X(i16, int16_t, i16, u16) X(i32, int32_t, i32, u32) X(i64, int64_t, i64, u64)
#define GF_UNSIGNED(X) \
    X(u8, uint8_t, i8, u8) X(u16, uint16_t, i16, u16) X(u32, uint32_t, i32, u32) X(u64, uint64_t, i64, u64)
#define GF_INTS(X) GF_SIGNED(X) GF_UNSIGNED(X)
#define GF_DTYPES(X) GF_FLOATS(X) GF_INTS(X)

/* gf_T: GF_W lanes of C. gf_T_mem: the same, at any address and beside any other type. */
#define GF_TYPES(T, C, S, U)                                              \
    typedef C gf_##T __attribute__((vector_size(GF_W * sizeof(C))));      \
    typedef C gf_##T##_mem __attribute__((vector_size(GF_W * sizeof(C)), aligned(1), may_alias));
GF_DTYPES(GF_TYPES)
typedef gf_i32 gf_mask;

/* ---- whole vectors: load, splat, store; any stride (in elements, 0 and negative too) ---- */
#define GF_MEMORY(T, C, S, U)                                                                                   \
    GF_INLINE gf_##T gf_load_##T(const C *p) { return *(const gf_##T##_mem *)(const void *)p; }                 \
    GF_INLINE void gf_store_##T(C *p, gf_##T v) { *(gf_##T##_mem *)(void *)p = v; }                             \
    /* x - 0 keeps the sign of -0; 0 + x would not */                                                           \
    GF_INLINE gf_##T gf_splat_##T(C x) { return x - (gf_##T){0}; }                                              \
    GF_INLINE gf_##T gf_loads_part_##T(const C *p, int64_t stride, int64_t n) {                                 \
        gf_##T v = {0};                                                                                         \
        for (int64_t i = 0; i < n; i++) v[i] = p[i * stride];                                                   \
        return v;                                                                                               \
    }                                                                                                           \
    GF_INLINE void gf_stores_part_##T(C *p, int64_t stride, gf_##T v, int64_t n) {                              \
        for (int64_t i = 0; i < n; i++) p[i * stride] = v[i];                                                   \
    }                                                                                                           \
    GF_INLINE gf_##T gf_loads_##T(const C *p, int64_t stride) { return gf_loads_part_##T(p, stride, GF_W); }    \
    GF_INLINE void gf_stores_##T(C *p, int64_t stride, gf_##T v) { gf_stores_part_##T(p, stride, v, GF_W); }
GF_DTYPES(GF_MEMORY)

/* ---- the first n lanes, 0 <= n < GF_W: steps of 8, 4, 2, 1 elements; other lanes load as zero, memory beyond p[n-1]
 * is neither read nor written ---- */
#define GF_PART_STEP(K, C, DST, SRC)                    \
    if (GF_W > (K) && (n & (K))) {                      \
        memcpy((DST) + i, (SRC) + i, (K) * sizeof(C));  \
        i += (K);                                       \
    }
#define GF_PART_STEPS(C, DST, SRC) \
    GF_PART_STEP(8, C, DST, SRC) GF_PART_STEP(4, C, DST, SRC) GF_PART_STEP(2, C, DST, SRC) GF_PART_STEP(1, C, DST, SRC)
#define GF_PART(T, C, S, U)                                                 \
    GF_INLINE gf_##T gf_load_part_##T(const C *p, int64_t n) {              \
        C lanes[GF_W] = {0};                                                \
        int64_t i = 0;                                                      \
        GF_PART_STEPS(C, lanes, p)                                          \
        (void)i;                                                            \
        return gf_load_##T(lanes);                                          \
    }                                                                       \
    GF_INLINE void gf_store_part_##T(C *p, gf_##T v, int64_t n) {           \
        C lanes[GF_W];                                                      \
        int64_t i = 0;                                                      \
        gf_store_##T(lanes, v);                                             \
        GF_PART_STEPS(C, p, lanes)                                          \
        (void)i;                                                            \
    }

/* lane numbers 0..GF_W-1 */
#if GF_W == 16
#define GF_IOTA 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#elif GF_W == 8
#define GF_IOTA 0, 1, 2, 3, 4, 5, 6, 7
#else
#define GF_IOTA 0, 1, 2, 3
#endif
GF_INLINE gf_i32 gf_iota(void) { return (gf_i32){GF_IOTA}; }
/* true in the first n lanes */
GF_INLINE gf_mask gf_first(int64_t n) { return (gf_mask)(gf_iota() < (int32_t)n); }

/* 32-bit lanes: masked moves where the machine has them */
#if GF_W == 16 && __has_builtin(__builtin_ia32_loadups512_mask) && __has_builtin(__builtin_ia32_storeups512_mask)
GF_INLINE gf_f32 gf_load_part_f32(const float *p, int64_t n) {
    return __builtin_ia32_loadups512_mask((const void *)p, (gf_f32){0}, (uint16_t)((1u << n) - 1u));
}
GF_INLINE void gf_store_part_f32(float *p, gf_f32 v, int64_t n) {
    __builtin_ia32_storeups512_mask((void *)p, v, (uint16_t)((1u << n) - 1u));
}
#define GF_MASKED_MOVES 1
#elif GF_W == 8 && __has_builtin(__builtin_ia32_maskloadps256) && __has_builtin(__builtin_ia32_maskstoreps256)
GF_INLINE gf_f32 gf_load_part_f32(const float *p, int64_t n) {
    return __builtin_ia32_maskloadps256((const void *)p, gf_first(n));
}
GF_INLINE void gf_store_part_f32(float *p, gf_f32 v, int64_t n) {
    __builtin_ia32_maskstoreps256((void *)p, gf_first(n), v);
}
#define GF_MASKED_MOVES 1
#endif

#ifdef GF_MASKED_MOVES
#define GF_PART_AS_F32(T, C)                                                                                       \
    GF_INLINE gf_##T gf_load_part_##T(const C *p, int64_t n) {                                                     \
        return (gf_##T)gf_load_part_f32((const float *)(const void *)p, n);                                        \
    }                                                                                                              \
    GF_INLINE void gf_store_part_##T(C *p, gf_##T v, int64_t n) {                                                  \
        gf_store_part_f32((float *)(void *)p, (gf_f32)v, n);                                                       \
    }
GF_PART_AS_F32(i32, int32_t)
GF_PART_AS_F32(u32, uint32_t)
#else
GF_PART(f32, float, i32, u32)
GF_PART(i32, int32_t, i32, u32)
GF_PART(u32, uint32_t, i32, u32)
#endif
GF_PART(f64, double, i64, u64)
GF_PART(i8, int8_t, i8, u8)
GF_PART(u8, uint8_t, i8, u8)
GF_PART(i16, int16_t, i16, u16)
GF_PART(u16, uint16_t, i16, u16)
GF_PART(i64, int64_t, i64, u64)
GF_PART(u64, uint64_t, i64, u64)

/* ---- masks ---- */
/* a gf_mask with the lane width of T, and back */
#define GF_WIDTHS(T, C, S, U)                                                                                   \
    GF_INLINE gf_##S gf_widen_##T(gf_mask m) { return __builtin_convertvector(m, gf_##S); }                     \
    GF_INLINE gf_mask gf_narrow_##T(gf_##S m) { return __builtin_convertvector(m, gf_mask); }                   \
    GF_INLINE gf_##T gf_pick_##T(gf_##S m, gf_##T a, gf_##T b) {                                                \
        return (gf_##T)((m & (gf_##S)a) | (~m & (gf_##S)b));                                                    \
    }                                                                                                           \
    GF_INLINE gf_##T gf_select_##T(gf_mask m, gf_##T a, gf_##T b) { return gf_pick_##T(gf_widen_##T(m), a, b); }
GF_DTYPES(GF_WIDTHS)

#define GF_COMPARE_ONE(NAME, OP, T, S) \
    GF_INLINE gf_mask gf_##NAME##_##T(gf_##T a, gf_##T b) { return gf_narrow_##T((gf_##S)(a OP b)); }
#define GF_COMPARE(T, C, S, U)    \
    GF_COMPARE_ONE(lt, <, T, S)   \
    GF_COMPARE_ONE(le, <=, T, S)  \
    GF_COMPARE_ONE(gt, >, T, S)   \
    GF_COMPARE_ONE(ge, >=, T, S)  \
    GF_COMPARE_ONE(eq, ==, T, S)  \
    GF_COMPARE_ONE(ne, !=, T, S)
GF_DTYPES(GF_COMPARE)

GF_INLINE gf_mask gf_splat_bool(int x) { return (gf_mask){0} - (x != 0); }
GF_INLINE gf_mask gf_mask_of_u8(gf_u8 v) { return gf_narrow_u8((gf_i8)(v != 0)); }
GF_INLINE gf_u8 gf_u8_of_mask(gf_mask m) { return (gf_u8)(gf_widen_u8(m) & 1); }
GF_INLINE gf_mask gf_load_bool(const uint8_t *p) { return gf_mask_of_u8(gf_load_u8(p)); }
GF_INLINE gf_mask gf_load_part_bool(const uint8_t *p, int64_t n) { return gf_mask_of_u8(gf_load_part_u8(p, n)); }
GF_INLINE gf_mask gf_loads_bool(const uint8_t *p, int64_t stride) { return gf_mask_of_u8(gf_loads_u8(p, stride)); }
GF_INLINE gf_mask gf_loads_part_bool(const uint8_t *p, int64_t stride, int64_t n) {
    return gf_mask_of_u8(gf_loads_part_u8(p, stride, n));
}
GF_INLINE void gf_store_bool(uint8_t *p, gf_mask m) { gf_store_u8(p, gf_u8_of_mask(m)); }
GF_INLINE void gf_store_part_bool(uint8_t *p, gf_mask m, int64_t n) { gf_store_part_u8(p, gf_u8_of_mask(m), n); }
GF_INLINE void gf_stores_bool(uint8_t *p, int64_t stride, gf_mask m) { gf_stores_u8(p, stride, gf_u8_of_mask(m)); }
GF_INLINE void gf_stores_part_bool(uint8_t *p, int64_t stride, gf_mask m, int64_t n) {
    gf_stores_part_u8(p, stride, gf_u8_of_mask(m), n);
}
GF_INLINE gf_mask gf_select_bool(gf_mask m, gf_mask a, gf_mask b) { return gf_pick_i32(m, a, b); }
GF_INLINE gf_mask gf_and_bool(gf_mask a, gf_mask b) { return a & b; }
GF_INLINE gf_mask gf_or_bool(gf_mask a, gf_mask b) { return a | b; }
GF_INLINE gf_mask gf_xor_bool(gf_mask a, gf_mask b) { return a ^ b; }
GF_INLINE gf_mask gf_not_bool(gf_mask a) { return ~a; }
GF_INLINE gf_mask gf_eq_bool(gf_mask a, gf_mask b) { return ~(a ^ b); }
GF_INLINE gf_mask gf_ne_bool(gf_mask a, gf_mask b) { return a ^ b; }

/* ---- arithmetic that wraps: signed overflow would be undefined, so integers pass through their unsigned twin ---- */
#define GF_WRAPPING(T, C, S, U)                                                                       \
    GF_INLINE gf_##T gf_add_##T(gf_##T a, gf_##T b) { return (gf_##T)((gf_##U)a + (gf_##U)b); }       \
    GF_INLINE gf_##T gf_sub_##T(gf_##T a, gf_##T b) { return (gf_##T)((gf_##U)a - (gf_##U)b); }       \
    GF_INLINE gf_##T gf_mul_##T(gf_##T a, gf_##T b) { return (gf_##T)((gf_##U)a * (gf_##U)b); }       \
    GF_INLINE gf_##T gf_neg_##T(gf_##T a) { return (gf_##T)((gf_##U){0} - (gf_##U)a); }               \
    GF_INLINE gf_##T gf_min_##T(gf_##T a, gf_##T b) { return gf_pick_##T((gf_##S)(a < b), a, b); }    \
    GF_INLINE gf_##T gf_max_##T(gf_##T a, gf_##T b) { return gf_pick_##T((gf_##S)(a > b), a, b); }    \
    GF_INLINE gf_##T gf_relu_##T(gf_##T a) { return gf_max_##T(a, (gf_##T){0}); }
GF_INTS(GF_WRAPPING)

#define GF_FLOAT_ARITHMETIC(T, C, S, U)                                                                        \
    GF_INLINE gf_##T gf_add_##T(gf_##T a, gf_##T b) { return a + b; }                                          \
    GF_INLINE gf_##T gf_sub_##T(gf_##T a, gf_##T b) { return a - b; }                                          \
    GF_INLINE gf_##T gf_mul_##T(gf_##T a, gf_##T b) { return a * b; }                                          \
    GF_INLINE gf_##T gf_div_##T(gf_##T a, gf_##T b) { return a / b; }                                          \
    GF_INLINE gf_##T gf_signbit_##T(void) { return gf_splat_##T((C)-0.0); }                                    \
    GF_INLINE gf_##T gf_neg_##T(gf_##T a) { return (gf_##T)((gf_##U)a ^ (gf_##U)gf_signbit_##T()); }           \
    GF_INLINE gf_##T gf_abs_##T(gf_##T a) { return (gf_##T)((gf_##U)a & ~(gf_##U)gf_signbit_##T()); }          \
    /* magnitude of a, sign of b */                                                                            \
    GF_INLINE gf_##T gf_copysign_##T(gf_##T a, gf_##T b) {                                                     \
        return (gf_##T)((gf_##U)gf_abs_##T(a) | ((gf_##U)b & (gf_##U)gf_signbit_##T()));                       \
    }                                                                                                          \
    GF_INLINE gf_mask gf_isnan_##T(gf_##T a) { return gf_narrow_##T((gf_##S)(a != a)); }                       \
    GF_INLINE gf_mask gf_isinf_##T(gf_##T a) {                                                                 \
        return gf_narrow_##T((gf_##S)(gf_abs_##T(a) == gf_splat_##T((C)INFINITY)));                            \
    }
GF_FLOATS(GF_FLOAT_ARITHMETIC)

/* gf_maxb, gf_minb: the second operand where either is NaN or both are equal - what one x86 instruction computes. */
#if GF_W == 16 && __has_builtin(__builtin_ia32_maxps512)
GF_INLINE gf_f32 gf_maxb_f32(gf_f32 a, gf_f32 b) { return __builtin_ia32_maxps512(a, b, 4); }
GF_INLINE gf_f32 gf_minb_f32(gf_f32 a, gf_f32 b) { return __builtin_ia32_minps512(a, b, 4); }
#define GF_MAXB_F32 1
#elif GF_W == 16 && __has_builtin(__builtin_ia32_maxps512_mask)
GF_INLINE gf_f32 gf_maxb_f32(gf_f32 a, gf_f32 b) { return __builtin_ia32_maxps512_mask(a, b, a, (short)-1, 4); }
GF_INLINE gf_f32 gf_minb_f32(gf_f32 a, gf_f32 b) { return __builtin_ia32_minps512_mask(a, b, a, (short)-1, 4); }
#define GF_MAXB_F32 1
#elif GF_W == 8 && defined(__AVX__) && __has_builtin(__builtin_ia32_maxps256)
GF_INLINE gf_f32 gf_maxb_f32(gf_f32 a, gf_f32 b) { return __builtin_ia32_maxps256(a, b); }
GF_INLINE gf_f32 gf_minb_f32(gf_f32 a, gf_f32 b) { return __builtin_ia32_minps256(a, b); }
#define GF_MAXB_F32 1
#elif GF_W == 4 && defined(__SSE2__) && __has_builtin(__builtin_ia32_maxps)
GF_INLINE gf_f32 gf_maxb_f32(gf_f32 a, gf_f32 b) { return __builtin_ia32_maxps(a, b); }
GF_INLINE gf_f32 gf_minb_f32(gf_f32 a, gf_f32 b) { return __builtin_ia32_minps(a, b); }
#define GF_MAXB_F32 1
#endif
#define GF_MAXB(T, C, S, U)                                                                            \
    GF_INLINE gf_##T gf_maxb_##T(gf_##T a, gf_##T b) { return gf_pick_##T((gf_##S)(a > b), a, b); }    \
    GF_INLINE gf_##T gf_minb_##T(gf_##T a, gf_##T b) { return gf_pick_##T((gf_##S)(a < b), a, b); }
#ifndef GF_MAXB_F32
GF_MAXB(f32, float, i32, u32)
#endif
GF_MAXB(f64, double, i64, u64)

/* gf_max, gf_min: NaN where either is NaN (ONNX, numpy); gf_maxk, gf_mink: the same where k is known not to be NaN, in
 * one instruction. gf_relu: max(x, 0), NaN for NaN. Of two zeros either. */
#if !defined(__SSE2__) && __has_builtin(__builtin_elementwise_maximum) && __has_builtin(__builtin_elementwise_minimum)
/* NEON and wasm have this as one instruction */
#define GF_FLOAT_MINMAX(T, C, S, U)                                                                             \
    GF_INLINE gf_##T gf_max_##T(gf_##T a, gf_##T b) { return __builtin_elementwise_maximum(a, b); }             \
    GF_INLINE gf_##T gf_min_##T(gf_##T a, gf_##T b) { return __builtin_elementwise_minimum(a, b); }             \
    GF_INLINE gf_##T gf_maxk_##T(gf_##T k, gf_##T a) { return gf_max_##T(k, a); }                               \
    GF_INLINE gf_##T gf_mink_##T(gf_##T k, gf_##T a) { return gf_min_##T(k, a); }
#else
#define GF_FLOAT_MINMAX(T, C, S, U)                                                                                    \
    GF_INLINE gf_##T gf_max_##T(gf_##T a, gf_##T b) { return gf_pick_##T((gf_##S)(a != a), a, gf_maxb_##T(a, b)); }    \
    GF_INLINE gf_##T gf_min_##T(gf_##T a, gf_##T b) { return gf_pick_##T((gf_##S)(a != a), a, gf_minb_##T(a, b)); }    \
    GF_INLINE gf_##T gf_maxk_##T(gf_##T k, gf_##T a) { return gf_maxb_##T(k, a); }                                     \
    GF_INLINE gf_##T gf_mink_##T(gf_##T k, gf_##T a) { return gf_minb_##T(k, a); }
#endif
#define GF_RELU(T, C, S, U) GF_INLINE gf_##T gf_relu_##T(gf_##T a) { return gf_maxk_##T((gf_##T){0}, a); }
GF_FLOATS(GF_FLOAT_MINMAX)
GF_FLOATS(GF_RELU)

/* ---- tables: gf_lookup16 is t[k mod 16], gf_lookup32 t[k mod 32]: one instruction where GF_LOOKUP is defined ---- */
#if GF_W == 16 && __has_builtin(__builtin_ia32_permvarsf512) && __has_builtin(__builtin_ia32_vpermi2varps512)
GF_INLINE gf_f32 gf_lookup16_f32(const float *t, gf_i32 k) {
    return __builtin_ia32_permvarsf512(gf_load_f32(t), k);
}
GF_INLINE gf_f32 gf_lookup32_f32(const float *t, gf_i32 k) {
    return __builtin_ia32_vpermi2varps512(gf_load_f32(t), k, gf_load_f32(t + 16));
}
#define GF_LOOKUP 1
#elif GF_W == 16 && __has_builtin(__builtin_ia32_permvarsf512_mask) && \
    __has_builtin(__builtin_ia32_vpermt2varps512_mask)
GF_INLINE gf_f32 gf_lookup16_f32(const float *t, gf_i32 k) {
    gf_f32 v = gf_load_f32(t);
    return __builtin_ia32_permvarsf512_mask(v, k, v, (short)-1);
}
GF_INLINE gf_f32 gf_lookup32_f32(const float *t, gf_i32 k) {
    return __builtin_ia32_vpermt2varps512_mask(k, gf_load_f32(t), gf_load_f32(t + 16), (short)-1);
}
#define GF_LOOKUP 1
#else
GF_INLINE gf_f32 gf_lookup16_f32(const float *t, gf_i32 k) {
    gf_f32 r;
    for (int i = 0; i < GF_W; i++) r[i] = t[k[i] & 15];
    return r;
}
GF_INLINE gf_f32 gf_lookup32_f32(const float *t, gf_i32 k) {
    gf_f32 r;
    for (int i = 0; i < GF_W; i++) r[i] = t[k[i] & 31];
    return r;
}
#endif

/* gf_limit: a where |a| <= m, m with a's sign elsewhere and for NaN; m is a number above 0 */
#if GF_W == 16 && defined(__AVX512DQ__) && __has_builtin(__builtin_ia32_rangeps512_mask)
GF_INLINE gf_f32 gf_limit_f32(gf_f32 a, gf_f32 m) {
    return __builtin_ia32_rangeps512_mask(a, m, 2, a, (short)-1, 4);
}
#else
GF_INLINE gf_f32 gf_limit_f32(gf_f32 a, gf_f32 m) { return gf_copysign_f32(gf_minb_f32(gf_abs_f32(a), m), a); }
#endif

/* ---- squares turned over: `to` gets in row i column i of `from`, strides in elements, for elements of any type of so
 * many bits. A row is a register: of 16 bytes where elements are narrow, which every machine interleaves at once. ---- */
#define GF_LOWER_2 0, 2
#define GF_UPPER_2 1, 3
#define GF_LOWER_4 0, 4, 1, 5
#define GF_UPPER_4 2, 6, 3, 7
#define GF_LOWER_8 0, 8, 1, 9, 2, 10, 3, 11
#define GF_UPPER_8 4, 12, 5, 13, 6, 14, 7, 15
#define GF_LOWER_16 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define GF_UPPER_16 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#if GF_W == 16
#define GF_LOWER GF_LOWER_16
#define GF_UPPER GF_UPPER_16
#define GF_LOWER_HALF GF_LOWER_8
#define GF_UPPER_HALF GF_UPPER_8
#elif GF_W == 8
#define GF_LOWER GF_LOWER_8
#define GF_UPPER GF_UPPER_8
#define GF_LOWER_HALF GF_LOWER_4
#define GF_UPPER_HALF GF_UPPER_4
#else
#define GF_LOWER GF_LOWER_4
#define GF_UPPER GF_UPPER_4
#define GF_LOWER_HALF GF_LOWER_2
#define GF_UPPER_HALF GF_UPPER_2
#endif
#if __has_builtin(__builtin_shufflevector)
#define GF_MIX(mask, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else /* gcc before 12 */
#define GF_MIX(mask, a, b, ...) __builtin_shuffle(a, b, (mask){__VA_ARGS__})
#endif
/* Each round interleaves the rows i and i + N / 2: as many as N has bits bring every element home. */
#define GF_TURN(BITS, N, LOWER, UPPER)                                                                      \
    typedef uint##BITS##_t gf_row_##BITS __attribute__((vector_size((N) * (BITS) / 8)));                    \
    typedef uint##BITS##_t gf_row_##BITS##_mem                                                              \
        __attribute__((vector_size((N) * (BITS) / 8), aligned(1), may_alias));                              \
    GF_INLINE void gf_turn_##BITS(const void *from, int64_t from_stride, void *to, int64_t to_stride) {     \
        const char *x = from;                                                                               \
        char *y = to;                                                                                       \
        gf_row_##BITS v[N], u[N];                                                                           \
        for (int i = 0; i < (N); i++) v[i] = *(const gf_row_##BITS##_mem *)(x + i * from_stride * ((BITS) / 8)); \
        for (int round = 1; round < (N); round *= 2) {                                                      \
            for (int i = 0; i < (N) / 2; i++) {                                                             \
                u[2 * i] = GF_MIX(gf_row_##BITS, v[i], v[i + (N) / 2], LOWER);                              \
                u[2 * i + 1] = GF_MIX(gf_row_##BITS, v[i], v[i + (N) / 2], UPPER);                          \
            }                                                                                               \
            for (int i = 0; i < (N); i++) v[i] = u[i];                                                      \
        }                                                                                                   \
        for (int i = 0; i < (N); i++) *(gf_row_##BITS##_mem *)(y + i * to_stride * ((BITS) / 8)) = v[i];    \
    }
GF_TURN(8, 16, GF_LOWER_16, GF_UPPER_16)
GF_TURN(16, 8, GF_LOWER_8, GF_UPPER_8)
GF_TURN(32, GF_W, GF_LOWER, GF_UPPER)
GF_TURN(64, GF_W / 2, GF_LOWER_HALF, GF_UPPER_HALF)

/* ---- halves: the lower one of a with the upper one of b; both of v exchanged ---- */
#if GF_W == 16
#define GF_JOINED 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31
#define GF_SWAPPED 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7
#elif GF_W == 8
#define GF_JOINED 0, 1, 2, 3, 12, 13, 14, 15
#define GF_SWAPPED 4, 5, 6, 7, 0, 1, 2, 3
#else
#define GF_JOINED 0, 1, 6, 7
#define GF_SWAPPED 2, 3, 0, 1
#endif
GF_INLINE gf_f32 gf_join_f32(gf_f32 a, gf_f32 b) { return GF_MIX(gf_i32, a, b, GF_JOINED); }
GF_INLINE gf_f32 gf_swap_f32(gf_f32 v) { return GF_MIX(gf_i32, v, v, GF_SWAPPED); }

/* ---- sums of many vectors at once: lane i of the result is the sum of the lanes of a[i], GF_W vectors in all. In each
 * step two vectors become one that holds the halves' sums of both, in blocks of twice as many. ---- */
#if GF_W == 16
#define GF_LOW_8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define GF_HIGH_8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define GF_LOW_4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define GF_HIGH_4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define GF_LOW_2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define GF_HIGH_2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define GF_LOW_1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define GF_HIGH_1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#elif GF_W == 8
#define GF_LOW_4 0, 1, 2, 3, 8, 9, 10, 11
#define GF_HIGH_4 4, 5, 6, 7, 12, 13, 14, 15
#define GF_LOW_2 0, 1, 8, 9, 4, 5, 12, 13
#define GF_HIGH_2 2, 3, 10, 11, 6, 7, 14, 15
#define GF_LOW_1 0, 8, 2, 10, 4, 12, 6, 14
#define GF_HIGH_1 1, 9, 3, 11, 5, 13, 7, 15
#else
#define GF_LOW_2 0, 1, 4, 5
#define GF_HIGH_2 2, 3, 6, 7
#define GF_LOW_1 0, 4, 2, 6
#define GF_HIGH_1 1, 5, 3, 7
#endif
#define GF_FOLD_PAIRS(a, n, LOW, HIGH) \
    for (int i = 0; i < (n); i++) a[i] = GF_MIX(gf_i32, a[i], a[i + (n)], LOW) + GF_MIX(gf_i32, a[i], a[i + (n)], HIGH)
GF_INLINE gf_f32 gf_sums_f32(gf_f32 *a) {
#if GF_W == 16
    GF_FOLD_PAIRS(a, 8, GF_LOW_8, GF_HIGH_8);
#endif
#if GF_W >= 8
    GF_FOLD_PAIRS(a, 4, GF_LOW_4, GF_HIGH_4);
#endif
    GF_FOLD_PAIRS(a, 2, GF_LOW_2, GF_HIGH_2);
    GF_FOLD_PAIRS(a, 1, GF_LOW_1, GF_HIGH_1);
    return a[0];
}

/* ---- horizontal reductions: lane i meets lane i ^ h for h = GF_W/2 .. 1, so the order is fixed ---- */
#if __has_builtin(__builtin_shufflevector)
#define GF_SHUFFLE(v, S, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else /* gcc before 12 */
#define GF_SHUFFLE(v, S, ...) __builtin_shuffle(v, (gf_##S){__VA_ARGS__})
#endif
#if GF_W == 16
#define GF_FOLD(f, v, S)                                                                \
    v = f(v, GF_SHUFFLE(v, S, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));   \
    v = f(v, GF_SHUFFLE(v, S, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));   \
    v = f(v, GF_SHUFFLE(v, S, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));   \
    v = f(v, GF_SHUFFLE(v, S, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14))
#elif GF_W == 8
#define GF_FOLD(f, v, S)                                \
    v = f(v, GF_SHUFFLE(v, S, 4, 5, 6, 7, 0, 1, 2, 3)); \
    v = f(v, GF_SHUFFLE(v, S, 2, 3, 0, 1, 6, 7, 4, 5)); \
    v = f(v, GF_SHUFFLE(v, S, 1, 0, 3, 2, 5, 4, 7, 6))
#else
#define GF_FOLD(f, v, S)                    \
    v = f(v, GF_SHUFFLE(v, S, 2, 3, 0, 1)); \
    v = f(v, GF_SHUFFLE(v, S, 1, 0, 3, 2))
#endif
#define GF_HORIZONTAL(T, C, S, U)                                                   \
    GF_INLINE C gf_hsum_##T(gf_##T v) { GF_FOLD(gf_add_##T, v, S); return v[0]; }   \
    GF_INLINE C gf_hprod_##T(gf_##T v) { GF_FOLD(gf_mul_##T, v, S); return v[0]; }  \
    GF_INLINE C gf_hmax_##T(gf_##T v) { GF_FOLD(gf_max_##T, v, S); return v[0]; }   \
    GF_INLINE C gf_hmin_##T(gf_##T v) { GF_FOLD(gf_min_##T, v, S); return v[0]; }
GF_DTYPES(GF_HORIZONTAL)
GF_INLINE float gf_hmaxb_f32(gf_f32 v) { GF_FOLD(gf_maxb_f32, v, i32); return v[0]; }
GF_INLINE double gf_hmaxb_f64(gf_f64 v) { GF_FOLD(gf_maxb_f64, v, i64); return v[0]; }
GF_INLINE int gf_any(gf_mask m) { GF_FOLD(gf_or_bool, m, i32); return m[0] != 0; }
GF_INLINE int gf_all(gf_mask m) { GF_FOLD(gf_and_bool, m, i32); return m[0] != 0; }

#endif
