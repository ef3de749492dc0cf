/* Allocation k fails, for every k: NOMEM, nothing made, nothing lost, nothing changed. */
#include "base/state.h"
#include "support/suite.h"

#include "layers.h"

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
		for (uint32_t choice = 0; choice <= PSGD_CHOICE_ENTROPY; choice++) {
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

static double norm_of(size_t layer, uint64_t at, uint64_t epoch)
{
	(void)epoch;
	return exp2((double)(at / 5) * (double)layer);
}

static double error_of(size_t layer, uint32_t rank, uint64_t at)
{
	(void)at;
	return exp2(-(double)rank * (double)(layer + 1) / 3);
}

static struct psgd_controller by_layers(uint32_t choice)
{
	struct psgd_rank_control_options options = PSGD_INIT(psgd_rank_control_options);
	struct psgd_accordion_options accordion = PSGD_INIT(psgd_accordion_options);
	struct psgd_lgreco_options lgreco = PSGD_INIT(psgd_lgreco_options);

	accordion.in_steps = 1;
	accordion.stride = lgreco.adjust_steps = 5;
	options.choice = choice;
	options.accordion = &accordion;
	options.lgreco = &lgreco;
	return scene_control(&options);
}

/* So can those for each layer, from the first on; and the ranks are the same as without failure. */
START_TEST(decisions_by_layers)
{
	const uint32_t needs = PSGD_NEED_LOCAL_NORMS | PSGD_NEED_SPECTRUM;
	const uint32_t choice = _i ? PSGD_CHOICE_LGRECO : PSGD_CHOICE_ACCORDION;
	struct psgd_controller control = by_layers(choice), other = by_layers(choice);
	struct layers l = layers_new(10, 15);
	uint32_t failures = 0;

	l.norm = norm_of;
	l.error = error_of;
	for (uint64_t i = 0; i < 15; i += 5) {
		uint32_t ranks[LAYERS], want[LAYERS], in_force[LAYERS];
		struct psgd_decision d = PSGD_INIT(psgd_decision);
		struct psgd_observation seen;
		double norms[LAYERS];
		psgd_status status;

		l.in_sum = 5;
		for (size_t k = 0; k < LAYERS; k++)
			l.rank[i + 4][k] = 4;
		seen = layers_observe(&l, i + 4, 0, false, needs, norms, in_force);
		seen.first = !i;
		ck_assert_int_eq(other.ops->decide(other.self, &seen, want, &d), PSGD_OK);
		for (long k = 0;; k++) {
			left = k;
			status = control.ops->decide(control.self, &seen, ranks, &d);
			left = -1;
			if (status == PSGD_OK)
				break;
			ck_assert_int_eq(status, PSGD_ERR_NOMEM);
			failures++;
		}
		ck_assert_mem_eq(ranks, want, sizeof(want));
	}
	ck_assert_uint_ge(failures, _i ? 2 + 2 * 6 : 2);
	psgd_controller_destroy(&control);
	psgd_controller_destroy(&other);
}
END_TEST

/* A load that fails for memory has changed nothing, and can be done again. */
START_TEST(loads)
{
	struct psgd_controller from = by_layers(PSGD_CHOICE_ACCORDION);
	struct psgd_controller to = by_layers(PSGD_CHOICE_ACCORDION);
	struct psgd__kept before = {0}, kept = {0}, after = {0};
	struct psgd_state_writer to_kept = psgd__kept_writer(&kept);
	struct psgd_state_writer to_before = psgd__kept_writer(&before);
	struct psgd_state_writer to_after = psgd__kept_writer(&after);
	struct psgd_state_reader reader = psgd__kept_reader(&kept);
	struct layers l = layers_new(10, 12);
	long failures = 0;

	l.norm = norm_of;
	layers_drive(&from, &l);
	ck_assert_int_eq(from.ops->save(from.self, &to_kept), PSGD_OK);
	ck_assert_int_eq(to.ops->save(to.self, &to_before), PSGD_OK);
	for (;; failures++) {
		psgd_status status;

		left = failures;
		status = to.ops->load(to.self, &reader);
		left = -1;
		if (status == PSGD_OK)
			break;
		ck_assert_int_eq(status, PSGD_ERR_NOMEM);
		psgd__kept_free(&after);
		ck_assert_int_eq(to.ops->save(to.self, &to_after), PSGD_OK);
		ck_assert_uint_eq(after.n, before.n);
		for (size_t i = 0; i < after.n; i++) {
			ck_assert_uint_eq(after.arrays[i].bytes, before.arrays[i].bytes);
			ck_assert(!memcmp(after.arrays[i].data, before.arrays[i].data,
				after.arrays[i].bytes));
		}
	}
	ck_assert_int_ge(failures, 3);
	psgd__kept_free(&after);
	ck_assert_int_eq(to.ops->save(to.self, &to_after), PSGD_OK);
	for (size_t i = 0; i < after.n; i++)
		ck_assert(
			!memcmp(after.arrays[i].data, kept.arrays[i].data, after.arrays[i].bytes));
	psgd__kept_free(&before);
	psgd__kept_free(&kept);
	psgd__kept_free(&after);
	psgd_controller_destroy(&from);
	psgd_controller_destroy(&to);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("memory");
	TCase *t = tcase_create("memory");

	tcase_add_test(t, constructors);
	tcase_add_test(t, decisions);
	tcase_add_loop_test(t, decisions_by_layers, 0, 2);
	tcase_add_test(t, loads);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
