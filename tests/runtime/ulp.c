/* Largest error of the float32 functions in units in the last place, against libm in float64.
 *
 *   ulp STEP [NAME...]     every STEP-th float by bit pattern (1: all of them), and all floats around the places where
 *                          something happens; without names every function
 *
 * One line each: name, worst ULP, the input there, number of wrong specials (NaN, infinity or zero's sign where libm
 * has another). The unit is that of the exact value, so denormal results count in denormal steps. */
#include "gf_math64.h"
#include <stdio.h>
#include <stdlib.h>

#define BATCH 4096

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(x > 0 ? -x : x)); }
/* musl's acosh returns numbers below 1 */
static double arcosh(double x) { return x < 1 ? NAN : acosh(x); }
static double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }

#define FUNCTIONS(X)                                                                                                  \
    X(exp, exp) X(exp2, exp2) X(expm1, expm1) X(log, log) X(log1p, log1p) X(tanh, tanh) X(sigmoid, sigmoid)           \
    X(softplus, softplus) X(erf, erf) X(sin, sin) X(cos, cos) X(tan, tan) X(asin, asin) X(acos, acos) X(atan, atan)   \
    X(sinh, sinh) X(cosh, cosh) X(asinh, asinh) X(acosh, arcosh) X(atanh, atanh) X(sqrt, sqrt) X(floor, floor)         \
    X(ceil, ceil) X(trunc, trunc) X(round, nearbyint) X(sign, sign) X(abs, fabs)

#define RUN(NAME, REF)                                                                                      \
    static void run_##NAME(const float *in, float *out) {                                                   \
        for (int i = 0; i < BATCH; i += GF_W) gf_store_f32(out + i, gf_##NAME##_f32(gf_load_f32(in + i)));  \
    }                                                                                                       \
    static void want_##NAME(const float *in, double *out) {                                                 \
        for (int i = 0; i < BATCH; i++) out[i] = REF((double)in[i]);                                        \
    }
FUNCTIONS(RUN)

typedef struct {
    const char *name;
    void (*run)(const float *, float *);
    void (*want)(const float *, double *);
} function;
#define ENTRY(NAME, REF) {#NAME, run_##NAME, want_##NAME},
static const function functions[] = {FUNCTIONS(ENTRY)};

typedef struct {
    double ulp;
    float at;
    long wrong;
} verdict;

static void worse(verdict *v, double ulp, float at) {
    if (ulp <= v->ulp) return;
    v->ulp = ulp;
    v->at = at;
}

static void check(verdict *v, float x, float got, double want) {
    float rounded = (float)want;
    if (isnan(rounded) || isnan(got) || (got == 0 && want == 0)) {
        int same = isnan(rounded) ? isnan(got) : got == 0 && !signbit(got) == !signbit(rounded);
        v->wrong += !same;
        if (!same) v->at = x;
        return;
    }
    if (isinf(want) || (isinf(got) && got == rounded)) {
        v->wrong += got != rounded;
        if (got != rounded) v->at = x;
        return;
    }
    /* infinity where a finite value was due, or the reverse, counts as the step after the largest number */
    double y = isinf(got) ? copysign(0x1p128, got) : got;
    int e;
    frexp(want, &e);
    worse(v, fabs(y - want) / (e < -125 ? 0x1p-149 : ldexp(1.0, e - 24)), x);
}

static void check_batch(const function *f, verdict *v, const float *in, int n) {
    static float out[BATCH];
    static double want[BATCH];
    f->run(in, out);
    f->want(in, want);
    for (int i = 0; i < n; i++) {
        /* correctly rounded (zero's sign aside): the error is at most half a unit */
        if (out[i] == (float)want[i] && out[i] != 0 && v->ulp >= 0.5) continue;
        check(v, in[i], out[i], want[i]);
    }
}

static verdict measure(const function *f, uint64_t step) {
    /* zero, one, half, the thresholds of overflow and underflow, the largest float, infinity, NaN, pi/2, the limits of
     * integers and of the angle reduction */
    static const uint32_t centres[] = {
        0,           0x00800000u, 0x3f000000u, 0x3f800000u, 0x42b17218u, 0x42aeac50u, 0x42cff1b5u, 0x7f7fffffu,
        0x7f800000u, 0x7fc00000u, 0x4b000000u, 0x4b800000u, 0x49800000u, 0x3fc90fdbu, 0x40490fdbu, 0x41100000u};
    static float in[BATCH];
    verdict v = {0, 0, 0};
    for (uint64_t at = 0; at < (1ull << 32);) {
        int n = 0;
        for (; n < BATCH && at < (1ull << 32); n++, at += step) memcpy(&in[n], &(uint32_t){(uint32_t)at}, 4);
        check_batch(f, &v, in, n);
    }
    for (size_t c = 0; c < 2 * sizeof centres / sizeof *centres; c++) {
        uint32_t centre = centres[c / 2] ^ (c % 2 ? 0x80000000u : 0);
        for (int i = 0; i < BATCH; i++) memcpy(&in[i], &(uint32_t){centre + (uint32_t)(i - BATCH / 2)}, 4);
        check_batch(f, &v, in, BATCH);
    }
    return v;
}

static int wanted(const char *name, int argc, char **argv) {
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], name)) return 1;
    }
    return argc == 2;
}

int main(int argc, char **argv) {
    uint64_t step = argc > 1 ? strtoull(argv[1], 0, 10) : 0;
    if (!step) return 2;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        if (!wanted(functions[i].name, argc, argv)) continue;
        verdict v = measure(&functions[i], step);
        printf("%s %.4f %.9g %ld\n", functions[i].name, v.ulp, (double)v.at, v.wrong);
        fflush(stdout);
    }
    return 0;
}
