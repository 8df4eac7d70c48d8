/* gf_random.h - random words from a counter: Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw: "Parallel random
 * numbers: as easy as 1, 2, 3", 2011). Additions, rotations and exclusive ors only: the same words on every machine. */
#ifndef GF_RANDOM_H
#define GF_RANDOM_H

#include "gf_int.h"

#define GF_THREEFRY_ROUND(N)                 \
    x0 += x1;                                \
    x1 = ((x1 << (N)) | (x1 >> (32 - (N)))); \
    x1 ^= x0;
#define GF_THREEFRY_KEY(A, B, N) \
    x0 += (A);                   \
    x1 += (B) + (uint32_t)(N);
#define GF_THREEFRY_EVEN GF_THREEFRY_ROUND(13) GF_THREEFRY_ROUND(15) GF_THREEFRY_ROUND(26) GF_THREEFRY_ROUND(6)
#define GF_THREEFRY_ODD GF_THREEFRY_ROUND(17) GF_THREEFRY_ROUND(29) GF_THREEFRY_ROUND(16) GF_THREEFRY_ROUND(24)

/* 64 random bits for a counter and a key; the first word of each is the low one */
GF_INLINE gf_u64 gf_threefry_u64(gf_u64 counter, gf_u64 key) {
    gf_u32 k0 = gf_cast_u64_u32(key), k1 = gf_cast_u64_u32(key >> 32), k2 = k0 ^ k1 ^ 0x1BD11BDAu;
    gf_u32 x0 = gf_cast_u64_u32(counter) + k0, x1 = gf_cast_u64_u32(counter >> 32) + k1;
    GF_THREEFRY_EVEN GF_THREEFRY_KEY(k1, k2, 1)
    GF_THREEFRY_ODD GF_THREEFRY_KEY(k2, k0, 2)
    GF_THREEFRY_EVEN GF_THREEFRY_KEY(k0, k1, 3)
    GF_THREEFRY_ODD GF_THREEFRY_KEY(k1, k2, 4)
    GF_THREEFRY_EVEN GF_THREEFRY_KEY(k2, k0, 5)
    return gf_cast_u32_u64(x0) | (gf_cast_u32_u64(x1) << 32);
}

#endif
