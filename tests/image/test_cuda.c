/* The CUDA engine, on a CUDA that runs on a CPU: layer by layer what this processor computes. */
#include "examples/image/accumulate.h"
#include "examples/image/cuda_open.h"
#include "examples/image/layers.h"
#include "examples/image/loss.h"
#include "examples/image/models.h"
#include "examples/image/optim.h"
#include "examples/image/rng.h"
#include "nets.h"
#include "support/suite.h"

#include <math.h>
#include <shim.h>
#include <stdio.h>
#include <string.h>

#define BATCH 5
#define TOLERANCE 1e-4 /* relative, of a whole tensor */

static struct nn *cpu, *cuda;
static struct image_error error;
static size_t leaks;

static void open_both(void)
{
	shim_reset();
	leaks = shim_leaks();
	ck_assert_int_eq(nn_open(1, &cpu, &error), PSGD_OK);
	ck_assert_msg(cuda_open(0, "convolutions", &cuda, &error) == PSGD_OK, "%s", error.text);
}

static void close_both(void)
{
	nn_close(&cpu);
	nn_close(&cuda);
	ck_assert_uint_eq(shim_leaks(), leaks);
}

static void noise(float *out, size_t n, uint64_t item)
{
	for (size_t i = 0; i < n; i++)
		out[i] = rng_symmetric(rng_key(7, RNG_SYNTHETIC, item), i);
}

/* The engine's values for the host; freed by the caller. */
static float *values_of(struct nn *nn, const float *values, size_t n)
{
	float *out = calloc(n + 1, sizeof(*out));

	ck_assert_int_eq(nn_download(nn, out, values, n, &error), PSGD_OK);
	return out;
}

static void check_close(
	const float *got, const float *expected, size_t n, double tolerance, const char *what)
{
	double wrong = 0.0, size = 0.0;

	for (size_t i = 0; i < n; i++) {
		wrong += pow((double)got[i] - (double)expected[i], 2);
		size += pow((double)expected[i], 2);
	}
	ck_assert_msg(sqrt(wrong) <= tolerance * sqrt(size) + 1e-9, "%s: off by %g of %g", what,
		sqrt(wrong), sqrt(size));
}

/* The same net on both. */
struct pair {
	struct net cpu, cuda;
	struct net_plan *on_cpu, *on_cuda;
};

static void stir(struct pair *p)
{
	for (size_t i = 0; i < p->cpu.n_tensors; i++) {
		const struct net_tensor *tensor = &p->cpu.tensor[i];
		float *values = p->cpu.params + tensor->offset;

		/* Constants would hide a wrong index. */
		if (tensor->init != NET_CONSTANT)
			continue;
		noise(values, tensor->count, i);
		for (size_t j = 0; j < tensor->count; j++)
			values[j] += tensor->scale;
	}
	ck_assert_int_eq(
		nn_upload(cuda, p->cuda.params, p->cpu.params, p->cpu.n_params, &error), PSGD_OK);
}

static void prepare(struct pair *p, int64_t batch, bool train)
{
	p->on_cpu = net_prepare(&p->cpu, batch, train);
	p->on_cuda = net_prepare(&p->cuda, batch, train);
	ck_assert_ptr_nonnull(p->on_cpu);
	ck_assert_msg(p->on_cuda, "%s", p->cuda.error.text);
}

static void pair_open(
	struct pair *p, void (*add)(struct net *), const struct nn_shape *in, int64_t batch)
{
	struct net *nets[2] = {&p->cpu, &p->cuda};

	for (int i = 0; i < 2; i++) {
		net_begin(nets[i], i ? cuda : cpu, in);
		add(nets[i]);
		ck_assert_int_eq(net_end(nets[i], 3), PSGD_OK);
	}
	stir(p);
	prepare(p, batch, true);
}

static void pair_close(struct pair *p)
{
	net_free(&p->cpu);
	net_free(&p->cuda);
}

