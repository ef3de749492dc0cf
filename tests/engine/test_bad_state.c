/*
 * States that are damaged, or of somebody else: refused with a word, and nothing has changed. What
 * the session holds before and after is compared array by array.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/state.h"
#include "grads.h"
#include "support/group.h"
#include "support/suite.h"

#define WORKERS 2

/* A controller with a state that it checks. */
struct counter {
	uint32_t count, magic;
};

static uint32_t count_needs(void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	(void)self, (void)step, (void)epoch, (void)epoch_end;
	return PSGD_NEED_DECISION | PSGD_NEED_LOCAL_SUM | PSGD_NEED_GRAD_SUM;
}

static psgd_status count_decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	struct counter *c = self;

	c->count++;
	out->rank = c->count % 4;
	out->regime = "count";
	for (size_t i = 0; i < seen->n_tensors; i++)
		ranks[i] = out->rank;
	return PSGD_OK;
}

static psgd_status count_save(void *self, const struct psgd_state_writer *writer)
{
	return psgd__state_put(writer, "counter", PSGD_U8, 1, sizeof(struct counter), self);
}

static psgd_status count_load(void *self, const struct psgd_state_reader *reader)
{
	struct counter c;
	psgd_status status = psgd__state_get(reader, "counter", PSGD_U8, sizeof(c), &c);

	if (status < 0)
		return status;
	if (c.magic != 99)
		return PSGD_ERR_INVALID;
	*(struct counter *)self = c;
	return PSGD_OK;
}

static const struct psgd_controller_ops count_ops = {.size = sizeof(count_ops),
	.name = "count",
	.needs = count_needs,
	.decide = count_decide,
	.save = count_save,
	.load = count_load};

struct side {
	struct group group;
	struct counter counter;
	struct psgd_controller controller;
	struct grads grads[WORKERS];
};

static psgd_status make(void *user, struct psgd_compressor *out)
{
	return user ? psgd_compressor_powersgd(user, out) : psgd_compressor_dense(out);
}

static void open_side(struct side *side, struct psgd_powersgd_options *powersgd, uint32_t n)
{
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);

	memset(side, 0, sizeof(*side));
	side->counter.magic = 99;
	side->controller = (struct psgd_controller){&count_ops, &side->counter};
	o.controller = powersgd ? &side->controller : NULL;
	o.flags = PSGD_SESSION_GRAD_SUM;
	group_open(&side->group, n, grads_tensors, TENSORS, make, powersgd, &o);
	for (int w = 0; w < WORKERS; w++)
		grads_init(&side->grads[w]);
}

static void run_steps(struct side *side, int n)
{
	for (int step = 0; step < n; step++) {
		struct psgd_grad list[WORKERS][TENSORS];
		struct psgd_bucket buckets[WORKERS], *rows[WORKERS];

		for (uint32_t w = 0; w < side->group.n_workers; w++) {
			grads_fill(&side->grads[w], (uint64_t)step * 10 + w);
			for (int i = 0; i < TENSORS; i++)
				list[w][i] = (struct psgd_grad){
					grads_tensors[i].id, side->grads[w].data[i]};
			buckets[w] = (struct psgd_bucket){sizeof(buckets[w]), list[w], TENSORS};
			rows[w] = &buckets[w];
		}
		ck_assert_int_eq(group_step(&side->group, rows, 1, NULL, NULL), PSGD_OK);
	}
}

static void close_side(struct side *side)
{
	group_close(&side->group);
	for (int w = 0; w < WORKERS; w++)
		grads_free(&side->grads[w]);
}

static void save(psgd_session *session, struct psgd__kept *kept)
{
	struct psgd_state_writer writer = psgd__kept_writer(kept);

	ck_assert_int_eq(psgd_session_save(session, &writer), PSGD_OK);
}

static psgd_status load(psgd_session *session, struct psgd__kept *kept)
{
	struct psgd_state_reader reader = psgd__kept_reader(kept);

	return psgd_session_load(session, &reader);
}

