/* psgd net: the network between the workers of a run. SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/experiment/measure.h>
#include <psgd/experiment/rendezvous.h>
#include <psgd/experiment/stack.h>

#include "allreduce.h"
#include "bench_team.h"

static const struct cli_allreduce default_table = {8, 1 << 20, 4, 5, 1, true};

/* Workers of this process are threads: whoever interrupts it leaves nothing behind. */
struct test {
	const struct cli_place *place;
	const struct psgd_config *config; /* may be NULL */
	const struct cli_allreduce *table;
	const struct psgd_launch *workers;
	struct psgd_link link;
	bool limited;
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
	const char *module_dir = getenv("PSGD_MODULE_PATH");

	options.oob = &e->oob;
	options.address = psgd_rendezvous_address(e->rendezvous);
	options.interface_name = t->place->ifname;
	if (t->config) {
		options.interface_name = t->config->communication.interface;
		options.timeout_ns = (int64_t)(t->config->communication.timeout_s * 1e9);
	}
	options.module_dir = module_dir && *module_dir ? module_dir : NULL;
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
		status = psgd_measure_network(e.use, &e.oob, 0, number ? &found : &t->found);
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

static const char *rate_text(char *to, size_t bytes, double mbps)
{
	if (isfinite(mbps) && mbps > 0)
		snprintf(to, bytes, "%.4g Mbit/s", mbps);
	else
		snprintf(to, bytes, "unlimited");
	return to;
}

void cli_print_limits(const struct psgd_config *config)
{
	struct psgd_link link = PSGD_INIT(psgd_link);
	bool limited = false;
	char out[32], in[32];

	if (psgd_config_link(config, &link, &limited) != PSGD_OK || !limited)
		return;
	printf("network limited by model, in each worker (method %s): egress %s, ingress %s, "
	       "latency %g ms",
		config->network_limits.method,
		rate_text(out, sizeof(out), (double)link.egress_bps / 1e6),
		rate_text(in, sizeof(in), (double)link.ingress_bps / 1e6),
		(double)link.delay_ns / 1e6);
	if (config->network_limits.schedule_count)
		printf(", changes at iteration %u",
			config->network_limits.schedule[0].at_iteration);
	for (unsigned i = 1; i < config->network_limits.schedule_count; i++)
		printf(", %u", config->network_limits.schedule[i].at_iteration);
	printf("\n");
}

static void print_configured(const struct test *t, const struct psgd_measured *found)
{
	uint64_t least = t->link.egress_bps;
	char out[32], in[32];

	if (t->link.ingress_bps && (!least || t->link.ingress_bps < least))
		least = t->link.ingress_bps;
	printf("# Configured           : latency %.3f ms, egress %s, ingress %s\n",
		(double)t->link.delay_ns / 1e6,
		rate_text(out, sizeof(out), (double)t->link.egress_bps / 1e6),
		rate_text(in, sizeof(in), (double)t->link.ingress_bps / 1e6));
	if (least && isfinite(found->bandwidth_mbps))
		printf("# Measured of it       : %.1f %% of the bandwidth, %+.3f ms of latency\n",
			found->bandwidth_mbps * 1e8 / (double)least,
			found->latency_ms - (double)t->link.delay_ns / 1e6);
}

static int conclude(const struct test *t)
{
	const struct psgd_measured *found = &t->found;
	uint64_t wrong = cli_allreduce_wrong(&t->rows);
	char rate[32];

	printf("# Fitted               : latency %.3f ms, bandwidth %s\n", found->latency_ms,
		rate_text(rate, sizeof(rate), found->bandwidth_mbps));
	if (t->limited)
		print_configured(t, found);
	if (!wrong)
		return CLI_OK;
	cli_complain("net: %llu values are wrong", (unsigned long long)wrong);
	return CLI_FAILED;
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
	psgd_status status = PSGD_OK;
	size_t n;
	int code = cli_find_workers(&place->identity, &workers, &n);

	if (code != CLI_OK)
		return code;
	if (workers[0].n_workers < 2) {
		cli_complain("net: one worker has no network; say who the others are, or "
			     "--standalone --nproc-per-node 2");
		free(workers);
		return CLI_USAGE;
	}
	t.workers = workers;
	cli_print_workers(workers, n);
	fflush(stdout);
	if (config)
		status = psgd_config_link(config, &t.link, &t.limited);
	if (status == PSGD_OK)
		status = cli_team_run(&t.team, (uint32_t)n, work, &t);
	if (status != PSGD_OK) {
		cli_complain("net: %s", *t.team.error ? t.team.error : psgd_status_text(status));
		code = psgd_exit_code(status);
	} else if (workers[0].worker == 0) {
		code = conclude(&t);
	}
	free(t.rows.items);
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

int cli_net(int argc, char **argv)
{
	static char name[] = "psgd net test";

	if (argc < 2 || strcmp(argv[1], "test") != 0) {
		const bool help =
			argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0);

		if (help) {
			printf("Usage: psgd net test [CONFIG [key=value...]] [OPTION...]\n\n"
			       "`psgd net test --help' explains it.\n");
			return CLI_OK;
		}
		cli_complain("net: %s%s%s; there is `psgd net test'",
			argc > 1 ? "unknown word '" : "", argc > 1 ? argv[1] : "a word is missing",
			argc > 1 ? "'" : "");
		return CLI_USAGE;
	}
	argv[1] = name;
	cli_normalize_flags(argc - 1, argv + 1);
	return net_test(argc - 1, argv + 1);
}
