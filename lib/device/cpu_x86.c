/* Which kernels this CPU can run: x86. */
#include <cpuid.h>

#include "device/cpu.h"

#define XCR0_AVX 0x6u	  /* the system keeps XMM and YMM */
#define XCR0_AVX512 0xe6u /* and ZMM and masks */

extern const struct psgd__cpu_isa psgd__avx2_kernels, psgd__avx512_kernels;

/* What the system saves of a thread's registers. */
static uint32_t saved_registers(void)
{
	uint32_t low, high;

	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return low;
}

static uint32_t features(void)
{
	const uint32_t avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
	uint32_t a, b, c, d, found = 0, saved;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA))
		return 0;
	saved = saved_registers();
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
		return 0;
	if ((saved & XCR0_AVX) == XCR0_AVX && (b & bit_AVX2))
		found |= PSGD_CPU_AVX2;
	if ((saved & XCR0_AVX512) == XCR0_AVX512 && (b & avx512) == avx512)
		found |= PSGD_CPU_AVX512;
	return found;
}

const struct psgd__cpu_isa *psgd__cpu_best(uint32_t without)
{
	const uint32_t usable = features() & ~without;

	if (usable & PSGD_CPU_AVX512)
		return &psgd__avx512_kernels;
	if (usable & PSGD_CPU_AVX2)
		return &psgd__avx2_kernels;
	return &psgd__cpu_plain;
}
