/* Which kernels this CPU can run: one that has no kernels of its own. */
#include "device/cpu.h"

const struct psgd__cpu_isa *psgd__cpu_best(uint32_t without)
{
	(void)without;
	return &psgd__cpu_plain;
}
