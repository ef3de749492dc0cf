#!/usr/bin/env python3
"""Every key of the configuration does something, or is refused by name.

TABLE has an entry for every key in configs/README.md, which is complete by another test. An entry
says which short runs to make and what must differ between them: bytes, ranks, learning rates,
files, times, or the hash of the parameters. What a run only repeats in resolved.yaml is no effect.
Runs are shared, and a few of them go at a time; those whose times are compared go one by one, after
the others.

PSGD_BIN and TRAINER_BIN are the programs, CONFIGS the folder configs/.
"""
import concurrent.futures
import os
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.environ['CONFIGS']), 'tools'))
import keys_support as keys  # noqa: E402
import tap_unittest  # noqa: E402
from keys_support import (column, differ, exists, fails, longer, more, notice,  # noqa: E402
                          params, plan_differs, ranks, rates, refused, wire)

os.environ['CUDA_VISIBLE_DEVICES'] = '-1'
AT_ONCE = 4

BASE = """
model: {name: mlp}
dataset: {name: synthetic, batch_size: 8, train_limit: 64, test_limit: 40}
training: {epochs: 3, learning_rate: 0.05}
compression: {start_power_iterations: 2, base_rank: 2}
communication: {measure: false}
checkpoint: {every_epochs: 0}
seed: 7
"""


# Rank control by the change of the gradient: it never counts as much, so that what is seen are the
# beginning, the drop of the learning rate in the middle, and the cooldowns.
EPOCHS = ('dataset.train_limit=32;training={epochs: 9, learning_rate: 0.05, scheduler: multistep, '
          'milestones: [4]};compression={start_power_iterations: 0, max_rank: 4};'
          'accordion={enable: true, force_max_epochs: 2, stride_epochs: 1, '
          'rank_cooldown_epochs: 0, lr_cooldown_epochs: 1, threshold: 1000000}')
STEPS = ('dataset.train_limit=32;training={epochs: 9, learning_rate: 0.05, scheduler: multistep, '
         'milestones: [4]};compression={start_power_iterations: 0, max_rank: 4};'
         'accordion={enable: true, force_max_iters: 4, stride_iters: 2, '
         'rank_cooldown_iters: 0, lr_cooldown_iters: 3, threshold: 1000000}')
EMA = ('training.epochs=5;compression={start_power_iterations: 0, max_rank: 8};'
       'accordion={enable: true, rule: ema, update_interval: 2, critical_factor: 2000000, '
       'relaxed_factor: 1000000, ema_beta: 0.9}')
# A dense step of 7 MB takes 0.3 s, so that it is seen and does not last.
SLOW = 'network_limits={enable: true, bandwidth_mbps: 200, latency_ms: 1}'
CALIBRATION = ('network_limits={enable: true, bandwidth_mbps: 20, latency_ms: 1};'
               'rank_control.dense_candidate=false;'
               'compression={start_power_iterations: 0, calibration: {enable: true, '
               'warmup_iters: 1, measure_iters: 2, ranks: [1, 2, 4]}}')
# All of a step may be exposed, so the cap goes up whenever it may.
LIVE = ('training.epochs=8;compression.start_power_iterations=0;rank_control={cap: live, '
        'candidates: [1, 2, 4, 8], dwell_iters: 2, max_exposed: 1}')
SCHEDULE = ('compression={start_power_iterations: 0, rank_schedule: {default_rank: 3, '
            'ranges: [{start_epoch: 1, end_epoch: 1, rank: 5}]}}')
STAGES = ('compression={start_power_iterations: 0, base_rank: 3, enable_stage_adjust: true, '
          'enable_adaptive_sync: true};adaptive_training={enable: true, stages: [{name: first, '
          'start_epoch: 1, end_epoch: 1, base_matrix_rank: 5, base_sync_frequency: 2, '
          'learning_rate: 0.02}]}')
LGRECO = ('training.epochs=6;compression={start_power_iterations: 0, base_rank: 4, max_rank: 16};'
          'rank_control.choice=lgreco;lgreco={adjust_iters: 4, sample_iters: 2, alpha: 1.2}')
ENTROPY = ('training.epochs=6;compression={start_power_iterations: 0, max_rank: 16};'
           'rank_control.choice=entropy;entropy={window_iters: 4, sample_every: 2, slew: 5, '
           'round_to: 2}')
