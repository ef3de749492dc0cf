/* What was measured of the network, in the run folder. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "experiment/link_check.h"
#include "experiment/run_impl.h"

#define TEXT_BEGIN "env_metrics_rank0_"

bool psgd__is_env_text(const char *name)
{
	size_t n = strlen(name);

	return strncmp(name, TEXT_BEGIN, sizeof(TEXT_BEGIN) - 1) == 0 && n > 4 &&
	       strcmp(name + n - 4, ".txt") == 0;
}

static void add_line(struct psgd__row *text, const char *key, double value)
{
	struct psgd__row number = {.locale = text->locale};
	/* Six digits: a measurement has no more. */
	double scale = value > 0 ? pow(10, 5 - floor(log10(value))) : 1;
	int n;

	psgd__row_number(&number, round(value * scale) / scale);
	n = snprintf(text->text + text->n, sizeof(text->text) - text->n, "%s: %s\n", key,
		number.n ? number.text : "unlimited");
	text->n += (size_t)n;
}

static double mbps(uint64_t bps)
{
	return bps ? (double)bps / 1e6 : INFINITY;
}

static void add_check(struct psgd__row *text, const struct psgd__link_check *check)
{
	int n = snprintf(text->text + text->n, sizeof(text->text) - text->n, "interface: %.15s\n",
		check->interface_name);

	text->n += (size_t)n;
	add_line(text, "interface_sent_bytes", (double)check->sent_bytes);
	add_line(text, "interface_left_bytes", (double)check->left_bytes);
	add_line(text, "interface_configured_mbps", check->configured_mbps);
	add_line(text, "interface_measured_mbps", check->measured_mbps);
}

/* "key: value" lines: short, so that they fit whatever the numbers are. */
static psgd_status write_text(struct psgd_run *run, const struct psgd_measured *found,
	const struct psgd_link *link, const struct psgd__link_check *check)
{
	struct psgd__row text = {.locale = run->locale};
	char stamp[32] = "", name[PSGD__FILE_NAME];
	time_t now = time(NULL);
	struct tm local;

	if (localtime_r(&now, &local))
		strftime(stamp, sizeof(stamp), "%Y%m%d_%H%M%S", &local);
	snprintf(name, sizeof(name), TEXT_BEGIN "%s.txt", stamp);
	add_line(&text, "workers", found->n_workers);
	add_line(&text, "allreduce_bandwidth_mbps", found->bandwidth_mbps);
	add_line(&text, "latency_ms", found->latency_ms);
	add_line(&text, "allreduce_delay_ms", found->delay_ns / 1e6);
	add_line(&text, "allreduce_ns_per_byte", found->ns_per_byte);
	add_line(&text, "measuring_s", (double)found->elapsed_ns / 1e9);
	if (link) {
		add_line(&text, "configured_egress_mbps", mbps(link->egress_bps));
		add_line(&text, "configured_ingress_mbps", mbps(link->ingress_bps));
		add_line(&text, "configured_latency_ms", (double)link->delay_ns / 1e6);
	}
	if (check)
		add_check(&text, check);
	if (psgd__file_replace(run->dir_fd, name, text.text, text.n, false))
		return psgd__run_fail_write(run, name);
	return PSGD_OK;
}

/* NULL: out of memory. */
static json_t *points_of(const struct psgd_measured *found)
{
	json_t *points = json_array();

	for (uint32_t i = 0; i < found->n_points; i++) {
		const struct psgd_measure_point *p = &found->points[i];

		if (json_array_append_new(
			    points, json_pack("{s:I, s:f}", "bytes", (json_int_t)p->bytes,
					    "time_us", (double)p->ns / 1e3)) == 0)
			continue;
		json_decref(points);
		return NULL;
	}
	return points;
}

static json_t *link_of(const struct psgd_link *link)
{
	if (!link)
		return json_null();
	return json_pack("{s:o, s:o, s:f, s:f, s:f}", "egress_mbps",
		psgd__json_number(mbps(link->egress_bps)), "ingress_mbps",
		psgd__json_number(mbps(link->ingress_bps)), "latency_ms",
		(double)link->delay_ns / 1e6, "jitter_ms", (double)link->jitter_ns / 1e6,
		"loss_pct", (double)link->loss_ppm / 1e4);
}

json_t *psgd__link_check_json(const struct psgd__link_check *check)
{
	if (!check)
		return json_null();
	return json_pack("{s:o, s:I, s:I, s:o, s:o}", "name",
		psgd__json_text(check->interface_name), "sent_bytes", (json_int_t)check->sent_bytes,
		"left_bytes", (json_int_t)check->left_bytes, "configured_mbps",
		psgd__json_number(check->configured_mbps), "measured_mbps",
		psgd__json_number(check->measured_mbps));
}

psgd_status psgd__run_env(struct psgd_run *run, const struct psgd_measured *found,
	const struct psgd_link *link, const struct psgd__link_check *check)
{
	psgd_status status;
	json_t *value;

	if (!run->writes)
		return PSGD_OK;
	PSGD__TRY(write_text(run, found, link, check));
	value = json_pack("{s:i, s:f, s:o, s:f, s:f, s:f, s:o, s:o, s:o}", "workers",
		(int)found->n_workers, "latency_ms", found->latency_ms, "allreduce_bandwidth_mbps",
		psgd__json_number(found->bandwidth_mbps), "allreduce_delay_us",
		found->delay_ns / 1e3, "allreduce_ns_per_byte", found->ns_per_byte, "measuring_s",
		(double)found->elapsed_ns / 1e9, "points", points_of(found), "configured",
		link_of(link), "interface", psgd__link_check_json(check));
	status = psgd__json_replace(run->dir_fd, PSGD__ENV_JSON, value, false);
	json_decref(value);
	return status ? psgd__run_fail_write(run, PSGD__ENV_JSON)
		      : psgd__event_env(run, found, check);
}
