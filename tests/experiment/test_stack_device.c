/*
 * Which device a stack takes. The machines are invented: what is asked of CUDA and NCCL is answered
 * here, a CUDA device is the CPU by another name, and NCCL is Gloo.
 */
#include <stdarg.h>

#include <psgd/experiment/launch.h>

#include "experiment/stack_support.h"

enum { CUDA, NO_DEVICE, NO_MODULE, OTHER_MODEL };

/* Of each worker; shared with them. */
static struct machine {
	int has;
	bool no_nccl, trainer_cannot, no_probe, opening_fails;
	uint32_t count, local_size; /* 0: 1 */
	uint32_t local_rank, bus;   /* bus 0: of its own */
	/* what became of it */
	unsigned n_asked, n_probed, n_lines;
	bool on_cuda, ended_before_its_transport;
	char line[512], device[32];
} * machines;

static uint32_t me; /* the worker that this process is */
static bool transport_open;

static psgd_status say(psgd_status status, char *error, size_t bytes, const char *text)
{
	snprintf(error, bytes, "%s", text);
	return status;
}

psgd_status psgd_cuda_info(uint32_t ordinal, const char *module_dir, struct psgd_cuda_device *out,
	uint32_t *count, char *error, size_t error_bytes)
{
	struct machine *m = &machines[me];

	(void)module_dir;
	m->n_asked++;
	*count = 0;
	if (m->has == NO_MODULE)
		return say(PSGD_ERR_UNSUPPORTED, error, error_bytes, "no CUDA module: not built");
	out->runtime = 13000;
	if (m->has == NO_DEVICE)
		return say(PSGD_ERR_UNSUPPORTED, error, error_bytes, "no CUDA device is there");
	*count = m->count ? m->count : 1;
	if (ordinal >= *count)
		return say(PSGD_ERR_INVALID, error, error_bytes, "no such ordinal");
	out->driver = 13010;
	out->major = 9;
	out->memory_bytes = UINT64_C(80) << 30;
	out->ordinal = ordinal;
	snprintf(out->bus, sizeof(out->bus), "%u", m->bus ? m->bus : 16 * (me + 1) + ordinal);
	snprintf(out->name, sizeof(out->name), "Model %c", m->has == CUDA ? 'A' : 'B');
	return PSGD_OK;
}

psgd_status psgd_nccl_info(
	const char *module_dir, uint32_t *version, char *error, size_t error_bytes)
{
	(void)module_dir;
	*version = 22809;
	if (machines[me].no_nccl)
		return say(PSGD_ERR_UNSUPPORTED, error, error_bytes, "no NCCL module: not built");
	return PSGD_OK;
}

static void end_device(void *self)
{
	struct psgd_device inner;

	machines[me].ended_before_its_transport |= transport_open;
	ck_assert_int_eq(psgd_device_cpu(NULL, &inner), PSGD_OK);
	inner.ops->destroy(self);
	psgd_device_destroy(&inner);
}

psgd_status psgd_device_cuda(
	const struct psgd_device_cuda_options *options, struct psgd_device *out)
{
	static struct psgd_device_ops ops;
	psgd_status status;

	memset(out, 0, sizeof(*out));
	if (machines[me].opening_fails)
		return say(PSGD_ERR_NOMEM, options->error, options->error_bytes,
			"64 MiB of workspace: out of memory");
	status = psgd_device_cpu(NULL, out);
	ops = *out->ops;
	ops.name = "cuda";
	ops.destroy = end_device;
	out->ops = &ops;
	return status;
}

static void (*end_gloo)(void *self);

static void end_nccl(void *self)
{
	transport_open = false;
	end_gloo(self);
}

psgd_status psgd_transport_nccl(const struct psgd_nccl_options *options, struct psgd_transport *out)
{
	struct psgd_gloo_options gloo = PSGD_INIT(psgd_gloo_options);
	static struct psgd_transport_ops ops;
	psgd_status status;

	gloo.oob = options->oob;
	gloo.timeout_ns = options->timeout_ns;
	gloo.error = options->error;
	gloo.error_bytes = options->error_bytes;
	status = psgd_transport_gloo(&gloo, out);
	if (status)
		return status;
	ops = *out->ops;
	ops.name = "nccl";
	end_gloo = ops.destroy;
	ops.destroy = end_nccl;
	out->ops = &ops;
	transport_open = true;
	return PSGD_OK;
}

/* ---- the trainers ---- */

static psgd_status probe(void *user, uint32_t ordinal, char *reason, size_t bytes)
{
	struct machine *m = user;

	ck_assert_uint_eq(ordinal, 0);
	m->n_probed++;
	return m->trainer_cannot ? say(PSGD_ERR_UNSUPPORTED, reason, bytes, "no cuDNN module")
				 : PSGD_OK;
}

