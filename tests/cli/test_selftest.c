/*
 * The self-test notices: a CPU whose kernels do one thing wrong, at the last bit or by a little
 * more than the tolerance, fails the claim that is about it.
 */
#include <math.h>
#include <string.h>

#include "base/kernels.h"
#include "cli/selftest.h"
#include "support/suite.h"

static struct psgd_device real;
static struct psgd_kernels kernels;
static struct psgd_device_ops ops;
static unsigned right; /* calls to come that are */

static bool now_wrong(void)
{
	return right == 0 || right-- == 0;
}

/* Its last bit. */
static void nudge(float *value)
{
	uint32_t bits;

	memcpy(&bits, value, sizeof(bits));
	bits ^= 1;
	memcpy(value, &bits, sizeof(bits));
}

/* All of it, by twice the tolerance. */
static void bend(float *values, size_t n)
{
	for (size_t i = 0; i < n; i++)
		values[i] *= 1.00002f;
}

/* The first compressed matrix of a list, NULL if there is none. */
static const struct psgd__matrix *compressed(const struct psgd__matrix *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (list[i].r && list[i].e && list[i].keep)
			return &list[i];
	}
	return NULL;
}

static psgd_status bad_copy(
	void *self, void *dst, const void *src, size_t bytes, psgd_stream stream)
{
	psgd_status status = real.ops->copy(self, dst, src, bytes, stream);

	((unsigned char *)dst)[bytes - 1] ^= 1;
	return status;
}

static psgd_status bad_start(void *self, const struct psgd__start *list, size_t count,
	uint64_t seed, float eps, psgd_stream stream)
{
	psgd_status status = real.ops->kernels->start(self, list, count, seed, eps, stream);

	if (now_wrong())
		nudge(list[count - 1].q);
	return status;
}

static psgd_status bad_projection(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	psgd_status status = real.ops->kernels->absorb_project(self, list, count, stream);
	const struct psgd__matrix *x = compressed(list, count);

	if (x && now_wrong())
		bend(x->p, (size_t)x->n * x->r);
	return status;
}

static psgd_status bad_absorption(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	psgd_status status = real.ops->kernels->absorb_project(self, list, count, stream);
	const struct psgd__matrix *x = compressed(list, count);

	if (x && now_wrong())
		nudge(&x->g[x->n * x->m - 1]);
	return status;
}

static psgd_status bad_orthonormalize(
	void *self, const struct psgd__panel *list, size_t count, float eps, psgd_stream stream)
{
	psgd_status status = real.ops->kernels->orthonormalize(self, list, count, eps, stream);

	if (count && now_wrong())
		nudge(list[0].data);
	return status;
}

static psgd_status bad_back_projection(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	psgd_status status = real.ops->kernels->back_project(self, list, count, stream);
	const struct psgd__matrix *x = compressed(list, count);

	if (x && now_wrong())
		bend(x->q, (size_t)x->m * x->r);
	return status;
}

enum { GRADIENT, ERROR, KEPT, FINITE };

static psgd_status finish_wrongly(
	void *self, const struct psgd__finish *finish, psgd_stream stream, int what)
{
	psgd_status status = real.ops->kernels->finish(self, finish, stream);
	const struct psgd__matrix *x = compressed(finish->list, finish->count);

	if (what == FINITE)
		*finish->nonfinite = 0;
	else if (x && now_wrong())
		nudge(what == GRADIENT ? x->g : what == ERROR ? x->e : x->keep);
	return status;
}

static psgd_status bad_gradient(void *self, const struct psgd__finish *finish, psgd_stream stream)
{
	return finish_wrongly(self, finish, stream, GRADIENT);
}

static psgd_status bad_error(void *self, const struct psgd__finish *finish, psgd_stream stream)
{
	return finish_wrongly(self, finish, stream, ERROR);
}

static psgd_status bad_keep(void *self, const struct psgd__finish *finish, psgd_stream stream)
{
	return finish_wrongly(self, finish, stream, KEPT);
}

static psgd_status bad_finite(void *self, const struct psgd__finish *finish, psgd_stream stream)
{
	return finish_wrongly(self, finish, stream, FINITE);
}

static psgd_status bad_leading(
	void *self, const struct psgd__panel *from, uint32_t keep, float *to, psgd_stream stream)
{
	psgd_status status = real.ops->kernels->leading(self, from, keep, to, stream);

	if (now_wrong())
		nudge(to);
	return status;
}

