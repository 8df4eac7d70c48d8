/* Runs kernels on buffers of exactly the size they have, so that the address sanitizer sees every access beyond them.
 * The kernels and `kernels[]` stand before this text. Reads a description from a file, writes the outputs to another. */
#include <stdio.h>
#include <stdlib.h>

static int64_t number(FILE *f) {
    int64_t value;
    if (fread(&value, sizeof value, 1, f) != 1) exit(3);
    return value;
}

static void *block(FILE *f, int64_t bytes) {
    void *data = malloc((size_t)bytes);
    if (!data || fread(data, 1, (size_t)bytes, f) != (size_t)bytes) exit(3);
    return data;
}

static void run_case(FILE *in, FILE *out) {
    gf_kernel kernel = kernels[number(in)];
    int64_t buffers = number(in);
    char **data = malloc((size_t)buffers * sizeof *data);
    int64_t *bytes = malloc((size_t)buffers * sizeof *bytes);
    for (int64_t k = 0; k < buffers; k++) {
        bytes[k] = number(in);
        data[k] = block(in, bytes[k]);
    }
    int64_t pointers = number(in);
    void **p = malloc((size_t)pointers * sizeof *p);
    for (int64_t k = 0; k < pointers; k++) {
        int64_t buffer = number(in);
        p[k] = data[buffer] + number(in);
    }
    int64_t dims = number(in);
    int64_t *d = malloc((size_t)(dims + 1) * sizeof *d);
    for (int64_t k = 0; k < dims; k++) d[k] = number(in);
    char *scratch = aligned_alloc(64, (size_t)number(in));
    for (int64_t calls = number(in); calls > 0; calls--) {
        int64_t r0 = number(in), r1 = number(in), c0 = number(in), c1 = number(in);
        kernel(p, d, r0, r1, c0, c1, scratch);
    }
    int64_t result = number(in);
    fwrite(data[result], 1, (size_t)bytes[result], out);
    for (int64_t k = 0; k < buffers; k++) free(data[k]);
    free(data), free(bytes), free(p), free(d), free(scratch);
}

int main(int argc, char **argv) {
    FILE *in = argc == 3 ? fopen(argv[1], "rb") : NULL, *out = argc == 3 ? fopen(argv[2], "wb") : NULL;
    if (!in || !out) return 2;
    for (int64_t cases = number(in); cases > 0; cases--) run_case(in, out);
    fclose(in);
    return fclose(out);
}
