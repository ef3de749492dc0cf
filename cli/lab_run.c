/* A run over the nodes of a lab. SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "family.h"
#include "lab_flags.h"
#include "lab_run.h"
#include "run.h"

/* A supervisor that is told to end gives its workers 5 s. */
#define GRACE_NS INT64_C(12000000000)
#define TAIL_LINES 5

struct nodes {
	const struct lab_run *run;
	const char *name;
	struct lab lab;
	struct cli_family family;
	struct cli_strings overrides; /* with the places of files */
	char here[PATH_MAX], psgd[PATH_MAX], master[INET_ADDRSTRLEN];
	uint32_t n;
	bool made; /* for this run */
};

/* ---- places ---- */

/* A path as it is from any folder. */
static const char *absolute(const struct nodes *nodes, const char *path, char out[PATH_MAX])
{
	int n = snprintf(out, PATH_MAX, "%s%s%s", *path == '/' ? "" : nodes->here,
		*path == '/' ? "" : "/", path);

	return n > 0 && n < PATH_MAX ? out : path;
}

/* Files that the configuration names are where the user is. */
static void place(struct nodes *nodes, const char *key, const char *path)
{
	char full[PATH_MAX], quoted[2 * PATH_MAX];
	size_t n = 0;

	if (!path || *path == '/' || absolute(nodes, path, full) != full)
		return;
	for (const char *c = full; *c; c++) {
		if (*c == '\'')
			quoted[n++] = '\'';
		quoted[n++] = *c;
	}
	quoted[n] = '\0';
	cli_strings_add(&nodes->overrides, "%s='%s'", key, quoted);
}

/* What is wrong with the configuration is said before anything is made. */
static int read_config(struct nodes *nodes)
{
	const struct lab_run *run = nodes->run;
	struct psgd_config *config = NULL;
	char error[CLI_ERROR_BYTES] = "";
	psgd_status status =
		psgd_config_load(run->config, (const char *const *)run->overrides.items,
			run->overrides.n, &config, error, sizeof(error));

	if (status != PSGD_OK) {
		fprintf(stderr, "%s\n", *error ? error : psgd_status_text(status));
		return CLI_USAGE;
	}
	for (size_t i = 0; i < run->overrides.n; i++)
		cli_strings_add(&nodes->overrides, "%s", run->overrides.items[i]);
	place(nodes, "dataset.root", config->dataset.root);
	place(nodes, "model.weights", config->model.weights);
	place(nodes, "rank_control.replay", config->rank_control.replay);
	psgd_config_free(&config);
	return CLI_OK;
}

static void node_path(const struct nodes *nodes, uint32_t i, const char *ending, char out[PATH_MAX])
{
	const char *dir = nodes->run->dir ? nodes->run->dir : nodes->name;

	snprintf(out, PATH_MAX, "%s/node%u%s", dir, i, ending);
}

/* The folder of a node. Usual places of data are relative to it. */
static int make_folder(const struct nodes *nodes, uint32_t i)
{
	char folder[PATH_MAX], data[PATH_MAX], own[PATH_MAX];

	node_path(nodes, i, "", folder);
	node_path(nodes, i, "/data", own);
	if (cli_make_dirs(folder) &&
		(access("data", F_OK) != 0 || symlink(absolute(nodes, "data", data), own) == 0 ||
			errno == EEXIST))
		return CLI_OK;
	cli_complain_as("lab", "%s: %s", folder, strerror(errno));
	return CLI_ENVIRONMENT;
}

/* ---- the lab ---- */

static bool hold(const struct nodes *nodes)
{
	if (lab_hold(lab_hub(&nodes->lab)))
		return true;
	cli_complain_as(
		"lab", "another run is in %s; --name makes a lab by another name", nodes->name);
	return false;
}

static int use(const struct nodes *nodes)
{
	const struct lab_space *hub = lab_hub(&nodes->lab);

	if (nodes->run->flags->given) {
		cli_complain_as("lab",
			"%s is up already; flags that say what it should be need "
			"another --name, or psgd lab down --name %s",
			nodes->name, nodes->name);
		return CLI_USAGE;
	}
	if (lab_count_nodes(&nodes->lab) != hub->mark.n) {
		cli_complain_as("lab",
			"%s has not all of its nodes; psgd lab down --name %s removes it",
			nodes->name, nodes->name);
		return CLI_ENVIRONMENT;
	}
	return hold(nodes) ? CLI_OK : CLI_ENVIRONMENT;
}

/* Signals wait from here on, so that what is made is removed. */
static int make(struct nodes *nodes)
{
	struct lab_plan plan = nodes->run->flags->plan;
	int code;

	plan.kept = false;
	code = lab_up(&plan);
	if (code != CLI_OK)
		return code;
	nodes->made = true;
	lab_free(&nodes->lab);
	code = lab_find(nodes->name, &nodes->lab);
	if (code == CLI_OK && !lab_hub(&nodes->lab))
		code = CLI_ENVIRONMENT;
	return code == CLI_OK && !hold(nodes) ? CLI_ENVIRONMENT : code;
}

