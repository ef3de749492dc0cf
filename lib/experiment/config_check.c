#include <string.h>

#include "experiment/config_private.h"

static psgd_status check_model(struct psgd__doc *doc, const struct psgd_config_model *model)
{
	if (model->pretrained && !model->weights)
		return REFUSE(doc, "model.pretrained",
			"needs model.weights, a safetensors file with torchvision's names for %s: "
			"load the weights that torchvision publishes for it with torch, save them "
			"with safetensors.torch.save_file",
			model->name);
	if (model->weights && !model->pretrained)
		return REFUSE(doc, "model.weights", "needs model.pretrained: true");
	return PSGD_OK;
}

/* Keys with which only image folders can do something. */
static psgd_status check_folder_keys(
	struct psgd__doc *doc, const struct psgd_config_dataset *dataset)
{
	const struct {
		const char *path;
		bool changed;
	} keys[] = {
		{"dataset.image_size", dataset->image_size != 224},
		{"dataset.loader_threads", dataset->loader_threads != 1},
		{"dataset.prefetch_batches", dataset->prefetch_batches != 4},
		{"dataset.skip_bad", dataset->skip_bad},
		{"dataset.augment", strcmp(dataset->augment, "resized_crop_flip") == 0},
	};

	for (size_t i = 0; i < PSGD__COUNT(keys); i++)
		if (keys[i].changed)
			return REFUSE(doc, keys[i].path, "needs dataset.name: imagenet, not %s",
				dataset->name);
	return PSGD_OK;
}

static psgd_status check_dataset(struct psgd__doc *doc, const struct psgd_config_dataset *dataset)
{
	bool imagenet = strcmp(dataset->name, "imagenet") == 0;

	if (strcmp(dataset->name, "idx") == 0 && !dataset->root)
		return REFUSE(doc, "dataset.name", "idx needs dataset.root");
	if (imagenet && strcmp(dataset->augment, "crop_flip") == 0)
		return REFUSE(doc, "dataset.augment",
			"crop_flip is for small images, expected resized_crop_flip or none");
	return imagenet ? PSGD_OK : check_folder_keys(doc, dataset);
}

static psgd_status check_training(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_training *t = &config->training;

	if (!t->epochs)
		return REFUSE(
			doc, "training", "required key 'epochs' is missing (or 'max_iterations')");
	if (!psgd__config_given(doc, "training.epochs") && !t->T_max &&
		strcmp(t->scheduler, "cosine") == 0)
		return REFUSE(doc, "training.scheduler",
			"cosine needs training.epochs or training.T_max");
	if (t->nesterov && !(t->momentum > 0))
		return REFUSE(doc, "training.nesterov", "needs training.momentum above 0");
	if (t->warmup_epochs && t->warmup_start_lr > t->learning_rate)
		return REFUSE(doc, "training.warmup_start_lr",
			"%.15g is above training.learning_rate, which is %.15g", t->warmup_start_lr,
			t->learning_rate);
	return psgd__config_increasing(
		doc, "training.milestones", t->milestones, t->milestones_count);
}

/* Gloo carries the host's memory, NCCL that of CUDA devices. */
static psgd_status check_device(struct psgd__doc *doc, const struct psgd_config *config)
{
	const char *transport = config->communication.transport;

	if (strcmp(config->device, "cuda") == 0 && strcmp(transport, "gloo") == 0)
		return REFUSE(doc, "communication.transport",
			"gloo is for device: cpu, expected nccl or auto with device: cuda");
	if (strcmp(config->device, "cpu") == 0 && strcmp(transport, "nccl") == 0)
		return REFUSE(doc, "communication.transport",
			"nccl is for device: cuda, expected gloo or auto with device: cpu");
	return PSGD_OK;
}

static psgd_status check_rate(struct psgd__doc *doc, const char *path, double mbps)
{
	if (mbps > 0 && mbps < 0.001)
		return REFUSE(doc, path, "expected 0 (no limit) or at least 0.001");
	return PSGD_OK;
}

/* When an entry comes: one of two keys, the same in all entries, increasing. */
static psgd_status check_when(
	struct psgd__doc *doc, const struct psgd_config_network *net, unsigned i)
{
	const struct psgd_config_link_change *change = &net->schedule[i];
	const char *key = change->at_iteration ? "at_iteration" : "at_second";
	const char *first = net->schedule->at_iteration ? "at_iteration" : "at_second";
	char at[PSGD__PATH_BYTES];

