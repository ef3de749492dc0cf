/* Norms over the batches of several workers: as if one worker had the joined batch. */
#include "examples/image/layers.h"
#include "examples/image/rng.h"
#include "nets.h"
#include "reference.h"
#include "support/suite.h"

#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

#define PART 5 /* images of a worker */
#define MOST_WORKERS 3
#define ANY UINT_MAX
#define PIXELS ((size_t)(2 * 5 * 6))

static const struct nn_shape in = {.c = 2, .h = 5, .w = 6};

/* Workers as threads; what they give to `sum` meets in the middle. */
struct team {
	unsigned n;
	int which;	     /* net */
	float offset, scale; /* of the images */
	int steps;
	unsigned isa;  /* of the loops; ANY: the best */
	float running; /* what running means begin with */
	pthread_barrier_t barrier;
	float sum[MOST_WORKERS][512];
	struct worker {
		struct team *team;
		unsigned number;
		struct nn *nn;
		struct net net;
		struct net_plan *plan;
		size_t calls, values;
	} worker[MOST_WORKERS];
};

static psgd_status sum(void *user, float *values, size_t n)
{
	struct worker *w = user;
	struct team *team = w->team;

	ck_assert_uint_le(n, sizeof(team->sum[0]) / sizeof(float));
	memcpy(team->sum[w->number], values, n * sizeof(float));
	(void)pthread_barrier_wait(&team->barrier);
	for (size_t i = 0; i < n; i++) {
		values[i] = team->sum[0][i];
		for (unsigned k = 1; k < team->n; k++)
			values[i] += team->sum[k][i];
	}
	(void)pthread_barrier_wait(&team->barrier);
	w->calls++;
	w->values += n;
	return PSGD_OK;
}

/* Image by image, so that it does not matter who has it. */
static float pixel(const struct team *team, int step, size_t i)
{
	return team->offset +
	       team->scale * rng_symmetric(rng_key(8, RNG_SYNTHETIC, (uint64_t)step + 100), i);
}

static float weight(size_t i)
{
	return rng_symmetric(rng_key(7, RNG_SYNTHETIC, 200), i);
}

/* Constants would hide a wrong index. */
static void stir(struct net *net)
{
	for (size_t i = 0; i < net->n_tensors; i++)
		for (size_t j = 0; net->tensor[i].init == NET_CONSTANT && j < net->tensor[i].count;
			j++)
			net->params[net->tensor[i].offset + j] +=
				rng_symmetric(rng_key(7, RNG_SYNTHETIC, i), j);
}

static size_t outputs(const struct net *net)
{
	return (size_t)net->layer[net->n_layers - 1].out.c;
}

static void *work(void *user)
{
	struct worker *w = user;
	struct team *team = w->team;
	struct image_error error;

	ck_assert_int_eq(nn_open(1, &w->nn, &error), PSGD_OK);
	net_begin(&w->net, w->nn, &in);
	net_builders[team->which](&w->net);
	ck_assert_int_eq(net_end(&w->net, 3), PSGD_OK);
	stir(&w->net);
	ck_assert_int_eq(net_sync(&w->net, sum, w, team->n), PSGD_OK);
	if (team->isa != ANY)
		w->net.norm.rows = norm_rows_of(team->isa);
	for (size_t i = 0; team->running != 0.0f && i < w->net.n_layers; i++)
		if (w->net.layer[i].kind->statistics)
			w->net.running[w->net.layer[i].running] = team->running;
	w->plan = net_prepare(&w->net, PART, true);
	ck_assert_ptr_nonnull(w->plan);
	for (int step = 0; step < team->steps; step++) {
		size_t classes = outputs(&w->net), first = w->number * (size_t)PART;

		for (size_t i = 0; i < PART * PIXELS; i++)
			w->plan->input[i] = pixel(team, step, first * PIXELS + i);
		ck_assert_int_eq(net_forward(&w->net, w->plan, NULL), PSGD_OK);
		for (size_t i = 0; i < PART * classes; i++)
			w->plan->diff_start[i] = weight(first * classes + i);
		ck_assert_int_eq(net_backward(&w->net, w->plan, NULL, NULL), PSGD_OK);
	}
	return NULL;
}

