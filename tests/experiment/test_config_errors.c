/* What bad input gets: one exact line each. */
#include <limits.h>

#include "experiment/config_support.h"
#include "support/suite.h"

#define RANK_1 "expected a rank of at least 1 (use compression.enable_powerSGD: false for dense)"

/* clang-format off */
static const struct refusal numbers[] = {
	{"threads: 30O", NULL, "t.yaml:8:10: threads: expected a whole number, got '30O'"},
	{"threads: 3e2", NULL, "t.yaml:8:10: threads: expected a whole number, got '3e2'"},
	{"threads: 0x10", NULL, "t.yaml:8:10: threads: expected a whole number, got '0x10'"},
	{"threads: 1_000", NULL, "t.yaml:8:10: threads: expected a whole number, got '1_000'"},
	{"threads: 010", NULL, "t.yaml:8:10: threads: expected a whole number, got '010'"},
	{"threads: 2.0", NULL, "t.yaml:8:10: threads: expected a whole number, got '2.0'"},
	{"threads: +2", NULL, "t.yaml:8:10: threads: expected a whole number, got '+2'"},
	{"threads: '2'", NULL, "t.yaml:8:10: threads: expected a whole number, got the text '2'"},
	{"threads:", NULL, "t.yaml:8:9: threads: expected a whole number, got nothing"},
	{"threads: ~", NULL, "t.yaml:8:10: threads: expected a whole number, got nothing"},
	{"threads: [2]", NULL, "t.yaml:8:10: threads: expected a whole number, got a list"},
	{"threads: {a: 2}", NULL, "t.yaml:8:10: threads: expected a whole number, got a mapping"},
	{"threads: -1", NULL,
		"t.yaml:8:10: threads: expected a whole number from 1 to 1024, got '-1'"},
	{"threads: 1025", NULL,
		"t.yaml:8:10: threads: expected a whole number from 1 to 1024, got '1025'"},
	{"threads: !!int 2", NULL,
		"t.yaml:8:10: threads: tags are not supported, got 'tag:yaml.org,2002:int'"},
	{"", "dataset.batch_size=4294967296", "override 'dataset.batch_size=4294967296': "
		"expected a whole number below 4294967296, got '4294967296'"},
	{"", "seed=18446744073709551616", "override 'seed=18446744073709551616': "
		"expected a whole number below 2^64, got '18446744073709551616'"},
	{"", "training.epochs=0",
		"override 'training.epochs=0': expected a whole number of at least 1, got '0'"},
	{"", "dataset.batch_size=0",
		"override 'dataset.batch_size=0': expected a whole number of at least 1, got '0'"},
	{"", "training.learning_rate=.nan",
		"override 'training.learning_rate=.nan': expected a number, got '.nan'"},
	{"", "training.learning_rate=.inf",
		"override 'training.learning_rate=.inf': expected a number, got '.inf'"},
	{"", "training.learning_rate=inf",
		"override 'training.learning_rate=inf': expected a number, got 'inf'"},
	{"", "training.learning_rate=0.2x",
		"override 'training.learning_rate=0.2x': expected a number, got '0.2x'"},
	{"", "training.learning_rate=0x1p3",
		"override 'training.learning_rate=0x1p3': expected a number, got '0x1p3'"},
	{"", "training.learning_rate=1e999", "override 'training.learning_rate=1e999': "
		"expected a number that a double can hold, got '1e999'"},
	{"", "training.learning_rate=", "override 'training.learning_rate=': "
		"expected a number, got nothing"},
	{"", "training.learning_rate=0", "override 'training.learning_rate=0': "
		"expected a number above 0, got '0'"},
	{"", "training.learning_rate=-0.1", "override 'training.learning_rate=-0.1': "
		"expected a number above 0, got '-0.1'"},
	{"", "training.momentum=1", "override 'training.momentum=1': "
		"expected a number of at least 0 and below 1, got '1'"},
	{"", "powerSGD.min_compression_rate=0.5", "override 'powerSGD.min_compression_rate=0.5': "
		"expected a number of at least 1, got '0.5'"},
	{"", "rank_control.max_exposed=30", "override 'rank_control.max_exposed=30': "
		"expected a number from 0 to 1, got '30'"},
	{"", "compression.calibration.comm_ratio_threshold=0",
		"override 'compression.calibration.comm_ratio_threshold=0': "
		"expected a number above 0 and at most 1, got '0'"},
	{"", "network_limits.latency_ms=-1", "override 'network_limits.latency_ms=-1': "
		"expected a number from 0 to 1000000, got '-1'"},
	{"", "communication.timeout_s=0", "override 'communication.timeout_s=0': "
		"expected a number above 0 and at most 1000000, got '0'"},
	{"", "network_limits.egress_mbps=1e-9", "override 'network_limits.egress_mbps=1e-9': "
		"expected 0 (no limit) or at least 0.001"},
};

