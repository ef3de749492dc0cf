#include "experiment/config_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "experiment/c_locale.h"

#define MOST_BYTES ((size_t)1 << 20)

static const cyaml_config_t cyaml_config = {.mem_fn = cyaml_mem};

static psgd_status cannot_read(const char *path, int number, char *error, size_t error_bytes)
{
	psgd__text(error, error_bytes, "%.1000s: cannot read: %s", path, strerror(number));
	return PSGD_ERR_IO;
}

/* The whole file, ended by a zero. */
static psgd_status read_file(
	const char *path, char **out, size_t *out_bytes, char *error, size_t error_bytes)
{
	FILE *file = fopen(path, "re");
	char *text = NULL;
	psgd_status status = PSGD_OK;
	size_t n;

	if (!file)
		return cannot_read(path, errno, error, error_bytes);
	text = malloc(MOST_BYTES + 1);
	if (!text) {
		status = PSGD_ERR_NOMEM;
		goto out_file;
	}
	errno = 0;
	n = fread(text, 1, MOST_BYTES + 1, file);
	if (ferror(file)) {
		status = cannot_read(path, errno, error, error_bytes);
	} else if (n > MOST_BYTES) {
		psgd__text(error, error_bytes,
			"%.1000s: too large for a configuration, the limit is %zu bytes", path,
			MOST_BYTES);
		status = PSGD_ERR_CONFIG;
	} else if (memchr(text, '\0', n)) {
		psgd__text(error, error_bytes, "%.1000s: not a text file, it has zero bytes", path);
		status = PSGD_ERR_CONFIG;
	}
	if (status < 0)
		goto out_file;
	*out = strndup(text, n);
	*out_bytes = n;
	if (!*out)
		status = PSGD_ERR_NOMEM;
out_file:
	free(text);
	fclose(file);
	return status;
}

/* "dir/adaptive.yaml" is a run called "adaptive". */
static psgd_status name_of(const char *path, char **out)
{
	const char *slash = strrchr(path, '/');
	const char *base = slash ? slash + 1 : path;
	const char *dot = strrchr(base, '.');
	size_t n = dot && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0)
			   ? (size_t)(dot - base)
			   : strlen(base);

	*out = n ? strndup(base, n) : strdup("run");
	return *out ? PSGD_OK : PSGD_ERR_NOMEM;
}

/* libcyaml on the text that the strict pass wrote. */
static psgd_status fill(
	struct psgd__doc *doc, const char *text, size_t bytes, struct psgd__config_box **out)
{
	cyaml_err_t failed = cyaml_load_data((const uint8_t *)text, bytes, &cyaml_config,
		&psgd__config_schema, (cyaml_data_t **)out, NULL);

	if (failed == CYAML_ERR_OOM)
		return PSGD_ERR_NOMEM;
	if (failed != CYAML_OK || !*out) {
		*out = NULL;
		psgd__doc_fail(doc, 0, "", "libcyaml cannot load this: %s", cyaml_strerror(failed));
		return PSGD_ERR_INTERNAL;
	}
	return PSGD_OK;
}

/* *out is set as soon as there is something to free. */
static psgd_status load(
	struct psgd__doc *doc, const char *text, size_t bytes, struct psgd__config_box **out)
{
	char *strict = NULL, *name = NULL;
	psgd_status status = psgd__doc_parse(doc, text, bytes);
	size_t strict_bytes;

	if (status >= 0)
		status = psgd__doc_override(doc);
	if (status >= 0)
		status = psgd__config_strict(doc, &strict, &strict_bytes);
	if (status >= 0)
		status = fill(doc, strict, strict_bytes, out);
	if (status >= 0)
		status = name_of(doc->path, &name);
	if (status >= 0)
		status = psgd__config_derive(doc, &(*out)->config, name);
	if (status >= 0)
		status = psgd__config_check(doc, &(*out)->config);
	if (status >= 0)
		status = psgd__config_notices(&(*out)->config, &(*out)->notices);
	free(name);
	free(strict);
	return status;
}

psgd_status psgd_config_load(const char *path, const char *const *overrides, size_t n_overrides,
	struct psgd_config **out, char *error, size_t error_bytes)
{
	struct psgd__doc doc = {
		.path = path,
		.overrides = overrides,
		.n_overrides = n_overrides,
		.error = error,
		.error_bytes = error_bytes,
	};
	struct psgd__config_box *box = NULL;
	struct psgd__c_locale locale;
	char *text = NULL;
	psgd_status status;
	size_t bytes;

	if (out)
		*out = NULL;
	psgd__text(error, error_bytes, "%s", "");
	if (!path || !out || (n_overrides && !overrides))
		return PSGD_ERR_INVALID;
	status = psgd__c_locale_enter(&locale);
	if (status < 0)
		goto out_text;
	status = read_file(path, &text, &bytes, error, error_bytes);
	if (status >= 0) {
		status = load(&doc, text, bytes, &box);
		psgd__doc_end(&doc);
	}
	psgd__c_locale_leave(&locale);
	if (status < 0)
		goto out_text;
	box->source = text;
	*out = &box->config;
	return PSGD_OK;
out_text:
	if (status == PSGD_ERR_NOMEM)
		psgd__text(error, error_bytes, "%.1000s: out of memory", path);
	if (error && error_bytes)
		psgd__one_line(error);
	if (box) {
		free(box->notices);
		cyaml_free(&cyaml_config, &psgd__config_schema, box, 0);
	}
	free(text);
	return status;
}

const char *psgd_config_source(const struct psgd_config *config)
{
	return config ? ((const struct psgd__config_box *)(const void *)config)->source : "";
}

const char *psgd_config_notices(const struct psgd_config *config)
{
	return config ? ((const struct psgd__config_box *)(const void *)config)->notices : "";
}

void psgd_config_free(struct psgd_config **config)
{
	struct psgd__config_box *box;

	if (!config || !*config)
		return;
	box = (struct psgd__config_box *)(void *)*config;
	free(box->source);
	free(box->notices);
	cyaml_free(&cyaml_config, &psgd__config_schema, box, 0);
	*config = NULL;
}
