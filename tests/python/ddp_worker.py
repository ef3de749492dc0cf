"""One of the workers of test_ddp.py: trains once for each case, and prints what it saw as JSON.

usage: ddp_worker.py CASES, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment
"""
import hashlib
import json
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, os.path.join(os.environ['PSGD_SOURCE'], 'examples', 'python'))
import psgd  # noqa: E402
import torch_hook  # noqa: E402
import train_ddp  # noqa: E402

SEED = 3
EPOCH = 10  # steps


def attach(case, model):
    if case['hook'] in ('torch', 'dense'):
        train_ddp.attach(case['hook'], model, case['ranks'][0] if case['ranks'] else None)
        return None
    compressor = psgd.powersgd(rank=case['ranks'][0]) if case['ranks'] else psgd.dense()
    controller = psgd.rank_control(**case['control']) if 'control' in case else None
    state = getattr(torch_hook, case['hook'])(model, compressor, controller=controller)
    model.register_comm_hook(state, torch_hook.hook)
    return state


def steps_of(case):
    """The rank to set before each step; None: as it is."""
    ranks, steps = case['ranks'], case['steps']
    now = [ranks[step * len(ranks) // steps] if ranks else 0 for step in range(steps)]
    return [rank if step and rank != now[step - 1] else None for step, rank in enumerate(now)]


def train(case):
    torch.manual_seed(SEED)
    dist._DEFAULT_FIRST_BUCKET_BYTES = int(case['bucket_mb'] * (1 << 20))
    model = DistributedDataParallel(train_ddp.network(), bucket_cap_mb=case['bucket_mb'],
                                    gradient_as_bucket_view=case.get('views', True))
    state = attach(case, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    data = train_ddp.batches(dist.get_rank(), SEED)
    seen = {'losses': [], 'buckets': [], 'payload': [], 'raw': [], 'ranks': [], 'regimes': []}
    for step, rank in enumerate(steps_of(case)):
        if step == case.get('dies') and dist.get_rank() == 1:
            os._exit(9)
        if rank is not None:
            state.set_rank(rank)
        images, labels = next(data)
        if 'control' in case:
            state.step_info = {'epoch': step // EPOCH, 'learning_rate': 0.02,
                               'epoch_end': step % EPOCH == EPOCH - 1}
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        seen['losses'].append(loss.item())
        if state:
            seen['buckets'].append(state.report.n_buckets)
            seen['payload'].append(state.report.payload_bytes)
            seen['raw'].append(state.report.raw_bytes)
            seen['ranks'].append(state.report.rank_max)
            if state.report.decided:
                seen['regimes'].append(state.report.decision.regime.decode())
    values = nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    seen['parameters'] = hashlib.sha256(values.tobytes()).hexdigest()
    if state:
        state.close()
    return seen


def main():
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    seen = {}
    for name, case in json.loads(sys.argv[1]).items():
        try:
            seen[name] = train(case)
        except RuntimeError as error:
            # The others are gone: a barrier with them would not end well.
            print(json.dumps({name: {'error': str(error)}}), flush=True)
            os._exit(0)
    print(json.dumps(seen), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