/* The lab that is up, or one for this run; what a killed run left is removed before. */
static int find_or_make(struct nodes *nodes)
{
	size_t n, ended;
	int lock, code = lab_lock(true, &lock);

	if (code == CLI_OK)
		code = lab_find(nodes->name, &nodes->lab);
	if (code == CLI_OK && lab_is_left_over(&nodes->lab)) {
		lab_free(&nodes->lab);
		code = lab_down(nodes->name, &n, &ended);
	}
	nodes->n = nodes->lab.n ? lab_count_nodes(&nodes->lab) : nodes->run->flags->plan.n;
	if (code == CLI_OK && nodes->lab.n)
		code = use(nodes);
	if (code == CLI_OK && !cli_family_open(&nodes->family, nodes->n, GRACE_NS))
		code = CLI_FAILED;
	if (code == CLI_OK && !nodes->lab.n)
		code = make(nodes);
	if (lock >= 0)
		close(lock);
	return code;
}

/* Somebody may have taken it down meanwhile, and made another one. */
static bool is_still_there(const struct nodes *nodes)
{
	const struct lab_space *own = lab_hub(&nodes->lab), *hub;
	struct lab now;
	bool same = false;

	if (lab_find(nodes->name, &now) == CLI_OK && own) {
		hub = lab_hub(&now);
		/* the number is not another's as long as it is open here */
		same = hub && hub->device == own->device && hub->inode == own->inode;
	}
	lab_free(&now);
	return same;
}

/* Held until it is gone: a run that waits for the lock would take it for left over. */
static int take_down(struct nodes *nodes)
{
	size_t n, ended;
	int lock = -1, code = CLI_OK;

	if (nodes->made)
		code = lab_lock(true, &lock);
	if (nodes->made && code == CLI_OK && is_still_there(nodes))
		code = lab_down(nodes->name, &n, &ended);
	lab_free(&nodes->lab);
	if (lock >= 0)
		close(lock);
	return code;
}

/* ---- the nodes' processes ---- */

static void compose(const struct nodes *nodes, uint32_t i, struct cli_strings *out)
{
	const struct lab_run *run = nodes->run;
	char path[PATH_MAX];

	cli_strings_add(out, "%s", nodes->psgd);
	cli_strings_add(out, "lab");
	cli_strings_add(out, "exec");
	cli_strings_add(out, "--name=%s", nodes->name);
	cli_strings_add(out, "%u", i);
	cli_strings_add(out, "--");
	cli_strings_add(out, "%s", nodes->psgd);
	cli_strings_add(out, "run");
	cli_strings_add(out, "--nnodes=%u", nodes->n);
	cli_strings_add(out, "--node-rank=%u", i);
	cli_strings_add(out, "--nproc-per-node=%lld", (long long)run->n_workers);
	cli_strings_add(out, "--rdzv-endpoint=%s:%d", nodes->master, LAB_PORT);
	cli_strings_add(out, "--ifname=" LAB_INTERFACE);
	if (run->overwrite)
		cli_strings_add(out, "--overwrite");
	if (run->smoke)
		cli_strings_add(out, "--smoke");
	if (run->resume)
		cli_strings_add(out, "--resume=auto");
	cli_strings_add(out, "%s", absolute(nodes, run->config, path));
	for (size_t k = 0; k < nodes->overrides.n; k++)
		cli_strings_add(out, "%s", nodes->overrides.items[k]);
	if (!run->command)
		return;
	cli_strings_add(out, "--");
	/* a program by its place; one without a / is searched for */
	cli_strings_add(out, "%s",
		strchr(run->command[0], '/') ? absolute(nodes, run->command[0], path)
					     : run->command[0]);
	for (char **word = run->command + 1; *word; word++)
		cli_strings_add(out, "%s", *word);
}

/* Node 0 talks to the terminal. */
static pid_t start(struct nodes *nodes, uint32_t i)
{
	struct cli_strings command = {0}, environment = {0};
	struct cli_start child = {.mask = &nodes->family.old_mask,
		.out = STDOUT_FILENO,
		.err = STDERR_FILENO,
		.progress = -1};
	char folder[PATH_MAX], log_path[PATH_MAX];
	int log = -1, saved;
	pid_t pid = -1;

	node_path(nodes, i, "", folder);
	node_path(nodes, i, ".log", log_path);
	if (i > 0) {
		log = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
		child.out = child.err = log;
	}
	compose(nodes, i, &command);
	for (char **entry = environ; *entry; entry++)
		cli_strings_add(&environment, "%s", *entry);
	cli_strings_add(&environment, CLI_SEEN_AS "=%s", folder);
	child.environment = environment.items;
	child.command = command.items;
	child.folder = folder;
	if (child.out >= 0)
		pid = cli_start(&child);
	saved = errno;
	if (log >= 0)
		close(log);
	cli_strings_free(&command);
	cli_strings_free(&environment);
	errno = saved;
	return pid;
}

