/* The thread pool: `pool CASE THREADS` checks one property and prints what it measured. Exit 1 names what failed. */
#include "gf_pool.c"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ROWS 300
#define MAX_COLS 40

static void fail(const char *what) {
    fprintf(stderr, "pool: %s\n", what);
    exit(1);
}

static double seconds(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* p[0]: one byte per element, counts visits; d: row grain, column grain, rows, cols. Fails on a cut inside a grain. */
static void visit(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, char *scratch) {
    unsigned char *seen = p[0];
    if (r0 % d[0] || (r1 % d[0] && r1 != d[2]) || c0 % d[1] || (c1 % d[1] && c1 != d[3])) fail("a grain was cut");
    /* the scratch belongs to this thread for the whole call */
    memset(scratch, (int)(r0 + c0), 64);
    for (int64_t r = r0; r < r1; r++) {
        for (int64_t c = c0; c < c1; c++) seen[r * MAX_COLS + c]++;
    }
    for (int i = 0; i < 64; i++) {
        if (scratch[i] != (char)(r0 + c0)) fail("scratch is shared");
    }
}

static void check_visits(gf_pool *pool, int64_t rows, int64_t row_grain, int64_t cols, int64_t col_grain,
                         int64_t work) {
    static unsigned char seen[MAX_ROWS * MAX_COLS];
    static char scratch[64 * GF_MAX_THREADS];
    void *p[1] = {seen};
    int64_t d[4] = {row_grain, col_grain, rows, cols};
    memset(seen, 0, sizeof seen);
    gf_parallel(pool, visit, p, d, rows, row_grain, cols, col_grain, work, scratch, 64);
    for (int64_t r = 0; r < MAX_ROWS; r++) {
        for (int64_t c = 0; c < MAX_COLS; c++) {
            if (seen[r * MAX_COLS + c] != (r < rows && c < cols)) fail("an element was not visited exactly once");
        }
    }
}

/* every element once, for odd sizes and grains, little and much work */
static void cover(int threads) {
    static const int64_t sizes[] = {0, 1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 39};
    static const int64_t grains[] = {1, 2, 3, 6, 16, 64};
    gf_pool *pool = gf_pool_create(threads);
    if (!pool || gf_pool_threads(pool) != threads) fail("the pool has another size");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (size_t j = 0; j < sizeof grains / sizeof *grains; j++) {
            for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
                check_visits(pool, sizes[i], grains[j], sizes[k], grains[(i + j) % 6], 1 << 30);
            }
        }
    }
    check_visits(pool, MAX_ROWS, 1, MAX_COLS, 1, INT64_MAX);
    check_visits(pool, MAX_ROWS, 7, MAX_COLS, 1, 0);
    check_visits(pool, MAX_ROWS, 7, MAX_COLS, 1, -1);
    check_visits(NULL, MAX_ROWS, 7, MAX_COLS, 1, 1 << 30);
    gf_pool_destroy(pool);
    gf_pool_destroy(NULL);
}

/* the axis that balances better, and no more parts than pay */
static void split(int threads) {
    (void)threads;
    gf_split s = gf_split_job(4, 3, 1, 64, 8, 1 << 30, 0);
    if (s.row_parts != 1 || s.col_parts != 4) fail("8 column units go to 4 threads better than 3 rows");
    s = gf_split_job(4, 64, 8, 64, 8, 1 << 30, 0);
    if (s.row_parts != 4 || s.col_parts != 1) fail("rows win where both balance");
    s = gf_split_job(4, 64, 8, 64, 8, 1 << 30, 1);
    if (s.row_parts != 1 || s.col_parts != 4) fail("columns win where both balance and columns come first");
    s = gf_split_job(2, 8, 1, 3, 1, 1 << 30, 1);
    if (s.row_parts != 2 || s.col_parts != 1) fail("columns first where they are as even, not else");
    s = gf_split_job(16, 7, 1, 4, 1, 1 << 30, 0);
    if (s.row_parts != 4 || s.col_parts != 4) fail("few rows and few columns are both cut");
    s = gf_split_job(4, 5, 1, 1, 1, 1 << 30, 0);
    if (s.parts != 3) fail("5 rows in parts of at most 2 need 3 threads");
    s = gf_split_job(4, 64, 1, 64, 1, GF_WORK_PER_THREAD - 1, 0);
    if (s.parts != 1) fail("little work stays on the caller");
    s = gf_split_job(4, 64, 1, 64, 1, GF_WORK_PER_THREAD, 0);
    if (s.parts != 2) fail("work for two");
}

static void touch(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, char *scratch) {
    (void)d, (void)c0, (void)c1, (void)scratch;
    for (int64_t r = r0; r < r1; r++) ((int64_t *)p[0])[r * 16]++;
}

static double fork_join(gf_pool *pool, int threads, int times) {
    static int64_t cells[GF_MAX_THREADS * 16];
    void *p[1] = {cells};
    double t = seconds();
    for (int i = 0; i < times; i++) gf_parallel(pool, touch, p, NULL, threads, 1, 1, 1, INT64_MAX, NULL, 0);
    return (seconds() - t) / times;
}

/* the best of many short runs: other programs share the machine */
static void latency(int threads) {
    gf_pool *pool = gf_pool_create(threads);
    double best = 1;
    for (int i = 0; i < 200; i++) {
        double t = fork_join(pool, threads, 500);
        if (t < best) best = t;
    }
    printf("%.3f us\n", best * 1e6);
    gf_pool_destroy(pool);
}

/* more threads than cores: mean time of a fork and join */
static void crowd(int threads) {
    gf_pool *pool = gf_pool_create(threads);
    printf("%.1f us\n", fork_join(pool, threads, 2000) * 1e6);
    gf_pool_destroy(pool);
}

