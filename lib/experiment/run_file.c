#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "experiment/run_impl.h"
#include "experiment/safetensors.h"

psgd_status psgd__write_all(int fd, const void *bytes, size_t n)
{
	const char *text = bytes;

	while (n) {
		ssize_t wrote = write(fd, text, n);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote < 0)
			return PSGD_ERR_IO;
		text += wrote;
		n -= (size_t)wrote;
	}
	return PSGD_OK;
}

psgd_status psgd__file_replace(
	int dir_fd, const char *name, const char *text, size_t n, bool durable)
{
	char temporary[PSGD__FILE_NAME + 8];
	psgd_status status;
	int fd, error;

	psgd__text(temporary, sizeof(temporary), ".%s.new", name);
	fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0)
		return PSGD_ERR_IO;
	status = psgd__write_all(fd, text, n);
	if (!status && durable && fsync(fd) != 0)
		status = PSGD_ERR_IO;
	error = errno;
	if (close(fd) != 0 && !status) {
		status = PSGD_ERR_IO;
		error = errno;
	}
	if (!status && renameat(dir_fd, temporary, dir_fd, name) != 0) {
		status = PSGD_ERR_IO;
		error = errno;
	}
	if (status)
		unlinkat(dir_fd, temporary, 0);
	else if (durable)
		fsync(dir_fd); /* some file systems cannot; the rename itself has succeeded */
	errno = error;
	return status;
}

psgd_status psgd__json_replace(int dir_fd, const char *name, const json_t *value, bool durable)
{
	char *text = value ? json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(16)) : NULL;
	psgd_status status = PSGD_ERR_NOMEM;
	size_t n;

	errno = ENOMEM;
	if (!text)
		return status;
	n = strlen(text);
	text[n] = '\n'; /* in the place of the zero */
	status = psgd__file_replace(dir_fd, name, text, n + 1, durable);
	free(text);
	return status;
}

/* Creates a folder and its parents; it may exist. */
int psgd__make_dirs(const char *path)
{
	char part[PATH_MAX];
	size_t n = strlen(path);

	if (n == 0 || n >= sizeof(part)) {
		errno = n ? ENAMETOOLONG : ENOENT;
		return -1;
	}
	for (size_t i = 1; i <= n; i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		if (mkdir(part, 0777) != 0 && errno != EEXIST)
			return -1;
	}
	return 0;
}

int psgd__open_dir(int at, const char *path)
{
	return openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* mkdir, if need be, and open. */
int psgd__open_sub_dir(int at, const char *name)
{
	if (mkdirat(at, name, 0777) != 0 && errno != EEXIST)
		return -1;
	return psgd__open_dir(at, name);
}

const char *psgd__host_name(struct utsname *own)
{
	return uname(own) == 0 ? own->nodename : "";
}

long long psgd__process_start(pid_t pid)
{
	char path[64], text[1024], *at;
	long long start = 0;
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	n = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[n] = '\0';
	/* The name, field 2, may hold anything but ends with the last parenthesis. */
	at = strrchr(text, ')');
	if (at && at[1] == ' ' && (at[2] == 'Z' || at[2] == 'X'))
		return -1;
	for (int field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	if (at)
		start = strtoll(at, NULL, 10);
	return start;
}

static json_t *name_or_null(const char *name)
{
	return name[0] ? psgd__json_text(name) : json_null();
}

psgd_status psgd__status_write(
	struct psgd_run *run, const char *state, const char *error, bool durable)
{
	const struct psgd__live *live = &run->live;
	struct utsname own;
	json_t *value = json_pack("{s:s, s:o, s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, "
				  "s:f, s:f, s:i, s:I, s:s, s:o, s:o}",
		"state", state, "error", psgd__json_text(error), "epoch",
		live->any ? json_integer((json_int_t)live->epoch) : json_null(), "iteration",
		live->any ? json_integer((json_int_t)live->iteration) : json_null(), "total",
		(json_int_t)live->total, "epochs", (json_int_t)run->n_epochs, "accuracy",
		psgd__json_number(live->accuracy), "loss", psgd__json_number(live->loss),
		"test_accuracy", psgd__json_number(live->test_accuracy), "learning_rate",
		psgd__json_number(live->learning_rate), "rank",
		live->any ? json_integer(live->rank) : json_null(), "eta_s",
		psgd__json_number(live->eta_s), "seconds",
		(double)(psgd__now_ns() - run->start_ns) / 1e9, "time", psgd__unix_time(), "pid",
		(int)getpid(), "pid_start", (json_int_t)psgd__process_start(getpid()), "host",
		psgd__host_name(&own), "benchmark", name_or_null(run->benchmark), "results_csv",
		name_or_null(run->accuracy));
	psgd_status status = psgd__json_replace(run->dir_fd, "status.json", value, durable);

	json_decref(value);
	return status ? psgd__run_fail_write(run, "status.json") : PSGD_OK;
}