static const struct refusal words[] = {
	{"", "training.nesterov=maybe",
		"override 'training.nesterov=maybe': expected true or false, got 'maybe'"},
	{"", "training.nesterov=1",
		"override 'training.nesterov=1': expected true or false, got '1'"},
	{"", "model.name=resnet19", "override 'model.name=resnet19': expected one of mlp, cnn, "
		"resnet8, resnet20, resnet18, resnet34, resnet50, resnet101, resnet152, "
		"got 'resnet19'"},
	{"", "model.stem=none",
		"override 'model.stem=none': expected one of auto, cifar, imagenet, got 'none'"},
	{"", "dataset.name=cifar1000", "override 'dataset.name=cifar1000': expected one of "
		"fashion-mnist, mnist, idx, cifar10, cifar, cifar100, imagenet, synthetic, "
		"got 'cifar1000'"},
	{"", "dataset.augment=flip",
		"override 'dataset.augment=flip': expected one of none, crop_flip, "
		"resized_crop_flip, got 'flip'"},
	{"", "dataset.name=idx", "override 'dataset.name=idx': idx needs dataset.root"},
	{"", "training.scheduler=multi", "override 'training.scheduler=multi': expected one of "
		"none, step, multistep, cosine, got 'multi'"},
	{"", "training.scheduler=[step]",
		"override 'training.scheduler=[step]': expected a text, got a list"},
	{"", "model.name='mlp, cnn'",
		"override 'model.name='mlp, cnn'': expected one of mlp, cnn, resnet8, resnet20, "
		"resnet18, resnet34, resnet50, resnet101, resnet152, got the text 'mlp, cnn'"},
	{"", "rank_control.cap=auto", "override 'rank_control.cap=auto': "
		"expected one of none, calibration, live, got 'auto'"},
	{"", "rank_control.choice=norm", "override 'rank_control.choice=norm': expected one of "
		"max, fixed, schedule, epochnorm, ema, accordion, lgreco, entropy, replay, "
		"got 'norm'"},
	{"", "communication.transport=mpi", "override 'communication.transport=mpi': "
		"expected one of auto, gloo, nccl, got 'mpi'"},
	{"", "device=gpu",
		"override 'device=gpu': expected one of auto, cpu, cuda, got 'gpu'"},
	{"", "allow_mixed=some",
		"override 'allow_mixed=some': expected true or false, got 'some'"},
	{"", "training.tf32=some", "override 'training.tf32=some': "
		"expected one of none, convolutions, all, got 'some'"},
	{"device: cuda", "communication.transport=gloo",
		"override 'communication.transport=gloo': "
		"gloo is for device: cpu, expected nccl or auto with device: cuda"},
	{"communication: {transport: nccl}", "device=cpu",
		"t.yaml:8:28: communication.transport: "
		"nccl is for device: cuda, expected gloo or auto with device: cpu"},
	{"", "name=a/b", "override 'name=a/b': expected a name without '/', got 'a/b'"},
	{"", "name=..",
		"override 'name=..': expected a name that does not begin with '.', got '..'"},
	{"", "name=\"\"",
		"override 'name=\"\"': expected a text that is not empty, got the text ''"},
	{"", "name=\"a\\0b\"", "override 'name=\"a\\0b\"': a text may not hold a zero byte"},
};

