/* gf_pool.c - the thread pool.
 *
 * A fork is one atomic store (and a wake-up where a worker sleeps), a join is one counter. Workers spin for GF_SPIN_NS
 * after their last job, then sleep, so an idle pool costs nothing. No lock and no allocation on the way of a hot fork.
 * Two threads that use one pool at once: the second runs its job alone. After fork() the child runs alone.
 * GF_NO_THREADS leaves out every thread: gf_parallel then calls the kernel. */
#include "gf_pool.h"

#include <stddef.h>

/* The least work, in floating point operations or bytes, that pays for waking one more thread (about a microsecond). */
#ifndef GF_WORK_PER_THREAD
#define GF_WORK_PER_THREAD 65536
#endif

/* How a job is cut: `parts` ranges along rows or along cols, in units of the grain. */
typedef struct {
    int64_t rows, row_grain, cols, col_grain, units;
    int parts, by_cols;
} gf_split;

static inline int64_t gf_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* The axis whose largest part is the smaller share of the work wins, rows where equal; then as few threads as keep the
 * largest part that small. */
static inline __attribute__((unused)) gf_split gf_split_job(int threads, int64_t rows, int64_t row_grain, int64_t cols,
                                                            int64_t col_grain, int64_t work) {
    gf_split s = {rows, row_grain < 1 ? 1 : row_grain, cols, col_grain < 1 ? 1 : col_grain, 1, 1, 0};
    int64_t useful = 1 + (work < 0 ? 0 : work / GF_WORK_PER_THREAD);
    int64_t n = useful < threads ? useful : threads;
    if (n <= 1 || rows < 1 || cols < 1) return s;
    int64_t row_units = gf_ceil_div(rows, s.row_grain), col_units = gf_ceil_div(cols, s.col_grain);
    double row_share = (double)gf_ceil_div(row_units, n) / (double)row_units;
    double col_share = (double)gf_ceil_div(col_units, n) / (double)col_units;
    s.by_cols = col_share < row_share;
    s.units = s.by_cols ? col_units : row_units;
    s.parts = (int)gf_ceil_div(s.units, gf_ceil_div(s.units, n));
    return s;
}

/* Part t of the job, on the calling thread. The bounds depend on the split alone. */
static inline __attribute__((unused)) void gf_run_part(const gf_split *s, int t, gf_kernel k, void *const *p,
                                                       const int64_t *d, char *scratch, int64_t scratch_bytes) {
    int64_t u0 = s->units * t / s->parts, u1 = s->units * (t + 1) / s->parts;
    int64_t r0 = 0, r1 = s->rows, c0 = 0, c1 = s->cols;
    if (s->parts > 1 && s->by_cols) {
        c0 = u0 * s->col_grain;
        c1 = u1 == s->units ? s->cols : u1 * s->col_grain;
    } else if (s->parts > 1) {
        r0 = u0 * s->row_grain;
        r1 = u1 == s->units ? s->rows : u1 * s->row_grain;
    }
    k(p, d, r0, r1, c0, c1, scratch ? scratch + t * scratch_bytes : scratch);
}

#ifdef GF_NO_THREADS

GF_API gf_pool *gf_pool_create(int threads) { (void)threads; return NULL; }
GF_API void gf_pool_destroy(gf_pool *pool) { (void)pool; }
GF_API int gf_pool_threads(const gf_pool *pool) { (void)pool; return 1; }

static inline __attribute__((unused)) void gf_parallel(gf_pool *pool, gf_kernel k, void *const *p, const int64_t *d,
                                                       int64_t rows, int64_t row_grain, int64_t cols,
                                                       int64_t col_grain, int64_t work, char *scratch,
                                                       int64_t scratch_bytes) {
    (void)pool, (void)row_grain, (void)col_grain, (void)work, (void)scratch_bytes;
    if (rows > 0 && cols > 0) k(p, d, 0, rows, 0, cols, scratch);
}

#else

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

