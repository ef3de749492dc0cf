/* psgd net: the network between the workers of a run. SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/experiment/measure.h>
#include <psgd/experiment/rendezvous.h>
#include <psgd/experiment/stack.h>

#include "allreduce.h"
#include "bench_team.h"
#include "child.h"
#include "net_limits.h"

#define KERNEL_BUDGET_NS INT64_C(3000000000)

static const struct cli_allreduce default_table = {8, 1 << 20, 4, 5, 1, true};

/* Workers of this process are threads: whoever interrupts it leaves nothing behind. */
struct test {
	const struct cli_place *place;
	const struct psgd_config *config; /* may be NULL */
	const struct cli_allreduce *table;
	const struct psgd_launch *workers;
	size_t n_workers;      /* of this process */
	struct psgd_link link; /* that the workers emulate */
	bool limited;
	bool by_kernel; /* the rates */
	struct cli_team team;
	struct cli_allreduce_rows rows; /* of worker 0 */
	struct psgd_measured found;	/* by the first of these workers */
};

struct endpoint {
	psgd_rendezvous *rendezvous;
	struct psgd_oob oob;
	struct psgd_transport network, shaped;
	struct psgd_shaper shaper;
	const struct psgd_transport *use;
};

static void tell(void *user, enum psgd_log_level level, const char *message)
{
	(void)user;
	(void)level;
	fprintf(stderr, "%s\n", message);
}

/* ---- one worker ---- */

static psgd_status meet(struct test *t, const struct psgd_launch *launch, struct endpoint *e,
	char *error, size_t error_bytes)
{
	struct psgd_rendezvous_options options = PSGD_INIT(psgd_rendezvous_options);
	psgd_status status;

	options.launch = launch;
	options.token_file = cli_token_file(t->place);
	if (t->place->rdzv_timeout > 0)
		options.timeout_ns = t->place->rdzv_timeout * 1000000000;
	options.log = tell;
	options.error = error;
	options.error_bytes = error_bytes;
	status = psgd_rendezvous_open(&options, &e->rendezvous);
	if (status == PSGD_OK)
		e->oob = psgd_rendezvous_oob(e->rendezvous);
	return status;
}

static psgd_status connect_gloo(struct test *t, struct endpoint *e, char *error, size_t error_bytes)
{
	struct psgd_gloo_options options = PSGD_INIT(psgd_gloo_options);

	options.oob = &e->oob;
	options.address = psgd_rendezvous_address(e->rendezvous);
	options.interface_name = t->place->ifname;
	if (t->config) {
		options.interface_name = t->config->communication.interface;
		options.timeout_ns = (int64_t)(t->config->communication.timeout_s * 1e9);
	}
	options.module_dir = cli_module_dir();
	options.error = error;
	options.error_bytes = error_bytes;
	return psgd_transport_gloo(&options, &e->network);
}

static psgd_status shape(struct test *t, struct endpoint *e)
{
	psgd_status status;

	e->use = &e->network;
	if (!t->limited)
		return PSGD_OK;
	status = psgd_shaper_model(&t->link, &e->shaper);
	if (status == PSGD_OK)
		status = psgd_transport_shaped(&e->network, &e->shaper, &e->shaped);
	e->use = &e->shaped;
	return status;
}

static void close_endpoint(struct endpoint *e)
{
	psgd_transport_destroy(&e->shaped);
	psgd_shaper_destroy(&e->shaper);
	psgd_transport_destroy(&e->network);
	psgd_rendezvous_close(&e->rendezvous);
}

/* The model takes a slow network for peers that come late: the kernel's rate is seen below it. */
static psgd_status measure(const struct test *t, struct endpoint *e, struct psgd_measured *found)
{
	struct psgd_measured below = PSGD_INIT(psgd_measured);
	/* The kernel lets bursts through: its rate shows in longer messages. */
	int64_t budget_ns = t->by_kernel ? KERNEL_BUDGET_NS : 0;
	psgd_status status = psgd_measure_network(e->use, &e->oob, budget_ns, found);

	if (status != PSGD_OK || !t->by_kernel || !t->limited)
		return status;
	status = psgd_measure_network(&e->network, &e->oob, budget_ns, &below);
	found->bandwidth_mbps = below.bandwidth_mbps;
	return status;
}