static const struct refusal keys[] = {
	{"trainig: {epochs: 3}", NULL,
		"t.yaml:8:1: unknown key 'trainig', did you mean 'training'?"},
	{"compression:\n  enable_powersgd: true", NULL, "t.yaml:9:3: compression: "
		"unknown key 'enable_powersgd', did you mean 'enable_powerSGD'?"},
	{"", "training.epohs=3",
		"override 'training.epohs=3': unknown key 'epohs', did you mean 'epochs'?"},
	{"", "training={epohs: 3}", "override 'training={epohs: 3}': "
		"unknown key 'epohs', did you mean 'epochs'?"},
	{"", "training.lr=3", "override 'training.lr=3': unknown key 'lr'"},
	{"", "trainig.epochs=3",
		"override 'trainig.epochs=3': unknown key 'trainig', did you mean 'training'?"},
	{"<<: {threads: 2}", NULL, "t.yaml:8:1: unknown key '<<'"},
	{"base: &x 3\nthreads: *x", NULL, "t.yaml:8:1: unknown key 'base', did you mean 'name'?"},
	{"threads: 2\nthreads: 3", NULL,
		"t.yaml:9:1: duplicate key 'threads', the first one is in line 8"},
	{"[a]: 3", NULL, "t.yaml:8:1: a key must be a word"},
	{"compression: 4", NULL,
		"t.yaml:8:14: compression: expected a mapping of keys, got '4'"},
	{"", "model.name=", "t.yaml:2:3: model: required key 'name' is missing"},
	{"", "model={}", "override 'model={}': required key 'name' is missing"},
	{"", "training=", "t.yaml: training: required key 'learning_rate' is missing"},
	{"", "training={learning_rate: 1}", "override 'training={learning_rate: 1}': "
		"required key 'epochs' is missing (or 'max_iterations')"},
};

static const struct refusal overrides[] = {
	{"", "threads", "override 'threads': expected key=value"},
	{"", "=3", "override '=3': expected key=value"},
	{"", "training..epochs=3",
		"override 'training..epochs=3': expected key=value with a key like a.b.c"},
	{"", "training.=3", "override 'training.=3': expected key=value with a key like a.b.c"},
	{"", "a b=3", "override 'a b=3': expected key=value with a key like a.b.c"},
	{"", "a\xff=3", "override 'a\xff=3': expected key=value with a key like a.b.c"},
	{"", "training.epochs.x=3",
		"override 'training.epochs.x=3': training.epochs is not a section"},
	{"", "threads=[",
		"override 'threads=[': not valid YAML: did not find expected node content "
		"while parsing a flow node"},
	{"", "threads=\xff",
		"override 'threads=\xff': not valid YAML: invalid leading UTF-8 octet"},
	{"", "threads=&a [*a]", "override 'threads=&a [*a]': the value is too large"},
	{"", "threads=1\n--- 2",
		"override 'threads=1?--- 2': expected one YAML document, got a second one"},
};

