"""``graph=True``: the same explanations from a replay, whatever changes from call to call; as ever where none can be.

Without a GPU: a stand-in notes what a capture runs, and a replay runs it again on the same memory.
"""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import calls_again
import cuda_stand_in
import pytest
import torch
from calls_again import agree, warmed, wrong_in_threads
from models import SmallNet, TokenNet, TwoInputs, bystander_state, calibrated, images
from torch import nn

import camfast
from camfast.methods import METHODS
from camfast.methods.recent import Recent

REPLAYED = [name for name, cls in METHODS.items() if "graph" in cls.repeats]
TARGETS = {
    "top": lambda i: None,
    "top 2": lambda i: camfast.TopK(2),
    "all": lambda i: "all",
    "one": lambda i: i,
    "list": lambda i: [i, 1],
    "tensor": lambda i: torch.tensor([[i, 0], [1, 2]]),
    "names": lambda i: ["b", "abcde"[i]],
}


@pytest.fixture
def cuda_graphs(monkeypatch) -> cuda_stand_in.StandIn:
    return cuda_stand_in.install(monkeypatch)


@pytest.fixture
def net() -> SmallNet:
    """In training mode, as in the middle of its training."""
    return calibrated(SmallNet(), images(4)).train()


@pytest.mark.parametrize(
    ("name", "targets"),
    [(name, kind) for name in REPLAYED for kind in TARGETS if name in ("grad_cam", "cam") or kind in ("top", "tensor")],
)
def test_the_same_for_other_images_and_classes(name, targets, net, cuda_graphs):
    model = TokenNet() if name == "legrad" else net
    nn.init.normal_(model.get_submodule("fc").weight)
    explainer = METHODS[name](model, graph=True, class_names=list("abcde"))
    for i in range(4):
        assert cuda_graphs.replays == max(i, 1) - 1  # noted at the second call
        agree(explainer, model, images(2, seed=i), TARGETS[targets](i))
        assert explainer.graph_problem is None


@pytest.mark.parametrize("name", [name for name in REPLAYED if name != "legrad"])
def test_on_a_gpu(name, cuda):
    model = calibrated(SmallNet(), images(4)).to(cuda)
    explainer = METHODS[name](model, graph=True)
    for i in range(4):
        for targets in (None, i, camfast.TopK(2), [i, 1]):
            agree(explainer, model, images(2, seed=i).to(cuda), targets)
            assert explainer.graph_problem is None
        with torch.no_grad():
            model.body[0].weight.mul_(1.1)  # seen by the same graph
    assert len(explainer._repeated._graphs) == 4


