/* Norms over the batches of several workers on the CUDA engine: what workers on the CPU compute. */
#include "examples/image/cuda_open.h"
#include "examples/image/layers.h"
#include "examples/image/rng.h"
#include "nets.h"
#include "pair.h"
#include "support/suite.h"

#include <math.h>
#include <pthread.h>
#include <shim.h>
#include <stdio.h>
#include <string.h>

#define PART 4 /* images of a worker */
#define WORKERS 2
#define STEPS 2
#define MOST_VALUES 512

static const struct nn_shape in = {.c = 2, .h = 5, .w = 6};

/* Workers as threads; what they give to `sum` meets in the middle. */
struct team {
	bool cuda;
	int which;
	float offset; /* of the images */
	pthread_barrier_t barrier;
	float sum[WORKERS][MOST_VALUES];
	struct worker {
		struct team *team;
		unsigned number;
		size_t n_outputs, n_params, n_running;
		float *outputs, *grads, *running; /* after the last step */
	} worker[WORKERS];
};

static psgd_status sum(void *user, float *values, size_t n)
{
	struct worker *w = user;
	struct team *team = w->team;

	ck_assert_uint_le(n, MOST_VALUES);
	memcpy(team->sum[w->number], values, n * sizeof(float));
	(void)pthread_barrier_wait(&team->barrier);
	for (size_t i = 0; i < n; i++)
		values[i] = team->sum[0][i] + team->sum[1][i];
	(void)pthread_barrier_wait(&team->barrier);
	return PSGD_OK;
}

static void noise(float *out, size_t n, uint64_t item, float offset)
{
	for (size_t i = 0; i < n; i++)
		out[i] = offset + rng_symmetric(rng_key(7, RNG_SYNTHETIC, item), i);
}

static float *keep(struct nn *nn, const float *values, size_t n)
{
	struct image_error error;
	float *out = calloc(n + 1, sizeof(*out));

	ck_assert_int_eq(nn_download(nn, out, values, n, &error), PSGD_OK);
	return out;
}

static void stir(struct nn *nn, struct net *net)
{
	struct image_error error;
	float *params;

	ck_assert_int_eq(nn_view(nn, net->params, net->n_params, &params, &error), PSGD_OK);
	for (size_t i = 0; i < net->n_tensors; i++)
		if (net->tensor[i].init == NET_CONSTANT)
			noise(params + net->tensor[i].offset, net->tensor[i].count, i,
				net->tensor[i].scale);
	ck_assert_int_eq(
		nn_view_end(nn, params, net->params, net->n_params, true, &error), PSGD_OK);
}

static void *work(void *user)
{
	struct worker *w = user;
	struct team *team = w->team;
	struct image_error error = {""};
	struct net_plan *plan;
	struct net net;
	struct nn *nn;

	ck_assert_msg((team->cuda ? cuda_open(0, "none", &nn, &error) : nn_open(1, &nn, &error)) ==
			      PSGD_OK,
		"%s", error.text);
	net_begin(&net, nn, &in);
	net_builders[team->which](&net);
	ck_assert_int_eq(net_end(&net, 3), PSGD_OK);
	stir(nn, &net);
	ck_assert_int_eq(net_sync(&net, sum, w, WORKERS), PSGD_OK);
	plan = net_prepare(&net, PART, true);
	ck_assert_msg(plan, "%s", net.error.text);
	w->n_outputs = net_values(&net.layer[net.n_layers - 1].out, PART);
	w->n_params = net.n_params;
	w->n_running = net.n_running;
	for (uint64_t step = 0; step < STEPS; step++) {
		uint64_t item = 10 * step + w->number;

		noise(plan->input, net_values(&in, PART), 100 + item, team->offset);
		ck_assert_msg(net_forward(&net, plan, NULL) == PSGD_OK, "%s", net.error.text);
		ck_assert_int_eq(net_output(&net, plan), PSGD_OK);
		noise(plan->diff_start, w->n_outputs, 200 + item, 0.0f);
		ck_assert_msg(
			net_backward(&net, plan, NULL, NULL) == PSGD_OK, "%s", net.error.text);
	}
	w->outputs = calloc(w->n_outputs, sizeof(float));
	memcpy(w->outputs, plan->output, w->n_outputs * sizeof(float));
	w->grads = keep(nn, net.grads, net.n_params);
	w->running = keep(nn, net.running, net.n_running);
	net_free(&net);
	nn_close(&nn);
	return NULL;
}

