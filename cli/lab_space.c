/* The network namespaces of labs. SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "lab.h"

#define HERE "/proc/self/ns/net"
#define MARK_BYTES 128
#define FILE_MODE 0400 /* nobody else makes files of this mode there; `ip' gives them none */

/* ---- marks ---- */

static void write_mark(const struct lab_mark *mark, char out[MARK_BYTES])
{
	if (mark->number != LAB_HUB)
		snprintf(out, MARK_BYTES, "psgd lab %s node %d", mark->name, mark->number);
	else
		snprintf(out, MARK_BYTES, "psgd lab %s hub %u %s %s", mark->name, mark->n,
			mark->kept ? "kept" : "run", mark->built ? "built" : "begun");
}

static bool read_mark(const char *text, struct lab_mark *out)
{
	char life[8], state[8];

	*out = (struct lab_mark){.number = LAB_HUB};
	if (sscanf(text, "psgd lab %32s node %d", out->name, &out->number) == 2)
		return out->number >= 0 && out->number < LAB_MAX_NODES;
	if (sscanf(text, "psgd lab %32s hub %u %7s %7s", out->name, &out->n, life, state) != 4)
		return false;
	out->kept = strcmp(life, "kept") == 0;
	out->built = strcmp(state, "built") == 0;
	return out->n <= LAB_MAX_NODES;
}

bool lab_space_mark(int fd, const struct lab_mark *mark)
{
	struct nl_sock *socket = lab_socket(fd);
	char text[MARK_BYTES];
	bool ok;

	write_mark(mark, text);
	ok = socket && lab_link_set_alias(socket, "lo", text) == 0;
	lab_socket_close(socket);
	return ok;
}

/* ---- into a namespace and back ---- */

bool lab_enter(int fd, int *home)
{
	*home = open(HERE, O_RDONLY | O_CLOEXEC);
	if (*home < 0)
		return false;
	if (setns(fd, CLONE_NEWNET) == 0)
		return true;
	close(*home);
	return false;
}

void lab_leave(int home)
{
	if (setns(home, CLONE_NEWNET) < 0) {
		cli_complain_as(
			"lab", "cannot go back to the own network namespace: %s", strerror(errno));
		exit(CLI_ENVIRONMENT);
	}
	close(home);
}

bool lab_address(const struct lab_space *space, struct in_addr *out, unsigned *bits)
{
	struct ifaddrs *list = NULL;
	bool found = false;
	int home;

	if (space->fd < 0 || !lab_enter(space->fd, &home))
		return false;
	if (getifaddrs(&list) < 0)
		list = NULL;
	lab_leave(home);
	for (const struct ifaddrs *a = list; a && !found; a = a->ifa_next) {
		if (!a->ifa_addr || !a->ifa_netmask || a->ifa_addr->sa_family != AF_INET ||
			strcmp(a->ifa_name, LAB_INTERFACE) != 0)
			continue;
		*out = ((const struct sockaddr_in *)(const void *)a->ifa_addr)->sin_addr;
		*bits = (unsigned)__builtin_popcount(
			((const struct sockaddr_in *)(const void *)a->ifa_netmask)
				->sin_addr.s_addr);
		found = true;
	}
	freeifaddrs(list);
	return found;
}

/* ---- finding ---- */

void lab_file(const char *name, int number, char out[LAB_FILE_BYTES])
{
	if (number == LAB_HUB)
		snprintf(out, LAB_FILE_BYTES, "%s-hub", name);
	else
		snprintf(out, LAB_FILE_BYTES, "%s%d", name, number);
}

static bool is_namespace(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && (unsigned long)fs.f_type == NSFS_MAGIC;
}

/* The mark of an open namespace; false: it is not a lab's. */
static bool marked(int fd, struct lab_mark *out)
{
	struct nl_sock *socket = lab_socket(fd);
	char text[MARK_BYTES];
	bool ok =
		socket && lab_link_alias(socket, "lo", text, sizeof(text)) && read_mark(text, out);

	lab_socket_close(socket);
	return ok;
}

/* What a file that was made for a namespace of that lab is for; false: it is another's. */
static bool planned(const struct stat *st, const char *file, const char *name, struct lab_mark *out)
{
	const char *rest = name ? file + strlen(name) : "";
	int64_t number = LAB_HUB;

	*out = (struct lab_mark){0};
	snprintf(out->name, sizeof(out->name), "%s", name ? name : "");
	if (strcmp(rest, "-hub") != 0 && !cli_parse_number(rest, 0, LAB_MAX_NODES - 1, &number))
		return false;
	out->number = (int)number;
	return S_ISREG(st->st_mode) && st->st_size == 0 && (st->st_mode & 07777) == FILE_MODE;
}

/* A namespace of a lab's, or the file of one that was never mounted; of that name, or of any. */
static bool look(const char *file, const char *name, struct lab_space *out)
{
	char path[PATH_MAX], expected[LAB_FILE_BYTES];
	struct stat st = {0};
	bool ours = false;
	int fd;

	snprintf(path, sizeof(path), LAB_FOLDER "/%s", file);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return false;
	if (fstat(fd, &st) == 0)
		ours = is_namespace(fd) ? marked(fd, &out->mark)
					: planned(&st, file, name, &out->mark);
	if (ours) {
		/* one of ours by another's name is another's affair */
		lab_file(out->mark.name, out->mark.number, expected);
		ours = strcmp(file, expected) == 0 && (!name || strcmp(out->mark.name, name) == 0);
	}
	out->fd = ours && is_namespace(fd) ? fd : -1;
	if (out->fd < 0)
		close(fd);
	snprintf(out->file, sizeof(out->file), "%s", file);
	out->device = st.st_dev;
	out->inode = st.st_ino;
	return ours;
}