FOLDERS = ('dataset={name: imagenet, root: folders, batch_size: 4, image_size: 32};'
           'training.epochs=1;model={name: resnet8, num_classes: 2}')
CHANGE = ('network_limits={enable: true, bandwidth_mbps: 200, latency_ms: 10, schedule: '
          '[{at_iteration: 6, egress_mbps: 2000, ingress_mbps: 2000, latency_ms: 0.1}]}')
JITTER = ('compression.enable_powerSGD=false;training.max_iterations=10;'
          'network_limits={enable: true, latency_ms: 60}')
WEIGHTS = ';model.pretrained=true;model.weights=weights{}.safetensors'
RESNET = 'model.name=resnet8;dataset.train_limit=32;training.epochs=1'


def but(base, old, new):
    """The overrides of `base` with one text in place of another."""
    assert base.count(old) == 1, (base, old)
    return base.replace(old, new)


def pair(check, base, old, new):
    return check(base, but(base, old, new))


def late(run):
    """The wire time of the second half of the steps."""
    times = [float(time) for time in run.column('wire_time')]
    return sum(times[len(times) // 2:])


def spread(run):
    """How much the wire time of a step varies, its outliers left out."""
    times = sorted(float(time) for time in run.column('wire_time')[2:])
    return times[len(times) * 3 // 4] - times[len(times) // 4]


def calibrated(run):
    return run.table('calibration_rank_stats.csv')


def measured(*runs):
    return differ(lambda run: [row['measured_steps'] for row in calibrated(run)], *runs)


def chosen(run):
    return [row['rank'] for row in calibrated(run) if row['chosen'] == 'True']


def saved(run):
    """The checkpoints of a run; each is a file or folder of its own."""
    return sorted(os.listdir(os.path.join(run.folder, 'ckpt'))) if os.path.isdir(
        os.path.join(run.folder, 'ckpt')) else []


def steps(run):
    return len(run.table())


TABLE = {
    'name': exists('results/*/unit/status.json', 'save_dir=;name=unit'),
    'save_dir': exists('elsewhere/status.json', 'save_dir=elsewhere'),
    'results_csv': exists('{}/accuracy/mine.csv', 'results_csv=mine.csv'),
    'benchmark_save_dir': exists('there/benchmark_*/csv/*.csv', 'benchmark_save_dir=there'),
    'seed': params('', 'seed=8'),
    'threads': more(lambda run: run.most_threads, '', 'threads=5'),
    # CUDA_VISIBLE_DEVICES hides what there may be; what CUDA does is tested elsewhere
    'device': fails('device=cpu', 'device=cuda', code=5, message='psgd: device: cuda: '),
    'allow_mixed': notice('allow_mixed', 'device=cpu', 'device=cpu;allow_mixed=true'),

    'model.name': column('raw_bytes', '', 'model.name=cnn'),
    'model.stem': plan_differs('parameters', 'model={name: resnet18, stem: cifar}',
                               'model={name: resnet18, stem: imagenet};dataset={name: cifar10, '
                               'batch_size: 8}'),
    'model.num_classes': column('raw_bytes', '', 'model.num_classes=12'),
    'model.pretrained': params(RESNET, RESNET + WEIGHTS.format(1)),
    'model.weights': params(RESNET + WEIGHTS.format(1), RESNET + WEIGHTS.format(2)),
    'model.sync_batchnorm': params(RESNET, RESNET + ';model.sync_batchnorm=false'),

    'dataset.name': params('', 'dataset={name: idx, root: idx1, batch_size: 8}'),
    'dataset.root': params('dataset={name: idx, root: idx1, batch_size: 8}',
                           'dataset={name: idx, root: idx2, batch_size: 8}'),
    'dataset.augment': params('', 'dataset.augment=crop_flip'),
    'dataset.batch_size': differ(steps, '', 'dataset.batch_size=16'),
    'dataset.train_limit': differ(steps, '', 'dataset.train_limit=32'),
    'dataset.test_limit': differ(lambda run: [row['accuracy'] for row in
                                              run.table('accuracy/accuracy_results.csv')],
                                 '', 'dataset.test_limit=7'),
    'dataset.image_size': pair(params, FOLDERS, 'image_size: 32', 'image_size: 36'),
    'dataset.loader_threads': more(lambda run: run.most_threads, FOLDERS,
                                   FOLDERS + ';dataset.loader_threads=9'),
    'dataset.prefetch_batches': more(lambda run: float(run.column('memory_usage_mb')[-1]),
                                     but(FOLDERS, '32', '128') + ';dataset.prefetch_batches=1',
                                     but(FOLDERS, '32', '128') + ';dataset.prefetch_batches=40',
                                     by=1.05),
    'dataset.skip_bad': fails(but(FOLDERS, 'folders', 'damaged') + ';dataset.skip_bad=true',
                              but(FOLDERS, 'folders', 'damaged'), code=2, message='000.jpeg'),

    'training.epochs': differ(steps, '', 'training.epochs=2'),
    'training.max_iterations': differ(steps, '', 'training.max_iterations=7'),
    'training.learning_rate': rates('', 'training.learning_rate=0.04'),
    'training.momentum': params('', 'training.momentum=0.5'),
    'training.weight_decay': params('', 'training.weight_decay=0.1'),
    'training.nesterov': params('', 'training.nesterov=true'),
    'training.scheduler': rates('', 'training.scheduler=cosine'),
    'training.step_size': rates('training={scheduler: step, step_size: 1, epochs: 3, '
                                'learning_rate: 0.05}',
                                'training={scheduler: step, step_size: 2, epochs: 3, '
                                'learning_rate: 0.05}'),
    'training.milestones': rates('training={scheduler: multistep, milestones: [1], epochs: 3, '
                                 'learning_rate: 0.05}',
                                 'training={scheduler: multistep, milestones: [2], epochs: 3, '
                                 'learning_rate: 0.05}'),
    'training.gamma': rates('training={scheduler: step, step_size: 1, epochs: 3, '
                            'learning_rate: 0.05}',
                            'training={scheduler: step, step_size: 1, epochs: 3, '
                            'learning_rate: 0.05, gamma: 0.5}'),
    'training.T_max': rates('training.scheduler=cosine', 'training.scheduler=cosine;'
                            'training.T_max=9'),
    'training.warmup_epochs': rates('', 'training.warmup_epochs=2'),
    'training.warmup_start_lr': rates('training.warmup_epochs=2',
                                      'training.warmup_epochs=2;training.warmup_start_lr=0.01'),
    'training.warmup_min_factor': rates('training.warmup_epochs=2',
                                        'training.warmup_epochs=2;'
                                        'training.warmup_min_factor=0.3'),

    'training.tf32': notice('training.tf32', 'device=cpu', 'device=cpu;training.tf32=none'),

    'powerSGD.use_error_feedback': params('', 'powerSGD.use_error_feedback=false'),
    'powerSGD.min_compression_rate': column('payload_bytes', '',
                                            'powerSGD.min_compression_rate=200'),
    'powerSGD.warm_start': params('', 'powerSGD.warm_start=false'),
    'powerSGD.orthogonalization_epsilon': params('', 'powerSGD.orthogonalization_epsilon=0.5'),
    'powerSGD.random_seed': params('', 'powerSGD.random_seed=43'),
    'powerSGD.compression_stats_logging_frequency':
        differ(lambda run: len(run.events('stats')), '',
               'powerSGD.compression_stats_logging_frequency=5'),
    'powerSGD.batch_tensors_with_same_shape':
        notice('powerSGD.batch_tensors_with_same_shape', '',
               'powerSGD.batch_tensors_with_same_shape=true'),
    'powerSGD.matrix_approximation_rank': ranks(
        'compression={start_power_iterations: 0}',
        'compression={start_power_iterations: 0};powerSGD.matrix_approximation_rank=3'),
    'powerSGD.start_power_iterations': ranks(
        'compression=', 'compression=;powerSGD.start_power_iterations=3'),

    'compression.enable_powerSGD': column('payload_bytes', '',
                                          'compression.enable_powerSGD=false'),
    'compression.start_power_iterations': ranks('', 'compression.start_power_iterations=5'),
    'compression.min_rank': pair(ranks, EPOCHS, 'max_rank: 4', 'max_rank: 4, min_rank: 2'),
    'compression.max_rank': pair(ranks, EPOCHS, 'max_rank: 4', 'max_rank: 5'),
    'compression.base_rank': ranks('', 'compression.base_rank=3'),
    'compression.use_fixed_rank': ranks('compression.fixed_rank_value=3',
                                        'compression.fixed_rank_value=3;'
                                        'compression.use_fixed_rank=true'),
    'compression.fixed_rank_value': ranks('compression.use_fixed_rank=true',
                                          'compression.use_fixed_rank=true;'
                                          'compression.fixed_rank_value=3'),
    'compression.enable_stage_adjust': pair(ranks, STAGES, 'enable_stage_adjust: true',
                                            'enable_stage_adjust: false'),
    'compression.enable_adaptive_sync': pair(
        lambda *runs: differ(steps, *runs), STAGES, 'enable_adaptive_sync: true',
        'enable_adaptive_sync: false'),

    'compression.calibration.enable': ranks(CALIBRATION,
                                            CALIBRATION + ';compression.calibration.enable=false'),
    'compression.calibration.warmup_iters': pair(
        measured, CALIBRATION + ';compression.calibration.max_batches=4', 'warmup_iters: 1',
        'warmup_iters: 3'),
    'compression.calibration.measure_iters': pair(measured, CALIBRATION, 'measure_iters: 2',
                                                  'measure_iters: 1'),
    'compression.calibration.max_batches': measured(
        CALIBRATION, CALIBRATION + ';compression.calibration.max_batches=2'),
    'compression.calibration.force_start_iter': ranks(
        CALIBRATION, CALIBRATION + ';compression.calibration.force_start_iter=5'),
    'compression.calibration.ranks': differ(
        lambda run: [row['rank'] for row in calibrated(run)], CALIBRATION,
        but(CALIBRATION, '[1, 2, 4]', '[1, 3]')),
    'compression.calibration.comm_ratio_threshold': differ(
        chosen, CALIBRATION + ';compression.calibration.comm_ratio_threshold=1',
        CALIBRATION + ';compression.calibration.comm_ratio_threshold=0.0001'),
    'compression.calibration.allow_rank_one': differ(
        chosen, CALIBRATION + ';compression.calibration.comm_ratio_threshold=0.0001',
        CALIBRATION + ';compression.calibration.comm_ratio_threshold=0.0001;'
        'compression.calibration.allow_rank_one=true'),
    'compression.calibration.use_fixed_rank_after_calibration': ranks(
        CALIBRATION + ';compression.calibration.comm_ratio_threshold=0.0001', CALIBRATION +
        ';compression.calibration.comm_ratio_threshold=0.0001;'
        'compression.calibration.use_fixed_rank_after_calibration=false'),
    'compression.calibration.save_dir': exists(
        'measured/calibration_rank_stats.csv',
        CALIBRATION + ';compression.calibration.save_dir=measured'),
    'compression.calibration.csv_name': exists(
        '{}/mine.csv', CALIBRATION + ';compression.calibration.csv_name=mine.csv'),

    'compression.rank_schedule.default_rank': pair(ranks, SCHEDULE, 'default_rank: 3',
                                                   'default_rank: 2'),
    'compression.rank_schedule.ranges': ranks(SCHEDULE, SCHEDULE +
                                              ';compression.rank_schedule.ranges='),
    'compression.rank_schedule.ranges[].start_epoch': pair(ranks, SCHEDULE, 'start_epoch: 1',
                                                           'start_epoch: 0'),
    'compression.rank_schedule.ranges[].end_epoch': pair(ranks, SCHEDULE, 'end_epoch: 1',
                                                         'end_epoch: 2'),
    'compression.rank_schedule.ranges[].rank': pair(ranks, SCHEDULE, 'rank: 5', 'rank: dense'),

    'adaptive_training.enable': rates(STAGES, STAGES + ';adaptive_training.enable=false'),
    'adaptive_training.stages': rates(STAGES, STAGES + ';adaptive_training='),
    'adaptive_training.stages[].name': pair(
        lambda *r: differ(lambda run: [e['name'] for e in run.events('stage')], *r), STAGES,
        'name: first', 'name: second'),
    'adaptive_training.stages[].start_epoch': pair(rates, STAGES, 'start_epoch: 1',
                                                   'start_epoch: 0'),
    'adaptive_training.stages[].end_epoch': pair(rates, STAGES, 'end_epoch: 1', 'end_epoch: 2'),
    'adaptive_training.stages[].base_matrix_rank': pair(ranks, STAGES, 'base_matrix_rank: 5',
                                                        'base_matrix_rank: 6'),
    'adaptive_training.stages[].base_sync_frequency': pair(
        lambda *runs: differ(steps, *runs), STAGES, 'base_sync_frequency: 2',
        'base_sync_frequency: 4'),
    'adaptive_training.stages[].learning_rate': pair(rates, STAGES, 'learning_rate: 0.02',
                                                     'learning_rate: 0.03'),

    'accordion.enable': pair(ranks, EPOCHS, 'enable: true', 'enable: false'),
    'accordion.force_max_epochs': pair(ranks, EPOCHS, 'force_max_epochs: 2',
                                       'force_max_epochs: 3'),
    'accordion.stride_epochs': pair(ranks, EPOCHS, 'stride_epochs: 1', 'stride_epochs: 3'),
    'accordion.rank_cooldown_epochs': pair(ranks, EPOCHS, 'rank_cooldown_epochs: 0',
                                           'rank_cooldown_epochs: 9'),
    'accordion.lr_cooldown_epochs': pair(ranks, EPOCHS, 'lr_cooldown_epochs: 1',
                                         'lr_cooldown_epochs: 3'),
    'accordion.force_max_iters': pair(ranks, STEPS, 'force_max_iters: 4', 'force_max_iters: 7'),
    'accordion.stride_iters': pair(ranks, STEPS, 'stride_iters: 2', 'stride_iters: 5'),
    'accordion.rank_cooldown_iters': pair(ranks, STEPS, 'rank_cooldown_iters: 0',
                                          'rank_cooldown_iters: 99'),
    'accordion.lr_cooldown_iters': pair(ranks, STEPS, 'lr_cooldown_iters: 3',
                                        'lr_cooldown_iters: 6'),
    'accordion.threshold': pair(ranks, STEPS, 'threshold: 1000000', 'threshold: 0.000001'),
    'accordion.rule': pair(ranks, EMA, 'rule: ema', 'rule: epoch'),
    'accordion.ema_beta': ranks(
        but(EMA, 'critical_factor: 2000000, relaxed_factor: 1000000',
            'critical_factor: 1.1, relaxed_factor: 0.98'),
        but(but(EMA, 'critical_factor: 2000000, relaxed_factor: 1000000',
                'critical_factor: 1.1, relaxed_factor: 0.98'), 'ema_beta: 0.9', 'ema_beta: 0.01')),
    'accordion.critical_factor': ranks(
        EMA, but(EMA, 'critical_factor: 2000000, relaxed_factor: 1000000',
                 'critical_factor: 0.00002, relaxed_factor: 0.00001')),
    'accordion.relaxed_factor': pair(ranks, EMA, 'relaxed_factor: 1000000',
                                     'relaxed_factor: 0.000001'),
    'accordion.update_interval': pair(ranks, EMA, 'update_interval: 2', 'update_interval: 5'),

    'lgreco.adjust_iters': pair(lambda *r: column('payload_bytes', *r), LGRECO,
                                'adjust_iters: 4', 'adjust_iters: 9'),
    'lgreco.sample_iters': pair(lambda *r: column('payload_bytes', *r), LGRECO,
                                'sample_iters: 2', 'sample_iters: 4'),
    'lgreco.alpha': pair(lambda *r: column('payload_bytes', *r), LGRECO,
                         'alpha: 1.2', 'alpha: 3'),
    'lgreco.low': pair(lambda *r: column('payload_bytes', *r), LGRECO,
                       'alpha: 1.2', 'alpha: 1.2, low: 0.9'),
    'lgreco.high': pair(lambda *r: column('payload_bytes', *r), LGRECO,
                        'alpha: 1.2', 'alpha: 1.2, high: 1.1'),

    'entropy.window_iters': pair(ranks, ENTROPY, 'window_iters: 4', 'window_iters: 6'),
    'entropy.sample_every': pair(ranks, ENTROPY, 'sample_every: 2', 'sample_every: 1'),
    'entropy.slew': pair(ranks, ENTROPY, 'slew: 5', 'slew: 3'),
    'entropy.round_to': pair(ranks, ENTROPY, 'round_to: 2', 'round_to: 5'),

    'rank_control.cap': pair(lambda *r: column('rank_cap', *r), LIVE, 'cap: live', 'cap: none'),
    'rank_control.choice': ranks('', 'rank_control.choice=max'),
    'rank_control.candidates': pair(lambda *r: column('rank_cap', *r), LIVE,
                                    'candidates: [1, 2, 4, 8]', 'candidates: [3, 5]'),
    'rank_control.dense_candidate': pair(
        lambda *r: differ(lambda run: [row['rank'] for row in calibrated(run)], *r),
        but(CALIBRATION, 'bandwidth_mbps: 20,', 'bandwidth_mbps: 200,'),
        'dense_candidate=false', 'dense_candidate=true'),
    'rank_control.max_exposed': pair(
        ranks, LIVE, 'max_exposed: 1', 'max_exposed: 0.00001'),
    'rank_control.replay': ranks('rank_control={choice: replay, replay: events1.jsonl}',
                                 'rank_control={choice: replay, replay: events2.jsonl}'),
    'rank_control.dwell_iters': pair(ranks, LIVE, 'dwell_iters: 2', 'dwell_iters: 9'),

    'network_limits.enable': longer(wire, '', SLOW, by=1.5),
    'network_limits.method': fails(
        'network_limits={enable: true, bandwidth_mbps: 200, method: model}',
        'network_limits={enable: true, bandwidth_mbps: 200, method: tc}', code=2, message='tc'),
    'network_limits.interface': fails('network_limits.interface=lo',
                                      'network_limits.interface=none7', code=2,
                                      message='network_limits.interface: there is no'),
    'network_limits.bandwidth_mbps': longer(
        wire, 'network_limits={enable: true, bandwidth_mbps: 2000}',
        'network_limits={enable: true, bandwidth_mbps: 200}', by=1.5),
    'network_limits.egress_mbps': longer(
        wire, 'network_limits={enable: true, egress_mbps: 2000, ingress_mbps: 0}',
        'network_limits={enable: true, egress_mbps: 200, ingress_mbps: 0}', by=1.5),
    'network_limits.ingress_mbps': longer(
        wire, 'network_limits={enable: true, ingress_mbps: 2000}',
        'network_limits={enable: true, ingress_mbps: 200}', by=1.5),
    'network_limits.latency_ms': longer(wire, 'network_limits={enable: true, latency_ms: 1}',
                                        'network_limits={enable: true, latency_ms: 30}', by=2),
    'network_limits.loss_pct': longer(
        wire, 'network_limits={enable: true, latency_ms: 5, bandwidth_mbps: 200}',
        'network_limits={enable: true, latency_ms: 5, bandwidth_mbps: 200, loss_pct: 30}', by=1.5),
    'network_limits.burst_bytes': longer(wire, SLOW + ';network_limits.burst_bytes=1000000000',
                                         SLOW, by=1.5),
    'network_limits.target_ip': refused('network_limits.target_ip=10.0.0.1',
                                        'limits hold for all that an interface sends'),
    'network_limits.auto_cleanup': refused('network_limits.auto_cleanup=false',
                                           'limits are always removed'),
    'network_limits.schedule': longer(late, CHANGE, CHANGE + ';network_limits.schedule=', by=1.5),
    'network_limits.schedule[].at_iteration': pair(
        lambda *r: longer(late, *r, by=1.5), CHANGE, 'at_iteration: 6', 'at_iteration: 1000'),
    'network_limits.schedule[].at_second': pair(
        lambda *r: longer(late, *r, by=1.5), but(CHANGE, 'at_iteration: 6', 'at_second: 0.05'),
        'at_second: 0.05', 'at_second: 1000'),
    'network_limits.schedule[].egress_mbps': pair(
        lambda *r: longer(late, *r, by=1.5), CHANGE, 'egress_mbps: 2000', 'egress_mbps: 10'),
    'network_limits.schedule[].ingress_mbps': pair(
        lambda *r: longer(late, *r, by=1.5), CHANGE, 'ingress_mbps: 2000', 'ingress_mbps: 10'),
    'network_limits.schedule[].latency_ms': pair(
        lambda *r: longer(late, *r, by=1.5), CHANGE, 'latency_ms: 0.1', 'latency_ms: 20'),
    'network_limits.jitter_ms': longer(
        spread, JITTER, JITTER + ';network_limits.jitter_ms=60', by=2),

    'communication.transport': refused('device=cpu;communication.transport=nccl',
                                       'nccl is for device: cuda'),
    'communication.interface': fails('communication.interface=lo',
                                     'communication.interface=none7', code=2,
                                     message='communication.interface: there is no'),
    'communication.check_every': more(lambda run: run.total('control_bytes'), '',
                                      'communication.check_every=1'),
    'communication.overlap': longer(lambda run: run.total('hidden_wire_time'),
                                    SLOW + ';communication.overlap=false', SLOW),
    'communication.measure': exists('{}/env_metrics_rank0_*.txt', 'communication.measure=true'),
    'communication.timeout_s': fails(
        SLOW, SLOW + ';network_limits.latency_ms=3000;communication.timeout_s=0.5', code=4,
        message='not through after 0.5 s'),

    'checkpoint.every_epochs': differ(saved, '', 'checkpoint.every_epochs=2'),
    'checkpoint.every_iters': differ(saved, '', 'checkpoint.every_iters=5'),
    'checkpoint.keep': differ(saved, 'checkpoint={every_epochs: 0, every_iters: 2}',
                              'checkpoint={every_epochs: 0, every_iters: 2, keep: 4}'),
}


OLDER = ('file=' + os.path.join(os.environ['CONFIGS'], 'seed_all_keys.yaml'),
         'save_dir=older/run', 'benchmark_save_dir=older/run/benchmark', 'model.name=resnet8',
         'dataset.name=synthetic', 'dataset.batch_size=8', 'dataset.train_limit=192',
         'dataset.test_limit=40', 'training.epochs=2', 'training.warmup_epochs=1',
         'compression.calibration.save_dir=older/csv',
         'compression.calibration.csv_name=measured.csv', 'compression.calibration.max_batches=6')


class Keys(unittest.TestCase):
    """A test for each key is added below."""
    results = {}

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix='psgd-keys-')
        os.chdir(cls.folder)
        with open('base.yaml', 'w', encoding='utf-8') as file:
            file.write(BASE)
        keys.write_idx('idx1', 1)
        keys.write_idx('idx2', 2)
        keys.write_folders('folders')
        keys.write_folders('damaged', damaged=True)
        for shade in (1, 2):
            keys.write_weights(f'weights{shade}.safetensors', shade, os.environ['TRAINER_BIN'],
                               'model.name=resnet8')
        for rank in (1, 2):
            with open(f'events{rank}.jsonl', 'w', encoding='utf-8') as file:
                file.write('{"event": "rank", "step": 0, "rank": %d}\n' % rank)
        wanted = dict.fromkeys((entry.make, run) for entry in TABLE.values()
                               for run in entry.runs)
        wanted[keys.Run, OLDER] = None
        timed = {(entry.make, run) for entry in TABLE.values() if entry.alone for run in entry.runs}
        for alone, at_once in ((False, AT_ONCE), (True, 1)):
            with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
                for number, key in enumerate(wanted):
                    if (key in timed) == alone:
                        cls.results[key] = pool.submit(key[0], number, key[1])

    @classmethod
    def tearDownClass(cls):
        os.chdir('/')
        shutil.rmtree(cls.folder)

    def test_older_file_runs(self):
        """All keys of the older tool at once, on a small net and a few images."""
        run = self.results[keys.Run, OLDER].result()
        self.assertEqual(run.code, 0, run.output)
        self.assertEqual(len(run.table('accuracy/accuracy_results.csv')), 2)
        self.assertEqual(len(run.events('notice')), 5)
        self.assertEqual(run.output.count('\nnote: accordion.'), 4)
        self.assertTrue(os.path.exists('older/csv/measured.csv'))
        with open('older/csv/measured.csv', encoding='utf-8') as file:
            rows = [line.split(',') for line in file.read().splitlines()]
        self.assertEqual([row[0] for row in rows[1:]], ['1', '2', '3', '4', '5', '6', '7', '8',
                                                        'dense'])
        self.assertEqual({row[rows[0].index('measured_steps')] for row in rows[1:]}, {'1'})
        self.assertRegex(run.params, '^[0-9a-f]{16}$')

    def test_every_key_has_an_entry(self):
        self.assertEqual(sorted(TABLE), sorted(keys.all_keys()))


def add_test(key, entry):
    def check(self):
        entry.judge(self, *(self.results[entry.make, run].result() for run in entry.runs))
    setattr(Keys, 'test_' + key, check)


for the_key, the_entry in TABLE.items():
    add_test(the_key, the_entry)

if __name__ == '__main__':
    tap_unittest.main()
