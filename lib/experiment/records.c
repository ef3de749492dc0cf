#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "experiment/run_impl.h"

psgd_status psgd__record_open(struct psgd__record *record, int dir_fd, const char *name)
{
	psgd__text(record->name, sizeof(record->name), "%s", name);
	record->end = 0;
	record->fd =
		openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
	return record->fd < 0 ? PSGD_ERR_IO : PSGD_OK;
}

psgd_status psgd__record_append(struct psgd__record *record, const char *text, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t wrote = write(record->fd, text + done, n - done);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote < 0) {
			int error = errno;

			/* A full disk took a part of the line: take it back. */
			if (done && ftruncate(record->fd, record->end) != 0)
				error = errno;
			errno = error;
			return PSGD_ERR_IO;
		}
		done += (size_t)wrote;
	}
	record->end += (off_t)n;
	return PSGD_OK;
}

void psgd__record_close(struct psgd__record *record)
{
	if (record->fd >= 0)
		close(record->fd);
	record->fd = -1;
}

static void add(struct psgd__row *row, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void add(struct psgd__row *row, const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(row->text + row->n, sizeof(row->text) - row->n, format, args);
	va_end(args);
	if (n > 0)
		row->n += (size_t)n;
	if (row->n > sizeof(row->text) - 1)
		row->n = sizeof(row->text) - 1;
}

void psgd__row_text(struct psgd__row *row, const char *text)
{
	add(row, "%s%s", row->n ? "," : "", text);
}

/* An empty first field would leave n at 0, and the row without its first comma: none begins so. */
void psgd__row_empty(struct psgd__row *row)
{
	psgd__row_text(row, "");
}

void psgd__row_count(struct psgd__row *row, uint64_t value)
{
	add(row, "%s%llu", row->n ? "," : "", (unsigned long long)value);
}

void psgd__row_seconds(struct psgd__row *row, int64_t ns)
{
	uint64_t size = ns < 0 ? 0 - (uint64_t)ns : (uint64_t)ns;

	add(row, "%s%s%llu.%09llu", row->n ? "," : "", ns < 0 ? "-" : "",
		(unsigned long long)(size / 1000000000), (unsigned long long)(size % 1000000000));
}

void psgd__row_number(struct psgd__row *row, double value)
{
	char text[40];
	locale_t before;

	if (!isfinite(value)) {
		psgd__row_empty(row);
		return;
	}
	before = uselocale(row->locale);
	for (int digits = 9; digits <= 17; digits += 4) {
		snprintf(text, sizeof(text), "%.*g", digits, value);
		if (strtod(text, NULL) == value)
			break;
	}
	uselocale(before);
	psgd__row_text(row, text);
}

void psgd__row_rank(struct psgd__row *row, uint32_t rank)
{
	if (rank == PSGD_RANK_DENSE || rank == 0)
		psgd__row_text(row, "dense");
	else
		psgd__row_count(row, rank);
}

psgd_status psgd__row_append(struct psgd__row *row, struct psgd__record *record)
{
	add(row, "\n");
	return psgd__record_append(record, row->text, row->n);
}
