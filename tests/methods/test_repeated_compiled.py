"""``compile=True``: the same explanations from a compiled network, with the weights that the model has at each call."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import warnings
import weakref

import calls_again
import cuda_stand_in
import pytest
import torch
from calls_again import wrong_in_threads
from models import DeepHead, Output, SmallNet, TwoInputs, bystander_state, calibrated, images
from torch import Tensor, nn

import camfast
from camfast.methods import compiled
from camfast.model import halves, onednn
from camfast.model.shadow import shadow

X = images(2)


@pytest.fixture(autouse=True)
def fused(monkeypatch) -> None:
    """By oneDNN Graph, whichever way is faster for so small a network; ``torch.compile`` takes too long for these tests."""
    monkeypatch.setattr(halves, "fused_if_faster", onednn.fused)


@pytest.fixture
def net() -> SmallNet:
    """In training mode, as in the middle of its training."""
    return calibrated(SmallNet(), images(4)).train()


@pytest.fixture
def made(monkeypatch) -> list[Tensor]:
    """The images that a network was compiled for, each time."""
    found = []
    split = halves.split
    monkeypatch.setattr(
        compiled, "split", lambda model, layer, x, *rest: found.append(x) or split(model, layer, x, *rest)
    )
    return found


agree = functools.partial(calls_again.agree, atol=1e-4)


@pytest.mark.parametrize("name", ["grad_cam", "layer_cam", "grad_cam_plus_plus", "eigen_grad_cam"])
@pytest.mark.parametrize("head", [SmallNet, DeepHead])
def test_the_same_maps(name, head, made):
    model = calibrated(head(), images(4)).train()
    explainer = camfast.METHODS[name](model, compile=True, class_names=list("abcde"))
    targets = [None, 1, camfast.TopK(2), ["b", "c"], camfast.targets.Probability(1), lambda scores: scores[2], "all"]
    for seed, target in enumerate(targets):
        agree(explainer, model, images(2, seed=seed), target)
        agree(explainer, model, images(2, seed=seed), target, (5, 6), False)
        assert len(made) == 1 and explainer.compile_problem is None
    assert explainer.layers == ["body"]


def test_it_is_compiled_at_the_second_call_of_a_shape(net, made):
    explainer = camfast.GradCAM(net, compile=True)
    for n, times in ((1, 0), (2, 0), (2, 1), (1, 2), (1, 2), (2, 2)):
        agree(explainer, net, images(n, seed=times))
        assert len(made) == times
    agree(explainer, net, X.contiguous(memory_format=torch.channels_last))
    agree(explainer, net, X.double().float())
    for _ in range(2):
        for n in range(3, 9):
            agree(explainer, net, images(n))
    assert len(explainer._repeated._compiled) == 4


def test_the_network_itself_is_asked_for_its_classes(made):
    class Queries(SmallNet):
        """Scores ``[N, 7, 5]``: seven queries of five classes."""

        def forward(self, x):
            return super().forward(x).unflatten(1, (7, 5)) + self.shift

    model = Queries(35)
    model.shift, model.num_classes = nn.Parameter(torch.randn(5)), 5
    calibrated(model, images(4))
    explainer = camfast.GradCAM(model, compile=True)
    for seed in range(4):
        agree(explainer, model, images(2, seed=seed), [seed, 1])
    assert len(made) == 1 and explainer.compile_problem is None


CHANGES = {
    "a step": lambda net: (net(images(4)).sum().backward(), torch.optim.SGD(net.parameters(), 0.5).step()),
    "statistics of a batch norm": lambda net: net(images(4, seed=3)),
    "load_state_dict": lambda net: net.load_state_dict({k: v * 2 for k, v in net.state_dict().items()}),
    "written behind PyTorch's back": lambda net: net.body[0].weight.data.mul_(2),
    "another module": lambda net: setattr(net, "fc", nn.Linear(16, 7)),
    "an attribute": lambda net: setattr(net.body[0], "stride", (1, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_are_those_of_the_call(change, net, made):
    explainer = camfast.GradCAM(net, compile=True)
    for seed in range(3):
        agree(explainer, net, images(2, seed=seed))
    CHANGES[change](net)
    for seed in range(3, 7):
        agree(explainer, net, images(2, seed=seed))
    assert len(made) == 2


def test_a_network_in_training_is_never_compiled(net, made):
    explainer, optimizer = camfast.GradCAM(net, compile=True), torch.optim.SGD(net.parameters(), 0.1)
    for seed in range(4):
        net(images(4, seed=seed)).sum().backward()
        optimizer.step()
        agree(explainer, net, images(2, seed=seed))
    assert not made


def test_what_cannot_be_compiled_says_why_once_and_runs(net, made):
    class Around(SmallNet):
        def forward(self, x):
            return super().forward(x) + x.mean((1, 2, 3))[:, None]

    around = calibrated(Around(), images(4))
    cases = [
        (camfast.GradCAM(around, compile=True), X, None, "the scores must come through the layer alone"),
        (camfast.GradCAM(net, ["stem", "body"], compile=True), X, None, "one layer can be compiled, got 2"),
        (
            camfast.GradCAM(TwoInputs(), compile=True),
            (X, torch.zeros(2, 4)),
            None,
            "the model must take one tensor of images",
        ),
        (
            camfast.GradCAM(calibrated(Output("tuple"), images(4)), compile=True),
            X,
            camfast.targets.Field(0, 1),
            "targets must be of the scores",
        ),
    ]
    for explainer, x, target, why in cases:
        with pytest.warns(UserWarning, match=f"compile=True: the call runs uncompiled, as ever: {why}") as said:
            for _ in range(4):
                result = explainer(x, target)
        expected = type(explainer)(explainer.model, explainer.layers)(x, target)
        torch.testing.assert_close(result.heatmap, expected.heatmap)
        said = [warning for warning in said if "compile=True" in str(warning.message)]
        assert len(said) == 1 and said[0].filename == __file__ and why in explainer.compile_problem
    quick = camfast.GradCAM(around, compile="auto")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            agree(quick, around, X)
    assert "through the layer alone" in quick.compile_problem
    with pytest.raises(ValueError, match="compile must be"):
        camfast.GradCAM(net, compile="fast")


def test_a_shadow_may_be_changed(net):
    net.again = net.stem  # one module, two names
    net.scripted = torch.jit.trace(nn.Conv2d(2, 2, 1), torch.zeros(1, 2, 3, 3))
    net.stem.register_forward_hook(lambda module, args, output: output * 2)
    before = bystander_state(net)
    twin, twins = shadow(net)
    twin.eval()
    expected = net.eval()(X)
    net.train()
    assert torch.equal(twin(X), expected)
    assert twin.again is twin.stem is twins[net.stem] and twin.fc.weight is net.fc.weight
    twin.fc.weight = nn.Parameter(torch.zeros(5, 16))
    twin.stem[0] = nn.Identity()
    twin.register_forward_hook(lambda *args: None)
    twin.extra = 3
    after = bystander_state(net)
    assert all(before[kind] == after[kind] for kind in before if kind not in ("grad", "tensors"))


def test_hooks_and_modes(net, made):
    explainer = camfast.GradCAM(net, compile=True)
    for seed in range(3):
        agree(explainer, net, images(2, seed=seed))
    handle = net.stem.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.warns(UserWarning, match="a hook on Sequential"):
        agree(explainer, net, X)
    handle.remove()
    net.eval()
    with torch.inference_mode():
        agree(explainer, net, images(2, seed=5))
    assert len(made) == 1 and explainer.compile_problem is None


def test_no_trace(net):
    net(X).sum().backward()
    before, random = bystander_state(net), torch.random.get_rng_state()
    explainer = camfast.GradCAM(net, compile=True)
    for seed in range(3):
        explainer(images(2, seed=seed))
    after = bystander_state(net)
    assert explainer._repeated is not None and len(explainer._repeated._compiled) == 1
    for kind in before:
        if kind in ("grad", "tensors"):
            pairs = zip(before[kind].values(), after[kind].values(), strict=True)
            assert all(a is b is None or torch.equal(a, b) for a, b in pairs)
        else:
            assert before[kind] == after[kind], kind
    assert torch.equal(random, torch.random.get_rng_state()) and not torch.jit.onednn_fusion_enabled()


def test_a_compiled_network_in_a_graph(net, made, monkeypatch):
    """The graph reads the compiled network's weights: both are made anew where the model's have changed."""
    monkeypatch.setattr(halves, "fused_if_faster", lambda trunk, x: trunk)  # TorchScript is not seen by the stand-in
    cuda = cuda_stand_in.install(monkeypatch)
    explainer = camfast.GradCAM(net, compile=True, graph=True)
    for seed in range(4):
        agree(explainer, net, images(2, seed=seed), seed)
    assert (len(made), len(cuda.graphs), cuda.replays) == (1, 1, 3)
    with torch.no_grad():
        net.body[0].weight.mul_(-1)
    for seed in range(4):
        agree(explainer, net, images(2, seed=seed), seed)
    assert (len(made), len(cuda.graphs), cuda.replays) == (2, 2, 6 + 1)


def test_threads_copies_and_the_end(net, made):
    explainer = camfast.GradCAM(net, compile=True)
    assert not wrong_in_threads(explainer, net, 3, atol=1e-4) and len(made) == 1
    for twin in (copy.deepcopy(explainer), pickle.loads(pickle.dumps(explainer))):
        agree(twin, twin.model, X)
    explainer.close()
    assert explainer._repeated is None
    with pytest.raises(RuntimeError, match="closed"):
        explainer(X)


def test_nothing_keeps_it_alive(net):
    explainer = camfast.GradCAM(net, compile=True)
    for seed in range(3):
        explainer(images(2, seed=seed))
    gone = weakref.ref(explainer), weakref.ref(explainer._repeated)
    gc.collect()
    gc.disable()
    try:
        del explainer
        assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()


class TwoLevels(SmallNet):
    """Scores of the last map, and of the one before it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        early = self.stem(x)
        return self.head(self.body(early)), early.mean((2, 3))


def test_each_kind_of_target_is_explained_at_its_own_layer():
    model = calibrated(TwoLevels(), images(4)).eval()
    explainer = camfast.GradCAM(model, compile=True)
    early = camfast.targets.Field(1, lambda scores: scores[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the early scores do not come through a layer alone
        for seed in range(3):
            for target in (1, early):
                agree(explainer, model, images(2, seed=seed), target)
    assert len(explainer._found) == 2
