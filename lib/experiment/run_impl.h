/* The run folder, room-private. */
#ifndef PSGD_EXPERIMENT_RUN_IMPL_H
#define PSGD_EXPERIMENT_RUN_IMPL_H

#include <limits.h>
#include <locale.h>
#include <sys/types.h>

#include <jansson.h>

#include <psgd/experiment/measure.h>
#include <psgd/experiment/run.h>

#include "base/base.h"

#define PSGD__ERROR_BYTES 1024
#define PSGD__FILE_NAME 256

/* --- records: text that only grows --- */

/* A file to which whole lines are appended, each by one write: a killed process leaves no half. */
struct psgd__record {
	int fd; /* -1: not open */
	off_t end;
	char name[PSGD__FILE_NAME]; /* for messages */
};

/* Creates or empties the file. IO with errno. */
psgd_status psgd__record_open(struct psgd__record *record, int dir_fd, const char *name);
/*
 * Opens a CSV that there may be, with the lines whose number in field `index` is below `limit`; the
 * others, and a last one without its end, are cut off. CONFIG: it begins with other columns.
 */
psgd_status psgd__record_resume(struct psgd__record *record, int dir_fd, const char *name,
	const char *columns, int index, uint64_t limit);
/* Cuts off a last line without its end, and appends after it from now on. */
psgd_status psgd__record_mend(struct psgd__record *record);
psgd_status psgd__record_append(struct psgd__record *record, const char *text, size_t n);
void psgd__record_close(struct psgd__record *record);

/* A line of a CSV. Numbers do not depend on the caller's locale. */
struct psgd__row {
	locale_t locale;
	size_t n;
	char text[2048];
};

void psgd__row_empty(struct psgd__row *row);
void psgd__row_text(struct psgd__row *row, const char *text);
void psgd__row_count(struct psgd__row *row, uint64_t value);
void psgd__row_seconds(struct psgd__row *row, int64_t ns);
/* As many digits as give the same double again; not finite: empty. */
void psgd__row_number(struct psgd__row *row, double value);
/* A matrix rank as the cap or choice of a decision: "dense" above all. */
void psgd__row_rank(struct psgd__row *row, uint32_t rank);
psgd_status psgd__row_append(struct psgd__row *row, struct psgd__record *record);

/* --- the run --- */

/* One of adaptive_training's stages, as far as records tell of it. */
struct psgd__stage {
	char *name; /* NULL: none */
	uint64_t start_epoch, end_epoch;
};

/* What status.json and the progress line show. */
struct psgd__live {
	bool any;		   /* an iteration has been seen */
	uint64_t epoch, iteration; /* from 0 */
	uint64_t total;
	double accuracy, loss, test_accuracy, learning_rate;
	uint32_t rank;
	double eta_s;
	int64_t last_ns;     /* end of the last iteration */
	double iteration_ns; /* smoothed, the base of the ETA; 0: not known yet */
	/* Since the last progress line; the last window stays until the next iteration. */
	bool told;
	uint64_t n_window;
	int64_t step_ns, compute_ns, encode_ns, wire_ns, decode_ns, sync_ns;
	uint64_t payload_bytes, sent_bytes;
};

struct psgd_run {
	bool writes; /* worker 0 */
	bool taken;  /* status.json is this run's */
	bool ended;
	bool resumes;
	uint64_t resume_iteration, resume_epoch;
	uint32_t n_workers;
	uint64_t n_epochs;
	int progress_fd; /* -1: none, or closed by its reader */
	int64_t start_ns, next_status_ns;
	int64_t first_step_ns; /* as if there had been no break; 0: not yet */
	struct psgd__live live;
	char *dir;
	int dir_fd, statm_fd;
	locale_t locale;
	char benchmark[PSGD__FILE_NAME]; /* benchmark_<timestamp> */
	char accuracy[PSGD__FILE_NAME];	 /* results_csv */
	struct psgd__record events, iterations, epochs, accuracies;
	char calibration[PSGD__FILE_NAME]; /* csv_name, in calibration_dir or the run's (NULL) */
	char *calibration_dir;
	/* Of the steps since the last stats event; one after every so many. 0: never. */
	uint64_t stats_every, stats_raw_bytes, stats_payload_bytes, stats_steps;
	struct psgd__stage *stages; /* only where they act */
	size_t n_stages, stage;	    /* the last step's; n_stages: none */
	/* What the last row had, to see changes. */
	bool has_rank_event;
	uint32_t last_rank, last_cap, last_choice;
	uint64_t last_ranks; /* hash of those of all tensors; 0: not known */
	bool has_decision;
	double last_learning_rate, last_accum_norm;
	double configured_mbps; /* that may leave; NAN: no limit */
	char text[PSGD__ERROR_BYTES];
};

/* The limited link that the next rows are made under. */
void psgd__run_link(struct psgd_run *run, const struct psgd_link *link);
/* Since the run's first iteration, which begins with the first call, without the time between two
 * processes of a run that goes on. */