static struct team *team_new(unsigned n, int which, float offset, float scale, int steps)
{
	struct team *team = calloc(1, sizeof(*team));

	*team = (struct team){.n = n,
		.which = which,
		.offset = offset,
		.scale = scale,
		.steps = steps,
		.isa = ANY};
	return team;
}

static struct team *team_start(struct team *team)
{
	pthread_t thread[MOST_WORKERS];
	unsigned n = team->n;

	ck_assert_int_eq(pthread_barrier_init(&team->barrier, NULL, n), 0);
	for (unsigned i = 0; i < n; i++) {
		team->worker[i].team = team;
		team->worker[i].number = i;
		ck_assert_int_eq(pthread_create(&thread[i], NULL, work, &team->worker[i]), 0);
	}
	for (unsigned i = 0; i < n; i++)
		ck_assert_int_eq(pthread_join(thread[i], NULL), 0);
	return team;
}

static struct team *team_run(unsigned n, int which, float offset, float scale, int steps)
{
	return team_start(team_new(n, which, offset, scale, steps));
}

static void team_free(struct team *team)
{
	for (unsigned i = 0; i < team->n; i++) {
		net_free(&team->worker[i].net);
		nn_close(&team->worker[i].nn);
	}
	pthread_barrier_destroy(&team->barrier);
	free(team);
}

/* The joined batch. */
struct joined {
	const struct net *net;
	float *images;
	double *params, *outputs;
	size_t batch;
};

static struct joined join(const struct team *team)
{
	struct joined j = {.net = &team->worker[0].net, .batch = (size_t)team->n * PART};

	j.images = malloc(j.batch * PIXELS * sizeof(float));
	j.params = malloc(j.net->n_params * sizeof(double));
	for (size_t i = 0; i < j.batch * PIXELS; i++)
		j.images[i] = pixel(team, team->steps - 1, i);
	for (size_t i = 0; i < j.net->n_params; i++)
		j.params[i] = j.net->params[i];
	j.outputs = reference_forward(j.net, j.params, j.images, j.batch, NULL);
	return j;
}

static void joined_free(struct joined *j)
{
	free(j->images);
	free(j->params);
	free(j->outputs);
}

static double objective(const struct joined *j)
{
	double *out = reference_forward(j->net, j->params, j->images, j->batch, NULL), all = 0.0;

	for (size_t i = 0; i < j->batch * outputs(j->net); i++)
		all += out[i] * weight(i);
	free(out);
	return all;
}

static bool has_norms(int which)
{
	struct net net;
	bool has;

	net_begin(&net, NULL, &in);
	net_builders[which](&net);
	ck_assert_int_eq(net_end(&net, 3), PSGD_OK);
	has = net.n_running > 0;
	net_free(&net);
	return has;
}

static void check_forward(const struct team *team, const struct joined *j)
{
	size_t n = PART * outputs(j->net);

	for (unsigned w = 0; w < team->n; w++)
		for (size_t i = 0; i < n; i++)
			ck_assert_double_eq_tol(
				team->worker[w].plan->output[i], j->outputs[w * n + i], 2e-5);
}

/*
 * Each worker has its share of the joined batch's gradient: the slope along the sum of them is the
 * sum's square, tensor by tensor.
 */
static void check_gradients(const struct team *team, struct joined *j)
{
	for (size_t t = 0; t < j->net->n_tensors; t++) {
		const struct net_tensor *tensor = &j->net->tensor[t];
		double square = 0.0, slope = 0.0, step, *got = calloc(tensor->count, sizeof(*got));
		double *params = j->params + tensor->offset;

		for (size_t i = 0; i < tensor->count; i++) {
			for (unsigned w = 0; w < team->n; w++)
				got[i] += team->worker[w].net.grads[tensor->offset + i];
			square += got[i] * got[i];
		}
		step = 1e-7 / sqrt(square);
		for (int sign = -1; sign <= 1; sign += 2) {
			for (size_t i = 0; i < tensor->count; i++)
				params[i] += sign * step * got[i];
			slope += sign * objective(j) / (2.0 * step);
			for (size_t i = 0; i < tensor->count; i++)
				params[i] -= sign * step * got[i];
		}
		ck_assert_msg(square > 0.0 && fabs(slope / square - 1.0) < 5e-5,
			"net %d, %u workers, %s: slope %g along the gradient, not %g", team->which,
			team->n, tensor->name, slope, square);
		free(got);
	}
}

