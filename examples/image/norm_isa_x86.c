/* Which loops of norms this processor can run: x86. SPDX-License-Identifier: MIT */
#include "norm_rows.h"

void norm_rows_plain(
	enum norm_loop loop, const struct norm_strips *strips, const struct norm_rows *all);
void norm_rows_avx2(
	enum norm_loop loop, const struct norm_strips *strips, const struct norm_rows *all);
void norm_rows_avx512(
	enum norm_loop loop, const struct norm_strips *strips, const struct norm_rows *all);

norm_rows_fn norm_rows_of(unsigned isa)
{
	if (isa == 0)
		return norm_rows_plain;
	/* What the system saves of a thread's registers is part of the answer. */
	if (isa == 1 && __builtin_cpu_supports("avx2"))
		return norm_rows_avx2;
	return isa == 2 && __builtin_cpu_supports("avx512f") ? norm_rows_avx512 : NULL;
}
