/* gf_slots.c - memory for tensors whose sizes are known only while the model runs.
 *
 * The arena begins with the model's slots. A slot grows when a tensor needs more than it has, and is kept for the next
 * run, so that a model in steady use allocates nothing. */
#include <stdlib.h>
#include <string.h>

typedef struct {
  char *start;   /* on a cache line, inside `memory` */
  int64_t bytes; /* from there on */
  void *memory;  /* what the allocator gave */
} gf_slot;

/* Sizes beyond this are no tensors but numbers gone wrong. */
#define GF_MOST_BYTES ((int64_t)1 << 46)

/* Sums and products of sizes that stay at the largest number where they would pass it. */
static inline __attribute__((unused)) int64_t gf_add_sat(int64_t a, int64_t b) {
  int64_t c;
  return __builtin_add_overflow(a, b, &c) ? INT64_MAX : c;
}

static inline __attribute__((unused)) int64_t gf_mul_sat(int64_t a, int64_t b) {
  int64_t c;
  return __builtin_mul_overflow(a, b, &c) ? INT64_MAX : c;
}

/* Memory for so many bytes, with the first `kept` of what was in the slot; NULL where there is not so much. */
static __attribute__((unused)) char *gf_take(gf_slot *slot, int64_t bytes, int64_t kept) {
  if (slot->start != NULL && bytes <= slot->bytes) return slot->start;
  if (bytes < 0 || bytes > GF_MOST_BYTES) return NULL;
  /* What has grown once will grow again. */
  int64_t room = (slot->start == NULL ? bytes : bytes + bytes / 2) + 64;
  void *memory = malloc((size_t)room + 64);
  if (memory == NULL) return NULL;
  char *start = (char *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
  if (kept > 0 && slot->start != NULL) memcpy(start, slot->start, (size_t)kept);
  free(slot->memory);
  slot->start = start;
  slot->bytes = room;
  slot->memory = memory;
  return start;
}

static __attribute__((unused)) void gf_free_slots(gf_slot *slots, int count) {
  for (int k = 0; k < count; ++k) {
    free(slots[k].memory);
    slots[k] = (gf_slot){NULL, 0, NULL};
  }
}
