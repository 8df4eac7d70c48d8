/* Every primitive of gf_narrow.h over arrays, tails through the partial loads and stores. */
#include "gf_narrow.h"

int64_t lanes(void) { return GF_W; }

/* result lanes O = E of the lanes v of A, over n elements */
#define EACH(SYMBOL, A, CA, O, CO, E)                                                        \
    void SYMBOL(const CA *a, CO *o, int64_t n) {                                             \
        for (int64_t i = 0; i < n; i += GF_W) {                                              \
            int64_t part = n - i < GF_W ? n - i : GF_W;                                      \
            gf_##A v = part < GF_W ? gf_load_part_##A(a + i, part) : gf_load_##A(a + i);     \
            if (part < GF_W) gf_store_part_##O(o + i, E, part);                              \
            else gf_store_##O(o + i, E);                                                     \
        }                                                                                    \
    }

#define HALF(N)                                                                              \
    EACH(of_##N, u16, uint16_t, f32, float, gf_of_##N(v))                                    \
    EACH(to_##N, f32, float, u16, uint16_t, gf_to_##N(v))                                    \
    EACH(round_##N, f32, float, f32, float, gf_round_##N(v))                                 \
    EACH(f64_##N, f64, double, u16, uint16_t, gf_to_##N(gf_odd_f64(v)))                      \
    EACH(i64_##N, i64, int64_t, u16, uint16_t, gf_to_##N(gf_odd_i64(v)))                     \
    EACH(u64_##N, u64, uint64_t, u16, uint16_t, gf_to_##N(gf_odd_u64(v)))                    \
    EACH(i32_##N, i32, int32_t, u16, uint16_t, gf_to_##N(gf_odd_i32(v)))                     \
    EACH(u32_##N, u32, uint32_t, u16, uint16_t, gf_to_##N(gf_odd_u32(v)))                    \
    /* the first n lanes (all for n = GF_W), from one stride to another, through f32 */      \
    void strided_##N(const uint16_t *a, int64_t from, uint16_t *o, int64_t to, int64_t n) {  \
        gf_f32 v = n == GF_W ? gf_loads_##N(a, from) : gf_loads_part_##N(a, from, n);        \
        if (n == GF_W) gf_stores_##N(o, to, v);                                              \
        else gf_stores_part_##N(o, to, v, n);                                                \
    }                                                                                        \
    void partial_##N(const uint16_t *a, uint16_t *o, int64_t n) {                            \
        gf_store_part_##N(o, gf_load_part_##N(a, n), n);                                     \
    }                                                                                        \
    void whole_##N(const uint16_t *a, uint16_t *o) { gf_store_##N(o, gf_load_##N(a)); }      \
    void splat_##N(const uint16_t *a, float *o) {                                            \
        gf_store_f32(o, gf_splat_##N(*a));                                                   \
        o[0] = gf_get_##N(*a);                                                               \
    }
HALF(f16)
HALF(bf16)

#define FLOAT8(N)                                                                            \
    EACH(of_##N, u8, uint8_t, f32, float, gf_of_##N(v))                                      \
    EACH(to_##N, f32, float, u8, uint8_t, gf_to_##N(v))                                      \
    EACH(open_##N, f32, float, u8, uint8_t, gf_open_##N(v))
FLOAT8(e4m3fn) FLOAT8(e4m3fnuz) FLOAT8(e5m2) FLOAT8(e5m2fnuz)
EACH(of_e2m1, u8, uint8_t, f32, float, gf_of_e2m1(v))
EACH(to_e2m1, f32, float, u8, uint8_t, gf_to_e2m1(v))
EACH(of_e8m0, u8, uint8_t, f32, float, gf_of_e8m0(v))
EACH(up_e8m0, f32, float, u8, uint8_t, gf_to_e8m0(v, 0x7fffff, 0))
EACH(nearest_e8m0, f32, float, u8, uint8_t, gf_to_e8m0(v, 0x400000, 0))
EACH(down_e8m0, f32, float, u8, uint8_t, gf_to_e8m0(v, 0, 0))
EACH(open_e8m0, f32, float, u8, uint8_t, gf_to_e8m0(v, 0x400000, 1))

EACH(of_i4, u8, uint8_t, i8, int8_t, gf_of_i4(v))
EACH(of_u4, u8, uint8_t, u8, uint8_t, gf_of_u4(v))
EACH(of_i2, u8, uint8_t, i8, int8_t, gf_of_i2(v))
EACH(of_u2, u8, uint8_t, u8, uint8_t, gf_of_u2(v))
EACH(low4_i32, i32, int32_t, u8, uint8_t, gf_low4_i32(v))
EACH(low2_u64, u64, uint64_t, u8, uint8_t, gf_low2_u64(v))
