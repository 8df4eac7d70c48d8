/* gf_pool.c - the thread pool.
 *
 * A job is cut into one part per thread. A fork offers each worker its part in the worker's own cache line, a join
 * waits for one counter. Workers spin for GF_SPIN_NS after their last part, then sleep, so an idle pool costs nothing.
 * A caller that is done takes over parts whose workers did not come, so a crowded machine or a sleeping worker costs
 * little. No lock and no allocation on the way of a hot fork. Two threads that use one pool at once: the second runs
 * its job alone. After fork() the child runs alone. GF_NO_THREADS leaves out every thread: gf_parallel then calls the
 * kernel. */
#include "gf_pool.h"

#include <stddef.h>

/* The least work, in floating point operations or bytes, that pays for waking one more thread (about a microsecond). */
#ifndef GF_WORK_PER_THREAD
#define GF_WORK_PER_THREAD 65536
#endif

/* How a job is cut: a grid of `row_parts` ranges of rows by `col_parts` ranges of cols, in units of the grain. */
typedef struct {
    int64_t rows, row_grain, row_units, cols, col_grain, col_units;
    int parts, row_parts, col_parts;
} gf_split;

static inline int64_t gf_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Units of the largest of `parts` ranges, as a share of all. */
static inline double gf_share(int64_t units, int64_t parts) {
    return (double)gf_ceil_div(units, parts) / (double)units;
}

/* As few ranges as keep the largest as small as `parts` of them do. */
static inline int gf_enough(int64_t units, int64_t parts) {
    return (int)gf_ceil_div(units, gf_ceil_div(units, parts));
}

/* The axis whose largest part is the smaller share of the work wins; where equal rows, or columns if `cols_first`.
 * Both are cut where that leaves a tenth less to the largest part. */
static inline __attribute__((unused)) gf_split gf_split_job(int threads, int64_t rows, int64_t row_grain, int64_t cols,
                                                            int64_t col_grain, int64_t work, int cols_first) {
    gf_split s = {rows, row_grain < 1 ? 1 : row_grain, 1, cols, col_grain < 1 ? 1 : col_grain, 1, 1, 1, 1};
    int64_t useful = 1 + (work < 0 ? 0 : work / GF_WORK_PER_THREAD);
    int64_t n = useful < threads ? useful : threads;
    if (n <= 1 || rows < 1 || cols < 1) return s;
    s.row_units = gf_ceil_div(rows, s.row_grain);
    s.col_units = gf_ceil_div(cols, s.col_grain);
    double row_share = gf_share(s.row_units, n), col_share = gf_share(s.col_units, n);
    int64_t row_parts = n, col_parts = 1;
    if (cols_first ? col_share <= row_share : col_share < row_share) row_parts = 1, col_parts = n;
    double least = row_share < col_share ? row_share : col_share;
    for (int64_t by = 2; least * (double)n > 1.1 && by <= n / 2; by++) {
        double share = gf_share(s.row_units, by) * gf_share(s.col_units, n / by);
        if (share > 0.9 * least) continue;
        least = share;
        row_parts = by, col_parts = n / by;
    }
    s.row_parts = gf_enough(s.row_units, row_parts);
    s.col_parts = gf_enough(s.col_units, col_parts);
    s.parts = s.row_parts * s.col_parts;
    return s;
}

/* Range t of an axis. The bounds depend on the split alone. */
static inline void gf_range(int64_t size, int64_t grain, int64_t units, int parts, int t, int64_t *first, int64_t *end) {
    int64_t stop = units * (t + 1) / parts;
    *first = units * t / parts * grain;
    *end = stop == units ? size : stop * grain;
}