static const struct refusal ranks[] = {
	{"compression:\n  min_rank: 0", NULL, "t.yaml:9:13: compression.min_rank: " RANK_1},
	{"", "compression.max_rank=-4", "override 'compression.max_rank=-4': " RANK_1},
	{"", "compression.base_rank=0", "override 'compression.base_rank=0': " RANK_1},
	{"", "compression.fixed_rank_value=-1",
		"override 'compression.fixed_rank_value=-1': " RANK_1},
	{"", "rank_control.candidates=[0, 1]",
		"override 'rank_control.candidates=[0, 1]': rank_control.candidates[0]: " RANK_1},
	{"", "compression.base_rank=4x",
		"override 'compression.base_rank=4x': expected a whole number, got '4x'"},
	{"", "compression.max_rank=70000", "override 'compression.max_rank=70000': "
		"expected a whole number from 1 to 65535, got '70000'"},
	{"compression: {min_rank: 5, max_rank: 4}", NULL, "t.yaml:8:25: compression.min_rank: "
		"5 is above compression.max_rank, which is 4"},
	{"compression: {max_rank: 4}", "compression.base_rank=5",
		"override 'compression.base_rank=5': 5 is above compression.max_rank, which is 4"},
	{"compression: {min_rank: 2, use_fixed_rank: yes}", "compression.fixed_rank_value=1",
		"override 'compression.fixed_rank_value=1': "
		"1 is below compression.min_rank, which is 2"},
	{"compression: {max_rank: 4}", "powerSGD.matrix_approximation_rank=5",
		"override 'powerSGD.matrix_approximation_rank=5': "
		"5 is above compression.max_rank, which is 4"},
	{"compression:\n  min_rank: 16", "compression.base_rank=4",
		"override 'compression.base_rank=4': "
		"4 is below compression.min_rank, which is 16"},
	{"compression:\n  min_rank: 2\n  rank_schedule:\n    default_rank: 1\n"
		"    ranges: [{start_epoch: 3, end_epoch: 3, rank: 2}]", NULL,
		"t.yaml:11:19: compression.rank_schedule.default_rank: "
		"1 is below compression.min_rank, which is 2"},
	{"rank_control:\n  candidates: []", NULL, "t.yaml:9:15: rank_control.candidates: "
		"expected at least one rank, got an empty list"},
	{"rank_control:\n  candidates: 4", NULL, "t.yaml:9:15: rank_control.candidates: "
		"expected a list like [1, 2, 4], got '4'"},
	{"rank_control:\n  candidates: [1, 4, 4]", NULL, "t.yaml:9:22: rank_control.candidates[2]: "
		"expected increasing values, got 4 after 4"},
	{"compression: {max_rank: 4}", "rank_control.candidates=[1, 8]",
		"override 'rank_control.candidates=[1, 8]': rank_control.candidates[1]: "
		"8 is above compression.max_rank, which is 4"},
	{"compression:\n  calibration: {ranks: [2, 1]}", NULL,
		"t.yaml:9:28: compression.calibration.ranks[1]: "
		"expected increasing values, got 1 after 2"},
	{"", "compression.rank_schedule.default_rank=0",
		"override 'compression.rank_schedule.default_rank=0': " RANK_1},
	{"compression:\n  rank_schedule:\n    ranges:\n"
		"      - {start_epoch: 0, end_epoch: 9, rank: dense}\n"
		"      - {start_epoch: 9, end_epoch: 12, rank: 4}", NULL,
		"t.yaml:12:9: compression.rank_schedule.ranges[1]: "
		"epochs 9 to 12 overlap epochs 0 to 9 of ranges[0]"},
	{"compression:\n  rank_schedule:\n    ranges:\n"
		"      - {start_epoch: 3, end_epoch: 2, rank: 4}", NULL,
		"t.yaml:11:9: compression.rank_schedule.ranges[0]: start_epoch 3 is after "
		"end_epoch 2"},
	{"compression:\n  rank_schedule:\n    ranges:\n"
		"      - {start_epoch: 3, end_epoch: 3, rank: 0}", NULL,
		"t.yaml:11:46: compression.rank_schedule.ranges[0].rank: "
		"expected a rank of at least 1, or dense"},
	{"compression:\n  rank_schedule:\n    ranges:\n"
		"      - {start_epoch: 3, end_epoch: 3, rank: Dense}", NULL,
		"t.yaml:11:46: compression.rank_schedule.ranges[0].rank: "
		"expected a whole number or dense, got 'Dense'"},
	{"compression:\n  rank_schedule:\n    ranges:\n      - {start_epoch: 3, rank: 1}", NULL,
		"t.yaml:11:9: compression.rank_schedule.ranges[0]: required key 'end_epoch' "
		"is missing"},
};

#define N50 "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"

