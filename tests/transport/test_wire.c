/*
 * A session over Gloo with the shapes of ResNet-18: messages are as small as the paper says, and
 * the sockets agree.
 */
#include <math.h>
#include <stdlib.h>

#include <psgd/session.h>

#include "support/resnet18.h"
#include "support/suite.h"
#include "transport/workers.h"

#define BUCKETS 2 /* of about 25 MB, as trainers have them */
#define STEPS 4

static const struct {
	uint32_t rank;
	long times;
} paper[] = {{1, 243}, {2, 136}, {4, 72}};

/* The last tensors first, as backward makes them. */
static void submit_all(psgd_session *session, const struct psgd_grad *grads)
{
	for (size_t b = 0; b < BUCKETS; b++) {
		struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
		size_t from = (BUCKETS - 1 - b) * RESNET18_TENSORS / BUCKETS;
		size_t to = (BUCKETS - b) * RESNET18_TENSORS / BUCKETS;

		bucket.grads = grads + from;
		bucket.n_grads = to - from;
		REQUIRE(psgd_session_submit(session, &bucket, NULL, NULL) == PSGD_OK);
	}
}

static void run_resnet(struct worker *w)
{
	const int row = *(const int *)w->arg;
	const double n = w->transport.n_workers;
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	struct psgd_report report = PSGD_INIT(psgd_report);
	struct psgd_tensor tensors[RESNET18_TENSORS];
	struct psgd_grad grads[RESNET18_TENSORS];
	struct psgd_compressor compressor;
	psgd_session *session;
	uint64_t sockets, sent = 0;

	resnet18_tensors(tensors);
	powersgd.rank = paper[row].rank;
	REQUIRE(psgd_compressor_powersgd(&powersgd, &compressor) == PSGD_OK);
	options.compressor = &compressor;
	options.transport = &w->transport;
	REQUIRE(psgd_session_open(tensors, RESNET18_TENSORS, &options, &session) == PSGD_OK);
	for (size_t i = 0; i < RESNET18_TENSORS; i++) {
		size_t count = (size_t)psgd_tensor_count(&tensors[i]);

		grads[i] = (struct psgd_grad){tensors[i].id, malloc(count * sizeof(float))};
		REQUIRE(grads[i].data);
		for (size_t k = 0; k < count; k++)
			grads[i].data[k] = (float)((k * 7 + i) % 13) - 6.0f;
	}
	/* The first step has the agreements in it. */
	submit_all(session, grads);
	REQUIRE(psgd_session_finish_step(session, NULL, NULL) == PSGD_OK);
	meet(w, 1);
	sockets = socket_bytes();
	for (int step = 0; step < STEPS; step++) {
		submit_all(session, grads);
		REQUIRE(psgd_session_finish_step(session, NULL, &report) == PSGD_OK);
		REQUIRE(report.raw_bytes == 4 * (uint64_t)RESNET18_VALUES);
		REQUIRE(lround((double)report.raw_bytes / (double)report.payload_bytes) ==
			paper[row].times);
		REQUIRE(report.control_bytes == 0);
		sent += report.sent_bytes;
	}
	REQUIRE(fabs((double)sent / (2 * (n - 1) / n * STEPS * (double)report.payload_bytes) - 1) <
		0.01);
	meet(w, 2);
	sockets = socket_bytes() - sockets;
	REQUIRE((double)sockets >= (double)sent && (double)sockets < 1.03 * (double)sent + 16);
	psgd_session_close(&session);
	psgd_compressor_destroy(&compressor);
	for (size_t i = 0; i < RESNET18_TENSORS; i++)
		free(grads[i].data);
}

START_TEST(sockets_agree_with_the_paper)
{
	int row = _i;
	const struct cluster c = {
		.kind = GLOO, .n = 2, .run = run_resnet, .arg = &row, .killed = -1};

	run_workers(&c);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("wire");
	TCase *c = tcase_create("wire");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, sockets_agree_with_the_paper, 0, 3);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
