/* What the files of the psgd command share. SPDX-License-Identifier: MIT */
#ifndef CLI_H
#define CLI_H

#include <argp.h>
#include <jansson.h>
#include <limits.h>
#include <sys/types.h>

#include <psgd/experiment/config.h>
#include <psgd/experiment/launch.h>

/* Exit codes; a run ended by a signal gives 128 + its number. */
enum cli_exit {
	CLI_OK = 0,
	CLI_FAILED = 1,
	CLI_USAGE = 2,
	CLI_PEER_LOST = 3,
	CLI_TIMEOUT = 4,
	CLI_ENVIRONMENT = 5
};

#define CLI_ERROR_BYTES 8192
#define CLI_COUNT(array) (sizeof(array) / sizeof((array)[0]))

int cli_run(int argc, char **argv);
int cli_batch(int argc, char **argv);
int cli_validate(int argc, char **argv);
int cli_info(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_net(int argc, char **argv);
int cli_lab(int argc, char **argv);
int cli_selftest(int argc, char **argv);

/* ---- options.c ---- */

/* "--world_size=2" becomes "--world-size=2", up to "--"; the strings are changed in place. */
void cli_normalize_flags(int argc, char **argv);

/* The whole of text is a decimal number from min to max. */
bool cli_parse_number(const char *text, int64_t min, int64_t max, int64_t *out);

/* True for key=value, false for a path (also one with '=' after a '/'). */
bool cli_is_override(const char *text);

/* The candidate closest to word, NULL if none is close. candidates ends with NULL. */
const char *cli_closest(const char *word, const char *const *candidates);

/* A list of strings that grows; entries are owned. Memory that ends: the program ends. */
struct cli_strings {
	char **items; /* NULL after the last one */
	size_t n;
};

void cli_strings_add(struct cli_strings *list, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void cli_strings_free(struct cli_strings *list);

/* "psgd: " and a line on stderr. */
void cli_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same of a command: "psgd lab: ", as argp says it. */
void cli_complain_as(const char *command, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * Writes out what stdout still holds. Returns code; when something could not be written complains,
 * and returns CLI_ENVIRONMENT in the place of CLI_OK. A reader or a terminal that has gone away
 * wants no more of it.
 */
int cli_flush_output(int code);

/* "3.1 MB"; 10^6 based. The buffer belongs to the caller. */
const char *cli_bytes_text(char *to, size_t bytes, double value);

/* What comes after a noun of which there are n: "" or "s". */
const char *cli_plural(long long n);

int64_t cli_now_ns(void);

/* PSGD_MODULE_PATH; NULL: modules are where the library is. */
const char *cli_module_dir(void);

/* This process was started to ignore the signal, as by nohup. */
bool cli_is_ignored(int signal_number);

/* ---- identity.c ---- */

/* -1 or NULL: not given. */
struct cli_identity {
	int64_t rank, world_size, local_rank, master_port;
	int64_t nnodes, node_rank, nproc_per_node;
	const char *master_addr, *rdzv_endpoint;
	bool standalone;
};

/*
 * The workers that this process supervises: *out has *n entries and is freed by free().
 * On failure error says which flags or variables are wrong.
 */
psgd_status cli_identify(const struct cli_identity *flags, struct psgd_launch **out, size_t *n,
	char *error, size_t error_bytes);

/* cli_identify for a command: complains, and returns an exit code. */
int cli_find_workers(const struct cli_identity *flags, struct psgd_launch **out, size_t *n);

/* "worker 0 of 2 (flags), 10.0.0.1:29500" */
void cli_print_workers(const struct psgd_launch *workers, size_t n);

/* ---- place.c ---- */

/* Where this process is among the others, as flags say it. */
struct cli_place {
	struct cli_identity identity;
	const char *token_file, *ifname; /* NULL: not given */
	int64_t rdzv_timeout;		 /* seconds; -1: not given */
};

#define CLI_PLACE_INIT                                                                             \
	{                                                                                          \
		{-1, -1, -1, -1, -1, -1, -1, NULL, NULL, false}, NULL, NULL, -1                    \
	}

/* The flags of a place, for commands that start or meet workers; its input is a cli_place. */
extern const struct argp cli_place_argp;

/* The file of --token-file, else of PSGD_TOKEN_FILE; NULL: none. */
const char *cli_token_file(const struct cli_place *place);

/* The number of a flag; a bad one ends the program with the usage. */
int64_t cli_number(
	struct argp_state *state, const char *flag, const char *arg, int64_t min, int64_t max);

/* ---- net.c ---- */

/*
 * Times all-reduces between the workers of a place, and what their network carries. config (may be
 * NULL) limits it. Prints; returns an exit code.
 */
int cli_net_test(const struct cli_place *place, const struct psgd_config *config);

/* ---- device.c ---- */

/* "13.0"; CUDA counts 13000. */
const char *cli_cuda_version(char to[16], uint32_t version);

/* name: what device it is, for people; on failure the reason. */
psgd_status cli_open_cuda(uint32_t ordinal, struct psgd_device *out, char *name, size_t bytes);

/* ---- trainer.c ---- */

/* psgd-train-image: beside psgd, in the build tree, or in PATH. */
bool cli_find_trainer(char *out, size_t bytes);

/* A configuration as a file in memory that children can read; its path is "/proc/self/fd/N". */
int cli_config_file(const struct psgd_config *config, char *path, size_t bytes);

/* ---- plan.c ---- */

struct cli_plan_options {
	const char *trainer; /* shell words; NULL: the default one */
	uint32_t n_workers;
	double compute_ms; /* of a step; 0: not known */
};

/*
 * What each rank would send, hold and take, as the trainer's tensors have it. On failure NULL,
 * error says why, and *code is the exit code; CLI_OK there means that there is no trainer to ask.
 */
json_t *cli_plan(const struct psgd_config *config, const struct cli_plan_options *options,
	int *code, char *error, size_t error_bytes);

#endif