/* Part t of the job, on the calling thread. */
static inline __attribute__((unused)) void gf_run_part(const gf_split *s, int t, gf_kernel k, void *const *p,
                                                       const int64_t *d, char *scratch, int64_t scratch_bytes) {
    int64_t r0, r1, c0, c1;
    gf_range(s->rows, s->row_grain, s->row_units, s->row_parts, t / s->col_parts, &r0, &r1);
    gf_range(s->cols, s->col_grain, s->col_units, s->col_parts, t % s->col_parts, &c0, &c1);
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

#define gf_parallel_cols gf_parallel

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

/* A slot's state: 2 n while part `index` of job n waits for a thread, 2 n + 1 once one has claimed it. */
typedef struct {
    _Alignas(GF_LINE) atomic_uint_fast64_t slot;
    atomic_int asleep; /* or about to be */
    gf_pool *pool;
    int index;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
} gf_worker;

struct gf_pool {
    /* The job. Whoever has claimed a part may read it: the caller changes it only when no part is pending. */
    gf_split split;
    gf_kernel kernel;
    void *const *p;
    const int64_t *d;
    char *scratch;
    int64_t scratch_bytes;
    uint_fast64_t number;
    int threads;
    unsigned generation; /* of the process, see gf_forks */
    _Alignas(GF_LINE) atomic_int pending; /* parts not done, the caller's own left out */
    atomic_int caller_asleep;
    _Alignas(GF_LINE) atomic_int busy;
    pthread_mutex_t lock;
    pthread_cond_t done;
    gf_worker workers[];
};

#define GF_STOP (UINT64_MAX - 1)

/* Counts fork() from the child's side: threads do not cross it. */
static atomic_uint gf_forks;
static pthread_once_t gf_forks_once = PTHREAD_ONCE_INIT;
static void gf_count_fork(void) { atomic_fetch_add_explicit(&gf_forks, 1, memory_order_relaxed); }
static void gf_watch_forks(void) { pthread_atfork(NULL, NULL, gf_count_fork); }

static inline int gf_usable_threads(const gf_pool *pool) {
    if (!pool || pool->generation != atomic_load_explicit(&gf_forks, memory_order_relaxed)) return 1;
    return pool->threads;
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

/* Some pauses, and how long the thread has waited since the first call (ns); past the hard spin other threads get their
 * chance too. A clock that is set back only starts the wait anew. */
static inline int64_t gf_wait_a_little(int64_t *since) {
    for (int i = 0; i < 16; i++) gf_pause();
    int64_t now = gf_now_ns();
    if (*since == 0 || now < *since) *since = now;
    if (now - *since > GF_HARD_SPIN_NS) sched_yield();
    return now - *since;
}

/* Claims the part that waits in a slot in state `word`; fails where another thread was first. */
static inline int gf_claim(gf_worker *w, uint_fast64_t word) {
    return atomic_compare_exchange_strong_explicit(&w->slot, &word, word | 1, memory_order_acquire,
                                                   memory_order_relaxed);
}

/* A claimed part, on the calling thread. The last one wakes a sleeping caller. */
static void gf_run_claimed(gf_pool *pool, int part) {
    gf_run_part(&pool->split, part, pool->kernel, pool->p, pool->d, pool->scratch, pool->scratch_bytes);
    if (atomic_fetch_sub(&pool->pending, 1) != 1 || !atomic_load(&pool->caller_asleep)) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->lock);
}

/* The slot's state once a part waits in it. */
static uint_fast64_t gf_await_part(gf_worker *w) {
    int64_t since = 0;
    do {
        for (int i = 0; i < 64; i++) {
            uint_fast64_t word = atomic_load_explicit(&w->slot, memory_order_relaxed);
            if (!(word & 1)) return word;
            gf_pause();
        }
    } while (gf_wait_a_little(&since) < GF_SPIN_NS);
    pthread_mutex_lock(&w->lock);
    /* Sequentially consistent, as are the caller's store of `slot` and load of `asleep`: one sees the other. */
    atomic_store(&w->asleep, 1);
    uint_fast64_t word;
    while ((word = atomic_load(&w->slot)) & 1) pthread_cond_wait(&w->wake, &w->lock);
    atomic_store(&w->asleep, 0);
    pthread_mutex_unlock(&w->lock);
    return word;
}

static void *gf_work(void *arg) {
    gf_worker *self = arg;
    for (;;) {
        uint_fast64_t word = gf_await_part(self);
        if (word == GF_STOP) return NULL;
        if (gf_claim(self, word)) gf_run_claimed(self->pool, self->index);
    }
}

/* Offers `word` to workers 1 to count - 1 and wakes those that sleep. */
static void gf_offer(gf_pool *pool, int count, uint_fast64_t word) {
    for (int t = 1; t < count; t++) atomic_store_explicit(&pool->workers[t].slot, word, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    for (int t = 1; t < count; t++) {
        gf_worker *w = &pool->workers[t];
        if (!atomic_load(&w->asleep)) continue;
        pthread_mutex_lock(&w->lock);
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->lock);
    }
}

/* Parts whose workers have not come (asleep, or without a core) are run here, the last first: those were woken last. */
static void gf_take_over(gf_pool *pool) {
    for (int t = pool->split.parts - 1; t > 0; t--) {
        if (gf_claim(&pool->workers[t], pool->number << 1)) gf_run_claimed(pool, t);
    }
}

static void gf_await_done(gf_pool *pool) {
    int64_t since = 0;
    /* A worker that is awake has claimed its part long before the caller's own, as long, is done. Whoever has not may be
     * without a core, and would get this thread's only once it sleeps. */
    gf_take_over(pool);
    for (int64_t waited = 0; waited < GF_SPIN_NS; waited = gf_wait_a_little(&since)) {
        for (int i = 0; i < 64; i++) {
            if (!atomic_load_explicit(&pool->pending, memory_order_acquire)) return;
            gf_pause();
        }
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_asleep, 1);
    while (atomic_load(&pool->pending)) pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->caller_asleep, 0);
    pthread_mutex_unlock(&pool->lock);
}