static void set_input(struct pair *p, uint64_t item)
{
	size_t n = net_values(&p->cpu.in, p->on_cpu->batch);

	noise(p->on_cpu->input, n, item);
	memcpy(p->on_cuda->input, p->on_cpu->input, n * sizeof(float));
}

static size_t n_outputs(const struct pair *p)
{
	const struct net *net = &p->cpu;

	return net_values(&net->layer[net->n_layers - 1].out, p->on_cpu->batch);
}

static void check_outputs(struct pair *p, const char *what)
{
	ck_assert_int_eq(net_output(&p->cuda, p->on_cuda), PSGD_OK);
	check_close(p->on_cuda->output, p->on_cpu->output, n_outputs(p), TOLERANCE, what);
}

static void forward(struct pair *p, float *running_cpu, float *running_cuda)
{
	ck_assert_int_eq(net_forward(&p->cpu, p->on_cpu, running_cpu), PSGD_OK);
	ck_assert_msg(net_forward(&p->cuda, p->on_cuda, running_cuda) == PSGD_OK, "%s",
		p->cuda.error.text);
}

static void backward(struct pair *p, uint64_t item)
{
	noise(p->on_cpu->diff_start, n_outputs(p), item);
	memcpy(p->on_cuda->diff_start, p->on_cpu->diff_start, n_outputs(p) * sizeof(float));
	ck_assert_int_eq(net_backward(&p->cpu, p->on_cpu, NULL, NULL), PSGD_OK);
	ck_assert_msg(net_backward(&p->cuda, p->on_cuda, NULL, NULL) == PSGD_OK, "%s",
		p->cuda.error.text);
}

static void check_grads(struct pair *p, const char *what)
{
	float *grads = values_of(cuda, p->cuda.grads, p->cuda.n_params);
	float *running = values_of(cuda, p->cuda.running, p->cuda.n_running);

	for (size_t t = 0; t < p->cpu.n_tensors; t++) {
		const struct net_tensor *tensor = &p->cpu.tensor[t];
		char text[128];

		(void)snprintf(text, sizeof(text), "%s: gradient of %s", what, tensor->name);
		check_close(grads + tensor->offset, p->cpu.grads + tensor->offset, tensor->count,
			TOLERANCE, text);
	}
	check_close(running, p->cpu.running, p->cpu.n_running, TOLERANCE, "running statistics");
	free(running);
	free(grads);
}

/* Thread orders, eager and lazy streams. */
#define N_MANNERS 6

static void set_manner(int i)
{
	shim_order((enum shim_order)(i % 3), 11);
	shim_lazy(i >= 3);
}

/* Twice, so that nothing of the first pass is in the second. */
START_TEST(test_layers)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct pair p;
	char text[32];

	set_manner(_i / N_BUILDERS);
	(void)snprintf(text, sizeof(text), "net %d", _i % N_BUILDERS);
	pair_open(&p, net_builders[_i % N_BUILDERS], &in, BATCH);
	for (uint64_t step = 0; step < 2; step++) {
		set_input(&p, 100 + step);
		forward(&p, NULL, NULL);
		check_outputs(&p, text);
		backward(&p, 200 + step);
		check_grads(&p, text);
	}
	/* Inference, by what training has left. */
	prepare(&p, 3, false);
	set_input(&p, 300);
	forward(&p, NULL, NULL);
	check_outputs(&p, "inference");
	pair_close(&p);
}
END_TEST

static void model_open(struct pair *p, char *name, int64_t batch)
{
	const struct psgd_config_model model = {
		.name = name, .stem = (char[]){"auto"}, .num_classes = 10};
	struct nn_shape in = {.c = 3, .h = 16, .w = 16};

	ck_assert_int_eq(model_build(&p->cpu, cpu, &model, &in, 5, &error), PSGD_OK);
	ck_assert_int_eq(model_build(&p->cuda, cuda, &model, &in, 5, &error), PSGD_OK);
	prepare(p, batch, true);
}

static const char *const models[] = {"resnet8", "cnn", "mlp"};