static void assert_same(const struct psgd__kept *a, const struct psgd__kept *b, const char *what)
{
	ck_assert_msg(a->n == b->n, "%s: other arrays", what);
	for (size_t i = 0; i < a->n; i++) {
		ck_assert_str_eq(a->arrays[i].array.name, b->arrays[i].array.name);
		ck_assert_uint_eq(a->arrays[i].bytes, b->arrays[i].bytes);
		ck_assert_msg(!memcmp(a->arrays[i].data, b->arrays[i].data, a->arrays[i].bytes),
			"%s: %s has changed", what, a->arrays[i].array.name);
	}
}

/* Loads what must be refused with that status, or with any of the two when it is 0. */
static void refuse(
	psgd_session *session, struct psgd__kept *bad, psgd_status want, const char *what)
{
	struct psgd_memory before = PSGD_INIT(psgd_memory), after = PSGD_INIT(psgd_memory);
	struct psgd__kept old = {.n = 0}, now = {.n = 0};
	psgd_status status;

	save(session, &old);
	ck_assert_int_eq(psgd_session_memory(session, &before), PSGD_OK);
	status = load(session, bad);
	ck_assert_msg(
		want ? status == want : status == PSGD_ERR_INVALID || status == PSGD_ERR_MISMATCH,
		"%s: %s", what, psgd_status_name(status));
	save(session, &now);
	ck_assert_int_eq(psgd_session_memory(session, &after), PSGD_OK);
	assert_same(&old, &now, what);
	ck_assert_uint_eq(before.state_bytes, after.state_bytes);
	ck_assert_uint_eq(before.observe_bytes, after.observe_bytes);
	psgd__kept_free(&old);
	psgd__kept_free(&now);
}

/* Two runs that have gone different ways: the first's state is what is damaged. */
static void two_sides(struct side *from, struct side *to, struct psgd_powersgd_options *powersgd)
{
	open_side(from, powersgd, WORKERS);
	open_side(to, powersgd, WORKERS);
	run_steps(from, 5);
	run_steps(to, 2);
}

START_TEST(every_array_is_needed_as_it_is)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	static struct side from, to;

	two_sides(&from, &to, &powersgd);
	for (uint32_t w = 0; w < WORKERS; w++) {
		struct psgd__kept kept = {.n = 0};
		psgd_session *session = to.group.session[w];

		save(from.group.session[w], &kept);
		ck_assert_uint_gt(kept.n, 6);
		for (size_t i = 0; i < kept.n; i++) {
			struct psgd__kept_array *x = &kept.arrays[i];
			const struct psgd__kept_array whole = *x;
			char name[] = "nothing";

			x->array.name = name;
			refuse(session, &kept, PSGD_ERR_INVALID, whole.array.name);
			*x = whole;
			x->array.dtype = x->array.dtype == PSGD_U8 ? PSGD_F32 : PSGD_U8;
			refuse(session, &kept, PSGD_ERR_MISMATCH, whole.array.name);
			*x = whole;
			x->array.dims[0]++;
			refuse(session, &kept, PSGD_ERR_MISMATCH, whole.array.name);
			x->array.dims[0] = INT64_MAX;
			refuse(session, &kept, PSGD_ERR_MISMATCH, whole.array.name);
			x->array.dims[0] = -whole.array.dims[0];
			refuse(session, &kept, PSGD_ERR_MISMATCH, whole.array.name);
			x->array.dims[0] = 0;
			refuse(session, &kept, PSGD_ERR_MISMATCH, whole.array.name);
			*x = whole;
			x->array.n_dims = PSGD_MAX_DIMS + 1;
			refuse(session, &kept, PSGD_ERR_MISMATCH, whole.array.name);
			*x = whole;
			/* The file ends within the array. */
			x->bytes--;
			refuse(session, &kept, PSGD_ERR_MISMATCH, whole.array.name);
			*x = whole;
		}
		ck_assert_int_eq(load(session, &kept), PSGD_OK);
		psgd__kept_free(&kept);
	}
	close_side(&from);
	close_side(&to);
}
END_TEST

