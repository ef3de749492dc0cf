/* Workers that are processes, each with a stack and a trainer of one tensor, in a folder. */
#ifndef TESTS_EXPERIMENT_STACK_SUPPORT_H
#define TESTS_EXPERIMENT_STACK_SUPPORT_H

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include <psgd/experiment/stack.h>

#include "support/suite.h"

#define MAX_WORKERS 3
#define STEPS 5

/* What a worker leaves behind for the test. */
struct outcome {
	psgd_status status;
	char error[2048];
	float gradient[32];
	int64_t wire_ns[STEPS];
};

static char root[64];
static struct outcome *outcomes; /* shared with the workers */
static uint16_t port;
static uint64_t first_step; /* above 0: as after a resume */
/* What else a worker says when it opens its stack, and what it does with it; NULL: nothing. */
static void (*adjust)(uint32_t worker, struct psgd_stack_options *options);
static void (*inspect)(uint32_t worker, psgd_stack *stack);

static const char yaml[] = "name: unit\n"
			   "model: {name: mlp, num_classes: 10}\n"
			   "dataset: {name: synthetic, batch_size: 8}\n"
			   "training: {epochs: 1, learning_rate: 0.1}\n"
			   "communication: {timeout_s: 20}\n"
			   "compression: {max_rank: 2, min_rank: 1, use_fixed_rank: true, "
			   "fixed_rank_value: 2, start_power_iterations: 0}\n";

static inline void write_file(const char *name, const char *text, const char *more)
{
	FILE *file = fopen(name, "w");

	ck_assert_ptr_nonnull(file);
	fprintf(file, "%s%s", text, more);
	fclose(file);
}

/* The configuration of n workers: yaml and `more`. */
static inline void write_configs(uint32_t n, const char *more)
{
	for (uint32_t w = 0; w < n; w++) {
		char name[32];

		snprintf(name, sizeof(name), "config%u.yaml", w);
		write_file(name, yaml, more);
	}
}

