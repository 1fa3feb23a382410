"""One of two processes: data-parallel steps with heat in the loss, compared with plain steps whose gradients are averaged.

python distributed_step.py RANK FILE WRAPPER...
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))

from models import DeepHead, SmallNet, calibrated, images
from plain_training import assert_same_gradients, plain_heat

import camfast

Y = torch.tensor([1, 4, 0])
STEPS = 2


def network(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return calibrated(kind().double(), images(4).double()).train()


def batch(rank: int, step: int) -> Tensor:
    return images(3, seed=10 * step + rank).double()


def loss_of(scores: Tensor, heat: Tensor, x: Tensor) -> Tensor:
    return F.cross_entropy(scores, Y) + (heat * x[:, 0]).mean()


def wanted(kind: type[nn.Module]) -> list[dict[str, Tensor]]:
    """The mean over both ranks of the gradients of each step; batch norms are each rank's own."""
    model, found = network(kind), []
    for step in range(STEPS):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model.zero_grad()
        for rank in range(2):
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
            torch.manual_seed(100 * step + rank)
            x = batch(rank, step)
            (loss_of(*plain_heat(model, "body", x, Y), x) / 2).backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    return found


def wrapped(model: nn.Module, wrapper: str) -> nn.Module:
    if wrapper.startswith("sharded"):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        if wrapper == "sharded parts":
            for part in (model.stem, model.body, model.fc):
                fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model
    if wrapper == "compiled":
        return DistributedDataParallel(torch.compile(model, backend="aot_eager"))
    if wrapper == "compiled outside":
        return torch.compile(DistributedDataParallel(model), backend="aot_eager")
    if wrapper == "compiled stem":
        model.stem = torch.compile(model.stem, backend="aot_eager")
        return DistributedDataParallel(model)
    options = {"plain": {}, "unused": {"find_unused_parameters": True}, "static": {"static_graph": True}}[wrapper]
    return DistributedDataParallel(model, **options)


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def main(rank: int, file: str, wrappers: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    known = {kind: wanted(kind) for kind in (SmallNet, DeepHead)}
    for wrapper, (kind, expected) in itertools.product(wrappers, known.items()):
        model = network(kind)
        called = wrapped(model, wrapper)
        if wrapper == "sharded parts" and kind is SmallNet:
            try:
                camfast.CAM(called, "body")(batch(rank, 0), Y, differentiable=True)
            except ValueError as error:
                assert "fully sharded training has scattered" in str(error)
            else:
                raise AssertionError("CAM must say that its weight is scattered")
            model = network(kind)
            called = wrapped(model, wrapper)
        explainer = camfast.GradCAM(called, "body")
        for step in range(STEPS):
            called.zero_grad()
            torch.manual_seed(100 * step + rank)
            x = batch(rank, step)
            result = explainer(x, Y, differentiable=True)
            loss_of(result.scores, result.heatmap, x).backward()
            found = {
                name.replace("module.", "").replace("_orig_mod.", ""): whole(p.grad)
                for name, p in called.named_parameters()
            }
            assert_same_gradients(found, expected[step], 1e-5)
            with torch.no_grad():
                for p in called.parameters():
                    p -= 0.1 * p.grad
        print(f"{wrapper}, {kind.__name__}: equal", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