static const struct refusal together[] = {
	{"", "training.milestones=[2, 1]", "override 'training.milestones=[2, 1]': "
		"training.milestones[1]: expected increasing values, got 1 after 2"},
	{"", "training={max_iterations: 5, learning_rate: 1, scheduler: cosine}",
		"override 'training={max_iterations: 5, learning_rate: 1, scheduler: cosine}': "
		"training.scheduler: cosine needs training.epochs or training.T_max"},
	{"", "training={epochs: 5, learning_rate: 1, momentum: 0, nesterov: yes}",
		"override 'training={epochs: 5, learning_rate: 1, momentum: 0, nesterov: yes}': "
		"training.nesterov: needs training.momentum above 0"},
	{"network_limits: {latency_ms: 1}", "network_limits.jitter_ms=1.5",
		"override 'network_limits.jitter_ms=1.5': "
		"1.5 is above network_limits.latency_ms, which is 1"},
	{"compression:\n  use_fixed_rank: true\nrank_control:\n  choice: max", NULL,
		"t.yaml:11:11: rank_control.choice: "
		"'max' contradicts compression.use_fixed_rank: true"},
	{"compression:\n  use_fixed_rank: true\naccordion:\n  enable: true", NULL,
		"t.yaml:11:11: accordion.enable: contradicts compression.use_fixed_rank: true"},
	{"compression:\n  rank_schedule:\n"
		"    ranges: [{start_epoch: 3, end_epoch: 3, rank: 1}]\n", "accordion.enable=true",
		"t.yaml:10:13: compression.rank_schedule.ranges: contradicts "
		"accordion.enable: true"},
	{"", "rank_control.choice=replay", "override 'rank_control.choice=replay': "
		"replay needs rank_control.replay, the events.jsonl of a run"},
	{"", "rank_control.replay=e", "override 'rank_control.replay=e': "
		"needs rank_control.choice: replay"},
	{"rank_control:\n  cap: live\n  choice: replay\n  replay: e", NULL,
		"t.yaml:9:8: rank_control.cap: 'live' would change a replay, expected none"},
	{"", "accordion.force_max_iters=5", "override 'accordion.force_max_iters=5': "
		"needs accordion.stride_iters of at least 1"},
	{"", "accordion.lr_cooldown_iters=5", "override 'accordion.lr_cooldown_iters=5': "
		"needs accordion.stride_iters of at least 1"},
	{"", "accordion={rule: ema, relaxed_factor: 1.2, critical_factor: 1.2}",
		"override 'accordion={rule: ema, relaxed_factor: 1.2, critical_factor: 1.2}': "
		"accordion.relaxed_factor: 1.2 is not below accordion.critical_factor, "
		"which is 1.2"},
	{"", "accordion={enable: yes, rule: ema, critical_factor: 0.9}",
		"override 'accordion={enable: yes, rule: ema, critical_factor: 0.9}': "
		"accordion.critical_factor: 0.9 is not above accordion.relaxed_factor, "
		"which is 0.95"},
	{"rank_control: {choice: epochnorm}", "accordion.rule=ema",
		"override 'accordion.rule=ema': 'ema' contradicts rank_control.choice: epochnorm"},
	{"", "accordion.ema_beta=0", "override 'accordion.ema_beta=0': "
		"expected a number above 0 and below 1, got '0'"},
	{"", "accordion.rule=norm",
		"override 'accordion.rule=norm': expected one of epoch, ema, got 'norm'"},
	{"", "lgreco.sample_iters=101", "override 'lgreco.sample_iters=101': "
		"101 is above lgreco.adjust_iters, which is 100"},
	{"", "lgreco.adjust_iters=9", "override 'lgreco.adjust_iters=9': "
		"9 is below lgreco.sample_iters, which is 10"},
	{"", "entropy.round_to=5", "override 'entropy.round_to=5': "
		"5 is above entropy.slew, which is 4"},
	{"", "entropy.sample_every=1001", "override 'entropy.sample_every=1001': "
		"1001 is above entropy.window_iters, which is 1000"},
	{"", "entropy.slew=1", "override 'entropy.slew=1': "
		"1 is below entropy.round_to, which is 2"},
	{"compression:\n  calibration:\n    max_batches: 5", NULL,
		"t.yaml:10:18: compression.calibration.max_batches: "
		"5 leaves nothing to measure after warmup_iters, which is 5"},
	{"compression:\n  calibration: {enable: yes, use_fixed_rank_after_calibration: yes}",
		"rank_control.choice=fixed", "t.yaml:9:64: "
		"compression.calibration.use_fixed_rank_after_calibration: "
		"contradicts rank_control.choice: fixed"},
	{"", "compression.calibration.csv_name=a/b",
		"override 'compression.calibration.csv_name=a/b': "
		"expected a name without '/', got 'a/b'"},
	{"results_csv: .a", NULL, "t.yaml:8:14: results_csv: "
		"expected a name that does not begin with '.', got '.a'"},
	{"results_csv: " N50 N50 N50 N50 N50 "n", NULL,
		"t.yaml:8:14: results_csv: the name is longer than 250 bytes"},
	{"results_csv: status.json", NULL, "t.yaml:8:14: results_csv: "
		"'status.json' is another file of the run folder"},
	{"", "compression.calibration.csv_name=events.jsonl",
		"override 'compression.calibration.csv_name=events.jsonl': "
		"'events.jsonl' is another file of the run folder"},
	{"", "compression.calibration.csv_name=worker0.log",
		"override 'compression.calibration.csv_name=worker0.log': "
		"'worker0.log' is another file of the run folder"},
	{"compression:\n  calibration: {enable: yes, use_fixed_rank_after_calibration: yes}\n"
		"  rank_schedule:\n    ranges: [{start_epoch: 3, end_epoch: 3, rank: 1}]",
		NULL, "t.yaml:11:13: compression.rank_schedule.ranges: contradicts "
		"compression.calibration.use_fixed_rank_after_calibration: true"},
	{"", "model.num_classes=1", "override 'model.num_classes=1': "
		"expected a whole number from 2 to 1000000, got '1'"},
};

