/* Files that are read whole. SPDX-License-Identifier: MIT */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

psgd_status file_open(const char *path, int *out, uint64_t *bytes, struct image_error *error)
{
	/* Without O_NONBLOCK a named pipe would wait for someone who writes. */
	int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	psgd_status status = PSGD_OK;
	struct stat about;

	if (file < 0)
		return image_fail(error, PSGD_ERR_IO, "%s: %s", path, strerror(errno));
	if (fstat(file, &about) != 0)
		status = image_fail(error, PSGD_ERR_IO, "%s: %s", path, strerror(errno));
	else if (!S_ISREG(about.st_mode))
		status = image_fail(error, PSGD_ERR_CONFIG, "%s: not a regular file", path);
	if (status) {
		(void)close(file);
		return status;
	}
	*bytes = (uint64_t)about.st_size;
	*out = file;
	return PSGD_OK;
}
