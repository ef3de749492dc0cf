/* psgd-nccl.so on the real libraries: one worker, on whatever this machine has. */
#include <stdio.h>
#include <string.h>

#include <psgd/psgd.h>

#include "support/suite.h"

static psgd_status alone(void *self, const void *send, void *recv, size_t bytes)
{
	(void)self;
	memcpy(recv, send, bytes);
	return PSGD_OK;
}

static void require_sum(struct psgd_transport *t)
{
	struct psgd_collective c = PSGD_INIT(psgd_collective);
	float data[3] = {1, 2, 3};
	psgd_status status;
	void *request;

	c.kind = PSGD_ALLREDUCE_SUM;
	c.dtype = PSGD_F32;
	c.count = 3;
	c.data = data;
	ck_assert_int_eq(t->ops->post(t->self, &c, &request), PSGD_OK);
	do
		status = t->ops->test(t->self, request, 100000000, NULL);
	while (status == PSGD_PENDING);
	ck_assert_int_eq(status, PSGD_OK);
	ck_assert(data[0] == 1 && data[1] == 2 && data[2] == 3);
}

START_TEST(test_module)
{
	const struct psgd_oob oob = {alone, NULL, 0, 1};
	struct psgd_nccl_options o = PSGD_INIT(psgd_nccl_options);
	struct psgd_transport t;
	char reason[512] = "";
	psgd_status status;
	uint32_t version;

	ck_assert_int_eq(
		psgd_nccl_info(NCCL_MODULE_DIR, &version, reason, sizeof(reason)), PSGD_OK);
	ck_assert_uint_ge(version, 2000);
	o.oob = &oob;
	o.module_dir = NCCL_MODULE_DIR;
	o.error = reason;
	o.error_bytes = sizeof(reason);
	status = psgd_transport_nccl(&o, &t);
	printf("# NCCL %u: %s\n", version, status ? reason : "one worker on device 0");
	fflush(stdout);
	if (status) {
		ck_assert_int_eq(status, PSGD_ERR_UNSUPPORTED);
		ck_assert_ptr_nonnull(strstr(reason, "no CUDA device: "));
		ck_assert(!t.ops && !t.self);
	} else {
		require_sum(&t);
	}
	psgd_transport_destroy(&t);
}
END_TEST

static Suite *suite(void)
{
	Suite *suite = suite_create("transport nccl module");
	TCase *c = tcase_create("module");

	tcase_set_timeout(c, 100);
	tcase_add_test(c, test_module);
	suite_add_tcase(suite, c);
	return suite;
}

int main(void)
{
	return run_suite(suite());
}