#define STAGE "adaptive_training:\n  enable: true\n  stages:\n"                                  \
	"    - {start_epoch: 0, end_epoch: 3, base_matrix_rank: 4}\n"

static const struct refusal stages[] = {
	{"adaptive_training:\n  enable: true", NULL, "t.yaml:9:11: adaptive_training.enable: "
		"needs adaptive_training.stages"},
	{STAGE "    - {start_epoch: 3, end_epoch: 9}", NULL,
		"t.yaml:12:7: adaptive_training.stages[1]: "
		"epochs 3 to 9 overlap epochs 0 to 3 of stages[0]"},
	{STAGE "    - {start_epoch: 5, end_epoch: 4}", NULL,
		"t.yaml:12:7: adaptive_training.stages[1]: start_epoch 5 is after end_epoch 4"},
	{STAGE "    - {start_epoch: 5}", NULL,
		"t.yaml:12:7: adaptive_training.stages[1]: required key 'end_epoch' is missing"},
	{STAGE "    - {start_epoch: 5, end_epoch: 5, base_matrix_rank: 0}", NULL,
		"t.yaml:12:56: adaptive_training.stages[1].base_matrix_rank: " RANK_1},
	{STAGE "    - {start_epoch: 5, end_epoch: 5, base_sync_frequency: 0}", NULL,
		"t.yaml:12:59: adaptive_training.stages[1].base_sync_frequency: "
		"expected a whole number from 1 to 65535, got '0'"},
	{STAGE "    - {start_epoch: 5, end_epoch: 5, learning_rate: 0}", NULL,
		"t.yaml:12:53: adaptive_training.stages[1].learning_rate: "
		"expected a number above 0, got '0'"},
	{STAGE "compression: {max_rank: 3}", "compression.enable_stage_adjust=true",
		"t.yaml:11:56: "
		"adaptive_training.stages[0].base_matrix_rank: "
		"4 is above compression.max_rank, which is 3"},
	{STAGE "accordion: {enable: true}", "compression.enable_stage_adjust=true",
		"override 'compression.enable_stage_adjust=true': "
		"contradicts accordion.enable: true"},
	{STAGE "compression: {use_fixed_rank: true}", "compression.enable_stage_adjust=true",
		"override 'compression.enable_stage_adjust=true': "
		"contradicts compression.use_fixed_rank: true"},
	{STAGE "compression: {enable_stage_adjust: true}", "rank_control.choice=max",
		"override 'rank_control.choice=max': "
		"'max' contradicts compression.enable_stage_adjust: true"},
	{STAGE "compression: {calibration: {enable: yes, "
		"use_fixed_rank_after_calibration: yes}}", "compression.enable_stage_adjust=true",
		"override 'compression.enable_stage_adjust=true': contradicts "
		"compression.calibration.use_fixed_rank_after_calibration: true"},
	{STAGE "compression:\n  enable_stage_adjust: true\n  rank_schedule:\n"
		"    ranges: [{start_epoch: 3, end_epoch: 3, rank: 1}]", NULL,
		"t.yaml:15:13: compression.rank_schedule.ranges: "
		"contradicts compression.enable_stage_adjust: true"},
};