/* How long a thread waits awake: long enough to bridge the gap between two kernels, short enough to cost nothing. */
#ifndef GF_SPIN_NS
#define GF_SPIN_NS 60000
#endif
/* How long it waits without offering its core to other threads: longer than a hot fork takes. */
#define GF_HARD_SPIN_NS 5000
#define GF_MAX_THREADS 256
#define GF_LINE 128

typedef struct {
    gf_pool *pool;
    int index;
    pthread_t thread;
} gf_worker;

struct gf_pool {
    /* written by the caller at a fork: (fork number << 16) | parts. A worker whose index is not below parts looks at
     * nothing else, so it may miss forks; the others are awaited, so the job cannot change under them. */
    _Alignas(GF_LINE) atomic_uint_fast64_t fork;
    gf_split split;
    gf_kernel kernel;
    void *const *p;
    const int64_t *d;
    char *scratch;
    int64_t scratch_bytes;
    _Alignas(GF_LINE) atomic_int pending; /* workers still at the job */
    _Alignas(GF_LINE) atomic_int sleepers; /* workers that sleep or are about to */
    atomic_int caller_sleeps, busy;
    int threads;
    unsigned generation; /* of forks of the process, see gf_forks */
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    gf_worker workers[];
};

#define GF_STOP UINT64_MAX

/* Counts fork() from the child's side: threads do not cross it. */
static atomic_uint gf_forks;
static pthread_once_t gf_forks_once = PTHREAD_ONCE_INIT;
static void gf_count_fork(void) { atomic_fetch_add_explicit(&gf_forks, 1, memory_order_relaxed); }
static void gf_watch_forks(void) { pthread_atfork(NULL, NULL, gf_count_fork); }

static inline int gf_pool_is_orphan(const gf_pool *pool) {
    return pool->generation != atomic_load_explicit(&gf_forks, memory_order_relaxed);
}

static inline void gf_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline int64_t gf_now_ns(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* One look at the clock after some pauses; past the hard spin also a chance for other threads. Returns 0 when the time
 * is up. A clock that is set back only ends the wait early or lengthens it by one period. */
static inline int gf_wait_a_little(int64_t *since) {
    for (int i = 0; i < 16; i++) gf_pause();
    int64_t now = gf_now_ns(), waited = now - *since;
    if (*since == 0 || waited < 0) {
        *since = now;
        return 1;
    }
    if (waited > GF_HARD_SPIN_NS) sched_yield();
    return waited < GF_SPIN_NS;
}

/* The fork word once it differs from `seen`. */
static uint64_t gf_await_fork(gf_pool *pool, uint64_t seen) {
    int64_t since = 0;
    do {
        for (int i = 0; i < 64; i++) {
            uint64_t word = atomic_load_explicit(&pool->fork, memory_order_acquire);
            if (word != seen) return word;
            gf_pause();
        }
    } while (gf_wait_a_little(&since));
    pthread_mutex_lock(&pool->lock);
    /* Sequentially consistent with the caller's store of `fork` and load of `sleepers`: one of the two sees the other. */
    atomic_fetch_add(&pool->sleepers, 1);
    uint64_t word;
    while ((word = atomic_load(&pool->fork)) == seen) pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
    return word;
}

static void *gf_work(void *arg) {
    gf_worker *self = arg;
    gf_pool *pool = self->pool;
    uint64_t seen = 0;
    for (;;) {
        seen = gf_await_fork(pool, seen);
        if (seen == GF_STOP) return NULL;
        if (self->index >= (int)(seen & 0xffff)) continue;
        gf_run_part(&pool->split, self->index, pool->kernel, pool->p, pool->d, pool->scratch, pool->scratch_bytes);
        if (atomic_fetch_sub(&pool->pending, 1) != 1 || !atomic_load(&pool->caller_sleeps)) continue;
        pthread_mutex_lock(&pool->lock);
        pthread_cond_signal(&pool->done);
        pthread_mutex_unlock(&pool->lock);
    }
}

static void gf_await_workers(gf_pool *pool) {
    int64_t since = 0;
    do {
        for (int i = 0; i < 64; i++) {
            if (!atomic_load_explicit(&pool->pending, memory_order_acquire)) return;
            gf_pause();
        }
    } while (gf_wait_a_little(&since));
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, 1);
    while (atomic_load(&pool->pending)) pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->caller_sleeps, 0);
    pthread_mutex_unlock(&pool->lock);
}