static void take_line(void *user, enum psgd_log_level level, const char *message)
{
	struct machine *m = user;

	(void)level;
	if (strncmp(message, "device: ", 8) != 0)
		return;
	m->n_lines++;
	snprintf(m->line, sizeof(m->line), "%s", message);
}

static void set_options(uint32_t worker, struct psgd_stack_options *options)
{
	struct machine *m = &machines[worker];

	me = worker;
	options->log = take_line;
	options->log_user = m;
	options->log_level = PSGD_LOG_INFO;
	options->cuda = m->no_probe ? NULL : probe;
	options->cuda_user = m;
	if (m->local_size) {
		set_number("LOCAL_RANK", m->local_rank);
		set_number("LOCAL_WORLD_SIZE", m->local_size);
	}
}

static void look(uint32_t worker, psgd_stack *stack)
{
	uint32_t ordinal = 77;
	const struct psgd_cuda_device *info = psgd_stack_cuda(stack, &ordinal);
	struct machine *m = &machines[worker];

	m->on_cuda = info != NULL;
	ck_assert_uint_eq(ordinal, 0);
	ck_assert(psgd_stack_cuda(stack, NULL) == info);
	snprintf(m->device, sizeof(m->device), "%s", psgd_stack_device(stack)->ops->name);
}

