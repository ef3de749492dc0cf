/* A run that goes on: its records cut to the checkpoint, its state. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "experiment/run_impl.h"
#include "experiment/safetensors.h"

/* --- records --- */

/* The text of a file, without the zeros that a power cut may leave behind it; freed by free(). */
static psgd_status read_whole(int fd, char **out, size_t *n)
{
	struct stat info;

	*out = NULL;
	if (fstat(fd, &info) != 0)
		return PSGD_ERR_IO;
	*n = (size_t)info.st_size;
	*out = malloc(*n + 1);
	if (!*out)
		return PSGD_ERR_NOMEM;
	(*out)[*n] = '\0';
	PSGD__TRY(psgd__read_at(fd, *out, *n, 0));
	*n = strlen(*out);
	return PSGD_OK;
}

/* Bytes of the text up to its last whole line. */
static size_t whole_lines(const char *text, size_t n)
{
	while (n && text[n - 1] != '\n')
		n--;
	return n;
}

static bool is_below(const char *line, int index, uint64_t limit)
{
	while (index-- > 0) {
		line = strpbrk(line, ",\n");
		if (!line || *line++ == '\n')
			return false;
	}
	return *line >= '0' && *line <= '9' && strtoull(line, NULL, 10) < limit;
}

/* Moves the lines that stay together; returns their bytes. */
static size_t cut(char *text, size_t n, size_t header, int index, uint64_t limit)
{
	size_t to = header;

	for (size_t from = header; from < n;) {
		size_t line = (size_t)(strchr(text + from, '\n') - (text + from)) + 1;

		if (is_below(text + from, index, limit)) {
			memmove(text + to, text + from, line);
			to += line;
		}
		from += line;
	}
	return to;
}

psgd_status psgd__record_resume(struct psgd__record *record, int dir_fd, const char *name,
	const char *columns, int index, uint64_t limit)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
	size_t n = 0, kept, header = strlen(columns);
	char *text = NULL;
	psgd_status status;

	if (fd < 0)
		return errno == ENOENT ? psgd__record_open(record, dir_fd, name) : PSGD_ERR_IO;
	status = read_whole(fd, &text, &n);
	close(fd);
	if (!status && whole_lines(text, n) == 0) {
		free(text);
		return psgd__record_open(record, dir_fd, name);
	}
	if (!status && strncmp(text, columns, header) != 0)
		status = PSGD_ERR_CONFIG;
	if (!status) {
		kept = cut(text, whole_lines(text, n), header, index, limit);
		status = psgd__file_replace(dir_fd, name, text, kept, true);
		psgd__text(record->name, sizeof(record->name), "%s", name);
		record->end = (off_t)kept;
	}
	free(text);
	if (status)
		return status;
	record->fd = openat(dir_fd, name, O_WRONLY | O_APPEND | O_CLOEXEC);
	return record->fd < 0 ? PSGD_ERR_IO : PSGD_OK;
}

psgd_status psgd__record_mend(struct psgd__record *record)
{
	size_t n = 0;
	char *text;
	psgd_status status = read_whole(record->fd, &text, &n);

	if (!status) {
		record->end = (off_t)whole_lines(text, n);
		if (ftruncate(record->fd, record->end) != 0)
			status = PSGD_ERR_IO;
	}
	free(text);
	return status;
}

/* --- state --- */

/* As it is in a checkpoint; only numbers of 64 bits. */
struct counts {
	int64_t elapsed_ns;
	uint64_t has_rank_event, last_rank, last_ranks;
	uint64_t has_decision, last_cap, last_choice;
	uint64_t stats_raw_bytes, stats_payload_bytes, stats_steps, stage;
	int64_t training_ns; /* 0: no iteration yet */
};

struct numbers {
	double last_learning_rate, last_accum_norm, test_accuracy;
};

static struct psgd_state_array vector(const char *name, uint32_t dtype, size_t n)
{
	struct psgd_state_array array = PSGD_INIT(psgd_state_array);

	array.name = name;
	array.dtype = dtype;
	array.n_dims = 1;
	array.dims[0] = (int64_t)n;
	return array;
}

/* Rows must not be younger than the checkpoint that counts them. */
static psgd_status sync_records(struct psgd_run *run)
{
	const struct psgd__record *records[] = {
		&run->events, &run->iterations, &run->epochs, &run->accuracies};

	for (size_t i = 0; i < PSGD__COUNT(records); i++) {
		if (records[i]->fd >= 0 && fdatasync(records[i]->fd) != 0 && errno != EINVAL)
			return psgd__run_fail_write(run, records[i]->name);
	}
	return PSGD_OK;
}

psgd_status psgd__run_save(struct psgd_run *run, const struct psgd_state_writer *writer)
{
	const struct counts counts = {
		.elapsed_ns = psgd__now_ns() - run->start_ns,
		.has_rank_event = run->has_rank_event,
		.last_rank = run->last_rank,
		.last_ranks = run->last_ranks,
		.has_decision = run->has_decision,
		.last_cap = run->last_cap,
		.last_choice = run->last_choice,
		.stats_raw_bytes = run->stats_raw_bytes,
		.stats_payload_bytes = run->stats_payload_bytes,
		.stats_steps = run->stats_steps,
		.stage = run->stage,
		.training_ns = run->first_step_ns ? psgd__run_training_ns(run) : 0,
	};
	const struct numbers numbers = {
		run->last_learning_rate, run->last_accum_norm, run->live.test_accuracy};
	struct psgd_state_array array = vector("counts", PSGD_U8, sizeof(counts));

	PSGD__TRY(sync_records(run));
	PSGD__TRY(writer->put(writer->user, &array, &counts));
	array = vector("numbers", PSGD_F64, sizeof(numbers) / sizeof(double));
	return writer->put(writer->user, &array, &numbers);
}

psgd_status psgd__run_load(struct psgd_run *run, const struct psgd_state_reader *reader)
{
	struct numbers numbers;
	struct counts counts;

	PSGD__TRY(reader->read(reader->user, "counts", &counts, sizeof(counts)));
	PSGD__TRY(reader->read(reader->user, "numbers", &numbers, sizeof(numbers)));
	run->start_ns = psgd__now_ns() - counts.elapsed_ns;
	run->first_step_ns = counts.training_ns ? psgd__now_ns() - counts.training_ns : 0;
	run->has_rank_event = counts.has_rank_event != 0;
	run->last_rank = (uint32_t)counts.last_rank;
	run->last_ranks = counts.last_ranks;
	run->has_decision = counts.has_decision != 0;
	run->last_cap = (uint32_t)counts.last_cap;
	run->last_choice = (uint32_t)counts.last_choice;
	run->stats_raw_bytes = counts.stats_raw_bytes;
	run->stats_payload_bytes = counts.stats_payload_bytes;
	run->stats_steps = counts.stats_steps;
	run->stage = counts.stage < run->n_stages ? (size_t)counts.stage : run->n_stages;
	run->last_learning_rate = numbers.last_learning_rate;
	run->last_accum_norm = numbers.last_accum_norm;
	run->live.test_accuracy = numbers.test_accuracy;
	return PSGD_OK;
}