/* A few steps with the optimizer: errors would add up. */
START_TEST(test_training)
{
	const struct psgd_config_training training = {
		.momentum = 0.9, .weight_decay = 1e-3, .nesterov = _i % 2 == 0};
	struct pair p;
	float *momentum, *on_cuda, *params;
	char name[16];

	(void)snprintf(name, sizeof(name), "%s", models[_i / 2]);
	shim_lazy(_i % 2);
	model_open(&p, name, 8);
	momentum = calloc(p.cpu.n_params, sizeof(float));
	on_cuda = nn_alloc(cuda, p.cuda.n_params);
	for (uint64_t step = 0; step < 4; step++) {
		struct loss losses[2] = {{0}};
		const uint16_t labels[8] = {0, 1, 2, 3, 4, 5, 6, 7};

		set_input(&p, 400 + step);
		forward(&p, NULL, NULL);
		ck_assert_int_eq(net_output(&p.cuda, p.on_cuda), PSGD_OK);
		loss_add(&losses[0], p.on_cpu->output, labels, 8, 10, p.on_cpu->diff_start);
		loss_add(&losses[1], p.on_cuda->output, labels, 8, 10, p.on_cuda->diff_start);
		ck_assert_double_eq_tol(losses[1].sum, losses[0].sum, 1e-4 * losses[0].sum);
		ck_assert_int_eq(net_backward(&p.cpu, p.on_cpu, NULL, NULL), PSGD_OK);
		ck_assert_int_eq(net_backward(&p.cuda, p.on_cuda, NULL, NULL), PSGD_OK);
		ck_assert_int_eq(optim_net(&p.cpu, &training, 0.02, momentum), PSGD_OK);
		ck_assert_int_eq(optim_net(&p.cuda, &training, 0.02, on_cuda), PSGD_OK);
	}
	params = values_of(cuda, p.cuda.params, p.cuda.n_params);
	check_close(params, p.cpu.params, p.cpu.n_params, TOLERANCE, "parameters");
	free(params);
	params = values_of(cuda, on_cuda, p.cuda.n_params);
	check_close(params, momentum, p.cpu.n_params, 1e-3, "momentum");
	free(params);
	free(momentum);
	nn_free(cuda, on_cuda);
	pair_close(&p);
}
END_TEST

/* The optimizer alone: its rule is separately rounded on the one, perhaps fused on the other. */
START_TEST(test_optimizer)
{
	const struct psgd_config_training training = {
		.momentum = 0.9, .weight_decay = 0.1, .nesterov = _i};
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	float *momentum, *on_cuda, *params;
	struct pair p;

	pair_open(&p, net_builders[N_BUILDERS - 1], &in, BATCH);
	momentum = calloc(p.cpu.n_params, sizeof(float));
	on_cuda = nn_alloc(cuda, p.cuda.n_params);
	for (uint64_t step = 0; step < 5; step++) {
		noise(p.cpu.grads, p.cpu.n_params, 500 + step);
		ck_assert_int_eq(nn_upload(cuda, p.cuda.grads, p.cpu.grads, p.cpu.n_params, &error),
			PSGD_OK);
		ck_assert_int_eq(optim_net(&p.cpu, &training, 0.1, momentum), PSGD_OK);
		ck_assert_int_eq(optim_net(&p.cuda, &training, 0.1, on_cuda), PSGD_OK);
	}
	params = values_of(cuda, p.cuda.params, p.cuda.n_params);
	check_close(params, p.cpu.params, p.cpu.n_params, 1e-6, "parameters");
	free(params);
	free(momentum);
	nn_free(cuda, on_cuda);
	pair_close(&p);
}
END_TEST

static psgd_status ignore(void *user, const struct net_layer *layer)
{
	(void)user;
	(void)layer;
	return PSGD_OK;
}