static void work(uint32_t number, void *user)
{
	struct test *t = user;
	const struct psgd_launch *launch = &t->workers[number];
	struct endpoint e = {0};
	struct cli_allreduce_rows others = {0};
	struct psgd_measured found = PSGD_INIT(psgd_measured);
	char error[CLI_TEAM_ERROR_BYTES] = "";
	psgd_status status = meet(t, launch, &e, error, sizeof(error));

	if (status == PSGD_OK)
		status = connect_gloo(t, &e, error, sizeof(error));
	if (status == PSGD_OK)
		status = shape(t, &e);
	if (status == PSGD_OK)
		status = cli_allreduce_run(t->table, e.use, &e.oob,
			launch->worker ? &others : &t->rows, error, sizeof(error));
	if (status == PSGD_OK)
		status = measure(t, &e, number ? &found : &t->found);
	if (status == PSGD_OK)
		/* Nobody closes a connection under a worker that still waits. */
		e.oob.allgather(e.oob.self, NULL, NULL, 0);
	else
		cli_team_fail(&t->team, status, error);
	if (status != PSGD_OK && e.network.ops)
		e.network.ops->abort(e.network.self);
	close_endpoint(&e);
}

/* ---- what it comes to ---- */

static void print_configured(const struct psgd_link *link, const struct psgd_measured *found)
{
	uint64_t least = link->egress_bps;
	char out[32], in[32];

	if (link->ingress_bps && (!least || link->ingress_bps < least))
		least = link->ingress_bps;
	printf("# Configured           : latency %.3f ms, egress %s, ingress %s\n",
		(double)link->delay_ns / 1e6,
		cli_rate_text(out, sizeof(out), (double)link->egress_bps / 1e6),
		cli_rate_text(in, sizeof(in), (double)link->ingress_bps / 1e6));
	if (least && isfinite(found->bandwidth_mbps))
		printf("# Measured of it       : %.1f %% of the bandwidth, %+.3f ms of latency\n",
			found->bandwidth_mbps * 1e8 / (double)least,
			found->latency_ms - (double)link->delay_ns / 1e6);
}

static int conclude(const struct test *t)
{
	const struct psgd_measured *found = &t->found;
	struct psgd_link link = PSGD_INIT(psgd_link);
	uint64_t wrong = cli_allreduce_wrong(&t->rows);
	bool limited = false;
	char rate[32];

	printf("# Fitted               : latency %.3f ms, bandwidth %s\n", found->latency_ms,
		cli_rate_text(rate, sizeof(rate), found->bandwidth_mbps));
	if (t->config && psgd_config_limits(t->config, &link, &limited) == PSGD_OK && limited)
		print_configured(&link, found);
	if (!wrong)
		return CLI_OK;
	cli_complain_as("net", "%llu values are wrong", (unsigned long long)wrong);
	return CLI_FAILED;
}

static int run_test(void *user)
{
	struct test *t = user;
	psgd_status status = PSGD_OK;
	int code = CLI_OK;

	if (t->config)
		status = psgd_config_link(t->config, &t->link, &t->limited);
	if (status == PSGD_OK)
		status = cli_team_run(&t->team, (uint32_t)t->n_workers, work, t);
	if (status != PSGD_OK) {
		cli_complain_as(
			"net", "%s", *t->team.error ? t->team.error : psgd_status_text(status));
		code = psgd_exit_code(status);
	} else if (t->workers[0].worker == 0) {
		code = conclude(t);
	}
	free(t->rows.items);
	return code;
}

/* Whatever ends the test, this process is there to take the limits away. */
static int run_limited_test(struct test *t, const struct cli_limits *limits)
{
	char reason[CLI_LIMITS_ERROR_BYTES];
	struct cli_held held;
	int signal = 0, code, removed;

	cli_hold_signals(&held);
	code = cli_limits_apply(limits, reason, sizeof(reason));
	if (code == CLI_OK) {
		code = cli_in_child(&held, run_test, t, &signal);
		if (code < 0)
			cli_complain_as("net", "cannot start the test: %s", strerror(errno));
		removed = cli_limits_remove(limits);
		if (code <= CLI_OK)
			code = code < 0 ? CLI_ENVIRONMENT : removed;
	}
	cli_release_signals(&held);
	return signal ? 128 + signal : code;
}

static int test_network(const struct cli_place *place, const struct psgd_config *config,
	const struct cli_allreduce *table)
{
	struct test t = {.place = place,
		.config = config,
		.table = table,
		.link = PSGD_INIT(psgd_link),
		.found = PSGD_INIT(psgd_measured)};
	struct psgd_launch *workers = NULL;
	struct psgd_config *resolved = NULL;
	struct cli_limits limits = {0};
	int code = cli_find_workers(&place->identity, &workers, &t.n_workers);

	if (code != CLI_OK)
		return code;
	t.workers = workers;
	if (workers[0].n_workers < 2) {
		cli_complain_as("net", "one worker has no network; say who the others are, or "
				       "--standalone --nproc-per-node 2");
		code = CLI_USAGE;
	}
	if (code == CLI_OK && config)
		code = cli_limits_resolve(
			config, place->ifname, workers, t.n_workers, &limits, &resolved);
	if (code == CLI_OK && place->ifname && !cli_tc_interface_exists("--ifname", place->ifname))
		code = CLI_USAGE;
	if (code != CLI_OK)
		goto out;
	if (resolved)
		t.config = resolved;
	t.by_kernel = limits.by_kernel;
	cli_print_workers(workers, t.n_workers);
	if (config) {
		cli_limits_print(&limits, t.config, false);
		cli_limits_tidy(&limits);
	}
	fflush(stdout);
	code = limits.by_kernel ? run_limited_test(&t, &limits) : run_test(&t);
out:
	psgd_config_free(&resolved);
	free(workers);
	return code;
}

