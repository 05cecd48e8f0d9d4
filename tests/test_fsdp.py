"""FSDP2 on the CPU, two processes: both players are sharded, and step as in one process."""

import os
import subprocess
import sys

SCRIPT = """
import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import viewaug

def build():
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 8))
    return encoder, viewaug.AdversarialAugmentation(viewaug.Viewmaker(width=8, depth=1))

def step(encoder, augmentation):
    optimizer = viewaug.JointOptimizer(torch.optim.SGD(encoder.parameters(), 0.1), augmentation.parameters())
    torch.manual_seed(1)
    for _ in range(3):
        x = torch.rand(4, 3, 8, 8)  # the same in each process, so that the mean of gradients is that of one
        encoder(augmentation(x)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    return optimizer

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
plain = build()
step(*plain)
sharded = build()
for module in (sharded[0], sharded[1].viewmaker):
    fully_shard(module, mesh=mesh)
assert step(*sharded).skipped_steps == 0
for one, other in zip(plain, sharded):
    for p, q in zip(one.parameters(), other.parameters()):
        torch.testing.assert_close(p, q.full_tensor(), rtol=1e-4, atol=1e-6)
dist.barrier()
os._exit(0)  # threads of gloo sometimes abort a process that ends
"""


def test_as_in_one_process(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
