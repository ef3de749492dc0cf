#include "base/base.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <psgd/compressor.h>
#include <psgd/version.h>

#define STR_(x) #x
#define STR(x) STR_(x)

uint32_t psgd_version(void)
{
	return PSGD_VERSION_MAJOR * 10000 + PSGD_VERSION_MINOR * 100 + PSGD_VERSION_PATCH;
}

const char *psgd_version_string(void)
{
	return STR(PSGD_VERSION_MAJOR) "." STR(PSGD_VERSION_MINOR) "." STR(PSGD_VERSION_PATCH);
}

const char *psgd_status_name(psgd_status status)
{
	switch ((int)status) {
#define X(name, value, text)                                                                       \
	case value:                                                                                \
		return #name;
		PSGD_STATUS_MAP(X)
#undef X
	default:
		return "PSGD_ERR_UNKNOWN";
	}
}

const char *psgd_status_text(psgd_status status)
{
	switch ((int)status) {
#define X(name, value, text)                                                                       \
	case value:                                                                                \
		return text;
		PSGD_STATUS_MAP(X)
#undef X
	default:
		return "unknown status";
	}
}

size_t psgd_dtype_bytes(uint32_t dtype)
{
	switch (dtype) {
	case PSGD_F32:
		return 4;
	case PSGD_F64:
		return 8;
	case PSGD_U8:
		return 1;
	default:
		return 0;
	}
}

uint64_t psgd_payload_bytes(const struct psgd_payload *payload)
{
	uint64_t bytes;

	if (!payload || payload->count < 0 ||
		__builtin_mul_overflow((uint64_t)payload->count,
			psgd_dtype_bytes(payload->dtype ? payload->dtype : PSGD_F32), &bytes))
		return 0;
	return bytes;
}

int64_t psgd_tensor_count(const struct psgd_tensor *tensor)
{
	int64_t count = 1;

	if (!tensor || tensor->n_dims > PSGD_MAX_DIMS)
		return -1;
	for (uint32_t i = 0; i < tensor->n_dims; i++) {
		if (tensor->dims[i] < 1 || __builtin_mul_overflow(count, tensor->dims[i], &count))
			return -1;
	}
	return count;
}

psgd_status psgd_tensor_matrix(const struct psgd_tensor *tensor, int64_t *n, int64_t *m)
{
	int64_t count = psgd_tensor_count(tensor);

	if (count < 0 || !n || !m)
		return PSGD_ERR_INVALID;
	*n = tensor->n_dims < 2 ? count : tensor->dims[0];
	*m = count / *n;
	return PSGD_OK;
}

void *psgd__calloc(size_t n, size_t size)
{
	size_t bytes;

	if (psgd__mul_overflows(n, size, &bytes))
		return NULL;
	return calloc(1, bytes ? bytes : 1);
}

psgd_status psgd__grow(void *array, size_t *capacity, size_t n, size_t size)
{
	void *old, *new;
	size_t more = *capacity ? *capacity : 8;
	size_t bytes;

	if (n <= *capacity)
		return PSGD_OK;
	while (more < n) {
		if (psgd__mul_overflows(more, 2, &more))
			return PSGD_ERR_NOMEM;
	}
	if (psgd__mul_overflows(more, size, &bytes))
		return PSGD_ERR_NOMEM;
	memcpy(&old, array, sizeof(old));
	new = realloc(old, bytes);
	if (!new)
		return PSGD_ERR_NOMEM;
	memset((char *)new + *capacity *size, 0, bytes - *capacity * size);
	memcpy(array, &new, sizeof(new));
	*capacity = more;
	return PSGD_OK;
}

char *psgd__strdup(const char *text)
{
	return text ? strdup(text) : NULL;
}

#define MAX_STRUCT_BYTES 65536 /* a larger size is no size */

psgd_status psgd__copy_options(void *to, size_t to_size, const void *from)
{
	size_t from_size;

	memset(to, 0, to_size);
	if (from) {
		memcpy(&from_size, from, sizeof(from_size));
		if (from_size < sizeof(size_t) || from_size > MAX_STRUCT_BYTES)
			return PSGD_ERR_INVALID;
		for (size_t i = to_size; i < from_size; i++) {
			if (((const char *)from)[i])
				return PSGD_ERR_UNSUPPORTED;
		}
		memcpy(to, from, from_size < to_size ? from_size : to_size);
	}
	memcpy(to, &to_size, sizeof(to_size));
	return PSGD_OK;
}

bool psgd__report_fits(const void *report)
{
	size_t size;

	if (!report)
		return true;
	memcpy(&size, report, sizeof(size));
	return size >= sizeof(size) && size <= MAX_STRUCT_BYTES;
}

void psgd__copy_report(void *to, const void *from, size_t from_size)
{
	size_t to_size;

	if (!to || !psgd__report_fits(to))
		return;
	memcpy(&to_size, to, sizeof(to_size));
	memcpy(to, from, to_size < from_size ? to_size : from_size);
	memcpy(to, &to_size, sizeof(to_size));
}

void psgd__boot_id(char out[PSGD__BOOT_BYTES])
{
	const int file = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	const ssize_t n = file < 0 ? -1 : read(file, out, PSGD__BOOT_BYTES - 1);

	if (file >= 0)
		close(file);
	if (n > 0)
		out[n] = '\0';
	else if (gethostname(out, PSGD__BOOT_BYTES - 1))
		psgd__text(out, PSGD__BOOT_BYTES, "unknown");
	out[PSGD__BOOT_BYTES - 1] = '\0';
	out[strcspn(out, "\n")] = '\0';
}

int64_t psgd__now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void psgd__vtext(char *to, size_t bytes, const char *format, va_list args)
{
	if (to && bytes)
		vsnprintf(to, bytes, format, args);
}

void psgd__text(char *to, size_t bytes, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	psgd__vtext(to, bytes, format, args);
	va_end(args);
}

uint64_t psgd__hash(uint64_t hash, const void *bytes, size_t n)
{
	const unsigned char *p = bytes;

	for (size_t i = 0; i < n; i++)
		hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
	return hash;
}