static void begin(void)
{
	set_up();
	machines = mmap(NULL, MAX_WORKERS * sizeof(*machines), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(machines, MAP_FAILED);
	setenv("PSGD_OVERWRITE", "1", 1);
	adjust = set_options;
	inspect = look;
}

static void end(void)
{
	munmap(machines, MAX_WORKERS * sizeof(*machines));
	tear_down();
}

static void ask(uint32_t n, const char *more, const struct machine *each)
{
	memcpy(machines, each, n * sizeof(*each));
	memset(outcomes, 0, MAX_WORKERS * sizeof(*outcomes));
	write_configs(MAX_WORKERS, more);
	/* What is measured takes a second. */
	ck_assert_int_eq(system("sed -i 's/timeout_s: 20/&, measure: false/' config*.yaml"), 0);
	run_workers(n);
}

/* All workers have trained on what is expected, and ended it in order. */
static void assert_trained(uint32_t n, bool on_cuda, const char *line)
{
	for (uint32_t w = 0; w < n; w++) {
		ck_assert_msg(outcomes[w].status == PSGD_OK, "worker %u: %s", w, outcomes[w].error);
		ck_assert_str_eq(machines[w].line, line);
		ck_assert_uint_eq(machines[w].n_lines, *line ? 1 : 0);
		ck_assert(machines[w].on_cuda == on_cuda);
		ck_assert_str_eq(machines[w].device, on_cuda ? "cuda" : "cpu");
		ck_assert(!machines[w].ended_before_its_transport);
		ck_assert_mem_eq(
			outcomes[w].gradient, outcomes[0].gradient, sizeof(outcomes[0].gradient));
	}
}

static void assert_refused(uint32_t n, psgd_status status, const char *text)
{
	for (uint32_t w = 0; w < n; w++) {
		ck_assert_int_eq(outcomes[w].status, status);
		ck_assert_str_eq(outcomes[w].error, text);
	}
}

#define ON_A "device: cuda 0, Model A (9.0), 80.0 GiB; CUDA 13.0"
#define NOT "device: cpu, not cuda: "

/* ---- tests ---- */

/* With auto all have CUDA, or all the CPU and the same reason. */
static const struct {
	const char *more;
	struct machine each; /* of both workers */
	const char *line;
	bool on_cuda;
} alike[] = {
	{"", {.has = CUDA}, ON_A, true},
	{"device: cuda\n", {.has = CUDA}, ON_A, true},
	{"", {.has = NO_DEVICE}, NOT "no CUDA device is there", false},
	{"", {.has = NO_MODULE}, "", false},
	{"", {.has = CUDA, .no_nccl = true}, NOT "no NCCL module: not built", false},
	{"", {.has = CUDA, .trainer_cannot = true}, NOT "no cuDNN module", false},
	{"", {.has = CUDA, .no_probe = true}, NOT "this trainer computes on the CPU only", false},
	{"", {.has = CUDA, .local_size = 2}, NOT "this node has 1 CUDA device for 2 workers",
		false},
	{"", {.has = CUDA, .local_size = 3, .count = 2},
		NOT "this node has 2 CUDA devices for 3 workers", false},
	{"", {.has = CUDA, .local_size = 2, .count = 2}, ON_A, true},
	{"device: cpu\n", {.has = CUDA}, "", false},
};

START_TEST(all_alike)
{
	const struct machine each[] = {alike[_i].each, alike[_i].each};

	ask(2, alike[_i].more, each);
	assert_trained(2, alike[_i].on_cuda, alike[_i].line);
	for (int w = 0; w < 2 && strcmp(alike[_i].more, "device: cpu\n") == 0; w++)
		ck_assert_uint_eq(machines[w].n_asked + machines[w].n_probed, 0);
}
END_TEST

/* A transport that is named decides for auto. */
START_TEST(by_transport)
{
	const struct machine cuda[2] = {{.has = CUDA}, {.has = CUDA}};
	const struct machine none[2] = {{.has = NO_DEVICE}, {.has = NO_DEVICE}};
	static const char *const names[] = {"gloo", "nccl", "nccl"};

	for (int k = 0; k < 3; k++) {
		memcpy(machines, k < 2 ? cuda : none, sizeof(cuda));
		memset(outcomes, 0, MAX_WORKERS * sizeof(*outcomes));
		write_configs(MAX_WORKERS, "");
		for (int w = 0; w < 2; w++) {
			char command[128];

			snprintf(command, sizeof(command),
				"sed -i 's/timeout_s: 20/&, transport: %s/' config%d.yaml",
				names[k], w);
			ck_assert_int_eq(system(command), 0);
		}
		run_workers(2);
		if (k < 2)
			assert_trained(2, k == 1, k == 1 ? ON_A : "");
		else
			assert_refused(2, PSGD_ERR_UNSUPPORTED,
				"communication.transport: nccl: no CUDA device is there");
	}
}
END_TEST

static const struct {
	struct machine each;
	const char *text;
} lacking[] = {
	{{.has = NO_DEVICE}, "device: cuda: no CUDA device is there"},
	{{.has = NO_MODULE}, "device: cuda: no CUDA module: not built"},
	{{.has = CUDA, .no_nccl = true}, "device: cuda: no NCCL module: not built"},
	{{.has = CUDA, .trainer_cannot = true}, "device: cuda: no cuDNN module"},
	{{.has = CUDA, .no_probe = true}, "device: cuda: this trainer computes on the CPU only"},
	{{.has = CUDA, .local_size = 2}, "device: cuda: this node has 1 CUDA device for 2 workers"},
};

START_TEST(what_is_asked_for_is_not_there)
{
	const struct machine each[] = {lacking[_i].each, lacking[_i].each};

	ask(2, "device: cuda\n", each);
	assert_refused(2, PSGD_ERR_UNSUPPORTED, lacking[_i].text);
	ck_assert_int_eq(psgd_exit_code(PSGD_ERR_UNSUPPORTED), 5);
}
END_TEST

START_TEST(kinds_that_differ)
{
	const struct machine each[] = {{.has = CUDA}, {.has = CUDA}, {.has = NO_DEVICE}};
	const struct machine silent[] = {{.has = NO_MODULE}, {.has = CUDA}};

	ask(3, "", each);
	assert_refused(3, PSGD_ERR_MISMATCH,
		"worker 0 would compute on Model A, worker 2 on the CPU, no CUDA device is there: "
		"device: cpu, or allow_mixed: true, has all on the CPU");
	ck_assert_int_eq(psgd_exit_code(PSGD_ERR_MISMATCH), 2);
	ask(3, "allow_mixed: true\n", each);
	for (int w = 0; w < 3; w++) {
		ck_assert_msg(outcomes[w].status == PSGD_OK, "%s", outcomes[w].error);
		ck_assert(!machines[w].on_cuda);
		ck_assert_str_eq(machines[w].line,
			w < 2 ? NOT "worker 2 has none" : NOT "no CUDA device is there");
	}
	ask(2, "allow_mixed: true\n", silent);
	ck_assert_str_eq(machines[0].line, "");
	ck_assert_str_eq(machines[1].line, NOT "worker 0 has none");
}
END_TEST

START_TEST(models_that_differ)
{
	const struct machine each[] = {{.has = CUDA}, {.has = OTHER_MODEL}};

	ask(2, "", each);
	assert_refused(2, PSGD_ERR_MISMATCH,
		"worker 0 computes on Model A (9.0), worker 1 on Model B (9.0): their bits may "
		"differ, allow_mixed: true allows it");
	ask(2, "allow_mixed: true\n", each);
	for (int w = 0; w < 2; w++) {
		ck_assert_msg(outcomes[w].status == PSGD_OK, "%s", outcomes[w].error);
		ck_assert(machines[w].on_cuda);
	}
}
END_TEST

#define BOTH "workers 0 and 1 are both on CUDA device 7: each needs one of its own"

/* What a launcher shows to a task is its own, unless another sees the same. */
START_TEST(devices_of_tasks)
{
	struct machine each[] = {
		{.has = CUDA, .local_size = 2}, {.has = CUDA, .local_size = 2, .local_rank = 1}};

	setenv("CUDA_VISIBLE_DEVICES", "1", 1);
	ask(2, "", each);
	assert_trained(2, true, ON_A);
	each[0].bus = each[1].bus = 7;
	ask(2, "", each);
	assert_trained(2, false, NOT BOTH);
	ask(2, "device: cuda\n", each);
	assert_refused(2, PSGD_ERR_UNSUPPORTED, "device: cuda: " BOTH);
	unsetenv("CUDA_VISIBLE_DEVICES");
}
END_TEST

/* One worker needs no NCCL, and its transport is none. */
START_TEST(one_worker)
{
	const struct machine alone = {.has = CUDA, .no_nccl = true};

	ask(1, "", &alone);
	assert_trained(1, true, ON_A);
}
END_TEST

/* A device that does not open ends all workers with its reason. */
START_TEST(a_device_does_not_open)
{
	const struct machine each[] = {{.has = CUDA}, {.has = CUDA, .opening_fails = true}};

	ask(2, "", each);
	assert_refused(
		2, PSGD_ERR_NOMEM, "worker 1: CUDA device 0: 64 MiB of workspace: out of memory");
}
END_TEST

/* The question alone, which `psgd run` asks before it starts workers. */
START_TEST(what_a_worker_could_have)
{
	struct psgd_launch launch = PSGD_INIT(psgd_launch);
	struct psgd_cuda_device info = PSGD_INIT(psgd_cuda_device);
	char error[128];

	memset(machines, 0, sizeof(*machines));
	launch.n_workers = launch.local_size = 2;
	machines->count = 2;
	for (launch.local_rank = 0; launch.local_rank < 2; launch.local_rank++) {
		ck_assert_int_eq(
			psgd_launch_cuda(&launch, NULL, &info, error, sizeof(error)), PSGD_OK);
		ck_assert_str_eq(info.name, "Model A");
		ck_assert_str_eq(error, "");
	}
	machines->count = 1;
	for (launch.local_rank = 0; launch.local_rank < 2; launch.local_rank++) {
		ck_assert_int_eq(psgd_launch_cuda(&launch, NULL, &info, error, sizeof(error)),
			PSGD_ERR_UNSUPPORTED);
		ck_assert_str_eq(error, "this node has 1 CUDA device for 2 workers");
	}
	machines->has = NO_MODULE;
	info = PSGD_INIT(psgd_cuda_device);
	ck_assert_int_eq(
		psgd_launch_cuda(&launch, NULL, &info, error, sizeof(error)), PSGD_ERR_UNSUPPORTED);
	ck_assert_str_eq(error, "no CUDA module: not built");
	ck_assert_uint_eq(info.runtime, 0);
	ck_assert_int_eq(psgd_launch_cuda(NULL, NULL, &info, NULL, 0), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_launch_cuda(&launch, NULL, NULL, NULL, 0), PSGD_ERR_INVALID);
}
END_TEST

START_TEST(in_the_records)
{
	const struct machine cuda[] = {{.has = CUDA}, {.has = CUDA}};
	const struct machine none[] = {{.has = NO_MODULE}, {.has = NO_MODULE}};
	const char *kind, *name, *capability, *transport, *driver;
	json_t *manifest;

	ask(2, "", cuda);
	manifest = json_load_file("r/manifest.json", 0, NULL);
	ck_assert_int_eq(json_unpack(manifest, "{s:s, s:{s:s, s:s, s:s, s:s}}", "transport",
				 &transport, "device", "kind", &kind, "name", &name,
				 "compute_capability", &capability, "driver", &driver),
		0);
	ck_assert_str_eq(transport, "nccl");
	ck_assert_str_eq(kind, "cuda");
	ck_assert_str_eq(name, "Model A");
	ck_assert_str_eq(capability, "9.0");
	ck_assert_str_eq(driver, "13.1");
	json_decref(manifest);
	ask(2, "", none);
	manifest = json_load_file("r/manifest.json", 0, NULL);
	ck_assert_int_eq(json_unpack(manifest, "{s:s, s:{s:s}}", "transport", &transport, "device",
				 "kind", &kind),
		0);
	ck_assert_str_eq(transport, "gloo");
	ck_assert_str_eq(kind, "cpu");
	json_decref(manifest);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("stack device");
	TCase *c = tcase_create("devices");

	tcase_add_checked_fixture(c, begin, end);
	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, all_alike, 0, (int)(sizeof(alike) / sizeof(alike[0])));
	tcase_add_test(c, by_transport);
	tcase_add_loop_test(
		c, what_is_asked_for_is_not_there, 0, (int)(sizeof(lacking) / sizeof(lacking[0])));
	tcase_add_test(c, kinds_that_differ);
	tcase_add_test(c, models_that_differ);
	tcase_add_test(c, devices_of_tasks);
	tcase_add_test(c, one_worker);
	tcase_add_test(c, a_device_does_not_open);
	tcase_add_test(c, what_a_worker_could_have);
	tcase_add_test(c, in_the_records);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
