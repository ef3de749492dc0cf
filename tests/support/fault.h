/*
 * Makes one allocation of the library fail. A program that links fault.c with fault_link_args
 * (tests/meson.build) has the library's allocations, and its threads, come from here; the test's
 * own are not touched. Counts over all threads.
 */
#ifndef TESTS_FAULT_H
#define TESTS_FAULT_H

#include <stdbool.h>
#include <stddef.h>

#define FAULT_SITES 256

/* From now on: the k-th allocation fails (0: the first), once. k < 0: none does. */
void fault_arm(long k);

/* The k-th allocation of one place in the code fails. */
void fault_arm_at(size_t site, long k);

/* No allocation fails any more. True: one has failed since fault_arm. */
bool fault_disarm(void);

long fault_count(void);		     /* allocations since fault_arm */
size_t fault_n_sites(void);	     /* places in the code that have allocated so far */
bool fault_has_failed(size_t site);  /* its allocation has failed at least once */
const char *fault_kind(size_t site); /* "calloc" ... */

/* For a device with an allocator of its own: NULL when it is this one's turn to fail. */
void *fault_alloc(void *user, size_t bytes);
void fault_free(void *user, void *memory, size_t bytes);
long fault_device_blocks(void); /* that are not given back */

#endif
