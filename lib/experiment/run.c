#include <psgd/experiment/run.h>

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "experiment/run_impl.h"

#define STATUS_EVERY_NS INT64_C(250000000)

psgd_status psgd__run_fail(struct psgd_run *run, psgd_status status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	psgd__vtext(run->text, sizeof(run->text), format, args);
	va_end(args);
	return status;
}

psgd_status psgd__run_fail_write(struct psgd_run *run, const char *name)
{
	return psgd__run_fail(run, PSGD_ERR_IO, "cannot write %s%s%s: %s", run->dir,
		name[0] ? "/" : "", name, strerrordesc_np(errno));
}

psgd_status psgd_run_dir(const struct psgd_config *config, char *out, size_t bytes)
{
	time_t now = time(NULL);
	char date[16] = "";
	struct tm local;
	int n;

	if (!config || !out || !bytes)
		return PSGD_ERR_INVALID;
	if (localtime_r(&now, &local))
		strftime(date, sizeof(date), "%Y%m%d", &local);
	n = config->save_dir ? snprintf(out, bytes, "%s", config->save_dir)
			     : snprintf(out, bytes, "results/%s/%s", date, config->name);
	return n > 0 && (size_t)n < bytes ? PSGD_OK : PSGD_ERR_INVALID;
}

static psgd_status open_records(struct psgd_run *run, const struct psgd_run_options *options)
{
	const struct psgd_config_calibration *c = &options->config->compression.calibration;

	run->stats_every = options->config->powerSGD.compression_stats_logging_frequency;
	psgd__text(run->calibration, sizeof(run->calibration), "%s", c->csv_name);
	if (c->save_dir)
		run->calibration_dir = psgd__strdup(c->save_dir);
	if (!run->dir || !run->locale || (c->save_dir && !run->calibration_dir))
		return psgd__run_fail(run, PSGD_ERR_NOMEM, "out of memory");
	if (psgd__stages_take(run, &options->config->adaptive_training))
		return psgd__run_fail(run, PSGD_ERR_NOMEM, "out of memory");
	PSGD__TRY(psgd__folder_take(run, options));
	PSGD__TRY(psgd__folder_fill(run, options));
	run->statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	return run->resumes ? psgd__event_resume(run) : psgd__event_start(run, options);
}

psgd_status psgd_run_open(const struct psgd_run_options *options, psgd_run **out)
{
	struct psgd_run_options own;
	struct psgd_run *run;
	psgd_status status = PSGD_OK;

	if (!out || !options)
		return PSGD_ERR_INVALID;
	*out = NULL;
	PSGD__TRY(psgd__copy_options(&own, sizeof(own), options));
	psgd__text(own.error, own.error_bytes, "%s", "");
	if (!own.config || (own.worker == 0 && !own.dir))
		return PSGD_ERR_INVALID;
	run = psgd__calloc(1, sizeof(*run));
	if (!run)
		return PSGD_ERR_NOMEM;
	run->writes = own.worker == 0;
	run->resumes = own.resume != 0;
	run->resume_iteration = own.resume_iteration;
	run->resume_epoch = own.resume_epoch;
	run->n_workers = own.n_workers ? own.n_workers : 1;
	run->n_epochs = own.config->training.epochs;
	run->progress_fd = own.progress_fd > 0 ? own.progress_fd : -1;
	run->start_ns = psgd__now_ns();
	run->dir_fd = run->statm_fd = -1;
	run->events.fd = run->iterations.fd = run->epochs.fd = run->accuracies.fd = -1;
	run->live.accuracy = run->live.loss = run->live.test_accuracy = NAN;
	run->live.learning_rate = run->live.eta_s = NAN;
	run->last_learning_rate = run->last_accum_norm = run->configured_mbps = NAN;
	if (run->writes) {
		run->dir = psgd__strdup(own.dir);
		run->locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
		status = open_records(run, &own);
	}
	if (status) {
		psgd__text(own.error, own.error_bytes, "%s", run->text);
		if (run->taken)
			psgd__status_write(run, "failed", own.error_bytes ? own.error : "", true);
		psgd_run_close(&run);
		return status;
	}
	*out = run;
	return PSGD_OK;
}

void psgd__run_link(struct psgd_run *run, const struct psgd_link *link)
{
	run->configured_mbps = link->egress_bps ? (double)link->egress_bps / 1e6 : NAN;
}

int64_t psgd__run_training_ns(struct psgd_run *run)
{
	int64_t now = psgd__now_ns();

	if (!run->first_step_ns)
		run->first_step_ns = now;
	return now - run->first_step_ns;
}