static const struct refusal models[] = {
	{"", "checkpoint.keep=0", "override 'checkpoint.keep=0': "
		"expected a whole number from 1 to 1000, got '0'"},
	{"", "model={name: resnet18, pretrained: true}",
		"override 'model={name: resnet18, pretrained: true}': model.pretrained: "
		"needs model.weights, a safetensors file with torchvision's names for resnet18: "
		"load the weights that torchvision publishes for it with torch, save them with "
		"safetensors.torch.save_file"},
	{"", "model.weights=w.safetensors", "override 'model.weights=w.safetensors': "
		"needs model.pretrained: true"},
	{"", "dataset.image_size=64", "override 'dataset.image_size=64': "
		"needs dataset.name: imagenet, not synthetic"},
	{"", "dataset.loader_threads=2", "override 'dataset.loader_threads=2': "
		"needs dataset.name: imagenet, not synthetic"},
	{"", "dataset.prefetch_batches=9", "override 'dataset.prefetch_batches=9': "
		"needs dataset.name: imagenet, not synthetic"},
	{"", "dataset.skip_bad=true", "override 'dataset.skip_bad=true': "
		"needs dataset.name: imagenet, not synthetic"},
	{"", "dataset.augment=resized_crop_flip", "override 'dataset.augment=resized_crop_flip': "
		"needs dataset.name: imagenet, not synthetic"},
	{"", "dataset={name: imagenet, root: x, augment: crop_flip, batch_size: 1}",
		"override 'dataset={name: imagenet, root: x, augment: crop_flip, batch_size: 1}': "
		"dataset.augment: crop_flip is for small images, "
		"expected resized_crop_flip or none"},
	{"", "training={epochs: 1, learning_rate: 0.1, warmup_epochs: 1, warmup_start_lr: 0.2}",
		"override 'training={epochs: 1, learning_rate: 0.1, warmup_epochs: 1, "
		"warmup_start_lr: 0.2}': training.warmup_start_lr: "
		"0.2 is above training.learning_rate, which is 0.1"},
	{"", "training.warmup_min_factor=0", "override 'training.warmup_min_factor=0': "
		"expected a number above 0 and at most 1, got '0'"},
	{"", "training.warmup_min_factor=1.5", "override 'training.warmup_min_factor=1.5': "
		"expected a number above 0 and at most 1, got '1.5'"},
};
/* clang-format on */

