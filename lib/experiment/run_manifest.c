#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <openssl/evp.h>

#include <psgd/tc.h>

#include "experiment/config_private.h"
#include "experiment/run_impl.h"

#define SCHEMA_VERSION 1
#define MODEL_BURST_BYTES 3028 /* of a link without a burst, as in shaper.h */

/* The first "key : value" of /proc/cpuinfo with this key; null if none. */
static json_t *cpu_model(void)
{
	FILE *file = fopen("/proc/cpuinfo", "re");
	json_t *model = NULL;
	char line[512];

	while (file && !model && fgets(line, sizeof(line), file)) {
		char *value = strchr(line, ':');

		if (!value || strncmp(line, "model name", 10) != 0)
			continue;
		value += 1 + strspn(value + 1, " \t");
		value[strcspn(value, "\n")] = '\0';
		model = psgd__json_text(value);
	}
	if (file)
		fclose(file);
	return model ? model : json_null();
}

static json_t *sha256(const char *text)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	char hex[2 * EVP_MAX_MD_SIZE + 1] = "";
	size_t n = 0;

	if (!EVP_Q_digest(NULL, "SHA256", NULL, text, strlen(text), digest, &n))
		return json_null();
	for (size_t i = 0; i < n; i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
	return json_string(hex);
}

/* As CUDA counts: 13000 is 13.0. */
static json_t *cuda_version(uint32_t version)
{
	return json_sprintf("%u.%u", version / 1000, version % 1000 / 10);
}

json_t *psgd__json_device(const struct psgd_cuda_device *cuda)
{
	if (!cuda)
		return json_pack("{s:s}", "kind", "cpu");
	return json_pack("{s:s, s:o, s:o, s:I, s:o, s:o}", "kind", "cuda", "name",
		psgd__json_text(cuda->name), "compute_capability",
		json_sprintf("%u.%u", cuda->major, cuda->minor), "memory_bytes",
		(json_int_t)cuda->memory_bytes, "driver", cuda_version(cuda->driver), "runtime",
		cuda_version(cuda->runtime));
}

/* A secret in the environment must not reach a file that is passed around; a path may. */
static bool is_secret(const char *name, size_t n)
{
	static const char *const words[] = {"TOKEN", "SECRET", "PASSWORD", "KEY"};

	if (n > 5 && strncmp(name + n - 5, "_FILE", 5) == 0)
		return false;
	for (size_t w = 0; w < PSGD__COUNT(words); w++) {
		if (memmem(name, n, words[w], strlen(words[w])))
			return true;
	}
	return false;
}

static json_t *environment(void)
{
	static const char *const prefixes[] = {"PSGD_", "GLOO_", "NCCL_", "OMP_"};
	json_t *all = json_object();

	for (char **entry = environ; all && *entry; entry++) {
		size_t n = strcspn(*entry, "=");
		bool wanted = false;
		char name[256];

		for (size_t p = 0; p < PSGD__COUNT(prefixes); p++)
			wanted |= strncmp(*entry, prefixes[p], strlen(prefixes[p])) == 0;
		if (!wanted || !(*entry)[n] || n >= sizeof(name) || is_secret(*entry, n))
			continue;
		psgd__text(name, n + 1, "%s", *entry);
		/* A name that is not UTF-8 cannot be a key: it is left out. */
		json_object_set_new(all, name, psgd__json_text(*entry + n + 1));
	}
	return all;
}

/* What lets so many bytes through at once: the kernel's bucket, or the model's. */
static uint64_t burst_of(const struct psgd_link *link, bool kernel)
{
	if (kernel)
		return psgd_tc_burst(link, link->egress_bps ? link->egress_bps : link->ingress_bps);
	return link->burst_bytes ? link->burst_bytes : MODEL_BURST_BYTES;
}

/* What the network is as training begins, and who makes it so. */
static json_t *link_of(const struct psgd_config *config)
{
	struct psgd_link link, own, kernel_link;
	bool limited = psgd__config_limits_after(config, 0, &link);
	bool process = psgd__config_link_after(config, 0, &own);
	bool kernel = psgd__config_kernel_link_after(config, 0, &kernel_link);

	if (!limited)
		return json_null();
	return json_pack("{s:s, s:o, s:f, s:f, s:f, s:f, s:I, s:f, s:i}", "method",
		kernel ? process ? "tc+model" : "tc" : "model", "interface",
		psgd__json_text(kernel ? config->network_limits.interface : NULL), "egress_mbps",
		(double)link.egress_bps / 1e6, "ingress_mbps", (double)link.ingress_bps / 1e6,
		"latency_ms", (double)link.delay_ns / 1e6, "jitter_ms",
		(double)link.jitter_ns / 1e6, "burst_bytes", (json_int_t)burst_of(&link, kernel),
		"loss_pct", (double)link.loss_ppm / 1e4, "changes",
		(int)config->network_limits.schedule_count);
}

static json_t *start_time(void)
{
	time_t now = time(NULL);
	char text[32] = "";
	struct tm utc;

	if (gmtime_r(&now, &utc))
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
	return json_string(text);
}

/* That of the first start, of a run that goes on. */
static json_t *started(const struct psgd_run *run)
{
	int fd = run->resumes ? openat(run->dir_fd, "manifest.json", O_RDONLY | O_CLOEXEC) : -1;
	json_t *before = fd < 0 ? NULL : json_loadfd(fd, 0, NULL);
	json_t *time = json_incref(json_object_get(before, "started"));

	if (fd >= 0)
		close(fd);
	json_decref(before);
	if (json_is_string(time))
		return time;
	json_decref(time);
	return start_time();
}

psgd_status psgd__manifest_write(
	struct psgd_run *run, const struct psgd_run_options *options, const char *resolved)
{
	const struct psgd_config *config = options->config;
	struct utsname own = {0};
	json_t *value = NULL;
	psgd_status status;

	uname(&own);
	value = json_pack("{s:i, s:o, s:s, s:s, s:o, s:o, s:o, s:o, s:i, s:o, s:i, s:o, s:o, s:o, "
			  "s:o, s:I, s:o, s:o}",
		"schema", SCHEMA_VERSION, "name", psgd__json_text(config->name), "psgd_version",
		psgd_version_string(), "compiler", __VERSION__, "host",
		psgd__json_text(own.nodename), "kernel", psgd__json_text(own.release), "machine",
		psgd__json_text(own.machine), "cpu", cpu_model(), "cores",
		(int)sysconf(_SC_NPROCESSORS_ONLN), "command_line",
		psgd__json_text(options->command_line), "workers", (int)run->n_workers, "transport",
		psgd__json_text(options->transport), "device", psgd__json_device(options->cuda),
		"link", link_of(config), "config_sha256", sha256(resolved), "seed",
		(json_int_t)config->seed, "started", started(run), "environment", environment());
	status = psgd__json_replace(run->dir_fd, "manifest.json", value, false);
	json_decref(value);
	return status ? psgd__run_fail_write(run, "manifest.json") : PSGD_OK;
}