static int gf_start_worker(gf_pool *pool, int index) {
    gf_worker *w = &pool->workers[index];
    w->pool = pool;
    w->index = index;
    atomic_init(&w->slot, 1);
    atomic_init(&w->asleep, 0);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    return !pthread_create(&w->thread, NULL, gf_work, w);
}

GF_API gf_pool *gf_pool_create(int threads) {
    threads = threads < 1 ? 1 : threads > GF_MAX_THREADS ? GF_MAX_THREADS : threads;
    gf_pool *pool = aligned_alloc(GF_LINE, sizeof(gf_pool) + (size_t)threads * sizeof(gf_worker));
    if (!pool) return NULL;
    pthread_once(&gf_forks_once, gf_watch_forks);
    atomic_init(&pool->pending, 0);
    atomic_init(&pool->caller_asleep, 0);
    atomic_init(&pool->busy, 0);
    pool->number = 0;
    pool->generation = atomic_load(&gf_forks);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->threads = 1;
    while (pool->threads < threads && gf_start_worker(pool, pool->threads)) pool->threads++;
    return pool;
}

GF_API void gf_pool_destroy(gf_pool *pool) {
    if (!pool) return;
    /* in the child of a fork there is nobody to end, and the locks may be in any state */
    int threads = gf_usable_threads(pool);
    gf_offer(pool, threads, GF_STOP);
    for (int t = 1; t < threads; t++) pthread_join(pool->workers[t].thread, NULL);
    free(pool);
}

GF_API int gf_pool_threads(const gf_pool *pool) { return gf_usable_threads(pool); }

static __attribute__((unused)) void gf_fork_join(gf_pool *pool, const gf_split *s, gf_kernel k, void *const *p,
                                                 const int64_t *d, char *scratch, int64_t scratch_bytes) {
    if (s->parts == 1 || atomic_exchange_explicit(&pool->busy, 1, memory_order_acquire)) {
        k(p, d, 0, s->rows, 0, s->cols, scratch);
        return;
    }
    pool->split = *s;
    pool->kernel = k;
    pool->p = p;
    pool->d = d;
    pool->scratch = scratch;
    pool->scratch_bytes = scratch_bytes;
    pool->number++;
    atomic_store_explicit(&pool->pending, s->parts - 1, memory_order_relaxed);
    gf_offer(pool, s->parts, pool->number << 1);
    gf_run_part(s, 0, k, p, d, scratch, scratch_bytes);
    gf_await_done(pool);
    atomic_store_explicit(&pool->busy, 0, memory_order_release);
}

/* Runs k over rows x cols, cut along rows (in multiples of row_grain), cols (of col_grain) or both, on no more threads
 * than `work` pays for. Part t gets scratch + t * scratch_bytes. Returns when all is done. */
static __attribute__((unused)) void gf_parallel(gf_pool *pool, gf_kernel k, void *const *p, const int64_t *d,
                                                int64_t rows, int64_t row_grain, int64_t cols, int64_t col_grain,
                                                int64_t work, char *scratch, int64_t scratch_bytes) {
    if (rows < 1 || cols < 1) return;
    gf_split s = gf_split_job(gf_usable_threads(pool), rows, row_grain, cols, col_grain, work, 0);
    gf_fork_join(pool, &s, k, p, d, scratch, scratch_bytes);
}

/* The same, cut along cols where that is as even: each thread then reads only its own columns of the weights. */
static __attribute__((unused)) void gf_parallel_cols(gf_pool *pool, gf_kernel k, void *const *p, const int64_t *d,
                                                     int64_t rows, int64_t row_grain, int64_t cols, int64_t col_grain,
                                                     int64_t work, char *scratch, int64_t scratch_bytes) {
    if (rows < 1 || cols < 1) return;
    gf_split s = gf_split_job(gf_usable_threads(pool), rows, row_grain, cols, col_grain, work, 1);
    gf_fork_join(pool, &s, k, p, d, scratch, scratch_bytes);
}

#endif
