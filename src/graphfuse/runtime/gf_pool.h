/* gf_pool.h - fork and join over a fixed set of threads.
 *
 * A kernel computes rows [r0, r1) by column units [c0, c1) of its output; gf_parallel hands each thread one part. */
#ifndef GF_POOL_H
#define GF_POOL_H

#include <stdint.h>

#ifndef GF_API
#if defined(__GNUC__) && !defined(_WIN32)
/* weak: several artifacts linked into one program share one definition */
#define GF_API __attribute__((visibility("default"), weak))
#else
#define GF_API
#endif
#endif

typedef struct gf_pool gf_pool;

/* p: weights, inputs and outputs; d: run-time integers (dims, strides); scratch: private to the calling thread */
typedef void (*gf_kernel)(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                          char *scratch);

/* A pool of this many threads, the caller counted; fewer where the system refuses to start one, NULL without memory. */
GF_API gf_pool *gf_pool_create(int threads);
/* Ends the threads. No run may be using the pool. NULL is allowed. */
GF_API void gf_pool_destroy(gf_pool *pool);
/* How many threads a run may use: 1 for NULL, and in the child of a fork (the threads stayed with the parent). */
GF_API int gf_pool_threads(const gf_pool *pool);

#endif