def test_streams_and_threads_on_a_gpu(net, cuda):
    model = net.to(cuda)
    explainer = camfast.GradCAM(model, graph=True)
    jobs = [(images(2, seed=i).to(cuda), i % 5) for i in range(8)]
    alone = [camfast.grad_cam(model, *job) for job in jobs]
    for job in jobs[:2]:
        explainer(*job)
    wrong = []

    def work(mine):
        with torch.cuda.stream(torch.cuda.Stream(cuda)):
            for i in mine * 10:
                heatmap = explainer(*jobs[i]).heatmap
                if not torch.allclose(heatmap, alone[i].heatmap, atol=1e-4):
                    wrong.append(i)

    torch.cuda.synchronize(cuda)
    threads = [threading.Thread(target=work, args=([i, i + 4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and explainer.graph_problem is None


def test_most_methods_say_that_they_cannot(net):
    assert set(REPLAYED) >= {"grad_cam", "layer_cam", "eigen_cam", "cam", "finer_cam", "shapley_cam"}
    for name in set(METHODS) - set(REPLAYED):
        with pytest.raises(ValueError, match=rf"{METHODS[name].__name__} takes more than that, got graph=True; leave"):
            METHODS[name](net, graph=True)
    with pytest.raises(ValueError, match="methods of one gradient.*got EigenCAM"):
        camfast.EigenCAM(net, compile=True)
    with pytest.raises(ValueError, match="graph must be True, False or 'reuse', got 'yes'"):
        camfast.GradCAM(net, graph="yes")
    with pytest.raises(TypeError, match=r"grad_cam\(\) explains one call.*GradCAM\(model, graph=True\)"):
        camfast.grad_cam(net, images(1), graph=True)


def test_what_is_asked_of_the_map_may_change(net, cuda_graphs):
    explainer = camfast.GradCAM(net, graph=True)
    calls = [
        {},
        {"size": "map"},
        {"size": (5, 7)},
        {"normalize": False},
        {"normalize": "shared"},
        {"normalize": (0.0, 2)},
    ]
    for seed in range(3):
        for options in calls:
            agree(explainer, net, images(2, seed=seed), **options)
    assert cuda_graphs.replays == 18 - 4  # raw maps are scaled together outside, so that they share one graph
    for seed in range(3):  # an option of the explainer itself
        explainer.eigen_smooth = True
        agree(explainer, net, images(2, seed=seed))


def test_mirrored_and_scaled_images(net, cuda_graphs):
    for graph in (True, "reuse"):
        explainer = camfast.GradCAM(net, aug_smooth=True, graph=graph)
        for seed in range(3):
            agree(explainer, net, images(2, seed=seed))
    assert cuda_graphs.replays


def test_results_lie_in_memory_of_their_own(net, cuda_graphs):
    explainer = warmed(net)
    first = explainer(images(2, seed=3))
    kept = first.heatmap.clone(), first.scores.clone()
    given = images(2, seed=4)
    second = explainer(given)
    assert torch.equal(first.heatmap, kept[0]) and torch.equal(first.scores, kept[1])
    assert second.images is given and not second.heatmap.requires_grad
    reuse = warmed(net, graph="reuse")
    first = reuse(images(2, seed=3))
    assert torch.equal(first.heatmap, kept[0])
    second = reuse(given)
    assert first.heatmap.data_ptr() == second.heatmap.data_ptr() and not torch.equal(first.heatmap, kept[0])


def test_targets_that_run_as_ever(net, cuda_graphs):
    explainer = warmed(net)
    with pytest.warns(UserWarning, match="got callables"):
        explainer(images(2), camfast.targets.Probability(1))
    shift = torch.ones(())
    for value in (1.0, -1.0):  # a function that reads something else each time
        shift.fill_(value)
        result = explainer(images(2, seed=1), lambda scores: scores[0] * float(shift))
        expected = camfast.grad_cam(net, images(2, seed=1), lambda scores: scores[0] * float(shift))
        torch.testing.assert_close(result.heatmap, expected.heatmap)
    replays = cuda_graphs.replays
    for wrong, error in ((9, ValueError), ([1], ValueError), (1.5, TypeError), ([1, 9], ValueError)):
        for _ in range(3):
            with pytest.raises(error):
                explainer(images(2), wrong)
    agree(explainer, net, images(2, seed=2))
    assert cuda_graphs.replays == replays + 1


def test_shapes_take_turns(net, cuda_graphs):
    explainer = camfast.GradCAM(net, graph=True)
    for turn in range(4):
        for n in (1, 8):
            agree(explainer, net, images(n, seed=turn))
        agree(explainer, net, images(1, size=(10 + turn, 16), seed=turn))  # never twice: not worth a capture
    assert len(cuda_graphs.graphs) == 2
    for _ in range(2):
        for n in range(1, 13):
            explainer(images(n, size=(12, 12)))
    assert len(explainer._repeated._graphs) == 8


def test_those_used_last_are_kept():
    recent = Recent(2)
    assert [recent.is_due("a") for _ in range(3)] == [False, True, True] and recent.get("a") is None
    for key in "abc":
        recent.put(key, key.upper())
        assert recent.get("a") == "A"
    assert (len(recent), recent.get("a"), recent.get("b"), recent.get("c")) == (2, "A", None, "C")
    assert [recent.is_due("b") for _ in range(4)] == [False, False, False, True]  # given up once: it costs more
    for number in range(200):
        recent.is_due(number)
    assert len(recent._records) == 64
    recent.clear()
    assert len(recent) == 0


def test_what_cannot_be_captured_says_why_once_and_runs(net, cuda_graphs):
    class Looks(SmallNet):
        def forward(self, x):
            return super().forward(x) * float(x.mean() < 1e9)

    looks = calibrated(Looks(), images(4))
    explainer = camfast.GradCAM(looks, graph=True)
    with pytest.warns(
        UserWarning, match="graph=True: the call runs without a CUDA graph, as ever: called a synchro"
    ) as said:
        for seed in range(4):
            agree(explainer, looks, images(2, seed=seed))
    assert len(said) == 1 and said[0].filename == calls_again.__file__ and "synchronizing" in explainer.graph_problem
    assert cuda_graphs.get_sync_debug_mode() == 0 and not cuda_graphs.replays
    cuda_graphs.fails = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    explainer = camfast.GradCAM(net, graph=True)
    with pytest.warns(UserWarning, match="out of memory"):
        for seed in range(3):
            agree(explainer, net, images(2, seed=seed))


def test_on_the_cpu_it_says_so_once(net):
    explainer = camfast.GradCAM(net, graph=True)
    with pytest.warns(UserWarning, match="images must be on a CUDA device, got cpu") as said:
        for seed in range(3):
            agree(explainer, net, images(2, seed=seed))
    assert len(said) == 1 and explainer.graph_problem == "images must be on a CUDA device, got cpu"
    assert camfast.GradCAM(net).graph_problem is None


def test_no_trace(net, cuda_graphs):
    net(images(2)).sum().backward()
    before, random = bystander_state(net), torch.random.get_rng_state()
    warmed(net)(images(2, seed=3))
    after = bystander_state(net)
    assert all(
        torch.equal(a, b)
        for kind in ("grad", "tensors")
        for a, b in zip(before[kind].values(), after[kind].values(), strict=True)
        if a is not None
    )
    assert all(before[kind] == after[kind] for kind in before if kind not in ("grad", "tensors"))
    assert torch.equal(random, torch.random.get_rng_state())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_modes_of_the_caller(mode, net, cuda_graphs):
    explainer = camfast.GradCAM(net, graph=True)
    for seed, around in enumerate([mode, mode, torch.enable_grad, torch.inference_mode, mode]):
        with around():
            x = images(2, seed=seed)
            agree(explainer, net, x, seed)
    assert explainer(images(2).requires_grad_(), 1).heatmap.requires_grad is False


def test_several_inputs(cuda_graphs):
    model = calibrated(SmallNet(), images(4))
    two = TwoInputs().eval()
    two.load_state_dict(model.state_dict(), strict=False)
    explainer, plain = camfast.GradCAM(two, graph=True), camfast.GradCAM(two)
    for seed in range(4):
        x, other = images(2, seed=seed), torch.full((2, 4), float(seed))
        result, expected = explainer((x, other)), plain((x, other))
        torch.testing.assert_close(result.heatmap, expected.heatmap)
        torch.testing.assert_close(result.scores, expected.scores)
        assert result.images is x
    assert cuda_graphs.replays == 3


def test_training_steps_are_left_alone(net, cuda_graphs):
    explainer = warmed(net)
    replays = cuda_graphs.replays
    explainer(images(2), 1, differentiable=True).heatmap.sum().backward()
    assert net.body[0].weight.grad is not None and cuda_graphs.replays == replays


def test_inside_a_capture_of_the_user(net, cuda_graphs):
    explainer = warmed(net)
    graph = cuda_graphs.CUDAGraph()
    x = images(2, seed=3)
    with cuda_graphs.graph(graph, capture_error_mode="thread_local"):
        inside = explainer(x)
    x.copy_(images(2, seed=4))
    graph.replay()
    torch.testing.assert_close(inside.heatmap, camfast.grad_cam(net, images(2, seed=4)).heatmap)


def test_threads_share_an_explainer(net, cuda_graphs):
    explainer = warmed(net)
    assert not wrong_in_threads(explainer, net, 4) and cuda_graphs.replays


def test_copies_capture_for_themselves(net, cuda_graphs):
    explainer = warmed(net)
    for twin in (copy.copy(explainer), copy.deepcopy(explainer), pickle.loads(pickle.dumps(explainer))):
        assert twin.graph is True and twin._repeated is None
        for seed in range(3):
            agree(twin, twin.model, images(2, seed=seed))
    explainer.close()
    with pytest.raises(RuntimeError, match="closed"):
        explainer(images(2))


def test_nothing_keeps_it_alive(net, cuda_graphs):
    explainer = warmed(net)
    gone = weakref.ref(explainer), weakref.ref(explainer._repeated)
    cuda_graphs.graphs.clear()
    gc.disable()
    try:
        del explainer
        assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()
