/* Stacks whose limits are the kernel's: an invented one, whose interface counts as the test says.
 */
#include <psgd/tc.h>

#include "experiment/stack_support.h"

#define MAX_CHANGES 8
#define MBIT UINT64_C(1000000)
#define FREE UINT64_C(1000000000000)

/* Shared with the workers. */
static struct kernel {
	uint64_t leaves; /* bytes by the interface between two looks */
	psgd_status show_fails, change_fails;
	bool limits;
	int n_changes;
	struct {
		uint32_t worker;
		char interface_name[16];
		struct psgd_link link;
	} changes[MAX_CHANGES];
} * kernel;

static psgd_status answer(const struct psgd_tc_options *options, psgd_status status)
{
	if (status)
		snprintf(options->error, options->error_bytes, "the kernel says no");
	return status;
}

psgd_status psgd_tc_show(const struct psgd_tc_options *options, struct psgd_tc_state *states,
	size_t n, size_t *found)
{
	static uint64_t looks;

	ck_assert(n >= 1 && states->size == sizeof(*states));
	snprintf(states->interface_name, sizeof(states->interface_name), "%s",
		options->interface_name);
	states->tx_bytes = 123456 + looks++ * kernel->leaves;
	states->shaped = kernel->limits;
	*found = 1;
	return answer(options, kernel->show_fails);
}

psgd_status psgd_tc_change(const struct psgd_tc_options *options, const struct psgd_link *link)
{
	int i = __atomic_fetch_add(&kernel->n_changes, 1, __ATOMIC_SEQ_CST);

	ck_assert_int_lt(i, MAX_CHANGES);
	kernel->changes[i].worker = (uint32_t)atoi(getenv("RANK"));
	snprintf(kernel->changes[i].interface_name, sizeof(kernel->changes[i].interface_name), "%s",
		options->interface_name);
	kernel->changes[i].link = *link;
	return answer(options, kernel->change_fails);
}

psgd_status psgd_tc_interface_to(
	const char *address, const char *module_dir, char name[16], char *error, size_t error_bytes)
{
	(void)module_dir;
	(void)error;
	(void)error_bytes;
	ck_assert_str_eq(address, "127.0.0.1");
	snprintf(name, 16, "eth7");
	return PSGD_OK;
}

