/* The layout of a run folder that has been taken. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "experiment/run_impl.h"

static const char iteration_columns[] =
	"epoch,iteration,communication_time,compression_time,decompression_time,"
	"total_processing_time,iteration_total_time,compute_time,memory_usage_mb,"
	"gpu_memory_usage_mb,compression_ratio,bandwidth_mbps,loss,accuracy,powerSGD_active,"
	"current_rank,wire_time,hidden_wire_time,encode_time,decode_time,raw_bytes,payload_bytes,"
	"control_bytes,sent_bytes,learning_rate,rank_cap,rank_choice,n_messages,"
	"sync_time,sync_bytes,configured_mbps\n";
static const char accuracy_columns[] =
	"epoch,epoch_loss,accuracy,elapsed_time,num_data_processed,grad_norm_avg,grad_accum_norm,"
	"grad_change_rate\n";
static const char epoch_columns[] = "epoch,iteration,val_accuracy_pct\n";

int psgd__open_benchmarks(const struct psgd_run *run, const struct psgd_config *config)
{
	if (!config->benchmark_save_dir)
		return psgd__open_sub_dir(run->dir_fd, "benchmark");
	if (psgd__make_dirs(config->benchmark_save_dir) != 0)
		return -1;
	return psgd__open_dir(AT_FDCWD, config->benchmark_save_dir);
}

/* Two runs may share the benchmark folder and begin in one second: the second takes the next. */
static psgd_status make_benchmark(struct psgd_run *run, int parent_fd)
{
	time_t now = time(NULL);

	/* That of a run that goes on, unless somebody took it away. */
	if (run->benchmark[0] && faccessat(parent_fd, run->benchmark, F_OK, 0) == 0)
		return PSGD_OK;
	for (int tries = 0; tries < 100; tries++, now++) {
		struct tm local;

		localtime_r(&now, &local);
		strftime(run->benchmark, sizeof(run->benchmark), "benchmark_%Y%m%d_%H%M%S", &local);
		if (mkdirat(parent_fd, run->benchmark, 0777) == 0)
			return PSGD_OK;
		if (errno != EEXIST)
			break;
	}
	return psgd__run_fail_write(run, run->benchmark);
}

/* A run that goes on keeps the rows whose number in field `index` is below `limit`. */
static psgd_status open_csv(struct psgd_run *run, struct psgd__record *record, int dir_fd,
	const char *name, const char *columns, int index, uint64_t limit)
{
	psgd_status status =
		run->resumes ? psgd__record_resume(record, dir_fd, name, columns, index, limit)
			     : psgd__record_open(record, dir_fd, name);

	if (!status && record->end == 0)
		status = psgd__record_append(record, columns, strlen(columns));
	if (status == PSGD_ERR_CONFIG)
		return psgd__run_fail(run, status,
			"%s: cannot go on with %s: its columns are another version's", run->dir,
			name);
	return status ? psgd__run_fail_write(run, name) : PSGD_OK;
}

static psgd_status fill_csv(struct psgd_run *run, int csv_fd)
{
	char name[PSGD__FILE_NAME];

	snprintf(name, sizeof(name), "powerSGD_%.*s.csv", PSGD__FILE_NAME - 16, run->benchmark);
	PSGD__TRY(open_csv(
		run, &run->iterations, csv_fd, name, iteration_columns, 1, run->resume_iteration));
	return open_csv(run, &run->epochs, csv_fd, "epoch_accuracy.csv", epoch_columns, 0,
		run->resume_epoch);
}

static psgd_status fill_benchmark(struct psgd_run *run, int dir_fd, const char *resolved)
{
	static const char *const dirs[] = {"csv", "visualizations", "configs"};
	psgd_status status = PSGD_OK;

	for (size_t i = 0; i < PSGD__COUNT(dirs) && !status; i++) {
		int fd = psgd__open_sub_dir(dir_fd, dirs[i]);

		if (fd < 0)
			return psgd__run_fail_write(run, dirs[i]);
		if (i == 0)
			status = fill_csv(run, fd);
		else if (i == 2 &&
			 psgd__file_replace(fd, "resolved.yaml", resolved, strlen(resolved), false))
			status = psgd__run_fail_write(run, "configs/resolved.yaml");
		close(fd);
	}
	return status;
}

static psgd_status fill_benchmarks(
	struct psgd_run *run, const struct psgd_config *config, const char *resolved)
{
	int parent_fd = psgd__open_benchmarks(run, config), fd = -1;
	psgd_status status;

	if (parent_fd < 0)
		return psgd__run_fail_write(run, "benchmark");
	status = make_benchmark(run, parent_fd);
	if (!status) {
		fd = psgd__open_dir(parent_fd, run->benchmark);
		status = fd < 0 ? psgd__run_fail_write(run, run->benchmark)
				: fill_benchmark(run, fd, resolved);
	}
	if (fd >= 0)
		close(fd);
	close(parent_fd);
	return status;
}

static psgd_status fill_accuracy(struct psgd_run *run)
{
	int fd = psgd__open_sub_dir(run->dir_fd, "accuracy");
	psgd_status status;

	if (fd < 0)
		return psgd__run_fail_write(run, "accuracy");
	status = open_csv(
		run, &run->accuracies, fd, run->accuracy, accuracy_columns, 0, run->resume_epoch);
	close(fd);
	return status;
}

static psgd_status put_text(struct psgd_run *run, const char *name, const char *text)
{
	if (psgd__file_replace(run->dir_fd, name, text, strlen(text), false))
		return psgd__run_fail_write(run, name);
	return PSGD_OK;
}

psgd_status psgd__folder_fill(struct psgd_run *run, const struct psgd_run_options *options)
{
	const char *source = options->source;
	char *resolved = NULL;
	psgd_status status = psgd_config_yaml(options->config, &resolved);

	if (status)
		return psgd__run_fail(run, status, "%s", psgd_status_text(status));
	if (!source)
		source = psgd_config_source(options->config);
	status = put_text(run, "config.yaml", source ? source : resolved);
	if (!status)
		status = put_text(run, "resolved.yaml", resolved);
	if (!status)
		status = fill_accuracy(run);
	if (!status)
		status = fill_benchmarks(run, options->config, resolved);
	if (!status)
		status = psgd__manifest_write(run, options, resolved);
	free(resolved);
	/* Again: now with the names by which a later run finds what to remove. */
	return status ? status : psgd__status_write(run, "running", NULL, true);
}
