"""``graph=True`` when the model changes between calls: the same explanations, from the same graph or from another."""

from __future__ import annotations

import warnings

import cuda_stand_in
import pytest
import torch
from calls_again import agree, warmed
from models import SmallNet, calibrated, images
from torch import nn

import camfast


@pytest.fixture
def cuda_graphs(monkeypatch) -> cuda_stand_in.StandIn:
    return cuda_stand_in.install(monkeypatch)


@pytest.fixture
def net() -> SmallNet:
    """In training mode, as in the middle of its training."""
    return calibrated(SmallNet(), images(4)).train()


def test_weights_changed_in_place_are_seen_by_the_same_graph(net, cuda_graphs):
    for cls in (camfast.GradCAM, camfast.CAM):
        explainer, graphs = warmed(net, cls=cls), len(cuda_graphs.graphs)
        torch.optim.SGD(net.parameters(), 0.5).step()
        net(images(4, seed=9)).sum().backward()
        torch.optim.SGD(net.parameters(), 0.5).step()
        agree(explainer, net, images(2, seed=3))
        other = calibrated(SmallNet(), images(4, seed=5))
        nn.init.normal_(other.fc.weight)
        net.load_state_dict(other.state_dict())
        agree(explainer, net, images(2, seed=4))
        with torch.no_grad():
            net.fc.weight.data.mul_(-1)
        agree(explainer, net, images(2, seed=5))
        assert len(cuda_graphs.graphs) == graphs and cuda_graphs.replays


CHANGES = {
    "weights elsewhere": lambda net: setattr(net.fc, "weight", nn.Parameter(net.fc.weight.detach() * -2)),
    "data elsewhere": lambda net: setattr(net.fc.weight, "data", net.fc.weight.data * -2),
    "another module": lambda net: setattr(net, "fc", nn.Linear(net.fc.in_features, 7)),
    "one more module": lambda net: net.body.append(nn.Tanh()),
    "an attribute": lambda net: setattr(net.body[0], "stride", (1, 1)),
    "load_state_dict(assign=True)": lambda net: net.load_state_dict(
        {name: value * 2 for name, value in net.state_dict().items()}, assign=True
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_was_changed_is_captured_again(change, net, cuda_graphs):
    explainer = warmed(net)
    agree(explainer, net, images(2, seed=3))
    assert (len(cuda_graphs.graphs), cuda_graphs.replays) == (1, 2)
    CHANGES[change](net)
    for seed in range(4, 8):
        agree(explainer, net, images(2, seed=seed))
    assert len(cuda_graphs.graphs) == 2 and cuda_graphs.graphs[1].replays


def test_a_head_that_was_replaced_is_found_again(net):
    explainer = camfast.CAM(net)
    explainer(images(2), 1)
    net.fc = nn.Linear(16, 7)
    agree(explainer, net, images(2), 6)


def test_another_dtype_and_back(net, cuda_graphs):
    explainer = warmed(net)
    net.double()
    for seed in range(3):
        agree(explainer, net, images(2, seed=seed).double())
    net.float()
    agree(explainer, net, images(2, seed=4))
    last = images(2, seed=5).contiguous(memory_format=torch.channels_last)
    agree(explainer, net, last)
    with torch.autocast("cpu", torch.bfloat16):
        for seed in range(3):
            explainer(images(2, seed=seed))
        assert explainer(images(2, seed=5)).scores.dtype == torch.bfloat16


def test_hooks_of_the_user_run_in_every_call(net, cuda_graphs):
    explainer = warmed(net)
    seen = []
    handle = net.stem.register_forward_hook(lambda module, args, output: seen.append(output.shape) or output * 2)
    with pytest.warns(UserWarning, match="without a CUDA graph, as ever: a hook on Sequential must run"):
        agree(explainer, net, images(2, seed=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        agree(explainer, net, images(2, seed=4))
    assert len(seen) == 4 and "hook" in explainer.graph_problem
    handle.remove()
    replays = cuda_graphs.replays
    agree(explainer, net, images(2, seed=5))
    assert explainer.graph_problem is None and cuda_graphs.replays == replays + 1
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *args: None)
    try:
        assert explainer(images(2)).heatmap.shape == (2, 16, 20) and "every module" in explainer.graph_problem
    finally:
        handle.remove()


def test_weights_that_a_hook_of_pytorch_makes(net, cuda_graphs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(net.body[0])
    explainer = warmed(net)
    with torch.no_grad():
        net.body[0].weight_g.mul_(3)
    agree(explainer, net, images(2, seed=3))
    assert cuda_graphs.replays == 2


def test_modes_of_the_model(net, cuda_graphs):
    explainer = warmed(net)
    for mode in (False, True):
        net.train(mode)
        agree(explainer, net, images(2, seed=3))
    assert cuda_graphs.replays == 3
    net.dropout = nn.Identity()
    as_it_is = warmed(net.eval(), eval_mode=False)
    agree(as_it_is, net, images(2, seed=3))
    net.train()
    with pytest.warns(UserWarning, match="evaluation mode, got training mode with eval_mode=False"):
        agree(as_it_is, net, images(2, seed=4))