#define REFUSED(name)                                                                              \
	START_TEST(refuses_##name)                                                                 \
	{                                                                                          \
		refused(name, sizeof(name) / sizeof(name[0]));                                     \
	}                                                                                          \
	END_TEST

REFUSED(numbers)
REFUSED(words)
REFUSED(keys)
REFUSED(overrides)
REFUSED(ranks)
REFUSED(together)
REFUSED(stages)
REFUSED(models)

static void whole_file(const char *text, size_t n, psgd_status expected, const char *message)
{
	struct psgd_config *config;
	char error[500];
	psgd_status status;

	write_bytes("t.yaml", text, n);
	status = psgd_config_load("t.yaml", NULL, 0, &config, error, sizeof(error));
	ck_assert_str_eq(error, message);
	ck_assert_int_eq(status, expected);
	ck_assert_ptr_null(config);
}

START_TEST(refuses_files)
{
	static const char zero[] = "seed: 3\0";
	struct psgd_config *config;
	char error[500];

	ck_assert_int_eq(
		psgd_config_load("no.yaml", NULL, 0, &config, error, sizeof(error)), PSGD_ERR_IO);
	ck_assert_str_eq(error, "no.yaml: cannot read: No such file or directory");
	ck_assert_int_eq(
		psgd_config_load(".", NULL, 0, &config, error, sizeof(error)), PSGD_ERR_IO);
	ck_assert_str_eq(error, ".: cannot read: Is a directory");
	whole_file("", 0, PSGD_ERR_CONFIG, "t.yaml: model: required key 'name' is missing");
	whole_file(
		"# empty\n", 8, PSGD_ERR_CONFIG, "t.yaml: model: required key 'name' is missing");
	whole_file(
		"- 3\n", 4, PSGD_ERR_CONFIG, "t.yaml:1:1: expected a mapping of keys, got a list");
	whole_file(
		zero, sizeof(zero), PSGD_ERR_CONFIG, "t.yaml: not a text file, it has zero bytes");
	whole_file("seed: 3\n\tthreads: 2\n", 20, PSGD_ERR_CONFIG,
		"t.yaml:2:1: not valid YAML: found a tab character that violates indentation "
		"while scanning a plain scalar");
	whole_file("seed: 1\n---\nseed: 2\n", 20, PSGD_ERR_CONFIG,
		"t.yaml:3:1: expected one YAML document, got a second one");
	whole_file("\"a\\nb\": 1\n", 10, PSGD_ERR_CONFIG, "t.yaml:1:1: unknown key 'a?b'");
}
END_TEST

/* Each of these takes libyaml minutes, or more memory than there is, when it is let go on. */
START_TEST(refuses_hostile_files)
{
	size_t n = (size_t)1 << 20;
	char *text = malloc(n + 1);

	ck_assert_ptr_nonnull(text);
	memset(text, '[', n);
	whole_file(text, n, PSGD_ERR_CONFIG, "t.yaml:1:17: too deeply nested for a configuration");
	for (size_t i = 0; i < n; i++)
		text[i] = "[,1"[i ? 1 + i % 2 : 0];
	whole_file(text, n, PSGD_ERR_CONFIG, "t.yaml:1:39996: too many values for a configuration");
	memset(text, ' ', n + 1);
	whole_file(text, n + 1, PSGD_ERR_CONFIG,
		"t.yaml: too large for a configuration, the limit is 1048576 bytes");
	free(text);
}
END_TEST

/* A message that does not fit is cut, and nobody needs to want it. */
START_TEST(error_buffer)
{
	const char *override = "training.epohs=3";
	struct psgd_config *config;
	char error[10];

	write_text("t.yaml", SMALLEST);
	ck_assert_int_eq(psgd_config_load("t.yaml", &override, 1, &config, error, sizeof(error)),
		PSGD_ERR_CONFIG);
	ck_assert_str_eq(error, "override ");
	ck_assert_int_eq(
		psgd_config_load("t.yaml", &override, 1, &config, NULL, 0), PSGD_ERR_CONFIG);
	ck_assert_int_eq(psgd_config_load(NULL, NULL, 0, &config, NULL, 0), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_config_load("t.yaml", NULL, 1, &config, NULL, 0), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_config_load("t.yaml", NULL, 0, NULL, NULL, 0), PSGD_ERR_INVALID);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("config errors");
	TCase *t = tcase_create("refusals");

	tcase_add_checked_fixture(t, enter_folder, leave_folder);
	tcase_set_timeout(t, 30);
	tcase_add_test(t, refuses_numbers);
	tcase_add_test(t, refuses_words);
	tcase_add_test(t, refuses_keys);
	tcase_add_test(t, refuses_overrides);
	tcase_add_test(t, refuses_ranks);
	tcase_add_test(t, refuses_together);
	tcase_add_test(t, refuses_stages);
	tcase_add_test(t, refuses_models);
	tcase_add_test(t, refuses_files);
	tcase_add_test(t, refuses_hostile_files);
	tcase_add_test(t, error_buffer);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
