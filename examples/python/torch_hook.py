"""Communication hooks for torch's DistributedDataParallel over libpsgd.

    state = torch_hook.OwnTransport(model, psgd.powersgd(rank=4))
    model.register_comm_hook(state, torch_hook.hook)

Two states for one hook: OwnTransport moves messages by the library's own threads and transport,
while backward goes on; TorchCollectives hands them to torch.distributed. In both a tensor's state
is keyed by its parameter, so it does not matter that DDP rebuilds its buckets after the first step,
and compression may start with the first.
"""
import os

import torch
import torch.distributed as dist

import psgd


def hook(state, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    return state.reduce(bucket)


class State:
    """What both ways have in common. model: a module or its DistributedDataParallel. With a
    controller the ranks are worker 0's to decide; step_info is what it is told of each step:
    epoch, learning_rate, and epoch_end before the backward of an epoch's last step.
    """
    def __init__(self, model, compressor, group=None, controller=None):
        self.group = group if group is not None else dist.group.WORLD
        self.worker, self.n_workers = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.compressor, self.controller = compressor, controller
        self.step_info = {}
        self.shapes = []
        self.ids = {}  # id(parameter): number in the order of the model, equal on all workers
        self.waiting = []  # buckets of this step, and the futures that DDP has for them
        self.report = None  # of the last step, as psgd_report
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.add(name, parameter)

    def add(self, name, parameter):
        if parameter.dtype != torch.float32 or parameter.device.type != 'cpu':
            raise ValueError(f'{name} is {parameter.dtype} on {parameter.device}: '
                             'only torch.float32 on the CPU is possible')
        # DDP lays a gradient out as its parameter.
        if not parameter.is_contiguous():
            raise ValueError(f'{name} is not contiguous')
        self.ids[id(parameter)] = len(self.ids)
        self.shapes.append(tuple(parameter.shape))

    def set_rank(self, rank):
        """A new matrix rank for all tensors from the next step on; 0 is dense."""
        self.session.set_ranks([rank] * len(self.ids))

    def grads(self, bucket):
        return [(self.ids[id(parameter)], grad.data_ptr())
                for parameter, grad in zip(bucket.parameters(), bucket.gradients())]

    def reduce(self, bucket):
        """Called by DDP when a bucket is ready. All futures are completed in the call for the last
        bucket: backward has nothing left to compute then, so that waiting there costs no overlap,
        and needs neither a thread nor a callback for each bucket. The mean is in the bucket's own
        buffer, which is what the future gives: DDP copies it from there to the parameters' grad,
        or has nothing to copy with gradient_as_bucket_view.
        """
        future = torch.futures.Future()
        self.waiting.append((bucket.buffer(), future))
        self.begin(self.grads(bucket))
        if bucket.is_last():
            self.report = self.finish()
            done, self.waiting = self.waiting, []
            for buffer, of in done:
                of.set_result(buffer)
        return future


class OwnTransport(State):
    """Messages go by the library's own Gloo transport, from its own threads."""
    def __init__(self, model, compressor, group=None, controller=None):
        super().__init__(model, compressor, group, controller)
        self.transport = psgd.Gloo(self.allgather, self.worker, self.n_workers,
                                   interface=os.environ.get('GLOO_SOCKET_IFNAME'))
        self.session = psgd.Session(self.shapes, compressor, transport=self.transport,
                                    controller=controller)

    def allgather(self, block):
        blocks = [None] * self.n_workers
        dist.all_gather_object(blocks, block, group=self.group)
        return blocks

    def begin(self, grads):
        self.session.submit(grads)

    def finish(self):
        return self.session.finish_step(**self.step_info)

    def close(self):
        """Ends the session, on all workers; call it before destroy_process_group."""
        self.session.close()
        self.transport.close()


class TorchCollectives(State):
    """Messages go by torch.distributed. What a bucket computes runs in the calls of the hook. How
    long messages take nobody knows then, so the cap of a controller cannot be live.
    """
    def __init__(self, model, compressor, group=None, controller=None):
        super().__init__(model, compressor, group, controller)
        self.session = psgd.Session(self.shapes, compressor, worker=self.worker,
                                    n_workers=self.n_workers, controller=controller)
        self.running = []  # [exchange, its work under way or None], the oldest first

    def begin(self, grads):
        self.running.append([self.session.exchange(grads), None])
        self.advance()

    def finish(self):
        self.complete()
        last, report = self.session.exchange_finish(**self.step_info)
        self.running.append([last, None])
        self.complete()
        return report

    def complete(self):
        while self.running:
            if not self.advance():
                self.running[0][1].wait()

    def advance(self):
        """Every exchange as far as it goes without waiting; True if one got on."""
        moved = False
        for entry in list(self.running):
            exchange, work = entry
            if work is not None:
                if not work.is_completed():
                    continue
                work.wait()  # raises if it failed
            status = exchange.next()
            entry[1] = None
            if status == psgd.PSGD_WANT_COLLECTIVE:
                entry[1] = self.start(exchange.collective)
            elif status == psgd.PSGD_OK:
                self.running.remove(entry)
            moved = moved or status != psgd.PSGD_PENDING
        return moved

    def start(self, collective):
        """The collective as torch's, on the library's memory: a sum, or ranks from worker 0."""
        dtype = {psgd.PSGD_F32: torch.float32, psgd.PSGD_F64: torch.float64,
                 psgd.PSGD_U8: torch.uint8}[collective.dtype]
        tensor = torch.frombuffer(psgd.values_at(collective), dtype=dtype)
        if collective.kind == psgd.PSGD_BROADCAST:
            root = dist.get_global_rank(self.group, collective.root)
            return dist.broadcast(tensor, root, group=self.group, async_op=True)
        return dist.all_reduce(tensor, group=self.group, async_op=True)

    def close(self):
        """Ends the session."""
        for exchange, _ in self.running:
            exchange.end()
        self.session.close()
