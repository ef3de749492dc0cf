/* The folders of checkpoints: which there are, and which go. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "experiment/checkpoint_impl.h"

static int newest_first(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x < y) - (x > y);
}

/* Only a name that we would give. */
static bool iteration_of(const char *name, uint64_t *out)
{
	char again[32];
	int n = 0;

	if (sscanf(name, "iter_%" SCNu64 "%n", out, &n) != 1 || name[n])
		return false;
	snprintf(again, sizeof(again), "iter_%08" PRIu64, *out);
	return strcmp(again, name) == 0;
}

psgd_status psgd__checkpoint_folders(const char *run_dir, uint64_t **out, size_t *n)
{
	psgd_status status = PSGD_OK;
	char path[PATH_MAX];
	size_t capacity = 0;
	struct dirent *entry;
	DIR *folder;

	*out = NULL;
	*n = 0;
	psgd__text(path, sizeof(path), "%s/ckpt", run_dir);
	folder = opendir(path);
	if (!folder)
		return errno == ENOENT ? PSGD_OK : PSGD_ERR_IO;
	while (!status && (entry = readdir(folder))) {
		uint64_t iteration;

		if (!iteration_of(entry->d_name, &iteration))
			continue;
		status = psgd__grow(out, &capacity, *n + 1, sizeof(**out));
		if (!status)
			(*out)[(*n)++] = iteration;
	}
	closedir(folder);
	if (status) {
		free(*out);
		*out = NULL;
		*n = 0;
		return status;
	}
	if (*n)
		qsort(*out, *n, sizeof(**out), newest_first);
	return PSGD_OK;
}

/* The manifest first: what is left without it does not count. */
static void remove_one(int ckpt_fd, uint64_t iteration, uint32_t worker)
{
	static const char *const endings[] = {"json", "safetensors", "safetensors.new"};
	char path[96];

	for (size_t i = 0; i < PSGD__COUNT(endings); i++) {
		snprintf(path, sizeof(path), "iter_%08" PRIu64 "/worker%" PRIu32 ".%s", iteration,
			worker, endings[i]);
		unlinkat(ckpt_fd, path, 0);
	}
	snprintf(path, sizeof(path), "iter_%08" PRIu64 "/.worker%" PRIu32 ".json.new", iteration,
		worker);
	unlinkat(ckpt_fd, path, 0);
	snprintf(path, sizeof(path), "iter_%08" PRIu64, iteration);
	unlinkat(ckpt_fd, path, AT_REMOVEDIR); /* by the last worker of a node */
}

void psgd__checkpoint_prune(const char *run_dir, uint32_t worker, uint64_t newest, size_t keep)
{
	uint64_t *iterations = NULL;
	char path[PATH_MAX];
	size_t n = 0, kept = 0;
	int ckpt_fd;

	psgd__text(path, sizeof(path), "%s/ckpt", run_dir);
	ckpt_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (ckpt_fd < 0)
		return;
	if (!psgd__checkpoint_folders(run_dir, &iterations, &n)) {
		for (size_t i = 0; i < n; i++) {
			snprintf(path, sizeof(path), "iter_%08" PRIu64 "/worker%" PRIu32 ".json",
				iterations[i], worker);
			if (iterations[i] <= newest && kept < keep &&
				faccessat(ckpt_fd, path, F_OK, 0) == 0)
				kept++;
			else
				remove_one(ckpt_fd, iterations[i], worker);
		}
	}
	free(iterations);
	close(ckpt_fd);
}
