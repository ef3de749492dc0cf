/*
 * Threads that move messages run for microseconds, and on a machine whose cores all compute they
 * wait for whole slices of the others. One that asks for short slices has its turn when it wakes;
 * its share of the processor stays the same. Linux from 6.12 on; older ones ignore it.
 */
#ifndef PSGD_BASE_SLICE_H
#define PSGD_BASE_SLICE_H

#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PSGD__SHORT_SLICE_NS 100000 /* the shortest that there is */

/* The first version of the kernel's struct, which the C library does not have. */
struct psgd__sched_attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

/*
 * Sets the slice of the calling thread, which threads that it starts inherit. Returns the one
 * before, 0 if that is not known.
 */
static inline uint64_t psgd__slice_set(uint64_t ns)
{
	struct psgd__sched_attr attr = {0, 0, 0, 0, 0, 0, 0, 0};
	uint64_t before;

	/* Under other policies than the usual one, 0, the field means something else. */
	if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) || attr.policy)
		return 0;
	before = attr.runtime;
	attr.runtime = ns;
	(void)syscall(SYS_sched_setattr, 0, &attr, 0);
	return before;
}

#endif
