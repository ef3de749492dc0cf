/* The processes in the namespaces of a lab. SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "lab.h"

#define GRACE_NS INT64_C(5000000000)

/* The namespace of the lab that a process is in, NULL if in none. */
static const struct lab_space *space_of(const struct lab *lab, pid_t pid)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
	if (stat(path, &st) < 0)
		return NULL;
	for (size_t i = 0; i < lab->n; i++) {
		const struct lab_space *space = &lab->spaces[i];

		if (space->fd >= 0 && space->device == st.st_dev && space->inode == st.st_ino)
			return space;
	}
	return NULL;
}

void lab_processes(const struct lab *lab, lab_visit visit, void *user)
{
	DIR *processes = opendir("/proc");
	struct dirent *entry;

	while (processes && (entry = readdir(processes))) {
		const struct lab_space *space;
		int64_t pid;

		if (!cli_parse_number(entry->d_name, 1, INT32_MAX, &pid) || pid == getpid())
			continue;
		space = space_of(lab, (pid_t)pid);
		if (space)
			visit(user, space, (pid_t)pid);
	}
	if (processes)
		closedir(processes);
}

struct ending {
	const struct lab *lab;
	int signal;
	size_t n;
};

/* A number may have gone to another process since it was looked at; a descriptor stays. */
static void end_one(void *user, const struct lab_space *space, pid_t pid)
{
	struct ending *ending = user;
	int fd = pidfd_open(pid, 0);

	if (fd < 0)
		return;
	if (space_of(ending->lab, pid) == space) {
		ending->n++;
		if (ending->signal)
			pidfd_send_signal(fd, ending->signal, NULL, 0);
	}
	close(fd);
}

static size_t signal_inside(const struct lab *lab, int number)
{
	struct ending ending = {lab, number, 0};

	lab_processes(lab, end_one, &ending);
	return ending.n;
}

bool lab_end_processes(const struct lab *lab, size_t *n)
{
	static const struct timespec tick = {0, 20000000};
	/* who ends in order may be asked once; who is killed may have children since */
	static const int ways[] = {SIGTERM, SIGKILL};
	size_t left = 0;

	*n = 0;
	for (size_t i = 0; i < CLI_COUNT(ways); i++) {
		int64_t end = cli_now_ns() + GRACE_NS;

		left = signal_inside(lab, ways[i]);
		if (i == 0)
			*n = left;
		while (left > 0 && cli_now_ns() < end) {
			nanosleep(&tick, NULL);
			left = signal_inside(lab, ways[i] == SIGKILL ? SIGKILL : 0);
		}
		if (left == 0)
			return true;
	}
	cli_complain_as("lab", "%zu processes do not end", left);
	return false;
}

/* /sys of the namespace, seen by this process and what it starts only. */
static bool mount_sys(void)
{
	struct statvfs fs;
	unsigned long flags = 0;

	if (statvfs("/sys", &fs) == 0 && (fs.f_flag & ST_RDONLY))
		flags |= MS_RDONLY;
	return unshare(CLONE_NEWNS) == 0 && mount("", "/", "none", MS_SLAVE | MS_REC, NULL) == 0 &&
	       mount("sysfs", "/sys", "sysfs", flags, NULL) == 0;
}

int lab_become(const struct lab_space *space, char **command)
{
	int home;

	if (!lab_enter(space->fd, &home) || !mount_sys()) {
		cli_complain_as("lab", "cannot enter %s: %s", space->file, strerror(errno));
		return CLI_ENVIRONMENT;
	}
	execvp(command[0], command);
	cli_complain_as("lab", "cannot start %s: %s", command[0], strerror(errno));
	return CLI_ENVIRONMENT;
}