int64_t psgd__run_training_ns(struct psgd_run *run);

psgd_status psgd__run_fail(struct psgd_run *run, psgd_status status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* A record could not be written: errno says why. */
psgd_status psgd__run_fail_write(struct psgd_run *run, const char *name);

/* What computes: its kind, and of CUDA its model. */
json_t *psgd__json_device(const struct psgd_cuda_device *cuda);
/* Null for what is not finite; never NULL unless memory ends. */
json_t *psgd__json_number(double value);
/* Also for text that is not UTF-8; NULL text gives null. */
json_t *psgd__json_text(const char *text);
double psgd__unix_time(void);

/* --- files --- */

/* A descriptor, or -1 with errno. */
int psgd__open_dir(int at, const char *path);
int psgd__open_sub_dir(int at, const char *name); /* creates it, if need be */
int psgd__make_dirs(const char *path);		  /* with the parents; 0 or -1 */
/* Temporary name and rename; durable: on the disk before it returns. IO with errno. */
psgd_status psgd__file_replace(
	int dir_fd, const char *name, const char *text, size_t n, bool durable);
psgd_status psgd__json_replace(int dir_fd, const char *name, const json_t *value, bool durable);
psgd_status psgd__status_write(
	struct psgd_run *run, const char *state, const char *error, bool durable);

struct utsname;
const char *psgd__host_name(struct utsname *own);
/*
 * When a process began, in clock ticks since boot; 0: there is none, -1: it has ended and its
 * parent has not looked. Tells reused numbers apart.
 */
long long psgd__process_start(pid_t pid);

/* --- folder --- */

/*
 * Creates the folder and refuses one that is in use; then takes it. Worker 0's checkpoints and the
 * records of an earlier run go; of one that goes on, those checkpoints that are beyond it.
 */
psgd_status psgd__folder_take(struct psgd_run *run, const struct psgd_run_options *options);
/* accuracy/, benchmark/benchmark_<time>/..., the configuration's files, headers of the CSVs. */
psgd_status psgd__folder_fill(struct psgd_run *run, const struct psgd_run_options *options);
/* Where benchmark_<time> folders are, created if need be; -1 with errno. */
int psgd__open_benchmarks(const struct psgd_run *run, const struct psgd_config *config);

/* --- state --- */

/* What the records to come depend on, and the time that has passed. Rows are on the disk after. */
psgd_status psgd__run_save(struct psgd_run *run, const struct psgd_state_writer *writer);
psgd_status psgd__run_load(struct psgd_run *run, const struct psgd_state_reader *reader);

/* --- manifest --- */

psgd_status psgd__manifest_write(
	struct psgd_run *run, const struct psgd_run_options *options, const char *resolved);

/* --- environment --- */

#define PSGD__ENV_JSON "env_metrics.json"

struct psgd__link_check;

/*
 * env_metrics_rank0_<timestamp>.txt, env_metrics.json and an event. link: NULL, or as configured;
 * check: NULL, or what was seen at the interface that the kernel limits.
 */
psgd_status psgd__run_env(struct psgd_run *run, const struct psgd_measured *found,
	const struct psgd_link *link, const struct psgd__link_check *check);
/* The check as an object; null for NULL. */
json_t *psgd__link_check_json(const struct psgd__link_check *check);
/* Is it the name of such a text? */
bool psgd__is_env_text(const char *name);

/* --- events --- */

/* Appends a line, and takes the reference to it, which may be NULL when memory has ended. */
psgd_status psgd__event_append(struct psgd_run *run, json_t *line);
psgd_status psgd__event_text(
	struct psgd_run *run, const char *event, uint64_t iteration, const char *text);
/* And what the configuration has that does nothing, an event each. */
psgd_status psgd__event_start(struct psgd_run *run, const struct psgd_run_options *options);
psgd_status psgd__event_resume(struct psgd_run *run);
/* Rank, learning rate, stats and non-finite events of a step. */
psgd_status psgd__event_step(struct psgd_run *run, const struct psgd_iteration_row *row,
	const struct psgd_report *report);
psgd_status psgd__event_epoch(struct psgd_run *run, const struct psgd_epoch_row *row);
psgd_status psgd__event_link(
	struct psgd_run *run, uint64_t iteration, const struct psgd_link *link);
psgd_status psgd__event_env(struct psgd_run *run, const struct psgd_measured *found,
	const struct psgd__link_check *check);
psgd_status psgd__event_finish(struct psgd_run *run, const char *state, const char *reason);

/* --- stages --- */

psgd_status psgd__stages_take(struct psgd_run *run, const struct psgd_config_adaptive *adaptive);
void psgd__stages_free(struct psgd_run *run);
/* An event where a stage begins, or none follows one. */
psgd_status psgd__event_stage(struct psgd_run *run, const struct psgd_iteration_row *row);

/* --- progress --- */

void psgd__live_see(struct psgd_run *run, const struct psgd_iteration_row *row,
	const struct psgd_report *report);
void psgd__progress_write(struct psgd_run *run);

#endif