/*
 * Bytes of headers and of the compressor's numbers, one after the other: either it is a state that
 * could be (a number of steps), which then saves as it was loaded, or it is refused.
 */
START_TEST(every_byte_is_looked_at)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	static const char *const names[] = {
		"session/head", "compressor/tensors", "session/ranks", "controller/counter"};
	struct psgd__kept kept = {.n = 0}, original = {.n = 0};
	int refused = 0, taken = 0;
	static struct side from, to;

	two_sides(&from, &to, &powersgd);
	save(from.group.session[0], &kept);
	save(to.group.session[0], &original);
	for (size_t i = 0; i < kept.n; i++) {
		unsigned char *data = kept.arrays[i].data;
		bool wanted = false;

		for (size_t k = 0; k < 4; k++)
			wanted |= !strcmp(names[k], kept.arrays[i].array.name);
		for (size_t at = 0; wanted && at < kept.arrays[i].bytes; at++) {
			struct psgd__kept now = {.n = 0};
			psgd_status status;

			data[at] ^= (unsigned char)(1u << at % 8);
			status = load(to.group.session[0], &kept);
			data[at] ^= (unsigned char)(1u << at % 8);
			save(to.group.session[0], &now);
			if (status < 0) {
				ck_assert(
					status == PSGD_ERR_INVALID || status == PSGD_ERR_MISMATCH);
				assert_same(&original, &now, kept.arrays[i].array.name);
				refused++;
			} else {
				ck_assert_uint_le(now.n, kept.n);
				ck_assert_int_eq(load(to.group.session[0], &original), PSGD_OK);
				taken++;
			}
			psgd__kept_free(&now);
		}
	}
	ck_assert_int_gt(refused, 220);
	printf("# %d refused, %d taken\n", refused, taken);
	psgd__kept_free(&kept);
	psgd__kept_free(&original);
	close_side(&from);
	close_side(&to);
}
END_TEST

static float *floats_of(struct psgd__kept *kept, const char *name)
{
	for (size_t i = 0; i < kept->n; i++) {
		if (!strcmp(kept->arrays[i].array.name, name))
			return kept->arrays[i].data;
	}
	ck_abort_msg("no %s", name);
}

START_TEST(errors_and_factors_are_finite)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd__kept kept = {.n = 0};
	static struct side from, to;

	two_sides(&from, &to, &powersgd);
	save(from.group.session[1], &kept);
	floats_of(&kept, "compressor/error/12")[33] = NAN;
	refuse(to.group.session[1], &kept, PSGD_ERR_INVALID, "error");
	floats_of(&kept, "compressor/error/12")[33] = 0.0f;
	floats_of(&kept, "compressor/q/13")[1] = INFINITY;
	refuse(to.group.session[1], &kept, PSGD_ERR_INVALID, "q");
	psgd__kept_free(&kept);
	close_side(&from);
	close_side(&to);
}
END_TEST

static void refuse_with(psgd_session *session, struct psgd__kept *kept, const char *text)
{
	char said[128];

	refuse(session, kept, PSGD_ERR_MISMATCH, text);
	psgd_session_error(session, said, sizeof(said));
	ck_assert_str_eq(said, text);
}

START_TEST(states_of_others_are_named)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd__kept kept = {.n = 0}, other = {.n = 0};
	static struct side from, to, dense, alone;

	two_sides(&from, &to, &powersgd);
	save(from.group.session[0], &kept);
	refuse_with(to.group.session[1], &kept, "the state is another worker's");
	open_side(&dense, NULL, WORKERS);
	refuse_with(dense.group.session[0], &kept, "the state is of another compressor");
	open_side(&alone, &powersgd, 1);
	run_steps(&alone, 1);
	refuse_with(alone.group.session[0], &kept, "the state is of another number of workers");
	save(alone.group.session[0], &other);
	refuse_with(to.group.session[0], &other, "the state is of another number of workers");
	/* The session is as good as before. */
	run_steps(&to, 1);
	psgd__kept_free(&kept);
	psgd__kept_free(&other);
	close_side(&from);
	close_side(&to);
	close_side(&dense);
	close_side(&alone);
}
END_TEST