static int by_name_and_number(const void *a, const void *b)
{
	const struct lab_mark *x = &((const struct lab_space *)a)->mark;
	const struct lab_mark *y = &((const struct lab_space *)b)->mark;
	int names = strcmp(x->name, y->name);

	return names ? names : x->number - y->number;
}

static bool append(struct lab *lab, const struct lab_space *space)
{
	struct lab_space *spaces = realloc(lab->spaces, (lab->n + 1) * sizeof(*spaces));

	if (!spaces) {
		cli_complain("out of memory");
		return false;
	}
	lab->spaces = spaces;
	spaces[lab->n++] = *space;
	return true;
}

int lab_find(const char *name, struct lab *out)
{
	DIR *folder = opendir(LAB_FOLDER);
	struct dirent *entry;
	bool ok = true;

	*out = (struct lab){0};
	while (ok && folder && (entry = readdir(folder))) {
		struct lab_space space = {.fd = -1};

		if (strlen(entry->d_name) >= LAB_FILE_BYTES || entry->d_name[0] == '.' ||
			(name && strncmp(entry->d_name, name, strlen(name)) != 0) ||
			!look(entry->d_name, name, &space))
			continue;
		ok = append(out, &space);
	}
	if (folder)
		closedir(folder);
	if (out->n)
		qsort(out->spaces, out->n, sizeof(*out->spaces), by_name_and_number);
	return ok ? CLI_OK : CLI_FAILED;
}

void lab_free(struct lab *lab)
{
	for (size_t i = 0; i < lab->n; i++) {
		if (lab->spaces[i].fd >= 0)
			close(lab->spaces[i].fd);
	}
	free(lab->spaces);
	*lab = (struct lab){0};
}

const struct lab_space *lab_hub(const struct lab *lab)
{
	return lab->n && lab->spaces[0].mark.number == LAB_HUB ? &lab->spaces[0] : NULL;
}

const struct lab_space *lab_node(const struct lab *lab, const char *file)
{
	for (size_t i = 0; i < lab->n; i++) {
		if (strcmp(lab->spaces[i].file, file) == 0)
			return &lab->spaces[i];
	}
	return NULL;
}

uint32_t lab_count_nodes(const struct lab *lab)
{
	uint32_t n = 0;

	for (size_t i = 0; i < lab->n; i++)
		n += lab->spaces[i].mark.number != LAB_HUB;
	return n;
}

/* ---- making and removing ---- */

/* IPv6 would talk by itself, and be counted. */
static void silence_ipv6(void)
{
	int fd = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		/* where it may not be changed the counters see a few more frames */
		if (write(fd, "1", 1) < 0)
			errno = 0;
		close(fd);
	}
}

/* In the new namespace; nobody else can see it before it is mounted. */
static bool furnish(const char *path, const char *mark)
{
	struct nl_sock *socket = lab_socket_here();
	bool ok = socket && lab_link_set_alias(socket, "lo", mark) == 0 &&
		  lab_link_up(socket, "lo") == 0;

	lab_socket_close(socket);
	silence_ipv6();
	return ok && mount(HERE, path, "none", MS_BIND, NULL) == 0;
}

/* The file that a namespace is mounted on; whoever is killed then leaves what `planned' knows. */
static int make_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE);

	if (fd >= 0) {
		close(fd);
		return CLI_OK;
	}
	if (errno == EEXIST)
		cli_complain_as("lab",
			"%s is there, and no lab's; --name makes a lab by another name", path);
	else
		cli_complain_as("lab", "%s: %s", path, strerror(errno));
	return errno == EEXIST ? CLI_USAGE : CLI_ENVIRONMENT;
}

int lab_space_make(const struct lab_mark *mark, int *fd)
{
	char path[PATH_MAX], file[LAB_FILE_BYTES], text[MARK_BYTES];
	int home, code;

	*fd = -1;
	lab_file(mark->name, mark->number, file);
	snprintf(path, sizeof(path), LAB_FOLDER "/%s", file);
	write_mark(mark, text);
	code = make_file(path);
	if (code != CLI_OK)
		return code;
	errno = 0;
	home = open(HERE, O_RDONLY | O_CLOEXEC);
	if (home >= 0 && unshare(CLONE_NEWNET) == 0) {
		if (furnish(path, text))
			*fd = open(path, O_RDONLY | O_CLOEXEC);
		lab_leave(home);
	} else if (home >= 0) {
		close(home);
	}
	if (*fd >= 0)
		return CLI_OK;
	cli_complain_as("lab", "cannot make the network namespace %s: %s", file,
		errno ? strerror(errno) : "no netlink");
	return CLI_ENVIRONMENT;
}

bool lab_space_remove(const struct lab_space *space)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), LAB_FOLDER "/%s", space->file);
	/* as often as it was mounted there */
	while (space->fd >= 0 && umount2(path, MNT_DETACH) == 0)
		;
	if (unlink(path) == 0 || errno == ENOENT)
		return true;
	cli_complain_as("lab", "%s: %s", path, strerror(errno));
	return false;
}
