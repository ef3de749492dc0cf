/* What workers have read is compared before they go on: all learn who differs from worker 0. */
#include <psgd/experiment/checkpoint.h>

#include "experiment/rendezvous_support.h"
#include "experiment/stack_impl.h"

#define BIT(w) (1u << (w))

static unsigned others; /* bit w: worker w holds something else */

/* As a trainer does it, twice: the first difference ends nothing. */
static void compare(struct worker *worker)
{
	struct psgd_stack stack = {.launch = worker->launch, .rendezvous = worker->rendezvous};
	uint64_t hash = UINT64_C(0x8000000100000000);

	hash += others >> worker->launch.worker & 1;
	worker->status = psgd_stack_compare(&stack, "numbers", hash);
	psgd_stack_error(&stack, worker->error, sizeof(worker->error));
	ck_assert_int_eq(psgd_stack_compare(&stack, "numbers", 7), PSGD_OK);
}

static void run_with(struct worker *workers, uint32_t n, unsigned differing)
{
	others = differing;
	init_all(workers, n);
	for (uint32_t w = 0; w < n; w++)
		workers[w].work = compare;
	run_all(workers, n);
}

START_TEST(alike)
{
	struct worker workers[MAX_WORKERS];

	for (uint32_t n = 1; n <= MAX_WORKERS; n++) {
		run_with(workers, n, 0);
		for (uint32_t w = 0; w < n; w++)
			ck_assert_msg(workers[w].status == PSGD_OK, "%s", workers[w].error);
	}
}
END_TEST

START_TEST(who_differs_is_named_everywhere)
{
	static const struct {
		unsigned differing;
		const char *text;
	} cases[] = {
		{BIT(2), "numbers on worker 2 differ from worker 0's"},
		{BIT(1) | BIT(3), "numbers on worker 1 differ from worker 0's\n"
				  "numbers on worker 3 differ from worker 0's"},
		{BIT(0), "numbers on worker 1 differ from worker 0's\n"
			 "numbers on worker 2 differ from worker 0's\n"
			 "numbers on worker 3 differ from worker 0's"},
	};
	struct worker workers[MAX_WORKERS];

	run_with(workers, MAX_WORKERS, cases[_i].differing);
	for (uint32_t w = 0; w < MAX_WORKERS; w++) {
		ck_assert_int_eq(workers[w].status, PSGD_ERR_MISMATCH);
		ck_assert_str_eq(workers[w].error, cases[_i].text);
	}
}
END_TEST

static void compare_late(struct worker *worker)
{
	struct psgd_stack stack = {.launch = worker->launch, .rendezvous = worker->rendezvous};

	if (worker->launch.worker == 1)
		return; /* gone without a word */
	worker->status = psgd_stack_compare(&stack, "numbers", 7);
	psgd_stack_error(&stack, worker->error, sizeof(worker->error));
}

START_TEST(a_lost_worker_is_named)
{
	struct worker workers[3];

	init_all(workers, 3);
	for (int w = 0; w < 3; w++)
		workers[w].work = compare_late;
	run_all(workers, 3);
	for (int w = 0; w < 3; w += 2) {
		ck_assert_int_eq(workers[w].status, PSGD_ERR_PEER_LOST);
		ck_assert_str_eq(workers[w].error, "worker 1 is gone");
	}
}
END_TEST

START_TEST(misuse)
{
	struct psgd_stack stack = {.launch = {.n_workers = 1}};

	ck_assert_int_eq(psgd_stack_compare(NULL, "numbers", 7), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_stack_compare(&stack, NULL, 7), PSGD_ERR_INVALID);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("compare");
	TCase *c = tcase_create("compare");

	tcase_add_test(c, alike);
	tcase_add_loop_test(c, who_differs_is_named_everywhere, 0, 3);
	tcase_add_test(c, a_lost_worker_is_named);
	tcase_add_test(c, misuse);
	tcase_set_timeout(c, 30);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