START_TEST(test_joined)
{
	int which = _i / MOST_WORKERS;
	unsigned n = (unsigned)_i % MOST_WORKERS + 1;
	struct team *team;
	struct joined joined;

	if (!has_norms(which))
		return;
	team = team_run(n, which, 0.0f, 1.0f, 1);
	joined = join(team);
	check_forward(team, &joined);
	check_gradients(team, &joined);
	for (unsigned w = 0; w < n; w++)
		ck_assert_uint_eq(team->worker[w].values, net_sync_values(joined.net));
	joined_free(&joined);
	team_free(team);
}
END_TEST

/* Of a net that is one norm: means and variances of what all workers saw, by definition. */
static void check_running(const struct team *team, double tolerance)
{
	const struct net *net = &team->worker[0].net;
	size_t count = (size_t)team->n * PART * 30;
	double mean[2] = {0, 0}, variance[2] = {1, 1};

	for (int step = 0; step < team->steps; step++)
		for (size_t c = 0; c < 2; c++) {
			double m = 0.0, v = 0.0;

			for (size_t i = 0; i < count; i++)
				m += pixel(team, step, 2 * i + c) / (double)count;
			for (size_t i = 0; i < count; i++)
				v += pow(pixel(team, step, 2 * i + c) - m, 2) / (double)(count - 1);
			mean[c] = 0.9 * mean[c] + 0.1 * m;
			variance[c] = 0.9 * variance[c] + 0.1 * v;
		}
	for (size_t c = 0; c < 2; c++) {
		ck_assert_double_eq_tol(net->running[c] / mean[c], 1.0, 1e-6);
		ck_assert_double_eq_tol(net->running[2 + c] / variance[c], 1.0, tolerance);
	}
	for (unsigned w = 1; w < team->n; w++)
		ck_assert_mem_eq(
			team->worker[w].net.running, net->running, net->n_running * sizeof(float));
}

#define FIRST_IS_NORM 4 /* net_builders: its first layer is a norm of the images' two channels */

/* Far from 0, where squares of f32 values say nothing about the variance any more. */
START_TEST(test_running)
{
	static const float offsets[] = {0.25f, 3.0f, 300.0f, -30000.0f};
	struct team *team = team_run((unsigned)_i % MOST_WORKERS + 1, FIRST_IS_NORM,
		offsets[_i / MOST_WORKERS], 1.0f, 3);

	check_running(team, 2e-6 + 1e-7 * fabsf(offsets[_i / MOST_WORKERS]));
	team_free(team);
}
END_TEST

/* Activations that are all alike have no variance, and a gradient. */
START_TEST(test_constant)
{
	struct team *team = team_run(2, FIRST_IS_NORM, 5.0f, 0.0f, 2);
	const struct net *net = &team->worker[0].net;

	for (size_t c = 0; c < 2; c++) {
		ck_assert_double_eq_tol(net->running[c], 5.0 * 0.19, 1e-6);
		ck_assert_double_eq_tol(net->running[2 + c], 0.81, 1e-6);
	}
	for (size_t i = 0; i < net->n_params; i++)
		ck_assert(isfinite(net->grads[i]));
	team_free(team);
}
END_TEST

START_TEST(test_nan)
{
	struct team *team = team_run(2, FIRST_IS_NORM, NAN, 1.0f, 1);

	for (unsigned w = 0; w < 2; w++)
		ck_assert(isnan(team->worker[w].plan->output[0]));
	team_free(team);
}
END_TEST

/* One batch that was not finite has spoilt the running means; the next is none the worse. */
START_TEST(test_spoilt_mean)
{
	struct team *team = team_new(2, FIRST_IS_NORM, 3.0f, 1.0f, 1);
	struct joined joined;

	team->running = NAN;
	joined = join(team_start(team));
	check_forward(team, &joined);
	joined_free(&joined);
	team_free(team);
}
END_TEST