static inline void set_up(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t bytes = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
	close(fd);
	port = ntohs(address.sin_port);
	strcpy(root, "/tmp/psgd-stack-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
	ck_assert_int_eq(chdir(root), 0);
	write_configs(MAX_WORKERS, "");
	outcomes = mmap(NULL, MAX_WORKERS * sizeof(*outcomes), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(outcomes, MAP_FAILED);
	unsetenv("PSGD_OVERWRITE");
	unsetenv("PSGD_TOKEN_FILE");
	setenv("PSGD_RUN_DIR", "r", 1);
	setenv("PSGD_RDZV_TIMEOUT", "20", 1);
}

static inline void tear_down(void)
{
	char command[128];

	munmap(outcomes, MAX_WORKERS * sizeof(*outcomes));
	ck_assert_int_eq(chdir("/"), 0);
	snprintf(command, sizeof(command), "rm -rf '%s'", root);
	ck_assert_int_eq(system(command), 0);
}

static inline void set_number(const char *name, unsigned value)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", value);
	setenv(name, text, 1);
}

static inline psgd_status one_step(
	psgd_session *session, psgd_run *run, uint64_t step, struct outcome *out)
{
	struct psgd_grad grad = {.id = 7, .data = out->gradient};
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	struct psgd_step_info info = PSGD_INIT(psgd_step_info);
	struct psgd_report report = PSGD_INIT(psgd_report);
	struct psgd_iteration_row row = PSGD_INIT(psgd_iteration_row);
	psgd_ticket ticket;
	psgd_status status;

	bucket.grads = &grad;
	bucket.n_grads = 1;
	info.learning_rate = 0.1;
	info.epoch_end = step + 1 == STEPS;
	status = psgd_session_submit(session, &bucket, NULL, &ticket);
	if (status == PSGD_OK)
		status = psgd_session_finish_step(session, &info, &report);
	if (status != PSGD_OK)
		return status;
	out->wire_ns[step] = report.wire_ns;
	row.iteration = step;
	row.iterations_in_epoch = row.total_iterations = STEPS;
	row.learning_rate = 0.1;
	row.report = &report;
	return psgd_run_iteration(run, &row);
}

/* A trainer of one 8 x 4 tensor. */
static inline void train(uint32_t worker, uint32_t n, struct outcome *out)
{
	struct psgd_stack_options options = PSGD_INIT(psgd_stack_options);
	struct psgd_tensor tensor = {
		.id = 7, .dtype = PSGD_F32, .n_dims = 2, .dims = {8, 4}, .name = "w"};
	psgd_session *session;
	psgd_stack *stack;
	char config[32];

	snprintf(config, sizeof(config), "config%u.yaml", worker);
	setenv("PSGD_CONFIG", config, 1);
	setenv("MASTER_ADDR", "127.0.0.1", 1);
	set_number("MASTER_PORT", port);
	set_number("RANK", worker);
	set_number("WORLD_SIZE", n);
	options.error = out->error;
	options.error_bytes = sizeof(out->error);
	if (adjust)
		adjust(worker, &options);
	out->status = psgd_stack_open(&options, &stack);
	if (out->status)
		return;
	if (inspect)
		inspect(worker, stack);
	out->status = psgd_stack_session(stack, &tensor, 1, &session);
	for (uint64_t step = first_step; step < STEPS && out->status == PSGD_OK; step++) {
		for (int i = 0; i < 32; i++)
			out->gradient[i] = (float)((worker + 1) * (unsigned)(i % 5 + 1));
		out->status = psgd_stack_begin_step(stack, step);
		if (out->status == PSGD_OK)
			out->status = one_step(session, psgd_stack_run(stack), step, out);
	}
	psgd_stack_error(stack, out->error, sizeof(out->error));
	psgd_stack_close(&stack, out->status, NULL);
}

static inline void join_all(const pid_t *children, uint32_t n)
{
	for (uint32_t w = 0; w < n; w++) {
		int status;

		waitpid(children[w], &status, 0);
		ck_assert_msg(
			WIFEXITED(status) && WEXITSTATUS(status) == 0, "worker %u: %d", w, status);
	}
}

static inline void run_workers(uint32_t n)
{
	pid_t children[MAX_WORKERS];

	for (uint32_t w = 0; w < n; w++) {
		children[w] = fork();
		if (children[w] == 0) {
			train(w, n, &outcomes[w]);
			_exit(0);
		}
	}
	join_all(children, n);
}

/* The "link" events as "iteration egress ingress latency\n". */
static inline void read_links(char *out, size_t bytes)
{
	FILE *events = fopen("r/events.jsonl", "r");
	char line[1024];
	size_t n = 0;

	ck_assert_ptr_nonnull(events);
	out[0] = '\0';
	while (fgets(line, sizeof(line), events)) {
		json_t *event = json_loads(line, 0, NULL);

		if (strcmp(json_string_value(json_object_get(event, "event")), "link") == 0)
			n += (size_t)snprintf(out + n, bytes - n, "%lld %g %g %g\n",
				json_integer_value(json_object_get(event, "iteration")),
				json_number_value(json_object_get(event, "egress_mbps")),
				json_number_value(json_object_get(event, "ingress_mbps")),
				json_number_value(json_object_get(event, "latency_ms")));
		json_decref(event);
	}
	fclose(events);
}

/* The last column of the table per iteration. */
static inline void read_configured(char *out, size_t bytes)
{
	char line[2048], command[] = "cat r/benchmark/*/csv/powerSGD_benchmark_*.csv";
	FILE *table = popen(command, "r");
	size_t n = 0;

	ck_assert_ptr_nonnull(fgets(line, sizeof(line), table));
	ck_assert_ptr_nonnull(strstr(line, ",configured_mbps\n"));
	out[0] = '\0';
	while (fgets(line, sizeof(line), table))
		n += (size_t)snprintf(out + n, bytes - n, "%s", strrchr(line, ',') + 1);
	ck_assert_int_eq(pclose(table), 0);
}

#endif