START_TEST(test_accumulate)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct accumulate sums[2];
	struct pair p;

	pair_open(&p, net_builders[3], &in, BATCH);
	ck_assert_int_eq(accumulate_init(&sums[0], &p.cpu, 3, ignore, NULL), PSGD_OK);
	ck_assert_int_eq(accumulate_init(&sums[1], &p.cuda, 3, ignore, NULL), PSGD_OK);
	accumulate_begin(&sums[0], 3);
	accumulate_begin(&sums[1], 3);
	for (uint64_t i = 0; i < 3; i++) {
		set_input(&p, 600 + i);
		forward(&p, NULL, NULL);
		noise(p.on_cpu->diff_start, n_outputs(&p), 700 + i);
		ck_assert_int_eq(net_output(&p.cuda, p.on_cuda), PSGD_OK);
		noise(p.on_cuda->diff_start, n_outputs(&p), 700 + i);
		ck_assert_int_eq(
			net_backward(&p.cpu, p.on_cpu, accumulate_on_grads, &sums[0]), PSGD_OK);
		ck_assert_int_eq(
			net_backward(&p.cuda, p.on_cuda, accumulate_on_grads, &sums[1]), PSGD_OK);
	}
	check_grads(&p, "three batches");
	accumulate_finish(&sums[0]);
	accumulate_finish(&sums[1]);
	pair_close(&p);
}
END_TEST

/* A batch that is not finite leaves the running statistics alone, as it does on the CPU. */
START_TEST(test_nonfinite_statistics)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct pair p;
	float *before, *after;

	pair_open(&p, net_builders[4], &in, BATCH);
	set_input(&p, 1);
	before = values_of(cuda, p.cuda.running, p.cuda.n_running);
	p.on_cuda->input[3] = _i ? INFINITY : NAN;
	p.on_cpu->input[3] = p.on_cuda->input[3];
	forward(&p, NULL, NULL);
	ck_assert_int_eq(net_output(&p.cuda, p.on_cuda), PSGD_OK);
	ck_assert(isnan(p.on_cuda->output[0]));
	after = values_of(cuda, p.cuda.running, p.cuda.n_running);
	/* Channel 1 is spoilt, in the first norm and in all that follow. */
	ck_assert(after[1] == before[1] && after[3] == before[3]);
	ck_assert(after[0] != before[0]);
	for (size_t i = 4; i < p.cuda.n_running; i++)
		ck_assert(after[i] == before[i]);
	free(before);
	free(after);
	pair_close(&p);
}
END_TEST

/*
 * While a batch is computed the next is on its way: the same result as one after the other. One
 * that nobody wants any more is dropped.
 */
START_TEST(test_ahead)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	size_t n = net_values(&in, BATCH);
	struct pair p;

	shim_lazy(_i);
	pair_open(&p, net_builders[N_BUILDERS - 1], &in, BATCH);
	noise(p.on_cuda->input, n, 0);
	ck_assert_int_eq(net_load(&p.cuda, p.on_cuda), PSGD_OK);
	for (uint64_t i = 0; i < 5; i++) {
		noise(p.on_cpu->input, n, i);
		forward(&p, NULL, NULL);
		if (i == 2) { /* the wrong one */
			noise(p.on_cuda->input, n, 1000);
			ck_assert_int_eq(net_load(&p.cuda, p.on_cuda), PSGD_OK);
			net_unload(&p.cuda, p.on_cuda);
		}
		noise(p.on_cuda->input, n, i + 1);
		ck_assert_int_eq(net_load(&p.cuda, p.on_cuda), PSGD_OK);
		memset(p.on_cuda->input, 0xff, n * sizeof(float));
		check_outputs(&p, "ahead");
		backward(&p, i);
		check_grads(&p, "ahead");
	}
	pair_close(&p);
}
END_TEST

static void load(struct pair *p, uint64_t item)
{
	noise(p->on_cuda->input, net_values(&p->cuda.in, BATCH), item);
	ck_assert_msg(net_load(&p->cuda, p->on_cuda) == PSGD_OK, "%s", p->cuda.error.text);
}