	psgd__text(at, sizeof(at), "network_limits.schedule[%u]", i);
	if (!change->at_iteration && !(change->at_second > 0))
		return REFUSE(doc, at, "required key 'at_iteration' is missing (or 'at_second')");
	psgd__text(at, sizeof(at), "network_limits.schedule[%u].at_second", i);
	if (change->at_iteration && change->at_second > 0)
		return REFUSE(doc, at, "contradicts at_iteration, an entry has one of the two");
	psgd__text(at, sizeof(at), "network_limits.schedule[%u].%s", i, key);
	if (strcmp(key, first) != 0)
		return REFUSE(doc, at, "expected %s, as in the first entry", first);
	if (i && change->at_iteration && change->at_iteration <= change[-1].at_iteration)
		return REFUSE(doc, at, "expected increasing values, got %u after %u",
			change->at_iteration, change[-1].at_iteration);
	if (i && !change->at_iteration && change->at_second <= change[-1].at_second)
		return REFUSE(doc, at, "expected increasing values, got %.15g after %.15g",
			change->at_second, change[-1].at_second);
	return PSGD_OK;
}

static psgd_status check_schedule(struct psgd__doc *doc, const struct psgd_config_network *net)
{
	char at[PSGD__PATH_BYTES];

	if (net->schedule_count && !net->enable)
		return REFUSE(doc, "network_limits.schedule", "needs network_limits.enable: true");
	for (unsigned i = 0; i < net->schedule_count; i++) {
		const struct psgd_config_link_change *change = &net->schedule[i];

		PSGD__TRY(check_when(doc, net, i));
		psgd__text(at, sizeof(at), "network_limits.schedule[%u].egress_mbps", i);
		PSGD__TRY(check_rate(doc, at, change->egress_mbps));
		psgd__text(at, sizeof(at), "network_limits.schedule[%u].ingress_mbps", i);
		PSGD__TRY(check_rate(doc, at, change->ingress_mbps));
		psgd__text(at, sizeof(at), "network_limits.schedule[%u].latency_ms", i);
		if (net->jitter_ms > change->latency_ms)
			return REFUSE(doc, at,
				"%.15g is below network_limits.jitter_ms, which is %.15g",
				change->latency_ms, net->jitter_ms);
	}
	return PSGD_OK;
}

static psgd_status check_network(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_network *net = &config->network_limits;

	PSGD__TRY(check_rate(doc, "network_limits.bandwidth_mbps", net->bandwidth_mbps));
	PSGD__TRY(check_rate(doc, "network_limits.egress_mbps", net->egress_mbps));
	PSGD__TRY(check_rate(doc, "network_limits.ingress_mbps", net->ingress_mbps));
	if (net->jitter_ms > net->latency_ms)
		return REFUSE(doc, "network_limits.jitter_ms",
			"%.15g is above network_limits.latency_ms, which is %.15g", net->jitter_ms,
			net->latency_ms);
	if (net->loss_pct > 0 && (net->loss_pct < 1e-4 || net->loss_pct > 99.9999))
		return REFUSE(doc, "network_limits.loss_pct",
			"expected 0 or a number from 0.0001 to 99.9999");
	if (net->target_ip)
		return REFUSE(doc, "network_limits.target_ip",
			"cannot be chosen, limits hold for all that an interface sends: choose "
			"network_limits.interface");
	if (!net->auto_cleanup)
		return REFUSE(doc, "network_limits.auto_cleanup",
			"expected true, limits are always removed when the run ends");
	if (net->enable && psgd__config_method(net) != PSGD__LINK_MODEL &&
		!psgd__config_limited(net))
		return REFUSE(doc, "network_limits.method",
			"%s needs a limit: egress_mbps, ingress_mbps, latency_ms and loss_pct are "
			"0, which is none",
			net->method);
	return check_schedule(doc, net);
}

/* Tables have names of their own beside the other files of a run folder. */
static psgd_status check_table(struct psgd__doc *doc, const char *path, const char *name)
{
	static const char *const taken[] = {"events.jsonl", "status.json", "manifest.json",
		"config.yaml", "resolved.yaml", "env_metrics.json", "accuracy", "benchmark",
		"ckpt"};
	/* Of what was measured, and of each worker's output. */
	bool is_taken = strncmp(name, "env_metrics_rank0_", strlen("env_metrics_rank0_")) == 0 ||
			(strncmp(name, "worker", strlen("worker")) == 0 && strstr(name, ".log"));

	for (size_t i = 0; i < PSGD__COUNT(taken); i++)
		is_taken |= strcmp(name, taken[i]) == 0;
	return is_taken ? REFUSE(doc, path, "'%s' is another file of the run folder", name)
			: PSGD_OK;
}

psgd_status psgd__config_check(struct psgd__doc *doc, const struct psgd_config *config)
{
	PSGD__TRY(check_table(doc, "results_csv", config->results_csv));
	PSGD__TRY(check_table(
		doc, "compression.calibration.csv_name", config->compression.calibration.csv_name));
	PSGD__TRY(check_model(doc, &config->model));
	PSGD__TRY(check_dataset(doc, &config->dataset));
	PSGD__TRY(check_training(doc, config));
	PSGD__TRY(check_device(doc, config));
	PSGD__TRY(psgd__config_check_ranks(doc, config));
	PSGD__TRY(psgd__config_check_control(doc, config));
	return check_network(doc, config);
}
