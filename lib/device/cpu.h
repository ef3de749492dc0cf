#ifndef PSGD_DEVICE_CPU_H
#define PSGD_DEVICE_CPU_H

#include "base/kernels.h"

/* The table in plain C; self is not used. */
extern const struct psgd_kernels psgd__cpu_kernels;

psgd_status psgd__cpu_leading(
	void *self, const struct psgd__panel *from, uint32_t keep, float *to, psgd_stream stream);

#endif