static void watch(struct cli_family *family)
{
	while (cli_family_alive(family) > 0) {
		struct pollfd fd = {.fd = family->signal_fd, .events = POLLIN};

		poll(&fd, 1, cli_family_patience_ms(family));
		if (cli_family_read_signals(family) && family->children[0].pid > 0)
			kill(family->children[0].pid, SIGWINCH);
		cli_family_enforce(family);
	}
}

static void report_failure(const struct nodes *nodes)
{
	const struct cli_family *family = &nodes->family;
	uint32_t first = (uint32_t)family->first;
	char path[PATH_MAX], tail[4096], what[64];

	cli_family_describe(&family->children[first], "node", first, what, sizeof(what));
	node_path(nodes, first, ".log", path);
	if (first == 0) {
		fprintf(stderr, "%s (first failure)\n", what);
	} else if (cli_read_tail(path, tail, sizeof(tail))) {
		fprintf(stderr, "%s (first failure); last lines of %s:\n", what, path);
		fprintf(stderr, "%s\n", cli_last_lines(tail, TAIL_LINES));
	} else {
		fprintf(stderr, "%s (first failure); %s is empty\n", what, path);
	}
}

static int supervise(struct nodes *nodes)
{
	struct cli_family *family = &nodes->family;
	int code = CLI_OK;

	for (uint32_t i = 0; i < nodes->n && code == CLI_OK; i++) {
		family->children[i].pid = start(nodes, i);
		if (family->children[i].pid > 0)
			continue;
		family->children[i].pid = 0;
		cli_complain_as("lab", "cannot start node %u: %s", i, strerror(errno));
		cli_family_signal(family, SIGTERM);
		family->kill_at = cli_now_ns() + GRACE_NS;
		code = CLI_ENVIRONMENT;
	}
	watch(family);
	if (code != CLI_OK)
		return code;
	if (family->signal)
		fprintf(stderr, "%s: ended by signal %d\n", nodes->name, family->signal);
	else if (family->first != CLI_NO_CHILD)
		report_failure(nodes);
	return cli_family_exit_code(family);
}

static int prepare(struct nodes *nodes)
{
	char first[LAB_FILE_BYTES], node0[PATH_MAX], last[PATH_MAX];
	const struct lab_space *space;
	struct in_addr address;
	unsigned bits;
	int code = CLI_OK;

	lab_file(nodes->name, 0, first);
	space = lab_node(&nodes->lab, first);
	if (!space || !lab_address(space, &address, &bits) ||
		!inet_ntop(AF_INET, &address, nodes->master, sizeof(nodes->master))) {
		cli_complain_as("lab", "%s has no address on " LAB_INTERFACE, first);
		return CLI_ENVIRONMENT;
	}
	for (uint32_t i = 0; i < nodes->n && code == CLI_OK; i++)
		code = make_folder(nodes, i);
	if (code != CLI_OK)
		return code;
	node_path(nodes, 0, "", node0);
	node_path(nodes, nodes->n - 1, "", last);
	printf("%s: %u node%s%s, folders %s to %s\n", nodes->name, nodes->n, cli_plural(nodes->n),
		nodes->made ? " for this run" : "", node0, last);
	fflush(stdout);
	return CLI_OK;
}

int lab_run(const struct lab_run *run)
{
	struct nodes nodes = {
		.run = run, .name = run->flags->plan.name, .family = {.signal_fd = -1}};
	ssize_t length = readlink("/proc/self/exe", nodes.psgd, sizeof(nodes.psgd) - 1);
	int code, after;

	if (length < 0 || access(nodes.psgd, X_OK) != 0)
		snprintf(nodes.psgd, sizeof(nodes.psgd), "/proc/self/exe");
	if (!getcwd(nodes.here, sizeof(nodes.here))) {
		cli_complain_as("lab", "the current folder: %s", strerror(errno));
		return CLI_ENVIRONMENT;
	}
	/* each node gets its identity by flags */
	cli_forget_identity();
	code = read_config(&nodes);
	if (code == CLI_OK)
		code = lab_check_rights();
	if (code == CLI_OK)
		code = find_or_make(&nodes);
	if (code == CLI_OK)
		code = prepare(&nodes);
	if (code == CLI_OK)
		code = supervise(&nodes);
	after = take_down(&nodes);
	if (nodes.family.n)
		cli_family_close(&nodes.family);
	cli_strings_free(&nodes.overrides);
	return code != CLI_OK ? code : after;
}
