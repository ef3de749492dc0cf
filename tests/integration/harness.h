/* Runs the built psgd in a folder of its own and looks at what is left. */
#ifndef TESTS_INTEGRATION_HARNESS_H
#define TESTS_INTEGRATION_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define TEXT_BYTES 65536

/* What a program left behind. */
struct ended {
	int code; /* 128 + N when signal N ended it */
	double seconds;
	char out[TEXT_BYTES], err[TEXT_BYTES];
};

/* A program that runs. */
struct started {
	pid_t pid;
	double at;
	char out[32], err[32]; /* files */
};

/* Fixtures: an empty working folder, and its end. */
void enter_folder(void);
void leave_folder(void);
const char *folder(void);

/* The program whose path is in that variable. Arguments are split at spaces. */
struct started start_program(const char *variable, const char *arguments);
struct started start_psgd(const char *arguments);
struct ended finish(struct started started, double timeout_s);
struct ended run_psgd(const char *arguments, double timeout_s);

void write_text(const char *path, const char *text);
/* The whole file into a static buffer; "" when there is none. */
const char *read_text(const char *path);
bool exists(const char *path);

/* The field of that name of every row of the run's CSV per iteration, one a line. */
void read_column(const char *run_dir, const char *name, char *out, size_t bytes);
size_t count_lines(const char *text);

/* "state" of <run_dir>/status.json. */
void read_state(const char *run_dir, char *out, size_t bytes);

/* Processes of the working folder's runs: by what is in their environment. */
size_t count_trainers(void);
pid_t find_trainer(unsigned worker);
bool no_trainer_within(double seconds);

/* Waits until the CSV of a run has a row. */
bool training_within(const char *run_dir, double seconds);

unsigned free_port(void);
void sleep_s(double seconds);
double now_s(void);

#endif
