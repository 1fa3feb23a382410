"""The generator knows what it says it knows: a change planted in one place shows there, read by the axes of each layer.

What mixes positions is switched off for this: attention adds nothing, and recurrent layers forget at once.
"""

from __future__ import annotations

from torch import nn

from .blocks import Attention, calls_of
from .choices import drawn, replayed
from .evidence import Place
from .networks import Network, network
from .plain import tapped
from .questions import layers_with_maps


def without_mixing(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Attention):
            module.proj.weight.data.zero_()
        if isinstance(module, nn.MultiheadAttention):
            module.out_proj.weight.data.zero_()
        if isinstance(module, nn.LSTM):
            _forget(module, module.hidden_size, 2 * module.hidden_size, -1e4)
        if isinstance(module, nn.GRU):  # z = 0: the new state alone, which the old one reaches through r
            _forget(module, module.hidden_size, 2 * module.hidden_size, -1e4)
        if isinstance(module, nn.RNNBase):
            for name, parameter in module.named_parameters():
                if name.startswith("weight_hh"):
                    parameter.data.zero_()


def _forget(module: nn.RNNBase, start: int, end: int, value: float) -> None:
    for name, parameter in module.named_parameters():
        if name.startswith("bias_ih"):
            parameter.data[start:end] = value


def made(seed: int) -> Network | None:
    """A network of one picture to plant in, or of frames or a bag of them; None for others."""
    choose = drawn(seed)
    network(choose)
    without = {"adapter", "acts", "background", "checkpoint", "images in"}
    kept = {k: v for k, v in choose.made.items() if k not in without and v not in ("group", 5)}
    wide = {1: (64,), 2: (12, 32), 3: (6, 8, 10)}[kept.get("rank", 2)]
    net = network(replayed({**kept, "size": wide, "depth": 1}))  # sees little of its image at once
    (picture, *others) = net.pictures.values()
    further = ("branches", "segmentation", "segmentation and class", "queries", "steps")  # heads that see more
    if others or picture.layout == "N*C" or net.call != "arguments" or net.arrangement in further:
        return None
    without_mixing(net.model)
    return net


def test_a_planted_change_shows_where_it_was_planted() -> None:
    outcomes = [planted(net) for net in map(made, range(30)) if net is not None]
    assert len(outcomes) > 12
    assert sum(outcomes) > 0.7 * len(outcomes)  # in the others every position may see the place


def planted(net: Network) -> bool:
    """Whether there were positions that must not change; they did not, nor any of another image."""
    ((name, picture),) = net.pictures.items()
    before, state, place = net.inputs[name], net.state, picture.places[-1]
    flat = before.flatten(0, 1) if picture.layout == "NFC*" else before
    changed = flat.clone()
    changed[(-1, slice(None), *(slice(a, b) for a, b in zip(place.start, place.end, strict=True)))] += 2
    shown = told = False
    for layer in layers_with_maps(net):
        if not {"backbone", "features"} & set(layer.split(".")[:2]):
            continue
        module = net.model.get_submodule(layer)
        responses = []
        for x in (flat, changed):
            net.inputs[name] = x.view_as(before)
            responses.append([t.activations.detach() for t in tapped(net, module)[0]])
        for call, a, b in zip(calls_of(module), *responses, strict=True):
            response = (call.axes.view(b) - call.axes.view(a)).abs().sum(1)
            assert not response[:-1].any(), (layer, "another image changed")
            axes = sorted(call.axes.along)
            reach = [state.reach[axis] + state.step[axis] for axis in axes]
            start, end = (tuple(edge[axis] for axis in axes) for edge in (place.start, place.end))
            far = Place(start, end, place.alone).outside(response.shape[1:], [picture.size[i] for i in axes], reach)
            assert response[-1][far].sum() <= 1e-5 * response[-1].sum(), (layer, call.axes)
            shown |= bool(response[-1].any())
            told |= bool(far.any())
    assert shown
    return told