/* Other tensors, and other ways of compressing. */
START_TEST(other_sessions_are_named)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_powersgd_options plain = PSGD_INIT(psgd_powersgd_options);
	struct psgd_powersgd_options thin = PSGD_INIT(psgd_powersgd_options);
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct psgd_tensor other[TENSORS];
	struct psgd__kept kept = {.n = 0};
	struct group group;

	powersgd.rank = 8;
	plain.rank = 8;
	plain.flags = PSGD_POWERSGD_NO_ERROR_FEEDBACK;
	thin.rank = 8;
	thin.min_ratio = 8;
	o.flags = PSGD_SESSION_GRAD_SUM;
	memcpy(other, grads_tensors, sizeof(other));
	group_open(&group, 1, grads_tensors, TENSORS, make, &powersgd, &o);
	save(group.session[0], &kept);
	group_close(&group);
	other[0].dims[0] = 48;
	other[0].dims[1] = 64;
	group_open(&group, 1, other, TENSORS, make, &powersgd, &o);
	refuse_with(group.session[0], &kept, "the state is of other tensors");
	group_close(&group);
	group_open(&group, 1, grads_tensors, TENSORS - 1, make, &powersgd, &o);
	refuse_with(group.session[0], &kept, "the state is of other tensors");
	group_close(&group);
	group_open(&group, 1, grads_tensors, TENSORS, make, &powersgd, &o);
	/* Its step, with the bit of trials. */
	((unsigned char *)kept.arrays[0].data)[47] |= 0x80;
	refuse_with(group.session[0], &kept, "the state is of a step that cannot be");
	((unsigned char *)kept.arrays[0].data)[47] &= 0x7f;
	ck_assert_int_eq(load(group.session[0], &kept), PSGD_OK);
	group_close(&group);
	group_open(&group, 1, grads_tensors, TENSORS, make, &plain, &o);
	refuse_with(group.session[0], &kept, "the state is of a compressor with other options");
	group_close(&group);
	group_open(&group, 1, grads_tensors, TENSORS, make, &thin, &o);
	refuse_with(group.session[0], &kept, "the state is of a compressor with other options");
	group_close(&group);
	o.flags = 0;
	group_open(&group, 1, grads_tensors, TENSORS, make, &powersgd, &o);
	refuse_with(group.session[0], &kept,
		"the state is of a session with another controller, or other sums");
	group_close(&group);
	psgd__kept_free(&kept);
}
END_TEST

static psgd_status fail_put(void *user, const struct psgd_state_array *array, const void *data)
{
	(void)array, (void)data;
	return --*(int *)user < 0 ? PSGD_ERR_IO : PSGD_OK;
}

/* A disk that is full, or breaks, at any array. */
START_TEST(failures_of_the_disk_are_passed_on)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	static struct side side;
	psgd_status status;
	int n = 0;

	open_side(&side, &powersgd, WORKERS);
	run_steps(&side, 3);
	do {
		int left = n++;
		struct psgd_state_writer writer = {fail_put, &left};

		status = psgd_session_save(side.group.session[0], &writer);
		ck_assert(status == PSGD_OK || status == PSGD_ERR_IO);
	} while (status < 0);
	ck_assert_int_gt(n, 8);
	ck_assert_int_eq(psgd_session_save(NULL, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_save(side.group.session[0], NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_load(side.group.session[0], NULL), PSGD_ERR_INVALID);
	run_steps(&side, 1);
	close_side(&side);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("bad_state");
	TCase *c = tcase_create("bad_state");

	tcase_set_timeout(c, 60);
	tcase_add_test(c, every_array_is_needed_as_it_is);
	tcase_add_test(c, every_byte_is_looked_at);
	tcase_add_test(c, errors_and_factors_are_finite);
	tcase_add_test(c, states_of_others_are_named);
	tcase_add_test(c, other_sessions_are_named);
	tcase_add_test(c, failures_of_the_disk_are_passed_on);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
