/* A worker's checkpoint files: values, then a manifest that makes them count. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>
#include <openssl/evp.h>

#include "experiment/checkpoint_impl.h"
#include "experiment/run_impl.h"
#include "experiment/safetensors.h"

#define FORMAT "1"
#define HEX_BYTES (2 * EVP_MAX_MD_SIZE + 1)

/* <run folder>/ckpt/iter_<iteration>, and then the worker's file of that ending. */
static psgd_status path_of(char out[PATH_MAX], const char *run_dir, uint64_t iteration,
	uint32_t worker, const char *ending)
{
	int n = snprintf(out, PATH_MAX, "%s/ckpt/iter_%08" PRIu64, run_dir, iteration);

	if (ending && n > 0 && n < PATH_MAX)
		n += snprintf(
			out + n, (size_t)(PATH_MAX - n), "/worker%" PRIu32 ".%s", worker, ending);
	return n > 0 && n < PATH_MAX - 16 ? PSGD_OK : PSGD_ERR_INVALID;
}

/* "iter_" and digits, no sign, of a number that there can be. */
static bool iteration_of(const char *name, size_t n, uint64_t *out)
{
	static const char begin[] = "iter_";
	const char *digits = name + sizeof(begin) - 1;

	if (n < sizeof(begin) || strncmp(name, begin, sizeof(begin) - 1) != 0 ||
		strspn(digits, "0123456789") < n - (sizeof(begin) - 1))
		return false;
	errno = 0;
	*out = strtoull(digits, NULL, 10);
	return !errno;
}

psgd_status psgd_checkpoint_path(const char *path, char *run_dir, size_t bytes, uint64_t *iteration)
{
	size_t n = path ? strlen(path) : 0, at;

	if (!n || !run_dir || !iteration)
		return PSGD_ERR_INVALID;
	*iteration = PSGD__NO_ITERATION;
	while (n > 1 && path[n - 1] == '/')
		n--;
	for (at = n; at > 0 && path[at - 1] != '/'; at--)
		;
	if (at > 0 && iteration_of(path + at, n - at, iteration))
		n = at - 1;
	else
		*iteration = PSGD__NO_ITERATION;
	if (n >= 4 && strncmp(path + n - 4, "ckpt", 4) == 0 && (n == 4 || path[n - 5] == '/'))
		n = n == 4 ? 0 : n - 5;
	if (n + 2 > bytes)
		return PSGD_ERR_INVALID;
	psgd__text(run_dir, bytes, "%.*s", n ? (int)n : 1, n ? path : ".");
	return PSGD_OK;
}

/* --- size and SHA-256 of a file --- */

static psgd_status digest_file(int fd, EVP_MD_CTX *context, uint64_t *bytes)
{
	static const size_t room = 1 << 18;
	char *chunk = malloc(room);
	ssize_t n = -1;

	if (!chunk)
		return PSGD_ERR_NOMEM;
	*bytes = 0;
	while ((n = read(fd, chunk, room)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 || !EVP_DigestUpdate(context, chunk, (size_t)n))
			break;
		*bytes += (uint64_t)n;
	}
	free(chunk);
	return n == 0 ? PSGD_OK : PSGD_ERR_IO;
}

static psgd_status measure(const char *path, uint64_t *bytes, char hex[HEX_BYTES])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	psgd_status status = PSGD_ERR_IO;
	unsigned n = 0;

	if (!context)
		status = PSGD_ERR_NOMEM;
	else if (fd >= 0 && EVP_DigestInit_ex(context, EVP_sha256(), NULL))
		status = digest_file(fd, context, bytes);
	if (!status && !EVP_DigestFinal_ex(context, digest, &n))
		status = PSGD_ERR_INTERNAL;
	for (unsigned i = 0; i < n; i++)
		snprintf(hex + (size_t)2 * i, 3, "%02x", digest[i]);
	if (fd >= 0)
		close(fd);
	EVP_MD_CTX_free(context);
	return status;
}

/* --- writing --- */

static psgd_status note_number(psgd_safetensors_writer *writer, const char *key, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, value);
	return psgd_safetensors_note(writer, key, text);
}