/* A batch that follows does not take the place of one that has not been read yet. */
START_TEST(test_in_a_row)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct pair p;

	shim_lazy(true);
	pair_open(&p, net_builders[N_BUILDERS - 1], &in, BATCH);
	for (uint64_t i = 0; i < 2; i++) {
		load(&p, i);
		noise(p.on_cpu->input, net_values(&in, BATCH), i);
		forward(&p, NULL, NULL);
	}
	load(&p, 2);
	load(&p, 3);
	check_outputs(&p, "second pass");
	/* Of both passes. */
	check_grads(&p, "none yet");
	ck_assert_int_eq(net_load(&p.cuda, p.on_cuda), PSGD_ERR_STATE);
	pair_close(&p);
}
END_TEST

/* Between a step's forward and its optimizer the host waits once: for the scores. */
START_TEST(test_no_waits)
{
	const struct psgd_config_training training = {.momentum = 0.9};
	float *momentum;
	struct pair p;
	uint64_t waits;

	model_open(&p, (char[]){"resnet8"}, 4);
	momentum = nn_alloc(cuda, p.cuda.n_params);
	set_input(&p, 1);
	waits = shim_count(SHIM_SYNCS);
	ck_assert_int_eq(net_load(&p.cuda, p.on_cuda), PSGD_OK);
	waits = shim_count(SHIM_SYNCS);
	ck_assert_int_eq(net_forward(&p.cuda, p.on_cuda, NULL), PSGD_OK);
	ck_assert_uint_eq(shim_count(SHIM_SYNCS), waits);
	ck_assert_int_eq(net_output(&p.cuda, p.on_cuda), PSGD_OK);
	waits = shim_count(SHIM_SYNCS);
	ck_assert_int_eq(net_backward(&p.cuda, p.on_cuda, NULL, NULL), PSGD_OK);
	ck_assert_int_eq(optim_net(&p.cuda, &training, 0.1, momentum), PSGD_OK);
	ck_assert_uint_eq(shim_count(SHIM_SYNCS), waits);
	nn_free(cuda, momentum);
	pair_close(&p);
}
END_TEST

/* As if the other worker had the same. */
static psgd_status give_back(void *user, float *values, size_t n)
{
	(void)user;
	for (size_t i = 0; i < n; i++)
		values[i] *= 2.0f;
	return PSGD_OK;
}

static uint64_t work_calls; /* up to the end of the work; what follows only frees */

static psgd_status train_once(struct net *net, bool sync)
{
	const struct psgd_config_training training = {.momentum = 0.9};
	struct net_plan *plan;
	float *momentum, *view;
	psgd_status status = net_end(net, 3);

	if (status)
		return status;
	if (sync)
		ck_assert_int_eq(net_sync(net, give_back, NULL, 2), PSGD_OK);
	plan = net_prepare(net, 2, true);
	if (!plan)
		return PSGD_ERR_NOMEM;
	noise(plan->input, net_values(&net->in, 2), 1);
	momentum = nn_alloc(net->nn, net->n_params);
	if (!momentum)
		return image_fail(&net->error, PSGD_ERR_NOMEM, "out of memory");
	status = net_load(net, plan);
	if (!status)
		status = net_forward(net, plan, NULL);
	if (!status)
		status = net_output(net, plan);
	if (!status)
		noise(plan->diff_start, 6, 2);
	if (!status)
		status = net_backward(net, plan, NULL, NULL);
	if (!status)
		status = optim_net(net, &training, 0.1, momentum);
	if (!status)
		status = nn_copy(net->nn, net->grads, net->params, net->n_params, &net->error);
	if (!status)
		status = nn_view(net->nn, net->grads, net->n_params, &view, &net->error);
	if (!status)
		status = nn_view_end(net->nn, view, net->grads, net->n_params, true, &net->error);
	work_calls = shim_calls();
	nn_free(net->nn, momentum);
	return status;
}