/* Whatever is asked for, there is no memory. */
static psgd_status no_memory(void *self, size_t bytes, void **out)
{
	(void)self;
	(void)bytes;
	*out = NULL;
	return PSGD_ERR_NOMEM;
}

static const struct {
	const char *name;
	enum cli_claim claim;
	size_t at; /* of the entry in its table */
	bool of_device;
	void *entry;
} faults[] = {
	{"copy", CLI_CLAIM_MEMORY, offsetof(struct psgd_device_ops, copy), true, bad_copy},
	{"alloc", CLI_CLAIM_MEMORY, offsetof(struct psgd_device_ops, alloc), true, no_memory},
	{"start", CLI_CLAIM_START, offsetof(struct psgd_kernels, start), false, bad_start},
	{"absorb", CLI_CLAIM_ABSORB, offsetof(struct psgd_kernels, absorb_project), false,
		bad_absorption},
	{"project", CLI_CLAIM_PROJECT, offsetof(struct psgd_kernels, absorb_project), false,
		bad_projection},
	{"orthonormalize", CLI_CLAIM_ORTHONORMAL, offsetof(struct psgd_kernels, orthonormalize),
		false, bad_orthonormalize},
	{"back project", CLI_CLAIM_BACK_PROJECT, offsetof(struct psgd_kernels, back_project), false,
		bad_back_projection},
	{"gradient", CLI_CLAIM_RECONSTRUCT, offsetof(struct psgd_kernels, finish), false,
		bad_gradient},
	{"error", CLI_CLAIM_STATE, offsetof(struct psgd_kernels, finish), false, bad_error},
	{"keep", CLI_CLAIM_STATE, offsetof(struct psgd_kernels, finish), false, bad_keep},
	{"finite", CLI_CLAIM_NONFINITE, offsetof(struct psgd_kernels, finish), false, bad_finite},
	{"leading", CLI_CLAIM_RANKS, offsetof(struct psgd_kernels, leading), false, bad_leading},
};

static void open_test(struct cli_selftest *t)
{
	struct psgd_device_cpu_options plain = PSGD_INIT(psgd_device_cpu_options);

	memset(t, 0, sizeof(*t));
	t->random = 7;
	plain.without = PSGD_CPU_FEATURES;
	ck_assert_int_eq(psgd_device_cpu(NULL, &real), PSGD_OK);
	ck_assert_int_eq(psgd_device_cpu(&plain, &t->sides[CLI_REFERENCE].device), PSGD_OK);
	ops = *real.ops;
	kernels = *real.ops->kernels;
	ops.kernels = &kernels;
	t->sides[CLI_TESTED].device = (struct psgd_device){&ops, real.self};
}

static void close_test(struct cli_selftest *t)
{
	psgd_device_destroy(&t->sides[CLI_REFERENCE].device);
	psgd_device_destroy(&real);
}

static void check_all(struct cli_selftest *t)
{
	cli_check_memory(t);
	cli_check_groups(t, 8);
	cli_check_sessions(t);
}

START_TEST(a_good_device_passes)
{
	static struct cli_selftest t;

	open_test(&t);
	check_all(&t);
	for (int i = 0; i < CLI_CLAIMS; i++) {
		ck_assert_str_eq(t.checks[i].why, "");
		ck_assert(t.checks[i].skip || t.checks[i].n > 0);
		ck_assert_double_lt(t.checks[i].largest, 1e-5);
	}
	/* Only a device with streams can be asked about them. */
	ck_assert_ptr_nonnull(t.checks[CLI_CLAIM_ORDER].skip);
	ck_assert_ptr_nonnull(t.checks[CLI_CLAIM_CALLS].skip);
	close_test(&t);
}
END_TEST

START_TEST(a_fault_is_found)
{
	static struct cli_selftest t;
	char *table;

	open_test(&t);
	right = (unsigned)_i % 3;
	table = faults[_i].of_device ? (char *)&ops : (char *)&kernels;
	memcpy(table + faults[_i].at, &faults[_i].entry, sizeof(faults[_i].entry));
	check_all(&t);
	ck_assert_msg(*t.checks[faults[_i].claim].why, "%s: nothing was noticed", faults[_i].name);
	close_test(&t);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("selftest");
	TCase *c = tcase_create("claims");

	tcase_set_timeout(c, 120);
	tcase_add_test(c, a_good_device_passes);
	tcase_add_loop_test(c, a_fault_is_found, 0, (int)(sizeof(faults) / sizeof(faults[0])));
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
