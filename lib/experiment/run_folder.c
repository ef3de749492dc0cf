/* Taking a run folder: who has it now, and what is removed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "experiment/checkpoint_impl.h"
#include "experiment/run_impl.h"

#define STATUS_MAX_BYTES (1 << 20)

/* --- what a folder holds --- */

/* *out is NULL when there is no status file. */
static psgd_status read_status(int dir_fd, json_t **out)
{
	int fd = openat(dir_fd, "status.json", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	psgd_status status = PSGD_ERR_IO;
	struct stat info;

	*out = NULL;
	if (fd < 0)
		return errno == ENOENT ? PSGD_OK : PSGD_ERR_IO;
	if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size <= STATUS_MAX_BYTES) {
		*out = json_loadfd(fd, 0, NULL);
		if (json_is_object(*out) && json_is_string(json_object_get(*out, "state")))
			status = PSGD_OK;
	}
	close(fd);
	if (status) {
		json_decref(*out);
		*out = NULL;
	}
	return status;
}

psgd_status psgd_run_state(const char *dir, char *state, size_t bytes)
{
	json_t *file = NULL;
	psgd_status status = PSGD_OK;
	const char *text = "";
	int fd;

	if (!dir || !state || !bytes)
		return PSGD_ERR_INVALID;
	*state = '\0';
	fd = psgd__open_dir(AT_FDCWD, dir);
	if (fd < 0)
		return errno == ENOENT ? PSGD_OK : PSGD_ERR_IO;
	status = read_status(fd, &file);
	close(fd);
	if (file)
		text = json_string_value(json_object_get(file, "state"));
	if (!status && strlen(text) >= bytes)
		status = PSGD_ERR_INVALID;
	if (!status)
		psgd__text(state, bytes, "%s", text);
	json_decref(file);
	return status;
}

/* Did it begin on this machine? */
static bool is_ours(const json_t *file)
{
	struct utsname own;
	const char *host = json_string_value(json_object_get(file, "host"));

	return !host || strcmp(host, psgd__host_name(&own)) == 0;
}

static bool is_alive(const json_t *file)
{
	pid_t pid = (pid_t)json_integer_value(json_object_get(file, "pid"));
	long long began = json_integer_value(json_object_get(file, "pid_start")), start;

	if (pid <= 0 || (kill(pid, 0) != 0 && errno != EPERM))
		return false;
	start = psgd__process_start(pid);
	return start >= 0 && (!began || !start || start == began);
}

/* Does the folder say that a process of this machine writes it, which lives? */
static bool is_running(const json_t *file)
{
	return file && strcmp(json_string_value(json_object_get(file, "state")), "running") == 0 &&
	       is_ours(file) && is_alive(file);
}

static psgd_status refuse_used(
	struct psgd_run *run, const json_t *file, const struct psgd_run_options *options)
{
	const char *state = json_string_value(json_object_get(file, "state"));

	if (options->overwrite || options->resume)
		return PSGD_OK;
	if (strcmp(state, "finished") == 0)
		return psgd__run_fail(run, PSGD_ERR_STATE,
			"%s holds a finished run (use --overwrite or another save_dir)", run->dir);
	if (strcmp(state, "running") == 0 && !is_ours(file))
		return psgd__run_fail(run, PSGD_ERR_STATE,
			"%s holds a run that began on %s and may still run (use --overwrite if it "
			"does not)",
			run->dir, json_string_value(json_object_get(file, "host")));
	return PSGD_OK;
}

/* --- taking it --- */

/*
 * Also two processes that start at once meet here. The lock ends with the process, and so it is the
 * one that counts: a process that was killed may be seen for a moment after its files are closed.
 * Where the file system has no locks it is the process that counts.
 */
