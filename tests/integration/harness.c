#include "harness.h"

#include <arpa/inet.h>
#include <check.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char working[64];
static unsigned n_started;

double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void sleep_s(double seconds)
{
	struct timespec time = {.tv_sec = (time_t)seconds,
		.tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};

	nanosleep(&time, NULL);
}

/* ---- folder ---- */

void enter_folder(void)
{
	snprintf(working, sizeof(working), "/tmp/psgd-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(working));
	ck_assert_int_eq(chdir(working), 0);
	n_started = 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *walk)
{
	(void)st;
	(void)type;
	(void)walk;
	return remove(path);
}

void leave_folder(void)
{
	ck_assert_int_eq(chdir("/"), 0);
	nftw(working, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *folder(void)
{
	return working;
}

void write_text(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	ck_assert_int_eq(fclose(file), 0);
}

const char *read_text(const char *path)
{
	static char text[1 << 22];
	FILE *file = fopen(path, "r");
	size_t n = 0;

	if (file) {
		n = fread(text, 1, sizeof(text) - 1, file);
		fclose(file);
	}
	text[n] = '\0';
	return text;
}

bool exists(const char *path)
{
	return access(path, F_OK) == 0;
}

/* ---- programs ---- */

struct started start_program(const char *variable, const char *arguments)
{
	struct started s = {.at = now_s()};
	char *copy = strdup(arguments), *argv[64] = {getenv(variable)}, *save = NULL;
	size_t n = 1;

	ck_assert_msg(argv[0] != NULL, "%s is not set", variable);
	for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		ck_assert_uint_lt(n, 63);
		argv[n++] = word;
	}
	snprintf(s.out, sizeof(s.out), "stdout.%u", n_started);
	snprintf(s.err, sizeof(s.err), "stderr.%u", n_started++);
	s.pid = fork();
	ck_assert_int_ge(s.pid, 0);
	if (s.pid == 0) {
		int out = open(s.out, O_WRONLY | O_CREAT | O_TRUNC, 0666);
		int err = open(s.err, O_WRONLY | O_CREAT | O_TRUNC, 0666);

		/* whatever the tests themselves were started by */
		for (int number = SIGHUP; number <= SIGTERM; number++)
			(void)signal(number, SIG_DFL);
		/* a test that fails in the middle leaves nothing either */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(out, STDOUT_FILENO);
		dup2(err, STDERR_FILENO);
		execv(argv[0], argv);
		_exit(127);
	}
	free(copy);
	return s;
}

struct started start_psgd(const char *arguments)
{
	return start_program("PSGD_BIN", arguments);
}

struct ended finish(struct started s, double timeout_s)
{
	struct ended ended = {0};
	double until = now_s() + timeout_s;
	int status;
	pid_t got;

	while ((got = waitpid(s.pid, &status, WNOHANG)) == 0 && now_s() < until)
		sleep_s(0.01);
	if (got == 0) {
		kill(s.pid, SIGKILL);
		waitpid(s.pid, &status, 0);
		ck_abort_msg(
			"it did not end within %g s; stdout:\n%s", timeout_s, read_text(s.out));
	}
	ended.seconds = now_s() - s.at;
	ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	snprintf(ended.out, sizeof(ended.out), "%.*s", TEXT_BYTES - 1, read_text(s.out));
	snprintf(ended.err, sizeof(ended.err), "%.*s", TEXT_BYTES - 1, read_text(s.err));
	return ended;
}

struct ended run_psgd(const char *arguments, double timeout_s)
{
	return finish(start_psgd(arguments), timeout_s);
}

unsigned free_port(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t bytes = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, bytes), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
	close(fd);
	return ntohs(address.sin_port);
}

/* ---- records ---- */

size_t count_lines(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += *text == '\n';
	return n;
}

static bool find_csv(const char *run_dir, char *out, size_t bytes)
{
	char pattern[512];
	glob_t found;
	bool ok;

	snprintf(pattern, sizeof(pattern), "%s/benchmark/*/csv/powerSGD_*.csv", run_dir);
	ok = glob(pattern, 0, NULL, &found) == 0;
	if (ok)
		snprintf(out, bytes, "%s", found.gl_pathv[found.gl_pathc - 1]);
	globfree(&found);
	return ok;
}

static const char *field_at(const char *line, size_t at)
{
	while (at-- > 0 && line) {
		line = strpbrk(line, ",\n");
		line = line && *line == ',' ? line + 1 : NULL;
	}
	return line;
}

void read_column(const char *run_dir, const char *name, char *out, size_t bytes)
{
	char path[512];
	const char *text, *field;
	size_t column = 0, used = 0;

	ck_assert_msg(find_csv(run_dir, path, sizeof(path)), "%s has no CSV", run_dir);
	text = read_text(path);
	for (;; column++) {
		field = field_at(text, column);
		ck_assert_msg(field != NULL, "%s has no column %s", path, name);
		if (strncmp(field, name, strlen(name)) == 0 &&
			strcspn(field, ",\n\r") == strlen(name))
			break;
	}
	out[0] = '\0';
	for (text = strchr(text, '\n'); text && text[1]; text = strchr(text + 1, '\n')) {
		field = field_at(text + 1, column);
		ck_assert_ptr_nonnull(field);
		used += (size_t)snprintf(
			out + used, bytes - used, "%.*s\n", (int)strcspn(field, ",\n\r"), field);
		ck_assert_uint_lt(used, bytes);
	}
}

void read_state(const char *run_dir, char *out, size_t bytes)
{
	char path[512];
	json_t *status;

	snprintf(path, sizeof(path), "%s/status.json", run_dir);
	status = json_load_file(path, 0, NULL);
	snprintf(out, bytes, "%s",
		status ? json_string_value(json_object_get(status, "state")) : "");
	json_decref(status);
}

bool training_within(const char *run_dir, double seconds)
{
	double until = now_s() + seconds;
	char path[512];

	do {
		if (find_csv(run_dir, path, sizeof(path)) && count_lines(read_text(path)) > 2)
			return true;
		sleep_s(0.05);
	} while (now_s() < until);
	return false;
}

/* ---- processes ---- */

/* PSGD_CONFIG of a trainer lies in its run folder: relative to a working directory that is ours. */
static bool is_trainer(const char *pid, const char *wanted)
{
	char path[64], cwd[128] = "", text[32768];
	FILE *file;
	size_t n;
	bool ours = false, match = wanted == NULL;

	snprintf(path, sizeof(path), "/proc/%.16s/cwd", pid);
	if (readlink(path, cwd, sizeof(cwd) - 1) < 0 || strcmp(cwd, working) != 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%.16s/environ", pid);
	file = fopen(path, "r");
	if (!file)
		return false;
	n = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[n] = '\0';
	for (const char *at = text; at < text + n; at += strlen(at) + 1) {
		ours |= strncmp(at, "PSGD_CONFIG=", 12) == 0;
		match |= wanted && strcmp(at, wanted) == 0;
	}
	return ours && match;
}

static size_t scan(const char *wanted, pid_t *last)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	size_t n = 0;

	ck_assert_ptr_nonnull(proc);
	while ((entry = readdir(proc))) {
		if (!isdigit((unsigned char)entry->d_name[0]) || !is_trainer(entry->d_name, wanted))
			continue;
		n++;
		*last = (pid_t)atoi(entry->d_name);
	}
	closedir(proc);
	return n;
}

size_t count_trainers(void)
{
	pid_t ignored;

	return scan(NULL, &ignored);
}

pid_t find_trainer(unsigned worker)
{
	char wanted[32];
	pid_t pid = 0;

	snprintf(wanted, sizeof(wanted), "RANK=%u", worker);
	ck_assert_uint_eq(scan(wanted, &pid), 1);
	return pid;
}

bool no_trainer_within(double seconds)
{
	double until = now_s() + seconds;

	while (count_trainers() > 0) {
		if (now_s() >= until)
			return false;
		sleep_s(0.02);
	}
	return true;
}
