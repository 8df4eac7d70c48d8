/* Largest error of a float32 function in units in the last place, against libm in float64.
 *
 *   ulp NAME STEP      every STEP-th float by bit pattern (STEP 1: all of them)
 *
 * Prints NAME, worst ULP, the input there, and the number of wrong specials (NAN or infinity or zero's sign where libm
 * has another). The ULP is that of the exact value rounded to float32, so denormal results count in denormal steps. */
#include "gf_math64.h"
#include <stdio.h>
#include <stdlib.h>

static double sigmoid(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }
static double softplus(double x) { return fmax(x, 0) + log1p(exp(-fabs(x))); }
static double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
#define MORE(X)                                                                                                       \
    X(log1p, log1p) X(expm1, expm1) X(softplus, softplus) X(sin, sin) X(cos, cos) X(tan, tan) X(asin, asin)           \
    X(acos, acos) X(atan, atan) X(sinh, sinh) X(cosh, cosh) X(asinh, asinh) X(acosh, acosh) X(atanh, atanh)           \
    X(sign, sign) X(abs, fabs)
#define FUNCTIONS(X)                                                                                                  \
    X(exp, exp) X(log, log) X(tanh, tanh) X(sigmoid, sigmoid) X(erf, erf) X(sqrt, sqrt) X(floor, floor) X(ceil, ceil) \
    X(trunc, trunc) X(round, nearbyint) MORE(X)

#define BATCH 4096
static float in[BATCH], out[BATCH];
#define RUN(NAME, REF)                                                                             \
    static void run_##NAME(void) {                                                                 \
        for (int i = 0; i < BATCH; i += GF_W) gf_store_f32(out + i, gf_##NAME##_f32(gf_load_f32(in + i))); \
    }
FUNCTIONS(RUN)

static double ulp_of(double y) {
    if (fabs(y) < 1.17549435082228750797e-38) return 1.40129846432481707092e-45;
    int e;
    frexp(y, &e);
    return ldexp(1.0, e - 24);
}

static double worst = 0;
static float worst_at = 0;
static long wrong = 0;

static void check(float x, float got, double want) {
    float rounded = (float)want;
    if (isnan(rounded) || isnan(got)) {
        wrong += !(isnan(rounded) && isnan(got));
        return;
    }
    if (isinf(rounded) || isinf(got)) {
        /* one step past the largest finite number counts as an error of one ULP, not as a wrong special */
        double y = isinf(got) ? copysign(ldexp(1, 128), got) : got;
        double w = isinf(want) ? copysign(ldexp(1, 128), want) : want;
        if (isinf(rounded) && isinf(got) && (rounded > 0) == (got > 0)) return;
        if (isinf(want) || fabs(y - w) > 4 * ldexp(1, 104)) { wrong++; worst_at = x; return; }
        double e = fabs(y - w) / ldexp(1, 104);
        if (e > worst) { worst = e; worst_at = x; }
        return;
    }
    if (got == 0 && rounded == 0 && want == 0 && !!signbit(got) != !!signbit(rounded)) wrong++;
    double e = fabs((double)got - want) / ulp_of(want);
    if (e > worst) { worst = e; worst_at = x; }
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    void (*run)(void) = 0;
    double (*ref)(double) = 0;
#define FIND(NAME, REF) if (!strcmp(argv[1], #NAME)) { run = run_##NAME; ref = REF; }
    FUNCTIONS(FIND)
    uint64_t step = strtoull(argv[2], 0, 10);
    if (!run || !step) return 2;
    for (uint64_t at = 0; at < (1ull << 32);) {
        int n = 0;
        for (; n < BATCH && at < (1ull << 32); n++, at += step) {
            uint32_t bits = (uint32_t)at;
            memcpy(&in[n], &bits, 4);
        }
        run();
        for (int i = 0; i < n; i++) check(in[i], out[i], ref(in[i]));
    }
    /* the values where something happens: around zero, one, the overflow and underflow thresholds, infinity, NaN */
    static const uint32_t centres[] = {0, 0x80000000u, 0x00800000u, 0x80800000u, 0x3f800000u, 0xbf800000u, 0x42b17218u,
                                       0xc2aeac50u, 0xc2cff1b5u, 0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc00000u,
                                       0x4b000000u, 0xcb000000u, 0x4b800000u, 0x3f000000u, 0xbf000000u, 0x49800000u,
                                       0x3fc90fdbu, 0x40490fdbu, 0x7f7fffffu, 0xff7fffffu};
    for (size_t c = 0; c < sizeof centres / sizeof *centres; c++) {
        for (int i = 0; i < BATCH; i++) {
            uint32_t bits = centres[c] + (uint32_t)(i - BATCH / 2);
            memcpy(&in[i], &bits, 4);
        }
        run();
        for (int i = 0; i < BATCH; i++) check(in[i], out[i], ref(in[i]));
    }
    printf("%s %.4f %.9g %ld\n", argv[1], worst, (double)worst_at, wrong);
    return 0;
}