static psgd_status lock_events(struct psgd_run *run, const json_t *old)
{
	int fd = openat(run->dir_fd, "events.jsonl", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	bool held;

	psgd__text(run->events.name, sizeof(run->events.name), "events.jsonl");
	run->events.fd = fd;
	if (fd < 0)
		return psgd__run_fail_write(run, "events.jsonl");
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return PSGD_OK;
	held = errno == EWOULDBLOCK;
	if (is_running(old))
		return psgd__run_fail(run, PSGD_ERR_STATE, "%s is in use by process %lld", run->dir,
			(long long)json_integer_value(json_object_get(old, "pid")));
	return held ? psgd__run_fail(
			      run, PSGD_ERR_STATE, "%s is in use by another process", run->dir)
		    : PSGD_OK;
}

/* A name that an earlier status.json says; it is removed, so it must be one that we could give. */
static bool is_own_name(const char *name, const char *begin)
{
	return name && strncmp(name, begin, strlen(begin)) == 0 && !strchr(name, '/') &&
	       name[0] != '.' && name[0];
}

/* The folders go too when nothing else is in them. */
static void remove_benchmark(int parent_fd, const char *name)
{
	char path[3 * PSGD__FILE_NAME];
	static const char *const dirs[] = {"csv", "configs", "visualizations"};

	snprintf(path, sizeof(path), "%s/csv/powerSGD_%s.csv", name, name);
	unlinkat(parent_fd, path, 0);
	snprintf(path, sizeof(path), "%s/csv/epoch_accuracy.csv", name);
	unlinkat(parent_fd, path, 0);
	snprintf(path, sizeof(path), "%s/configs/resolved.yaml", name);
	unlinkat(parent_fd, path, 0);
	for (size_t i = 0; i < PSGD__COUNT(dirs); i++) {
		snprintf(path, sizeof(path), "%s/%s", name, dirs[i]);
		unlinkat(parent_fd, path, AT_REMOVEDIR);
	}
	unlinkat(parent_fd, name, AT_REMOVEDIR);
}

/* What earlier runs measured; their names hold the time. */
static void remove_env(const struct psgd_run *run)
{
	int fd = dup(run->dir_fd);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	rewinddir(dir);
	while ((entry = readdir(dir))) {
		if (psgd__is_env_text(entry->d_name))
			unlinkat(run->dir_fd, entry->d_name, 0);
	}
	closedir(dir);
	unlinkat(run->dir_fd, PSGD__ENV_JSON, 0);
}

/* What an earlier run wrote, and nothing else. */
static psgd_status remove_records(
	struct psgd_run *run, const json_t *old, const struct psgd_config *config)
{
	const char *benchmark = json_string_value(json_object_get(old, "benchmark"));
	const char *accuracy = json_string_value(json_object_get(old, "results_csv"));
	char path[PSGD__FILE_NAME + 16];
	int benchmarks;

	if (ftruncate(run->events.fd, 0) != 0)
		return psgd__run_fail_write(run, "events.jsonl");
	if (!run->calibration_dir)
		unlinkat(run->dir_fd, run->calibration, 0);
	unlinkat(run->dir_fd, "manifest.json", 0);
	remove_env(run);
	if (is_own_name(accuracy, "") && strlen(accuracy) < PSGD__FILE_NAME) {
		snprintf(path, sizeof(path), "accuracy/%s", accuracy);
		unlinkat(run->dir_fd, path, 0);
	}
	if (is_own_name(benchmark, "benchmark_") && strlen(benchmark) < PSGD__FILE_NAME) {
		benchmarks = psgd__open_benchmarks(run, config);
		if (benchmarks < 0)
			return psgd__run_fail_write(run, "benchmark");
		remove_benchmark(benchmarks, benchmark);
		close(benchmarks);
	}
	return PSGD_OK;
}

/* A folder outside of the run's may hold other runs' too. */
static bool owns_benchmarks(const struct psgd_run *run, const struct psgd_config *config)
{
	const char *dir = config->benchmark_save_dir;
	size_t n = strlen(run->dir);

	return !dir || (strncmp(dir, run->dir, n) == 0 && dir[n] == '/' && !strstr(dir + n, "/.."));
}

/* Its name holds the time: the last by name is the newest. */
static void find_benchmark(struct psgd_run *run, const struct psgd_config *config)
{
	int fd = psgd__open_benchmarks(run, config);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((entry = readdir(dir))) {
		if (is_own_name(entry->d_name, "benchmark_") &&
			strcmp(entry->d_name, run->benchmark) > 0)
			psgd__text(run->benchmark, sizeof(run->benchmark), "%s", entry->d_name);
	}
	closedir(dir);
}

/* One benchmark folder holds the whole run. status.json must not lose its name either. */
static void keep_benchmark(
	struct psgd_run *run, const json_t *old, const struct psgd_config *config)
{
	const char *benchmark = json_string_value(json_object_get(old, "benchmark"));

	if (is_own_name(benchmark, "benchmark_") && strlen(benchmark) < PSGD__FILE_NAME)
		psgd__text(run->benchmark, sizeof(run->benchmark), "%s", benchmark);
	else if (owns_benchmarks(run, config))
		find_benchmark(run, config);
}

static psgd_status check_results_csv(struct psgd_run *run, const struct psgd_config *config)
{
	const char *name = config->results_csv;

	if (is_own_name(name, "") && strlen(name) < PSGD__FILE_NAME) {
		psgd__text(run->accuracy, sizeof(run->accuracy), "%s", name);
		return PSGD_OK;
	}
	return psgd__run_fail(run, PSGD_ERR_CONFIG,
		"results_csv is \"%.80s\", expected the name of a file", name ? name : "");
}

psgd_status psgd__folder_take(struct psgd_run *run, const struct psgd_run_options *options)
{
	json_t *old = NULL;
	psgd_status status;

	PSGD__TRY(check_results_csv(run, options->config));
	if (psgd__make_dirs(run->dir) != 0)
		return psgd__run_fail_write(run, "");
	run->dir_fd = psgd__open_dir(AT_FDCWD, run->dir);
	if (run->dir_fd < 0)
		return psgd__run_fail_write(run, "");
	/* A power cut may leave it empty; the checkpoint that a run goes on from is whole. */
	if (read_status(run->dir_fd, &old) && !options->overwrite && !options->resume)
		return psgd__run_fail(run, PSGD_ERR_STATE,
			"%s/status.json is no run's status (use --overwrite or another save_dir)",
			run->dir);
	status = old ? refuse_used(run, old, options) : PSGD_OK;
	if (!status)
		status = lock_events(run, old);
	if (!status && run->resumes)
		keep_benchmark(run, old, options->config);
	/* From here the folder is not the old run's any more, whatever happens. */
	if (!status)
		status = psgd__status_write(run, "running", NULL, true);
	run->taken = !status;
	/* First what would go on from records that end here. */
	if (!status)
		psgd__checkpoint_prune(run->dir, 0, run->resumes ? run->resume_iteration : 0,
			run->resumes ? SIZE_MAX : 0);
	if (!status && run->resumes)
		status = psgd__record_mend(&run->events)
				 ? psgd__run_fail_write(run, run->events.name)
				 : PSGD_OK;
	else if (!status)
		status = remove_records(run, old, options->config);
	json_decref(old);
	return status;
}