static psgd_status note_all(
	psgd_safetensors_writer *writer, const struct psgd__checkpoint *c, const char *config)
{
	PSGD__TRY(psgd_safetensors_note(writer, "psgd.checkpoint", FORMAT));
	PSGD__TRY(psgd_safetensors_note(writer, "psgd.version", psgd_version_string()));
	PSGD__TRY(psgd_safetensors_note(writer, "config", config));
	PSGD__TRY(note_number(writer, "iteration", c->iteration));
	PSGD__TRY(note_number(writer, "epoch", c->epoch));
	PSGD__TRY(note_number(writer, "run", c->run));
	PSGD__TRY(note_number(writer, "worker", c->worker));
	return note_number(writer, "n_workers", c->n_workers);
}

static psgd_status write_manifest(
	const char *folder, const char *values, const struct psgd__checkpoint *c)
{
	char hex[HEX_BYTES] = "", name[64];
	psgd_status status;
	uint64_t bytes = 0;
	json_t *manifest;
	int dir_fd;

	PSGD__TRY(measure(values, &bytes, hex));
	dir_fd = psgd__open_dir(AT_FDCWD, folder);
	if (dir_fd < 0)
		return PSGD_ERR_IO;
	snprintf(name, sizeof(name), "worker%" PRIu32 ".json", c->worker);
	manifest = json_pack("{s:b, s:I, s:I, s:I, s:I, s:s, s:I, s:s}", "complete", 1, "iteration",
		(json_int_t)c->iteration, "epoch", (json_int_t)c->epoch, "worker",
		(json_int_t)c->worker, "n_workers", (json_int_t)c->n_workers, "psgd_version",
		psgd_version_string(), "bytes", (json_int_t)bytes, "sha256", hex);
	status = psgd__json_replace(dir_fd, name, manifest, true);
	json_decref(manifest);
	close(dir_fd);
	return status;
}

/* New folders last only when their parents are on the disk. */
static void sync_parents(const char *run_dir)
{
	static const char *const names[] = {"ckpt", "."};
	int dir_fd = psgd__open_dir(AT_FDCWD, run_dir);

	for (size_t i = 0; dir_fd >= 0 && i < PSGD__COUNT(names); i++) {
		int fd = psgd__open_dir(dir_fd, names[i]);

		if (fd < 0)
			continue;
		fsync(fd); /* some file systems cannot */
		close(fd);
	}
	if (dir_fd >= 0)
		close(dir_fd);
}

psgd_status psgd__checkpoint_write(const char *run_dir, const struct psgd__checkpoint *checkpoint,
	const char *config, psgd_safetensors_writer *writer, char *error, size_t error_bytes)
{
	char folder[PATH_MAX], values[PATH_MAX];
	psgd_status status = note_all(writer, checkpoint, config);

	psgd__text(error, error_bytes, "%s", "");
	if (!status)
		status = path_of(folder, run_dir, checkpoint->iteration, 0, NULL);
	if (!status)
		status = path_of(
			values, run_dir, checkpoint->iteration, checkpoint->worker, "safetensors");
	if (status) {
		psgd__text(error, error_bytes, "%s: %s", run_dir, psgd_status_text(status));
		return status;
	}
	if (psgd__make_dirs(folder) != 0)
		status = PSGD_ERR_IO;
	else
		PSGD__TRY(psgd_safetensors_write(writer, values, error, error_bytes));
	if (!status)
		status = write_manifest(folder, values, checkpoint);
	if (status == PSGD_ERR_IO)
		psgd__text(
			error, error_bytes, "%s: cannot write: %s", folder, strerrordesc_np(errno));
	else if (status)
		psgd__text(error, error_bytes, "%s: %s", folder, psgd_status_text(status));
	else
		sync_parents(run_dir);
	return status;
}

/* --- reading --- */

static bool number_of(const psgd_safetensors *file, const char *key, uint64_t *out)
{
	const char *text = psgd_safetensors_metadata(file, key);
	char *end;

	if (!text || *text < '0' || *text > '9')
		return false;
	errno = 0;
	*out = strtoull(text, &end, 10);
	return !errno && !*end;
}

static bool describe(const psgd_safetensors *file, struct psgd__checkpoint *out)
{
	const char *format = psgd_safetensors_metadata(file, "psgd.checkpoint");
	uint64_t worker, n_workers;

	if (!format || strcmp(format, FORMAT) != 0 ||
		!number_of(file, "iteration", &out->iteration) ||
		!number_of(file, "epoch", &out->epoch) || !number_of(file, "run", &out->run) ||
		!number_of(file, "worker", &worker) || !number_of(file, "n_workers", &n_workers) ||
		worker >= n_workers || n_workers > UINT32_MAX)
		return false;
	out->worker = (uint32_t)worker;
	out->n_workers = (uint32_t)n_workers;
	return true;
}