static double memory_mb(const struct psgd_run *run)
{
	char text[128];
	unsigned long long pages;
	ssize_t n = run->statm_fd < 0 ? -1 : pread(run->statm_fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return NAN;
	text[n] = '\0';
	if (sscanf(text, "%*u %llu", &pages) != 1)
		return NAN;
	return (double)pages * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

/* Fractions without a denominator are empty in the records. */
static double ratio(double a, double b)
{
	return b > 0 ? a / b : NAN;
}

/* The older tool's columns, in its units. */
static void row_first(struct psgd_run *run, struct psgd__row *line,
	const struct psgd_iteration_row *row, const struct psgd_report *report)
{
	psgd__row_count(line, row->epoch);
	psgd__row_count(line, row->iteration);
	psgd__row_seconds(line, report->exposed_wire_ns);
	psgd__row_seconds(line, report->exposed_encode_ns);
	psgd__row_seconds(line, report->exposed_decode_ns);
	psgd__row_seconds(line,
		report->exposed_wire_ns + report->exposed_encode_ns + report->exposed_decode_ns);
	psgd__row_seconds(line, report->step_ns);
	psgd__row_seconds(line, report->compute_ns);
	psgd__row_number(line, memory_mb(run));
	psgd__row_number(line, (double)row->gpu_memory_bytes / (1 << 20));
	psgd__row_number(line, ratio((double)report->raw_bytes, (double)report->payload_bytes));
	/* Bits per ns are 1000 Mbit/s. */
	psgd__row_number(line, ratio((double)(report->sent_bytes - report->sync_bytes) * 8 * 1000,
				       (double)report->wire_ns));
	psgd__row_number(line, row->loss);
	psgd__row_number(line, row->accuracy);
	psgd__row_text(line, report->rank_max ? "True" : "False");
	psgd__row_count(line, report->rank_max);
}

static void row_ours(const struct psgd_run *run, struct psgd__row *line,
	const struct psgd_iteration_row *row, const struct psgd_report *report)
{
	psgd__row_seconds(line, report->wire_ns);
	psgd__row_seconds(line, report->hidden_wire_ns);
	psgd__row_seconds(line, report->encode_ns);
	psgd__row_seconds(line, report->decode_ns);
	psgd__row_count(line, report->raw_bytes);
	psgd__row_count(line, report->payload_bytes);
	psgd__row_count(line, report->control_bytes);
	psgd__row_count(line, report->sent_bytes);
	psgd__row_number(line, row->learning_rate);
	if (run->has_decision) {
		psgd__row_rank(line, run->last_cap);
		psgd__row_rank(line, run->last_choice);
	} else {
		psgd__row_empty(line);
		psgd__row_empty(line);
	}
	psgd__row_count(line, report->n_messages);
	psgd__row_seconds(line, report->sync_ns);
	psgd__row_count(line, report->sync_bytes);
	psgd__row_number(line, run->configured_mbps);
}

static psgd_status append_row(
	struct psgd_run *run, struct psgd__row *line, struct psgd__record *record)
{
	return psgd__row_append(line, record) ? psgd__run_fail_write(run, record->name) : PSGD_OK;
}

static psgd_status write_iteration(struct psgd_run *run, const struct psgd_iteration_row *row,
	const struct psgd_report *report)
{
	struct psgd__row line = {.locale = run->locale};

	PSGD__TRY(psgd__event_step(run, row, report));
	row_first(run, &line, row, report);
	row_ours(run, &line, row, report);
	return append_row(run, &line, &run->iterations);
}

psgd_status psgd_run_iteration(psgd_run *run, const struct psgd_iteration_row *row)
{
	struct psgd_iteration_row own;
	struct psgd_report report;
	int64_t now;

	if (!run || !row)
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__copy_options(&own, sizeof(own), row));
	if (!own.report)
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__copy_options(&report, sizeof(report), own.report));
	psgd__live_see(run, &own, &report);
	if (run->writes)
		PSGD__TRY(write_iteration(run, &own, &report));
	now = psgd__now_ns();
	if (now < run->next_status_ns)
		return PSGD_OK;
	run->next_status_ns = now + STATUS_EVERY_NS;
	psgd__progress_write(run);
	/* Not forced to the disk: that would stop the trainer. A killed process loses nothing. */
	return run->writes ? psgd__status_write(run, "running", NULL, false) : PSGD_OK;
}

static psgd_status write_epoch(struct psgd_run *run, const struct psgd_epoch_row *row)
{
	struct psgd__row line = {.locale = run->locale}, accuracy = {.locale = run->locale};
	double before = run->last_accum_norm;

	psgd__row_count(&line, row->epoch);
	psgd__row_number(&line, row->epoch_loss);
	psgd__row_number(&line, row->accuracy);
	psgd__row_seconds(&line, psgd__now_ns() - run->start_ns);
	psgd__row_count(&line, row->num_data_processed);
	psgd__row_number(&line, row->grad_norm_avg);
	psgd__row_number(&line, row->grad_accum_norm);
	psgd__row_number(&line, ratio(fabs(row->grad_accum_norm - before), before));
	run->last_accum_norm = row->grad_accum_norm;
	PSGD__TRY(append_row(run, &line, &run->accuracies));
	psgd__row_count(&accuracy, row->epoch);
	psgd__row_count(&accuracy, row->iteration);
	psgd__row_number(&accuracy, row->accuracy);
	PSGD__TRY(append_row(run, &accuracy, &run->epochs));
	PSGD__TRY(psgd__event_epoch(run, row));
	return psgd__status_write(run, "running", NULL, true);
}

