/* Allocation k fails, for every k: NOMEM, nothing made, nothing lost, nothing changed. */
#include "support/suite.h"

#include "scene.h"

static long left = -1; /* allocations until one fails; below 0: none does */

void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);

void *__wrap_calloc(size_t n, size_t size)
{
	return left >= 0 && left-- == 0 ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t size)
{
	return left >= 0 && left-- == 0 ? NULL : __real_realloc(old, size);
}

START_TEST(constructors)
{
	static const struct psgd_schedule_range range = {0, 3, 2, 0};
	static const struct psgd_replay_entry entry = {0, 3, 0};

	for (uint32_t cap = 0; cap <= PSGD_CAP_LIVE; cap++) {
		for (uint32_t choice = 0; choice <= PSGD_CHOICE_REPLAY; choice++) {
			struct psgd_rank_control_options options =
				PSGD_INIT(psgd_rank_control_options);
			long want = cap ? 3 : 2, k;

			options.cap = cap;
			options.choice = choice;
			options.ranges = &range;
			options.n_ranges = 1;
			options.replay = &entry;
			options.n_replay = 1;
			for (k = 0;; k++) {
				struct psgd_controller control = {(void *)&k, &k};
				char error[64];
				psgd_status status;

				left = k;
				status = psgd_controller_rank_control(
					&options, error, sizeof(error), &control);
				left = -1;
				if (status == PSGD_OK) {
					psgd_controller_destroy(&control);
					break;
				}
				ck_assert_int_eq(status, PSGD_ERR_NOMEM);
				ck_assert_str_eq(error, "out of memory");
				ck_assert(!control.ops && !control.self);
			}
			ck_assert_int_eq(k, want);
		}
	}
}
END_TEST

/* A decision that fails for memory can be taken again. */
START_TEST(decisions)
{
	struct psgd_rank_control_options options = PSGD_INIT(psgd_rank_control_options);
	struct psgd_live_options live = PSGD_INIT(psgd_live_options);
	struct psgd_controller control;
	struct scene s = scene_new(1);
	struct psgd_decision out = PSGD_INIT(psgd_decision);
	uint32_t ranks[1], failures = 0;
	struct psgd_observation seen;

	live.warmup_steps = 1;
	options.cap = PSGD_CAP_LIVE;
	options.live = &live;
	control = scene_control(&options);
	scene_link(&s, 100, 0);
	seen = scene_observe(&s, 0, ranks);
	for (long k = 0;; k++) {
		psgd_status status;

		left = k;
		status = control.ops->decide(control.self, &seen, ranks, &out);
		left = -1;
		if (status == PSGD_OK)
			break;
		ck_assert_int_eq(status, PSGD_ERR_NOMEM);
		failures++;
	}
	ck_assert_uint_ge(failures, 3);
	ck_assert_str_eq(scene_decide(&control, &seen).regime, "link_hold");
	psgd_controller_destroy(&control);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("memory");
	TCase *t = tcase_create("memory");

	tcase_add_test(t, constructors);
	tcase_add_test(t, decisions);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