int cli_net_test(const struct cli_place *place, const struct psgd_config *config)
{
	return test_network(place, config, &default_table);
}

/* ---- arguments ---- */

static const char doc[] =
	"Times all-reduces of float sums between the workers of a run, on every node as `psgd run' "
	"is "
	"started, and says what latency and bandwidth they show. CONFIG gives the limits of the "
	"network, to compare with.\v"
	"Without flags: -b 8 -e 1M -f 4 -n 5 -w 1.\n\n"
	"time is of one all-reduce, by the slowest worker. algbw is the message's bits over it; "
	"busbw "
	"is algbw * 2 (n - 1) / n for n workers, which is what each of them must send at least, "
	"and "
	"can be compared with what a link carries. #wrong counts values, over all workers, that "
	"differ from the exact sum.";

struct arguments {
	struct cli_place place;
	struct cli_allreduce table;
	const char *config;
	struct cli_strings overrides;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (cli_is_override(arg))
			cli_strings_add(&a->overrides, "%s", arg);
		else if (!a->config)
			a->config = arg;
		else
			argp_error(state, "'%s' is not key=value", arg);
		return 0;
	case ARGP_KEY_END:
		if (a->overrides.n && !a->config)
			argp_error(state, "'%s' needs a CONFIG", a->overrides.items[0]);
		return 0;
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->place;
		state->child_inputs[1] = &a->table;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int net_test(int argc, char **argv)
{
	static const struct argp_child children[] = {
		{&cli_place_argp, 0, NULL, 0}, {&cli_allreduce_argp, 0, NULL, 0}, {0}};
	static const struct argp argp = {.parser = parse,
		.args_doc = "[CONFIG [key=value...]]",
		.doc = doc,
		.children = children};
	struct arguments a = {.place = CLI_PLACE_INIT, .table = default_table};
	struct psgd_config *config = NULL;
	char error[CLI_ERROR_BYTES] = "";
	psgd_status status = PSGD_OK;
	int code = CLI_USAGE;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		goto out;
	if (a.place.ifname && a.config)
		cli_strings_add(&a.overrides, "communication.interface=%s", a.place.ifname);
	if (a.config)
		status = psgd_config_load(a.config, (const char *const *)a.overrides.items,
			a.overrides.n, &config, error, sizeof(error));
	if (status == PSGD_OK)
		code = test_network(&a.place, config, &a.table);
	else
		fprintf(stderr, "%s\n", *error ? error : psgd_status_text(status));
out:
	psgd_config_free(&config);
	cli_strings_free(&a.overrides);
	return code;
}

/* ---- psgd net ---- */

static const struct word {
	const char *name, *does;
	int (*main)(int argc, char **argv);
} words[] = {
	{"apply", "limits an interface until it is cleared", cli_net_apply},
	{"show", "what limits the interfaces of this machine", cli_net_show},
	{"clear", "removes the limits that psgd put there", cli_net_clear},
	{"test", "times all-reduces between the workers of a run", net_test},
};

static int help(void)
{
	printf("Usage: psgd net WORD [OPTION...]\n\n");
	for (size_t i = 0; i < CLI_COUNT(words); i++)
		printf("  %-6s %s\n", words[i].name, words[i].does);
	printf("\n`psgd net WORD --help' explains each.\n");
	return CLI_OK;
}

int cli_net(int argc, char **argv)
{
	static char name[64];
	const char *word = argc > 1 ? argv[1] : NULL;

	if (word && (strcmp(word, "--help") == 0 || strcmp(word, "-?") == 0))
		return help();
	for (size_t i = 0; word && i < CLI_COUNT(words); i++) {
		if (strcmp(word, words[i].name) != 0)
			continue;
		snprintf(name, sizeof(name), "psgd net %s", word);
		argv[1] = name;
		cli_normalize_flags(argc - 1, argv + 1);
		return words[i].main(argc - 1, argv + 1);
	}
	cli_complain_as("net", "%s%s%s; there are apply, show, clear and test",
		word ? "unknown word '" : "", word ? word : "a word is missing", word ? "'" : "");
	return CLI_USAGE;
}
