"""FSDP2 on the CPU, two processes: both players are sharded, and step as in one process."""

import os

import torch
import torch.distributed as dist

import viewaug


def build() -> tuple[torch.nn.Module, viewaug.AdversarialAugmentation]:
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 8))
    return encoder, viewaug.AdversarialAugmentation(viewaug.Viewmaker(width=8, depth=1))


def step(encoder: torch.nn.Module, augmentation: viewaug.AdversarialAugmentation) -> viewaug.JointOptimizer:
    optimizer = viewaug.JointOptimizer(torch.optim.SGD(encoder.parameters(), 0.1), augmentation.parameters())
    torch.manual_seed(1)
    for _ in range(3):
        x = torch.rand(4, 3, 8, 8)  # the same in each process, so that the mean of gradients is that of one
        encoder(augmentation(x)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    return optimizer


def worker(rank: int, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    plain = build()
    step(*plain)
    sharded = build()
    for module in (sharded[0], sharded[1].viewmaker):
        fully_shard(module, mesh=mesh)
    assert step(*sharded).skipped_steps == 0
    for one, other in zip(plain, sharded, strict=True):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q.full_tensor(), rtol=1e-4, atol=1e-6)
    dist.barrier()
    os._exit(0)  # threads of gloo sometimes abort a process that ends


def test_as_in_one_process(processes):
    processes(worker, 2)
