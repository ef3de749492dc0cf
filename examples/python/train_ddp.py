#!/usr/bin/env python3
"""Trains a small network on two workers of this machine with DistributedDataParallel, over libpsgd
or over torch's own hooks, and changes the matrix rank twice while it trains.

Ends with 0 only if both workers have the same parameters, bit for bit. It starts two workers, or is
one when RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say which, as under torchrun.
"""
import argparse
import os
import socket
import sys
from importlib import util

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import (PowerSGDState,
                                                                       powerSGD_hook)
from torch.nn.parallel import DistributedDataParallel

try:
    import psgd
    import torch_hook
except ImportError as error:
    sys.exit(f'train_ddp: {error}')

WORKERS = 2
CLASSES, BATCH = 10, 32
SMALL_MB, LARGE_MB = 0.005, 1000  # of a bucket: several, or all in one


def network():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 4 * 4, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def batches(worker, seed):
    """Images of 16 x 16: a pattern for each class under noise. Every worker has its own."""
    patterns = torch.randn(CLASSES, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    source = torch.Generator().manual_seed(seed + 1 + worker)
    while True:
        labels = torch.randint(CLASSES, (BATCH,), generator=source)
        noise = torch.randn(BATCH, 1, 16, 16, generator=source)
        yield patterns[labels] + 1.5 * noise, labels


def attach(name, model, rank):
    """Registers the hook; returns its state when its rank can be changed, else None."""
    if name == 'dense':
        return None
    if name == 'torch':
        model.register_comm_hook(
            PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=2),
            powerSGD_hook)
        return None
    kind = torch_hook.OwnTransport if name == 'psgd' else torch_hook.TorchCollectives
    state = kind(model, psgd.powersgd(rank=rank, start_step=2))
    model.register_comm_hook(state, torch_hook.hook)
    return state


def train(options, name, ranks, bucket_mb):
    """One training; ranks are in force for a third of the steps each. The losses of its steps."""
    torch.manual_seed(options.seed)
    model = DistributedDataParallel(network(), bucket_cap_mb=bucket_mb,
                                    gradient_as_bucket_view=True)
    state = attach(name, model, ranks[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    data = batches(dist.get_rank(), options.seed)
    losses = []
    for step in range(options.steps):
        rank = ranks[step * len(ranks) // options.steps]
        if state and step and rank != ranks[(step - 1) * len(ranks) // options.steps]:
            state.set_rank(rank)
            say(f'step {step}: r = {rank}')
        images, labels = next(data)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(mean_of(loss.item()))
        if step % 20 == 0 or step == options.steps - 1:
            say(f'step {step}: loss {losses[-1]:.4f}{describe(state)}')
    check_equal(model)
    if state:
        state.close()
    return losses


def describe(state):
    if not state:
        return ''
    report = state.report
    return (f', {report.n_buckets} buckets, {report.payload_bytes} of {report.raw_bytes} bytes')


def mean_of(value):
    total = torch.tensor([value])
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def check_equal(model):
    """Ends the worker when a parameter differs from worker 0's in any bit."""
    mine = nn.utils.parameters_to_vector(model.parameters()).detach()
    first = mine.clone()
    dist.broadcast(first, 0)
    if not torch.equal(mine.view(torch.int32), first.view(torch.int32)):
        sys.exit(f'worker {dist.get_rank()}: parameters differ from those of worker 0')
    dist.barrier()
    say('parameters are bit-equal on all workers')


def say(text):
    if dist.get_rank() == 0:
        print(text, flush=True)


def plot(path, curves):
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    for label, losses in curves.items():
        pyplot.plot(losses, label=label)
    pyplot.xlabel('step')
    pyplot.ylabel('mean training loss')
    pyplot.legend()
    pyplot.savefig(path)
    print('loss curves are in', path)


def compare(options):
    """Ours beside torch's hook at one rank, both with a single bucket."""
    rank = options.ranks[0]
    curves = {}
    for label, name in (('libpsgd', 'psgd'), ('PyTorch powerSGD_hook', 'torch')):
        say(f'{label}, r = {rank}, a single bucket')
        curves[f'{label}, r = {rank}'] = train(options, name, [rank], LARGE_MB)
    if dist.get_rank() == 0:
        plot(options.plot, curves)


def worker(number, options):
    if number is not None:
        os.environ.update(RANK=str(number), WORLD_SIZE=str(WORKERS), MASTER_ADDR='127.0.0.1',
                          MASTER_PORT=str(options.port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    # Torch's hook posts from callbacks. With several buckets their order may differ between the
    # workers, and then messages of different lengths meet.
    bucket_mb = LARGE_MB if options.plot or options.hook == 'torch' else SMALL_MB
    dist._DEFAULT_FIRST_BUCKET_BYTES = int(bucket_mb * (1 << 20))  # DDP has its own for the first
    if options.plot:
        compare(options)
    else:
        train(options, options.hook, options.ranks, bucket_mb)
    dist.barrier()
    dist.destroy_process_group()


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


def positive(text):
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--hook', choices=('psgd', 'psgd-exchange', 'torch', 'dense'),
                        default='psgd', help='psgd: the library moves the messages; psgd-exchange: '
                        'torch.distributed moves them; torch: its own PowerSGD; dense: its mean')
    parser.add_argument('--ranks', type=positive, nargs='+', default=[4, 1, 2],
                        help='matrix ranks, one after the other (of psgd and psgd-exchange; torch '
                        'keeps the first)')
    parser.add_argument('--steps', type=positive, default=120)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--plot', metavar='FILE', help='train with libpsgd and with torch at the '
                        'first of the ranks, and write both loss curves (PNG, PDF, SVG)')
    options = parser.parse_args()
    if options.plot and not util.find_spec('matplotlib'):
        sys.exit('--plot needs matplotlib (Debian: python3-matplotlib)')
    if 'RANK' in os.environ:
        worker(None, options)
        return
    os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo')
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    options.port = free_port()
    torch.multiprocessing.spawn(worker, (options,), nprocs=WORKERS)


if __name__ == '__main__':
    main()