psgd_status psgd_run_epoch(psgd_run *run, const struct psgd_epoch_row *row)
{
	struct psgd_epoch_row own;

	if (!run || !row)
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__copy_options(&own, sizeof(own), row));
	run->live.test_accuracy = own.accuracy;
	return run->writes ? write_epoch(run, &own) : PSGD_OK;
}

static psgd_status put_calibration(struct psgd_run *run, const char *text, size_t n)
{
	const char *dir = run->calibration_dir ? run->calibration_dir : run->dir;
	psgd_status status = PSGD_OK;
	int fd;

	if (psgd__make_dirs(dir) != 0)
		return psgd__run_fail(
			run, PSGD_ERR_IO, "cannot create %s: %s", dir, strerrordesc_np(errno));
	fd = psgd__open_dir(AT_FDCWD, dir);
	if (fd < 0 || psgd__file_replace(fd, run->calibration, text, n, true))
		status = psgd__run_fail(run, PSGD_ERR_IO, "cannot write %s/%s: %s", dir,
			run->calibration, strerrordesc_np(errno));
	if (fd >= 0)
		close(fd);
	return status;
}

/* The file is small and comes once: built whole, so that there is never a part of it. */
psgd_status psgd_run_calibration(
	psgd_run *run, const struct psgd_calibration_row *rows, size_t n_rows, uint32_t chosen)
{
	static const char columns[] = "rank,t_nosync_s,t_sync_s,comm_overhead_s,comm_ratio,"
				      "full_param_bytes,approx_comp_bytes,measured_steps,chosen\n";
	psgd_status status = PSGD_OK;
	size_t n = 0;
	FILE *file;
	char *text = NULL;

	if (!run || (n_rows && !rows))
		return PSGD_ERR_INVALID;
	if (!run->writes)
		return PSGD_OK;
	file = open_memstream(&text, &n);
	if (!file)
		return psgd__run_fail(run, PSGD_ERR_NOMEM, "out of memory");
	fputs(columns, file);
	for (size_t i = 0; i < n_rows; i++) {
		const struct psgd_calibration_row *r = &rows[i];
		struct psgd__row line = {.locale = run->locale};

		psgd__row_rank(&line, r->rank);
		psgd__row_seconds(&line, r->step_ns - r->exposed_ns);
		psgd__row_seconds(&line, r->step_ns);
		psgd__row_seconds(&line, r->exposed_ns);
		psgd__row_number(&line, ratio((double)r->exposed_ns, (double)r->step_ns));
		psgd__row_count(&line, r->raw_bytes);
		psgd__row_count(&line, r->payload_bytes);
		psgd__row_count(&line, r->steps);
		psgd__row_text(&line, r->rank == chosen ? "True" : "False");
		fprintf(file, "%.*s\n", (int)line.n, line.text);
	}
	if (fclose(file) != 0 || !text)
		status = psgd__run_fail(run, PSGD_ERR_NOMEM, "out of memory");
	else
		status = put_calibration(run, text, n);
	free(text);
	return status;
}

psgd_status psgd_run_event(psgd_run *run, const char *event, uint64_t iteration, const char *text)
{
	if (!run || !event)
		return PSGD_ERR_INVALID;
	return run->writes ? psgd__event_text(run, event, iteration, text) : PSGD_OK;
}

psgd_status psgd_run_finish(psgd_run *run, const char *state, const char *reason)
{
	psgd_status event, status;
	bool finished;

	if (!run || !state)
		return PSGD_ERR_INVALID;
	finished = strcmp(state, "finished") == 0;
	if (!finished && strcmp(state, "failed") != 0)
		return PSGD_ERR_INVALID;
	if (run->ended)
		return PSGD_OK;
	run->ended = true;
	psgd__progress_write(run);
	if (!run->writes)
		return PSGD_OK;
	if (finished)
		run->live.eta_s = 0;
	event = psgd__event_finish(run, state, reason);
	status = psgd__status_write(run, state, finished ? NULL : reason, true);
	return status ? status : event;
}

void psgd_run_error(const psgd_run *run, char *text, size_t bytes)
{
	psgd__text(text, bytes, "%s", run ? run->text : "");
}

void psgd_run_close(psgd_run **run)
{
	struct psgd_run *r;

	if (!run || !*run)
		return;
	r = *run;
	*run = NULL;
	psgd__record_close(&r->events);
	psgd__record_close(&r->iterations);
	psgd__record_close(&r->epochs);
	psgd__record_close(&r->accuracies);
	if (r->statm_fd >= 0)
		close(r->statm_fd);
	if (r->dir_fd >= 0)
		close(r->dir_fd);
	if (r->locale)
		freelocale(r->locale);
	psgd__stages_free(r);
	free(r->calibration_dir);
	free(r->dir);
	free(r);
}