static void gf_announce(gf_pool *pool, uint64_t word) {
    atomic_store(&pool->fork, word);
    if (!atomic_load(&pool->sleepers)) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

GF_API gf_pool *gf_pool_create(int threads) {
    threads = threads < 1 ? 1 : threads > GF_MAX_THREADS ? GF_MAX_THREADS : threads;
    size_t bytes = sizeof(gf_pool) + (size_t)threads * sizeof(gf_worker);
    gf_pool *pool = aligned_alloc(GF_LINE, (bytes + GF_LINE - 1) / GF_LINE * GF_LINE);
    if (!pool) return NULL;
    pthread_once(&gf_forks_once, gf_watch_forks);
    atomic_init(&pool->fork, 0);
    atomic_init(&pool->pending, 0);
    atomic_init(&pool->sleepers, 0);
    atomic_init(&pool->caller_sleeps, 0);
    atomic_init(&pool->busy, 0);
    pool->generation = atomic_load(&gf_forks);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    for (pool->threads = 1; pool->threads < threads; pool->threads++) {
        gf_worker *w = &pool->workers[pool->threads];
        w->pool = pool;
        w->index = pool->threads;
        if (pthread_create(&w->thread, NULL, gf_work, w)) break;
    }
    return pool;
}

GF_API void gf_pool_destroy(gf_pool *pool) {
    if (!pool) return;
    if (!gf_pool_is_orphan(pool)) {
        gf_announce(pool, GF_STOP);
        for (int t = 1; t < pool->threads; t++) pthread_join(pool->workers[t].thread, NULL);
        pthread_cond_destroy(&pool->wake);
        pthread_cond_destroy(&pool->done);
        pthread_mutex_destroy(&pool->lock);
    }
    free(pool);
}

GF_API int gf_pool_threads(const gf_pool *pool) { return pool && !gf_pool_is_orphan(pool) ? pool->threads : 1; }

/* Runs k over rows x cols, cut along rows (in multiples of row_grain) or cols (of col_grain), on no more threads than
 * `work` pays for. Thread t gets scratch + t * scratch_bytes. Returns when all is done. */
static __attribute__((unused)) void gf_parallel(gf_pool *pool, gf_kernel k, void *const *p, const int64_t *d,
                                                int64_t rows, int64_t row_grain, int64_t cols, int64_t col_grain,
                                                int64_t work, char *scratch, int64_t scratch_bytes) {
    if (rows < 1 || cols < 1) return;
    gf_split s = gf_split_job(gf_pool_threads(pool), rows, row_grain, cols, col_grain, work);
    if (s.parts == 1 || atomic_exchange_explicit(&pool->busy, 1, memory_order_acquire)) {
        k(p, d, 0, rows, 0, cols, scratch);
        return;
    }
    pool->split = s;
    pool->kernel = k;
    pool->p = p;
    pool->d = d;
    pool->scratch = scratch;
    pool->scratch_bytes = scratch_bytes;
    atomic_store_explicit(&pool->pending, s.parts - 1, memory_order_relaxed);
    uint64_t number = (atomic_load_explicit(&pool->fork, memory_order_relaxed) >> 16) + 1;
    gf_announce(pool, number << 16 | (uint64_t)s.parts);
    gf_run_part(&s, 0, k, p, d, scratch, scratch_bytes);
    gf_await_workers(pool);
    atomic_store_explicit(&pool->busy, 0, memory_order_release);
}

#endif
