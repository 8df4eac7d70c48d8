/* Partial loads and stores beside memory that must not be touched: ends with 0, or dies at the first offence. */
#include "gf_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* A page between two that fault. */
static char *island(size_t page) {
    char *p = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p, page, PROT_NONE) || mprotect(p + 2 * page, page, PROT_NONE)) exit(2);
    return p + page;
}

static void expect(int right, const char *what, int64_t n) {
    if (right) return;
    fprintf(stderr, "edges: %s, %lld lanes\n", what, (long long)n);
    exit(1);
}

/* n elements that end with the page, then n that begin it; offset makes the address unaligned */
#define EDGES(T, C, S, U)                                                                            \
    static void edges_##T(char *page, size_t bytes) {                                                \
        for (int64_t n = 0; n < GF_W; n++) {                                                         \
            C *at[2] = {(C *)(void *)(page + bytes) - n, (C *)(void *)page};                         \
            for (int side = 0; side < 2; side++) {                                                   \
                gf_##T v = gf_cast_i32_##T(gf_iota() + 1);                                           \
                gf_store_part_##T(at[side], v, n);                                                   \
                gf_##T back = gf_load_part_##T(at[side], n);                                         \
                gf_##T strided = gf_loads_part_##T(at[side], 1, n);                                  \
                for (int i = 0; i < GF_W; i++) {                                                     \
                    expect(back[i] == (C)(i < n ? i + 1 : 0), "load_part " #T, n);                   \
                    expect(strided[i] == back[i], "loads_part " #T, n);                              \
                }                                                                                    \
                gf_stores_part_##T(at[side], 1, v, n);                                               \
            }                                                                                        \
        }                                                                                            \
        C *odd = (C *)(void *)(page + 1);                                                            \
        gf_store_##T(odd, gf_cast_i32_##T(gf_iota()));                                               \
        expect(gf_load_##T(odd)[GF_W - 1] == (C)(GF_W - 1), "unaligned " #T, GF_W);                  \
    }
GF_DTYPES(EDGES)

int main(void) {
    size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    char *page = island(bytes);
#define RUN(T, C, S, U) edges_##T(page, bytes);
    GF_DTYPES(RUN)
    return 0;
}
