/* Files that are read whole. SPDX-License-Identifier: MIT */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "room.h"

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

psgd_status file_read(
	const char *path, size_t most, struct file_bytes *out, struct image_error *error)
{
	psgd_status status;
	uint64_t bytes;
	ssize_t got = 1;
	int file;

	out->n = 0;
	status = file_open(path, &file, &bytes, error);
	if (status)
		return status;
	if (bytes > most)
		status = image_fail(error, PSGD_ERR_CONFIG,
			"%s: %" PRIu64 " bytes, expected at most %zu", path, bytes, most);
	else if (!room_for(&out->bytes, &out->room, (size_t)bytes, 1))
		status = image_fail(error, PSGD_ERR_NOMEM, "%s: out of memory", path);
	while (!status && got > 0 && out->n < bytes) {
		got = read(file, out->bytes + out->n, (size_t)bytes - out->n);
		if (got > 0)
			out->n += (size_t)got;
		if (got < 0)
			status = image_fail(error, PSGD_ERR_IO, "%s: %s", path, strerror(errno));
	}
	(void)close(file);
	return status;
}
