/*
 * The mark of an owner: "psgd pid=P start=S pidns=N". A process number comes again, so that the
 * time of the process's start, in ticks since boot, goes with it; and it says nothing in another
 * pid namespace, whose inode is the third number.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "shape/tc_impl.h"

#define MARK_FORMAT "psgd pid=%" PRIu32 " start=%" PRIu64 " pidns=%" PRIu64
#define MARK_SCAN "psgd pid=%" SCNu32 " start=%" SCNu64 " pidns=%" SCNu64 "%n"
#define STAT_BYTES 1024

enum life { RUNS, ENDED, HIDDEN };

/* When a process started. One that has ended and only waits to be asked for has ended. */
static enum life start_of(uint32_t pid, uint64_t *start)
{
	char path[32], text[STAT_BYTES], state;
	const char *rest;
	size_t n;
	FILE *file;

	psgd__text(path, sizeof(path), "/proc/%" PRIu32 "/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return errno == ENOENT ? ENDED : HIDDEN;
	n = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[n] = '\0';
	if (!n)
		return ENDED; /* between fopen and fread */
	/* The second field is the name in parentheses, which may have any character in it. */
	rest = strrchr(text, ')');
	if (!rest || sscanf(rest + 1,
			     " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d"
			     " %*d %*d %*d %*d %" SCNu64,
			     &state, start) != 2)
		return HIDDEN;
	return state == 'Z' || state == 'X' ? ENDED : RUNS;
}

/* 0: cannot tell. */
static uint64_t own_pid_namespace(void)
{
	struct stat at;

	return stat("/proc/self/ns/pid", &at) ? 0 : (uint64_t)at.st_ino;
}

psgd_status psgd__tc_mark(uint32_t pid, char mark[PSGD__TC_MARK_BYTES], char *reason, size_t bytes)
{
	uint64_t start = 0, names = own_pid_namespace();
	enum life life;

	if (!pid) {
		psgd__text(mark, PSGD__TC_MARK_BYTES, PSGD__TC_NOBODYS);
		return PSGD_OK;
	}
	life = start_of(pid, &start);
	if (life == ENDED) {
		psgd__text(reason, bytes, "owner_pid: there is no process %" PRIu32, pid);
		return PSGD_ERR_INVALID;
	}
	if (life == HIDDEN || !names) {
		psgd__text(reason, bytes, "cannot read /proc about process %" PRIu32, pid);
		return PSGD_ERR_IO;
	}
	psgd__text(mark, PSGD__TC_MARK_BYTES, MARK_FORMAT, pid, start, names);
	return PSGD_OK;
}

uint32_t psgd__tc_owner(const char *mark, uint32_t *pid)
{
	uint64_t start, names, now = 0;
	int end = 0;

	*pid = 0;
	if (!strcmp(mark, PSGD__TC_NOBODYS))
		return PSGD_TC_NOBODY;
	if (sscanf(mark, MARK_SCAN, pid, &start, &names, &end) != 3 || mark[end] || !*pid) {
		*pid = 0;
		return PSGD_TC_UNKNOWN;
	}
	if (names != own_pid_namespace())
		return PSGD_TC_UNKNOWN;
	switch (start_of(*pid, &now)) {
	case RUNS:
		return now == start ? PSGD_TC_ALIVE : PSGD_TC_GONE;
	case ENDED:
		return PSGD_TC_GONE;
	default:
		return PSGD_TC_UNKNOWN;
	}
}
