/* Which loops of norms this processor can run: x86. SPDX-License-Identifier: MIT */
#include "norm_rows.h"

void norm_rows_plain(
	enum norm_loop loop, const struct norm_strips *strips, const struct norm_rows *all);
void norm_rows_avx2(
	enum norm_loop loop, const struct norm_strips *strips, const struct norm_rows *all);
void norm_rows_avx512(
	enum norm_loop loop, const struct norm_strips *strips, const struct norm_rows *all);

norm_rows_fn norm_rows_best(void)
{
	/* What the system saves of a thread's registers is part of the answer. */
	if (__builtin_cpu_supports("avx512f"))
		return norm_rows_avx512;
	return __builtin_cpu_supports("avx2") ? norm_rows_avx2 : norm_rows_plain;
}