static void begin(void)
{
	set_up();
	kernel = mmap(
		NULL, sizeof(*kernel), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(kernel, MAP_FAILED);
	kernel->leaves = UINT64_C(1) << 40;
	kernel->limits = true;
}

static void end(void)
{
	munmap(kernel, sizeof(*kernel));
	tear_down();
}

static json_t *read_json(const char *name)
{
	json_t *value = json_load_file(name, 0, NULL);

	ck_assert_msg(json_is_object(value), "%s", name);
	return value;
}

/* As run_workers, with the worker's number among those of its node. */
static void run_nodes(uint32_t n, const char *const *local_ranks)
{
	pid_t children[MAX_WORKERS];

	for (uint32_t w = 0; w < n; w++) {
		children[w] = fork();
		if (children[w] == 0) {
			setenv("LOCAL_RANK", local_ranks[w], 1);
			train(w, n, &outcomes[w]);
			_exit(0);
		}
	}
	join_all(children, n);
}

#define SCHEDULE                                                                                   \
	"  schedule:\n"                                                                            \
	"  - {at_iteration: 2, egress_mbps: 50, latency_ms: 30}\n"                                 \
	"  - {at_iteration: 4, egress_mbps: 0, ingress_mbps: 20, latency_ms: 60}\n"

static const struct {
	const char *method;
	int64_t delay_ns[2], least_ns; /* that the kernel makes; of a message in the process */
} methods[] = {{"tc", {30000000, 60000000}, 0}, {"tc+model", {0, 0}, 30000000}};

/* Workers 0 and 1 share a node, 2 has its own. */
START_TEST(link_changes)
{
	static const char *const local_ranks[] = {"0", "1", "0"};
	json_t *value, *link;
	char text[256];

	snprintf(text, sizeof(text), "network_limits:\n  enable: true\n  method: %s\n" SCHEDULE,
		methods[_i].method);
	write_configs(3, text);
	run_nodes(3, local_ranks);
	for (uint32_t w = 0; w < 3; w++) {
		ck_assert_msg(outcomes[w].status == PSGD_OK, "%s", outcomes[w].error);
		for (int step = 2; step < STEPS; step++)
			ck_assert_int_ge(outcomes[w].wire_ns[step], 4 * methods[_i].least_ns);
		/* What the kernel delays the process does not delay again. */
		if (!methods[_i].least_ns)
			ck_assert_int_lt(outcomes[w].wire_ns[STEPS - 1], 4 * 60000000);
	}
	ck_assert_int_eq(kernel->n_changes, 4);
	for (int i = 0; i < 4; i++) {
		const struct psgd_link *l = &kernel->changes[i].link;
		bool second = l->ingress_bps == 20 * MBIT;

		ck_assert_uint_ne(kernel->changes[i].worker, 1);
		ck_assert_str_eq(kernel->changes[i].interface_name, "eth7");
		ck_assert_uint_eq(l->egress_bps, second ? FREE : 50 * MBIT);
		ck_assert_uint_eq(l->ingress_bps, second ? 20 * MBIT : 50 * MBIT);
		ck_assert_int_eq(l->delay_ns, methods[_i].delay_ns[second]);
	}
	read_links(text, sizeof(text));
	ck_assert_str_eq(text, "2 50 50 30\n4 0 20 60\n");
	read_configured(text, sizeof(text));
	ck_assert_str_eq(text, "\n\n50\n50\n\n");
	value = read_json("r/manifest.json");
	link = json_object_get(value, "link");
	ck_assert_str_eq(json_string_value(json_object_get(link, "method")), methods[_i].method);
	ck_assert_str_eq(json_string_value(json_object_get(link, "interface")), "eth7");
	json_decref(value);
}
END_TEST

/* communication.KEY of all configurations, which have one of its keys. */
static void add_communication(const char *key)
{
	char command[128];

	snprintf(command, sizeof(command), "sed -i 's/timeout_s: 20/&, %s/' config?.yaml", key);
	ck_assert_int_eq(system(command), 0);
}

/* Also without communication.measure. */
START_TEST(what_was_seen_is_recorded)
{
	static const char event[] =
		"grep -q '\"event\":\"env\".*\"interface\":{\"name\":\"lo\"' r/events.jsonl";
	json_t *env, *seen;

	write_configs(2, "network_limits: {enable: true, method: tc, latency_ms: 1, "
			 "interface: lo}\n");
	add_communication("measure: false");
	run_workers(2);
	for (int w = 0; w < 2; w++)
		ck_assert_msg(outcomes[w].status == PSGD_OK, "%s", outcomes[w].error);
	env = read_json("r/env_metrics.json");
	seen = json_object_get(env, "interface");
	ck_assert_str_eq(json_string_value(json_object_get(seen, "name")), "lo");
	/* Two workers send what they reduce, whose largest are 4 MiB. */
	ck_assert_int_ge(json_integer_value(json_object_get(seen, "sent_bytes")), 4 << 20);
	ck_assert_int_eq(json_integer_value(json_object_get(seen, "left_bytes")),
		(json_int_t)kernel->leaves);
	ck_assert(json_is_null(json_object_get(seen, "configured_mbps")));
	ck_assert_double_gt(json_number_value(json_object_get(seen, "measured_mbps")), 1);
	json_decref(env);
	ck_assert_int_eq(system(event), 0);
	ck_assert_int_eq(system("grep -q '^interface: lo$' r/env_metrics_rank0_*.txt"), 0);
}
END_TEST

/* No rates: the kernel has no part, and an interface that says no is not asked. */
START_TEST(no_part_for_the_kernel)
{
	json_t *value, *link;

	kernel->show_fails = PSGD_ERR_IO;
	write_configs(2, "network_limits: {enable: true, method: tc+model, latency_ms: 10}\n");
	run_workers(2);
	for (int w = 0; w < 2; w++) {
		ck_assert_msg(outcomes[w].status == PSGD_OK, "%s", outcomes[w].error);
		ck_assert_int_ge(outcomes[w].wire_ns[0], 20000000);
	}
	value = read_json("r/manifest.json");
	link = json_object_get(value, "link");
	ck_assert_str_eq(json_string_value(json_object_get(link, "method")), "model");
	ck_assert_int_eq(json_integer_value(json_object_get(link, "burst_bytes")), 3028);
	json_decref(value);
}
END_TEST

#define TC "network_limits: {enable: true, method: tc, interface: lo, "
#define ALL (UINT64_C(1) << 40)

static const struct {
	const char *limits, *communication;
	uint64_t leaves;
	bool unlimited, alone;
	psgd_status show, change, status;
	const char *text;
} stops[] = {
	{TC "latency_ms: 1}\n", NULL, 1000, .status = PSGD_ERR_IO,
		.text = " MB that were sent left by lo; the rest went another way"},
	{"network_limits: {enable: true, method: tc, latency_ms: 1, interface: eth5}\n",
		"interface: lo", 1000, .status = PSGD_ERR_IO,
		.text = " left by eth5: communication.interface is lo"},
	{TC "latency_ms: 1}\n", NULL, 0, .alone = true, .status = PSGD_ERR_IO,
		.text = " left by lo: all workers are on this node"},
	{TC "bandwidth_mbps: 1}\n", NULL, ALL, .status = PSGD_ERR_IO,
		.text = "Mbit/s where 1 are configured on lo: another process has removed the "
			"limit"},
	{TC "bandwidth_mbps: 1}\n", NULL, ALL, .unlimited = true, .status = PSGD_ERR_IO,
		.text = "lo is not limited, as network_limits.method: tc has it"},
	{TC "bandwidth_mbps: 1}\n", NULL, ALL, .show = PSGD_ERR_UNSUPPORTED,
		.status = PSGD_ERR_UNSUPPORTED, .text = "looking at lo: the kernel says no"},
	{TC "latency_ms: 1, schedule: [{at_iteration: 3, egress_mbps: 0}]}\n", NULL, ALL,
		.change = PSGD_ERR_STATE, .status = PSGD_ERR_IO,
		.text = "changing the limits of lo: the kernel says no"},
};

/* All workers stop, with the exit code of the environment, and each says why. */
START_TEST(run_is_stopped)
{
	static const char *const one_node[] = {"0", "1"}, *const two_nodes[] = {"0", "0"};
	json_t *value;

	write_configs(2, stops[_i].limits);
	if (stops[_i].communication)
		add_communication(stops[_i].communication);
	kernel->leaves = stops[_i].leaves;
	kernel->limits = !stops[_i].unlimited;
	kernel->show_fails = stops[_i].show;
	kernel->change_fails = stops[_i].change;
	setenv("LOCAL_WORLD_SIZE", stops[_i].alone ? "2" : "1", 1);
	run_nodes(2, stops[_i].alone ? one_node : two_nodes);
	for (int w = 0; w < 2; w++) {
		ck_assert_msg(outcomes[w].status == stops[_i].status, "%d: %s", outcomes[w].status,
			outcomes[w].error);
		ck_assert_int_eq(psgd_exit_code(outcomes[w].status), 5);
		ck_assert_msg(
			strstr(outcomes[w].error, stops[_i].text) != NULL, "%s", outcomes[w].error);
		ck_assert_int_eq(outcomes[w].wire_ns[STEPS - 1], 0);
	}
	value = read_json("r/status.json");
	ck_assert_str_eq(json_string_value(json_object_get(value, "state")), "failed");
	ck_assert_ptr_nonnull(
		strstr(json_string_value(json_object_get(value, "error")), stops[_i].text));
	json_decref(value);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("run_kernel");
	TCase *t = tcase_create("kernel");

	tcase_add_checked_fixture(t, begin, end);
	tcase_add_loop_test(t, link_changes, 0, sizeof(methods) / sizeof(methods[0]));
	tcase_add_test(t, what_was_seen_is_recorded);
	tcase_add_test(t, no_part_for_the_kernel);
	tcase_add_loop_test(t, run_is_stopped, 0, sizeof(stops) / sizeof(stops[0]));
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