/* Every instruction set gives the same bits. */
START_TEST(test_isas)
{
	struct team *plain = team_new(2, _i, 1.0f, 1.0f, 2);

	plain->isa = 0;
	(void)team_start(plain);
	for (unsigned isa = 1; norm_rows_of(isa); isa++) {
		struct team *team = team_new(2, _i, 1.0f, 1.0f, 2);
		const struct net *net = &team->worker[1].net, *same = &plain->worker[1].net;

		team->isa = isa;
		(void)team_start(team);
		ck_assert_mem_eq(net->grads, same->grads, net->n_params * sizeof(float));
		ck_assert_mem_eq(net->running, same->running, net->n_running * sizeof(float));
		ck_assert_mem_eq(team->worker[1].plan->output, plain->worker[1].plan->output,
			PART * outputs(net) * sizeof(float));
		team_free(team);
	}
	team_free(plain);
}
END_TEST

/* Strips that are narrower than a vector: the sums of one do not reach those of the next. */
START_TEST(test_narrow_strips)
{
	enum { WIDTH = 8, GROUPS = 3, ROWS = 40, CHANNELS = WIDTH * GROUPS };
	float x[GROUPS * ROWS * WIDTH], mean[CHANNELS + NORM_TILE] = {0};
	struct norm_strips strips = {.images = 1,
		.groups = GROUPS,
		.rows = ROWS,
		.stride = WIDTH,
		.width = WIDTH,
		.channels = CHANNELS,
		.image_values = GROUPS * ROWS * WIDTH,
		.group_values = ROWS * WIDTH};

	for (size_t i = 0; i < GROUPS * ROWS * WIDTH; i++)
		x[i] = (float)(i % 13) * 0.5f - 2.0f;
	for (size_t c = 0; c < CHANNELS; c++)
		mean[c] = (float)c * 0.25f + 1.0f;
	for (unsigned isa = 0; norm_rows_of(isa); isa++) {
		double sum[CHANNELS + NORM_TILE] = {0}, square[CHANNELS + NORM_TILE] = {0};
		struct norm_rows rows = {.x = x, .mean = mean, .sum = sum, .product = square};

		norm_rows_of(isa)(NORM_MOMENTS, &strips, &rows);
		for (size_t c = 0; c < CHANNELS; c++) {
			double first = 0, second = 0;

			for (size_t k = 0; k < ROWS; k++) {
				size_t at = (c / WIDTH * ROWS + k) * WIDTH + c % WIDTH;
				double d = (double)x[at] - (double)mean[c];

				first += d;
				second += d * d;
			}
			ck_assert_double_eq_tol(sum[c], first, 1e-3);
			ck_assert_double_eq_tol(square[c], second, 1e-2);
		}
	}
}
END_TEST

/* The workers' sums fail, and so does the pass. */
static psgd_status lost(void *user, float *values, size_t n)
{
	(void)user;
	(void)values;
	(void)n;
	return PSGD_ERR_PEER_LOST;
}

START_TEST(test_failure)
{
	struct image_error error;
	struct net net;
	struct nn *nn;
	struct net_plan *plan;

	ck_assert_int_eq(nn_open(1, &nn, &error), PSGD_OK);
	net_begin(&net, nn, &in);
	net_builders[FIRST_IS_NORM](&net);
	ck_assert_int_eq(net_end(&net, 3), PSGD_OK);
	ck_assert_int_eq(net_sync(&net, lost, NULL, 2), PSGD_OK);
	plan = net_prepare(&net, PART, true);
	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_ERR_PEER_LOST);
	net_free(&net);
	nn_close(&nn);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_norm_sync");
	TCase *c = tcase_create("norm_sync");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_joined, 0, N_BUILDERS * MOST_WORKERS);
	tcase_add_loop_test(c, test_running, 0, 4 * MOST_WORKERS);
	tcase_add_test(c, test_constant);
	tcase_add_test(c, test_nan);
	tcase_add_test(c, test_spoilt_mean);
	tcase_add_loop_test(c, test_isas, 0, N_BUILDERS);
	tcase_add_test(c, test_narrow_strips);
	tcase_add_test(c, test_failure);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
