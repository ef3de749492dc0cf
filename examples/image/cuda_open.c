/* The engine of CUDA devices, if its module is there. SPDX-License-Identifier: MIT */
#include "cuda_open.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES (PATH_MAX + 128)

/* IMAGE_MODULE_DIR: from the program's folder to that of the modules, when installed. */
static bool find_file(char path[PATH_BYTES])
{
	const char *given = getenv("PSGD_MODULE_PATH");
	char own[PATH_MAX];
	ssize_t n;

	if (given && given[0])
		return snprintf(path, PATH_BYTES, "%s/" IMAGE_CUDA_FILE, given) < PATH_BYTES;
	n = readlink("/proc/self/exe", own, sizeof(own) - 1);
	if (n < 0)
		return false;
	own[n] = 0;
	*strrchr(own, '/') = 0;
	(void)snprintf(path, PATH_BYTES, "%s/" IMAGE_MODULE_DIR "/" IMAGE_CUDA_FILE, own);
	if (access(path, F_OK))
		(void)snprintf(path, PATH_BYTES, "%s/" IMAGE_CUDA_FILE, own);
	return true;
}

psgd_status cuda_find(const struct image_cuda_module **out, struct image_error *error)
{
	image_cuda_entry entry;
	char path[PATH_BYTES];
	void *library;

	*out = NULL;
	if (!find_file(path))
		return image_fail(error, PSGD_ERR_UNSUPPORTED, "no cuDNN module: no such folder");
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!library)
		return image_fail(error, PSGD_ERR_UNSUPPORTED, "no cuDNN module: %s", dlerror());
	*(void **)&entry = dlsym(library, IMAGE_CUDA_ENTRY_NAME);
	if (!entry)
		return image_fail(error, PSGD_ERR_UNSUPPORTED,
			"%s is of another version than the program", path);
	*out = entry();
	return PSGD_OK;
}

psgd_status cuda_open(
	unsigned ordinal, const char *tf32, struct nn **out, struct image_error *error)
{
	const struct image_cuda_module *module;
	struct image_cuda_options options = {.ordinal = ordinal,
		.tf32_convolutions = strcmp(tf32, "none") != 0,
		.tf32_products = strcmp(tf32, "all") == 0};
	psgd_status status = cuda_find(&module, error);

	*out = NULL;
	return status ? status : module->open(&options, out, error);
}