static psgd_status one_step(bool sync)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct net net = {0};
	struct nn *nn;
	psgd_status status;

	error.text[0] = 0;
	status = cuda_open(0, "none", &nn, &error);
	if (status)
		return status;
	net_begin(&net, nn, &in);
	net_builders[N_BUILDERS - 1](&net);
	status = train_once(&net, sync);
	if (status)
		error = net.error;
	net_free(&net);
	nn_close(&nn);
	return status;
}

/* Every call in turn fails: a line that says so, and nothing is left behind. */
START_TEST(test_failures)
{
	uint64_t n, work;

	shim_fail(0);
	ck_assert_int_eq(one_step(_i), PSGD_OK);
	n = shim_calls();
	work = work_calls;
	ck_assert_uint_gt(work, 100);
	for (uint64_t k = 1; k <= n; k++) {
		size_t before = shim_leaks();
		psgd_status status;

		shim_fail(k);
		status = one_step(_i);
		shim_fail(0);
		ck_assert_uint_eq(shim_leaks(), before);
		/* What ends things goes on whatever is said. */
		ck_assert_msg((status < PSGD_OK && error.text[0]) || (!status && k > work),
			"call %llu of %llu: status %d, %s", (unsigned long long)k,
			(unsigned long long)work, status, error.text);
	}
	ck_assert_int_eq(one_step(_i), PSGD_OK);
}
END_TEST

START_TEST(test_no_device)
{
	struct nn *nn;

	shim_devices(_i ? 0 : -1);
	ck_assert_int_eq(cuda_open(0, "none", &nn, &error), PSGD_ERR_DEVICE);
	ck_assert_ptr_null(nn);
	ck_assert_ptr_nonnull(strstr(error.text, "CUDA"));
	shim_devices(1);
	ck_assert_int_eq(cuda_open(7, "none", &nn, &error), PSGD_ERR_DEVICE);
}
END_TEST

START_TEST(test_memory)
{
	struct pair p;

	shim_memory_limit(6 << 20);
	ck_assert_int_eq(model_build(&p.cuda, cuda,
				 &(struct psgd_config_model){.name = (char[]){"resnet8"},
					 .stem = (char[]){"auto"},
					 .num_classes = 10},
				 &(struct nn_shape){.c = 3, .h = 16, .w = 16}, 5, &error),
		PSGD_OK);
	ck_assert_ptr_null(net_prepare(&p.cuda, 512, true));
	ck_assert_ptr_nonnull(strstr(p.cuda.error.text, "batch of 512 images"));
	/* There is room for a smaller one. */
	ck_assert_ptr_nonnull(net_prepare(&p.cuda, 2, true));
	net_free(&p.cuda);
	shim_memory_limit(0);
}
END_TEST

/* Without the module: why, in words. */
START_TEST(test_no_module)
{
	char *kept = strdup(getenv("PSGD_MODULE_PATH"));
	const struct image_cuda_module *module;

	ck_assert_int_eq(setenv("PSGD_MODULE_PATH", "/nowhere", 1), 0);
	ck_assert_int_eq(cuda_find(&module, &error), PSGD_ERR_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(error.text, "no cuDNN module: "));
	ck_assert_int_eq(setenv("PSGD_MODULE_PATH", kept, 1), 0);
	free(kept);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_cuda");
	TCase *c = tcase_create("cuda");

	tcase_set_timeout(c, 120);
	tcase_add_checked_fixture(c, open_both, close_both);
	tcase_add_loop_test(c, test_layers, 0, N_BUILDERS * N_MANNERS);
	tcase_add_loop_test(c, test_training, 0, 6);
	tcase_add_loop_test(c, test_optimizer, 0, 2);
	tcase_add_test(c, test_accumulate);
	tcase_add_loop_test(c, test_nonfinite_statistics, 0, 2);
	tcase_add_loop_test(c, test_ahead, 0, 2);
	tcase_add_test(c, test_in_a_row);
	tcase_add_test(c, test_no_waits);
	tcase_add_loop_test(c, test_failures, 0, 2);
	tcase_add_test(c, test_memory);
	tcase_add_loop_test(c, test_no_device, 0, 2);
	tcase_add_test(c, test_no_module);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
