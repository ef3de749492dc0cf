"""One of the workers of compare_pytorch: the same gradients through both hooks, in turn.

A module whose loss has just the wanted gradients makes DistributedDataParallel call a hook with
real buckets, and costs next to nothing.
"""
import time
from collections import defaultdict

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as theirs
from torch.nn.parallel import DistributedDataParallel

import compare_pytorch_philox
import psgd
import torch_hook

START = 2  # steps that torch's hook must leave uncompressed; ours does the same here
CHECKED = 4  # compressed steps whose outputs are compared
WARM = 3  # further ones that are not measured
POOL = 3  # sets of gradients, used in turn
MIN_RATIO = 2  # default of both
MIB = 1 << 20


class Given(torch.autograd.Function):
    """Has no value, and gives each parameter the gradient that it is told."""
    @staticmethod
    def forward(ctx, grads, *parameters):
        ctx.grads = grads
        return torch.zeros(())

    @staticmethod
    def backward(ctx, _):
        return (None, *ctx.grads)


class Model(nn.Module):
    def __init__(self, shapes):
        super().__init__()
        self.tensors = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)

    def forward(self, grads):
        return Given.apply(grads, *self.tensors)


def memory_kib(field):
    with open('/proc/self/status', encoding='ascii') as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))


class Side:
    """One of the two hooks: its model, and when its steps went from gradients ready to mean in
    place. The clock is the same in all processes of a machine."""
    def __init__(self, shapes, bucket_mb):
        self.span = None
        self.start = None
        self.transient_kib = 0  # memory of the last step that it gave back at its end
        self.measure_memory = False
        self.futures = []
        dist._DEFAULT_FIRST_BUCKET_BYTES = bucket_mb << 20
        self.model = DistributedDataParallel(Model(shapes), bucket_cap_mb=bucket_mb,
                                             gradient_as_bucket_view=True)
        self.model.register_comm_hook(self, timed)

    def step(self, grads):
        self.model.zero_grad(set_to_none=True)
        self.model(grads).backward()

    def outputs(self):
        return [tensor.grad for tensor in self.model.module.tensors]

    def before(self):
        dist.barrier()
        if self.measure_memory:
            with open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
                file.write('5')  # the high-water mark begins anew
            self.kib = memory_kib('VmRSS')
        self.start = time.perf_counter()

    def after(self):
        self.span = self.start, time.perf_counter()
        self.start = None
        if self.measure_memory:
            self.transient_kib = memory_kib('VmHWM') - self.kib

    def extra_bytes(self, grads):
        """Peak of one more step, beyond DistributedDataParallel's own buckets."""
        self.measure_memory = True
        self.step(grads)
        return self.kept_bytes() + self.transient_kib * 1024


def timed(side, bucket):
    """The hook that DistributedDataParallel sees."""
    if side.start is None:
        side.before()
    future = side.reduce(bucket)
    side.futures.append(future)
    if bucket.is_last():
        for one in side.futures:
            one.wait()
        side.futures = []
        side.after()
    return future


class Ours(Side):
    def __init__(self, shapes, rank, bucket_mb):
        super().__init__(shapes, bucket_mb)
        self.state = torch_hook.OwnTransport(
            self.model, psgd.powersgd(rank=rank, start_step=START, min_ratio=MIN_RATIO))

    def reduce(self, bucket):
        return torch_hook.hook(self.state, bucket)

    def kept_bytes(self):
        memory = self.state.session.memory()
        return memory.state_bytes + memory.message_bytes + memory.observe_bytes

    def close(self):
        self.state.close()


class Theirs(Side):
    def __init__(self, shapes, rank):
        super().__init__(shapes, 1 << 12)
        self.rank = rank
        self.state = theirs.PowerSGDState(
            None, matrix_approximation_rank=rank, start_powerSGD_iter=START,
            min_compression_rate=MIN_RATIO, use_error_feedback=True, warm_start=True)
        self.ids = {id(tensor): number for number, tensor in enumerate(self.model.module.tensors)}

    def reduce(self, bucket):
        if self.state.iter == START:
            self.give_q(bucket)
        return theirs.powerSGD_hook(self.state, bucket)

    def give_q(self, bucket):
        """The first Q that libpsgd draws, in torch's layout: one after the other, row by row, by
        shape in the order in which shapes come first."""
        by_shape = defaultdict(list)
        for tensor in bucket.parameters():
            n, m = tensor.shape[0], tensor[0].numel()
            rank = min(n, m, self.rank)
            if (n + m) * rank * MIN_RATIO < n * m:
                by_shape[n, m].append((self.ids[id(tensor)], n, m, rank))
        matrices = [entry for group in by_shape.values() for entry in group]
        qs = [torch.from_numpy(compare_pytorch_philox.initial_q(number, m, rank)).reshape(-1)
              for number, _, m, rank in matrices]
        self.state.q_memory_dict[bucket.index()] = torch.cat(qs)
        self.state.p_memory_dict[bucket.index()] = torch.empty(
            sum(n * rank for _, n, _, rank in matrices))

    def kept_bytes(self):
        kept = (self.state.error_dict, self.state.p_memory_dict, self.state.q_memory_dict)
        return sum(tensor.numel() * tensor.element_size()
                   for tensors in kept for tensor in tensors.values())

    def close(self):
        pass


def deviation(ours, their):
    """The largest relative difference of a tensor, by the Frobenius norm."""
    return max((torch.norm(a - b) / torch.norm(b)).item() for a, b in zip(ours, their))


def measure(shapes, rank, steps, bucket_mb):
    """One matrix rank: what worker 0 reports, from what all workers saw."""
    source = torch.Generator().manual_seed(100 + dist.get_rank())
    pool = [[torch.randn(shape, generator=source) for shape in shapes] for _ in range(POOL)]
    sides = [Ours(shapes, rank, bucket_mb), Theirs(shapes, rank)]
    first = START + CHECKED + WARM
    times, deviations = [], []
    for step in range(first + steps):
        # In turn, so that whatever else the machine does hits both.
        for side in sides if step % 2 else reversed(sides):
            side.step(pool[step % POOL])
        if START <= step < START + CHECKED:
            deviations.append(deviation(*(side.outputs() for side in sides)))
        if step >= first:
            times.append([side.span for side in sides])
    memory = [side.extra_bytes(pool[0]) for side in sides]
    for side in sides:
        side.close()
    seen = [None] * dist.get_world_size()
    dist.all_gather_object(seen, {'spans': times, 'deviations': deviations, 'bytes': memory})
    return {'rank': rank, 'workers': seen, 'report': report_of(sides[0].state.report)}


def report_of(report):
    """What the library says of its last step."""
    return {name: getattr(report, name) for name in (
        'encode_ns', 'decode_ns', 'wire_ns', 'raw_bytes', 'payload_bytes', 'n_buckets')}
