"""Heatmaps and feature maps of fixed images, logged to TensorBoard as the network learns.

The explanation runs where training runs, which costs one pass of a few images; colouring, PNG and the disk are left to
a thread beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import require
from ..features.maps import FeatureMaps, Maps
from ..methods import METHODS, Explainer
from ..methods.chosen import count_per_image
from ..methods.explanation import Explanation
from ..methods.figure import PANELS
from ..methods.ranges import Normalize, check_normalize
from ..model.inputs import Images, Inputs
from ..model.layers import Layer
from ..ops.colormaps import ALPHA, COLORMAP
from ..pictures.grids import grid, pictures_of
from ..pictures.tensorboard import opened
from ..targets import ClassNames, Policy, Targets, TopK
from ..threads import Behind

__all__ = ["Watch", "huggingface_callback", "lightning_callback", "lightning_package", "lightning_writer"]

_WAITING = 8  # logs that may wait for the disk before training waits for them
_CURVES = 100  # of scores
_TILE = 96  # pixels of a feature map's side, at least


class Watch:
    """Logs heatmaps and feature maps of fixed validation images, every ``every`` steps::

        watch = camfast.callbacks.Watch(model, images, every=100, writer="runs/watch")
        for batch in loader:
            ...
            optimizer.step()
            watch()
        watch.close()

    Args:
        model: the network in training. Its mode, buffers, gradients and random state are as before after each call.
        images: the batch that is explained each time, a tensor ``[N, C, H, W]`` or what the model is called with; it is
            moved to the model's device once. A few are enough.
        layers: the layer that is explained; None: the last with a spatial map.
        every: steps between two logs; the first step is logged.
        writer: a ``SummaryWriter``, or the path of a log directory.
        targets: what is explained, as in :class:`camfast.GradCAM`; None: each image's top class at that time. Labels
            let heatmaps of different steps be compared. Each of several targets an image has its own heat and curve.
        method: a name of ``camfast.METHODS``, or an explainer class.
        features: layers whose maps are logged besides, names or patterns; None: the explained layer; ``()``: none.
        channels: how many maps of each, those of largest variance.
        frames: the pictures the heat is drawn over, uint8 ``[N, H, W, 3]``; None: the images, each stretched to its
        range. colormap, alpha: of the heat.
        normalize: the heat's range, as in :meth:`camfast.Explainer.__call__`; ``(low, high)``, in raw values, lets the
            colours of different steps be compared.
        class_names: names of the classes, for pictures and curves.

    Tags: ``heatmaps`` (a labelled figure: a row per image, a column per target), ``features/<layer>`` (the first image's
    maps), and as curves ``scores/image <i> <target>`` (the score of each target, a probability where the model is a
    classifier; without fixed targets that of the best ones) and ``heatmap milliseconds``. :attr:`seconds` is the time that
    training waited in all. The last step is logged when the watch is closed. Errors of the writing thread are raised by
    the next call or by :meth:`close`.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        layers: Layer | Sequence[Layer] | None = None,
        *,
        every: int = 100,
        writer: Any,
        targets: Targets = None,
        method: str | type[Explainer] = "grad_cam",
        features: Layer | Sequence[Layer] | None = None,
        channels: int = 16,
        frames: Any = None,
        colormap: str = COLORMAP,
        alpha: float = ALPHA,
        normalize: Normalize = True,
        class_names: ClassNames | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be 1 step or more, got {every}")
        if isinstance(method, str) and method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        check_normalize(normalize)
        self.model = model
        self.every = every
        self.seconds = 0.0
        self.logs = 0
        self._images = images
        self._targets = targets
        self._frames = frames
        self._colormap, self._alpha, self._normalize = colormap, alpha, normalize
        made = METHODS[method] if isinstance(method, str) else method
        self._explainer = made(model, layers, class_names=class_names)
        self._features = features
        self._channels = channels
        self._looker: FeatureMaps | None = None
        self._device: torch.device | None = None
        self._steps = 0  # the next step's number
        self._logged = -1  # the last one that was logged
        self._writer = opened(writer)
        self._log = self._writer.__enter__()
        self._jobs: Behind[Callable[[], None]] | None = Behind(lambda job: job(), _WAITING, "watch")

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        self.close(last=kind is None)

    def __call__(self, step: int | None = None) -> Explanation | None:
        """To be called after each training step; logs where one is due, and returns its explanation, else None.

        ``step`` is the number of the step; None counts the calls, from 0.
        """
        if self._jobs is None:
            raise RuntimeError("expected an open Watch, got one that was closed")
        step = self._steps if step is None else step
        self._steps = step + 1
        if step % self.every:
            return None
        return self.log(step)

    def log(self, step: int) -> Explanation:
        """Logs now, whatever ``every`` says."""
        if self._jobs is None:
            raise RuntimeError("expected an open Watch, got one that was closed")
        self._jobs.raise_error()
        start = time.perf_counter()
        self._move()
        cuda = [self._device.index] if self._device is not None and self._device.type == "cuda" else []
        with torch.random.fork_rng(cuda):  # dropout of the training steps to come is as without a watch
            result = self._explainer(self._images, self._targets, normalize=self._normalize)
            maps = self._maps()
        # Later steps change weights, not these tensors: the thread may take its time.
        waited = time.perf_counter() - start
        stream = torch.cuda.current_stream(self._device) if cuda else None

        def draw() -> None:
            with torch.cuda.stream(stream):
                self._draw(step, result, maps, waited)

        self._jobs.put(draw)
        self.seconds += time.perf_counter() - start
        self.logs += 1
        self._logged = step
        return result

    def close(self, last: bool = True) -> None:
        """Waits until everything is written, and closes the log where the watch opened it.

        ``last`` logs the last step too, where it was not due: the network as it was trained.
        """
        if self._jobs is None:
            return
        try:
            if last and self._steps - 1 > self._logged:
                self.log(self._steps - 1)
        finally:
            jobs, self._jobs = self._jobs, None
            try:
                jobs.close()
            finally:
                self._writer.__exit__(None, None, None)

    def _move(self) -> None:
        device = next((p.device for p in self.model.parameters()), None)
        if device is None or device == self._device:
            return
        self._images, self._device = _moved(self._images, device), device

    def _maps(self) -> Maps:
        if self._features is not None and not isinstance(self._features, (str, nn.Module)) and not len(self._features):
            return Maps({})
        if self._looker is None:
            layers = self._explainer.layers if self._features is None else self._features
            self._looker = FeatureMaps(self.model, layers, reduce=self._channels)
        return self._looker(Inputs.of(self._images).first())

    def _draw(self, step: int, result: Explanation, maps: Maps, seconds: float) -> None:
        many = count_per_image(result.targets)
        shown = result[: PANELS // (1 + (many or 1)) or 1]
        frames = None if self._frames is None else self._frames[: len(shown)]
        page = shown.figure(frames, self._colormap, self._alpha, title=f"Step {step}")
        self._log.add_picture("heatmaps", torch.from_numpy(np.array(page)), step)
        for name, value in maps.items():
            pictures = pictures_of(value[0])
            picture = grid(pictures, colormap="viridis", scale=-(-_TILE // max(pictures.shape[1:]))).tensor
            self._log.add_picture(f"features/{name}", picture, step)
        for tag, score in self._scores(result, many):
            self._log.add_scalar(tag, score, step)
        self._log.add_scalar("heatmap milliseconds", seconds * 1000, step)

    def _scores(self, result: Explanation, many: int | None) -> Iterator[tuple[str, float]]:
        """A tag and a value for each target of each image; of targets that change from step to step, by their rank."""
        ranked = self._targets is None or isinstance(self._targets, (TopK, Policy))
        each = [(i, k) for i in range(len(result)) for k in range(many or 1)]
        for i, k in each[:_CURVES]:
            target = None if many is None else k
            score = result.score(i, target)
            if not math.isnan(score):
                name = f"best {k + 1}" if ranked else result.label(i, target)
                yield f"scores/image {i} {name}", score


def lightning_callback(images: Images, layers: Layer | Sequence[Layer] | None = None, **options: Any) -> Any:
    """A Lightning ``Callback`` that watches the module in training, one log every ``every`` of its global steps.

    Arguments are those of :class:`Watch`, without the model; ``writer`` may be left out where the trainer logs to
    TensorBoard: its writer is used then. ``callback.watch`` is the watch. Needs ``lightning`` or ``pytorch_lightning``.
    """
    package = lightning_package()

    class WatchCallback(package.Callback):  # type: ignore[misc, name-defined]
        watch: Watch | None = None

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.is_global_zero:
                self.watch = Watch(pl_module, images, layers, **_with_writer(options, lightning_writer(trainer)))

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            if self.watch is not None:
                self.watch(trainer.global_step - 1)

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            if self.watch is not None:
                self.watch.close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            if self.watch is not None:
                self.watch.close(last=False)

    return WatchCallback()


def huggingface_callback(images: Images, layers: Layer | Sequence[Layer] | None = None, **options: Any) -> Any:
    """A Hugging Face ``TrainerCallback`` that watches the trainer's model, one log every ``every`` of its global steps.

    Arguments are those of :class:`Watch`, without the model; ``writer`` may be left out: the log goes to the trainer's
    ``logging_dir`` or ``output_dir``. ``callback.watch`` is the watch. Needs ``transformers``.
    """
    package = require("transformers", "huggingface")

    class WatchCallback(package.TrainerCallback):  # type: ignore[misc, name-defined]
        watch: Watch | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
            if state.is_world_process_zero:
                folder = getattr(args, "logging_dir", None) or args.output_dir
                self.watch = Watch(model, images, layers, **_with_writer(options, folder))

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if self.watch is not None:
                self.watch(state.global_step - 1)

        def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if self.watch is not None:
                self.watch.close()

    return WatchCallback()


def _with_writer(options: Mapping[str, Any], writer: Any) -> dict[str, Any]:
    if "writer" not in options and writer is None:
        raise ValueError(
            "expected writer=, a log directory or a SummaryWriter, since the trainer has no TensorBoard log"
        )
    return {"writer": writer, **options}


def lightning_package() -> Any:
    """Lightning, under either of its names."""
    try:
        return require("lightning.pytorch", "lightning")
    except ImportError:
        return require("pytorch_lightning", "lightning")


def lightning_writer(trainer: Any) -> Any:
    """The TensorBoard writer that a Lightning trainer logs to; None where it has none."""
    for logger in trainer.loggers:
        if hasattr(getattr(logger, "experiment", None), "add_image"):
            return logger.experiment
    return None


def _moved(images: Images, device: torch.device) -> Images:
    if isinstance(images, Tensor):
        return images.to(device)
    if isinstance(images, Mapping):
        return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in images.items()}
    return tuple(value.to(device) if isinstance(value, Tensor) else value for value in images)