static struct team *team_run(bool cuda, int which, float offset)
{
	struct team *team = calloc(1, sizeof(*team));
	pthread_t thread[WORKERS];

	team->cuda = cuda;
	team->which = which;
	team->offset = offset;
	ck_assert_int_eq(pthread_barrier_init(&team->barrier, NULL, WORKERS), 0);
	for (unsigned i = 0; i < WORKERS; i++) {
		team->worker[i].team = team;
		team->worker[i].number = i;
		ck_assert_int_eq(pthread_create(&thread[i], NULL, work, &team->worker[i]), 0);
	}
	for (unsigned i = 0; i < WORKERS; i++)
		ck_assert_int_eq(pthread_join(thread[i], NULL), 0);
	return team;
}

static void team_free(struct team *team)
{
	for (unsigned i = 0; i < WORKERS; i++) {
		free(team->worker[i].outputs);
		free(team->worker[i].grads);
		free(team->worker[i].running);
	}
	pthread_barrier_destroy(&team->barrier);
	free(team);
}

static void check_close(const float *got, const float *expected, size_t n, const char *what)
{
	double wrong = 0.0, size = 0.0;

	for (size_t i = 0; i < n; i++) {
		wrong += pow((double)got[i] - (double)expected[i], 2);
		size += pow((double)expected[i], 2);
	}
	ck_assert_msg(sqrt(wrong) <= TOLERANCE * sqrt(size), "%s: off by %g of %g", what,
		sqrt(wrong), sqrt(size));
}

static bool has_norms(int which)
{
	struct net net;
	bool has;

	net_begin(&net, NULL, &in);
	net_builders[which](&net);
	has = net.n_running > 0;
	net_free(&net);
	return has;
}

/* Also with images so far from 0 that the moments are taken twice. */
START_TEST(test_like_cpu)
{
	int which = _i / 2;
	struct team *cpu, *cuda;
	size_t leaks;

	if (!has_norms(which))
		return;
	leaks = shim_leaks();
	shim_lazy(_i % 2);
	cpu = team_run(false, which, _i % 2 ? 30.0f : 0.0f);
	cuda = team_run(true, which, _i % 2 ? 30.0f : 0.0f);
	for (unsigned i = 0; i < WORKERS; i++) {
		const struct worker *got = &cuda->worker[i], *expected = &cpu->worker[i];

		check_close(got->outputs, expected->outputs, got->n_outputs, "outputs");
		check_close(got->grads, expected->grads, got->n_params, "gradients");
		check_close(got->running, expected->running, got->n_running, "statistics");
	}
	/* Statistics are of all workers, to the bit. */
	ck_assert_mem_eq(cuda->worker[0].running, cuda->worker[1].running,
		cuda->worker[0].n_running * sizeof(float));
	ck_assert_uint_eq(shim_leaks(), leaks);
	team_free(cpu);
	team_free(cuda);
}
END_TEST

static psgd_status lost(void *user, float *values, size_t n)
{
	(void)user;
	(void)values;
	(void)n;
	return PSGD_ERR_PEER_LOST;
}

START_TEST(test_lost)
{
	struct image_error error;
	struct net_plan *plan;
	struct net net;
	struct nn *nn;

	ck_assert_int_eq(cuda_open(0, "none", &nn, &error), PSGD_OK);
	net_begin(&net, nn, &in);
	net_builders[N_BUILDERS - 1](&net);
	ck_assert_int_eq(net_end(&net, 3), PSGD_OK);
	ck_assert_int_eq(net_sync(&net, lost, NULL, 2), PSGD_OK);
	plan = net_prepare(&net, PART, true);
	noise(plan->input, net_values(&in, PART), 1, 0.0f);
	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_ERR_PEER_LOST);
	net_free(&net);
	nn_close(&nn);
	ck_assert_uint_eq(shim_leaks(), 0);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_cuda_sync");
	TCase *c = tcase_create("cuda_sync");

	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, test_like_cpu, 0, 2 * N_BUILDERS);
	tcase_add_test(c, test_lost);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return pair_has_device() ? run_suite(suite()) : EXIT_SUCCESS;
}
