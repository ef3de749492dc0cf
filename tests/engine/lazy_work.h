/* Kernels that are called later: what they were called with, copied. Part of lazy_device.c. */
#ifndef TESTS_ENGINE_LAZY_WORK_H
#define TESTS_ENGINE_LAZY_WORK_H

#include <psgd/device.h>

#include "base/kernels.h"

struct lazy_work;

void lazy_work_run(struct lazy_work *work, const struct psgd_device *cpu);
void lazy_work_free(struct lazy_work *work); /* NULL is fine */

/* In lazy_device.c: takes work over, also when it fails. wait: until it is done. */
psgd_status lazy_enqueue_work(
	void *self, psgd_stream stream, const char *name, struct lazy_work *work, bool wait);

extern const struct psgd_kernels lazy_kernels;

#endif
