/* Where the trainer is, and how it gets a configuration. SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli.h"

#define TRAINER "psgd-train-image"

static bool runnable(const char *path)
{
	return access(path, X_OK) == 0;
}

static bool in_search_path(char *out, size_t bytes)
{
	const char *path = getenv("PATH");

	while (path && *path) {
		size_t length = strcspn(path, ":");
		int n = snprintf(out, bytes, "%.*s/%s", (int)length, path, TRAINER);

		if (length > 0 && n > 0 && (size_t)n < bytes && runnable(out))
			return true;
		path += length;
		path += *path == ':';
	}
	return false;
}

bool cli_find_trainer(char *out, size_t bytes)
{
	static const char *const folders[] = {".", "../examples/image"};
	char self[PATH_MAX], folder[2 * PATH_MAX], real[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (length > 0) {
		self[length] = '\0';
		slash = strrchr(self, '/');
		if (slash)
			*slash = '\0';
		for (size_t i = 0; i < CLI_COUNT(folders); i++) {
			int n;

			snprintf(folder, sizeof(folder), "%s/%s", self, folders[i]);
			/* as people write it */
			if (!realpath(folder, real))
				continue;
			n = snprintf(out, bytes, "%s/%s", real, TRAINER);
			if (n > 0 && (size_t)n < bytes && runnable(out))
				return true;
		}
	}
	return in_search_path(out, bytes);
}

int cli_config_file(const struct psgd_config *config, char *path, size_t bytes)
{
	char *yaml = NULL;
	int fd = -1;

	if (psgd_config_yaml(config, &yaml) != PSGD_OK)
		return -1;
	fd = memfd_create("psgd-config", 0);
	if (fd >= 0) {
		size_t length = strlen(yaml);

		if (write(fd, yaml, length) != (ssize_t)length) {
			close(fd);
			fd = -1;
		}
	}
	free(yaml);
	snprintf(path, bytes, "/proc/self/fd/%d", fd);
	return fd;
}