/* create, use and destroy, again and again; every other time the workers have gone to sleep first */
static void churn(int threads) {
    for (int i = 0; i < 1000; i++) {
        gf_pool *pool = gf_pool_create(threads);
        if (i % 2) fork_join(pool, threads, 3);
        if (i % 50 == 0) usleep(1000);
        if (i % 3) fork_join(pool, threads, 1);
        gf_pool_destroy(pool);
    }
}

/* an idle pool burns no processor time */
static void idle(int threads) {
    gf_pool *pool = gf_pool_create(threads);
    fork_join(pool, threads, 100);
    usleep(20000);
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    usleep(200000);
    getrusage(RUSAGE_SELF, &after);
    int64_t us = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000;
    us += after.ru_utime.tv_usec - before.ru_utime.tv_usec;
    printf("%lld us of 200000\n", (long long)us);
    if (us > 20000) fail("an idle pool spins");
    /* and it wakes from that sleep */
    fork_join(pool, threads, 10);
    gf_pool_destroy(pool);
}

#define SHARED_JOBS 500
typedef struct { gf_pool *pool; int64_t *sum; } sharer;
static void add_rows(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, char *scratch) {
    (void)d, (void)c0, (void)c1, (void)scratch;
    for (int64_t r = r0; r < r1; r++) ((int64_t *)p[0])[r] += r;
}
static void *share_one(void *arg) {
    sharer *s = arg;
    void *p[1] = {s->sum};
    for (int i = 0; i < SHARED_JOBS; i++) gf_parallel(s->pool, add_rows, p, NULL, 64, 1, 1, 1, INT64_MAX, NULL, 0);
    return NULL;
}
/* four callers at once, each with its own data */
static void share(int threads) {
    static int64_t sums[4][64];
    gf_pool *pool = gf_pool_create(threads);
    pthread_t callers[4];
    sharer s[4];
    for (int i = 0; i < 4; i++) {
        s[i] = (sharer){pool, sums[i]};
        if (pthread_create(&callers[i], NULL, share_one, &s[i])) fail("no thread");
    }
    for (int i = 0; i < 4; i++) pthread_join(callers[i], NULL);
    for (int i = 0; i < 256; i++) {
        if (sums[i / 64][i % 64] != SHARED_JOBS * (i % 64)) fail("a caller lost work");
    }
    /* one after another, from threads that come and go */
    for (int i = 0; i < 20; i++) {
        if (pthread_create(&callers[0], NULL, share_one, &s[i % 4])) fail("no thread");
        pthread_join(callers[0], NULL);
    }
    gf_pool_destroy(pool);
}

/* a part that waits for all others: each has a thread of its own */
static void meet(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, char *scratch) {
    (void)r0, (void)r1, (void)c0, (void)c1, (void)scratch;
    atomic_int *arrived = p[0];
    atomic_fetch_add(arrived, 1);
    while (atomic_load(arrived) < d[0]) usleep(10);
}

/* the child of a fork works alone, may destroy the pool, and may create its own; the parent goes on */
static void after_fork(int threads) {
    gf_pool *pool = gf_pool_create(threads);
    fork_join(pool, threads, 100);
    /* No thread may be half started: a fork then leaves the locks of the address sanitizer's own start of a thread taken,
     * and the child's new threads never begin. */
    atomic_int arrived = 0;
    int64_t all = threads;
    gf_parallel(pool, meet, (void *[]){&arrived}, &all, threads, 1, 1, 1, INT64_MAX, NULL, 0);
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        if (gf_pool_threads(pool) != 1) _exit(2);
        check_visits(pool, 31, 2, 17, 1, 1 << 30);
        gf_pool_destroy(pool);
        pool = gf_pool_create(threads);
        if (gf_pool_threads(pool) != threads) _exit(3);
        check_visits(pool, 31, 2, 17, 1, 1 << 30);
        gf_pool_destroy(pool);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) fail("the child of a fork failed");
    if (gf_pool_threads(pool) != threads) fail("the parent lost its threads");
    check_visits(pool, 31, 2, 17, 1, 1 << 30);
    gf_pool_destroy(pool);
}

/* work that is spread unevenly, with pauses from none to longer than the spin: sleepers and spinners mixed */
static void uneven(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, char *scratch) {
    (void)c0, (void)c1, (void)scratch;
    for (int64_t r = r0; r < r1; r++) {
        if ((r + d[0]) % 7 == 0) usleep((useconds_t)(d[0] % 5 * 60));
        ((int64_t *)p[0])[r]++;
    }
}
static void pauses(int threads) {
    static int64_t cells[16];
    void *p[1] = {cells};
    gf_pool *pool = gf_pool_create(threads);
    for (int64_t i = 0; i < 400; i++) {
        gf_parallel(pool, uneven, p, &i, 13, 1, 1, 1, i % 3 ? INT64_MAX : GF_WORK_PER_THREAD, NULL, 0);
        if (i % 4 == 0) usleep((useconds_t)(i % 11 * 20));
        for (int r = 0; r < 13; r++) {
            if (cells[r] != i + 1) fail("joined before the work was done");
        }
    }
    gf_pool_destroy(pool);
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(int); } cases[] = {
        {"cover", cover}, {"split", split}, {"latency", latency}, {"crowd", crowd}, {"churn", churn}, {"idle", idle},
        {"share", share}, {"fork", after_fork}, {"pauses", pauses}};
    if (argc != 3) return 2;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(argv[1], cases[i].name)) continue;
        cases[i].run(atoi(argv[2]));
        return 0;
    }
    return 2;
}