const char *psgd__checkpoint_config(const psgd_safetensors *file)
{
	const char *config = psgd_safetensors_metadata(file, "config");

	return config ? config : "";
}

psgd_status psgd__checkpoint_open(const char *run_dir, uint32_t worker, uint64_t iteration,
	psgd_safetensors **out, char *error, size_t error_bytes)
{
	char path[PATH_MAX];

	*out = NULL;
	PSGD__TRY(path_of(path, run_dir, iteration, worker, "safetensors"));
	return psgd_safetensors_open(path, out, error, error_bytes);
}

/* NULL, or what is wrong with it; "" when it is no checkpoint of this worker at all. */
static const char *examine(
	const char *run_dir, uint32_t worker, uint64_t iteration, struct psgd__checkpoint *out)
{
	char path[PATH_MAX], hex[HEX_BYTES] = "";
	const char *problem = "its manifest is damaged", *sha256;
	psgd_safetensors *file = NULL;
	uint64_t bytes = 0;
	json_t *manifest;

	if (path_of(path, run_dir, iteration, worker, "json"))
		return "";
	if (access(path, F_OK) != 0) {
		path_of(path, run_dir, iteration, worker, "safetensors");
		return access(path, F_OK) == 0 ? "it was not written to its end" : "";
	}
	manifest = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
	sha256 = json_string_value(json_object_get(manifest, "sha256"));
	path_of(path, run_dir, iteration, worker, "safetensors");
	if (sha256 && json_is_true(json_object_get(manifest, "complete"))) {
		problem = "its values are damaged";
		if (!measure(path, &bytes, hex) && strcmp(hex, sha256) == 0 &&
			(json_int_t)bytes ==
				json_integer_value(json_object_get(manifest, "bytes")) &&
			!psgd_safetensors_open(path, &file, NULL, 0) && describe(file, out) &&
			out->iteration == iteration && out->worker == worker)
			problem = NULL;
	}
	json_decref(manifest);
	psgd_safetensors_close(&file);
	return problem;
}

psgd_status psgd__checkpoint_list(const char *run_dir, uint32_t worker, uint64_t wanted,
	const struct psgd__checkpoint_say *say, struct psgd__checkpoint *list, size_t *n)
{
	uint64_t *iterations = NULL;
	size_t n_found = 0;

	*n = 0;
	PSGD__TRY(psgd__checkpoint_folders(run_dir, &iterations, &n_found));
	for (size_t i = 0; i < n_found && *n < PSGD__CHECKPOINTS_MAX; i++) {
		const char *problem;
		char text[PATH_MAX + 128];

		if (wanted != PSGD__NO_ITERATION && iterations[i] != wanted)
			continue;
		problem = examine(run_dir, worker, iterations[i], &list[*n]);
		if (!problem)
			(*n)++;
		if (!problem || !*problem || !say)
			continue;
		snprintf(text, sizeof(text),
			"%s/ckpt/iter_%08" PRIu64 ": worker %" PRIu32
			"'s checkpoint is not used: %s",
			run_dir, iterations[i], worker, problem);
		say->say(say->user, text);
	}
	free(iterations);
	return PSGD_OK;
}

psgd_status psgd_checkpoint_newest(const char *run_dir, uint32_t worker,
	struct psgd_checkpoint_position *out, char *error, size_t error_bytes)
{
	struct psgd_checkpoint_position found = PSGD_INIT(psgd_checkpoint_position);
	struct psgd__checkpoint list[PSGD__CHECKPOINTS_MAX];
	psgd_status status;
	size_t n = 0;

	psgd__text(error, error_bytes, "%s", "");
	if (!run_dir || !out || !psgd__report_fits(out))
		return PSGD_ERR_INVALID;
	status = psgd__checkpoint_list(run_dir, worker, PSGD__NO_ITERATION, NULL, list, &n);
	if (!status && !n)
		status = PSGD_ERR_INVALID;
	if (status) {
		psgd__text(error, error_bytes, "%s: worker %" PRIu32 " has no complete checkpoint",
			run_dir, worker);
		return status;
	}
	found.iteration = list[0].iteration;
	found.epoch = list[0].epoch;
	psgd__copy_report(out, &found, sizeof(found));
	return PSGD_OK;
}
