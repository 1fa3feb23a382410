"""The same work on Ray Data: actors that hold the model, on this machine or on a cluster.

Ray shares out parts of the source and does a part again whose actor has died. An actor returns the rows of a part, which
the process that asked for them writes: what Ray does twice is written once.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from ..errors import require
from .decode import Sample, collate, loaded, samples_of
from .items import Listed, Source, Streamed, Unreadable
from .rows import Job, Rows

__all__ = ["on_ray"]

PART = 4  # batches: what is lost with an actor, and what an answer holds
GROUP = 4  # processors of an actor without a GPU


class _Actor:
    """Decodes and explains parts of the source, as Ray hands them out."""

    def __init__(self, job: Any, source: Any, done: Any, batch: int, threads: int, gpu: bool, hands: int) -> None:
        import ray

        torch.set_num_threads(threads)
        self.source: Source = ray.get(source)
        self.done = ray.get(done)
        # A copy of its own: what comes from Ray's store cannot be written to, and some models count their calls.
        self.job: Job = pickle.loads(ray.get(job))
        self.job.model.to("cuda" if gpu else "cpu")
        self.step = self.job.step()
        self.batch, self.pool = batch, ThreadPoolExecutor(hands)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = pickle.loads(row["part"])
        rows: Rows = []
        unreadable: list[Unreadable] = []
        for samples in self._batches(part):
            batch = collate(samples)
            rows += self.step(batch)
            unreadable += batch.unreadable
        return {"result": pickle.dumps((rows, unreadable))}

    def _batches(self, part: Any) -> Iterator[Sequence[Sample]]:
        """A part's samples, read by threads while those before them are explained."""
        if isinstance(self.source, Listed):
            read = self.pool.map(lambda index: loaded(self.source, index, self.job.prepare), part)  # type: ignore[arg-type]
        else:
            assert isinstance(self.source, Streamed)
            read = samples_of(self.source, part, self.job.prepare, self.done)
        held: list[Sample] = []
        for sample in read:
            held.append(sample)
            if len(held) == self.batch:
                yield held
                held = []
        if held:
            yield held


def on_ray(
    job: Job,
    source: Source,
    pending: Sequence[int] | None,
    done: set[Any],
    address: bool | str,
    actors: int | None,
    batch: int,
    hands: int | None,
) -> Iterator[tuple[Rows, list[Unreadable]]]:
    """The rows of all that is to be done, part by part, as they are ready.

    Args:
        job: what is done; its model goes to the actors.
        source: where pictures come from; its files must be where the actors are.
        pending: the numbers to do, of a listed source.
        done: keys that a stream leaves out.
        address: of a cluster; True for the Ray that runs in this process, or one of this machine alone.
        actors: how many; None: one per GPU, or one per four processors.
        batch: pictures per pass.
        hands: threads that decode, of each actor (as many as it has processors).
    """
    ray = require("ray", "ray")
    data = require("ray.data", "ray")
    if getattr(source, "own_workers", False):
        raise ValueError("on Ray a DataLoader cannot be shared out: give its Dataset")
    parts: list[Any]
    if pending is None:
        assert isinstance(source, Streamed)
        parts = list(range(len(source.shards)))
    else:
        size = PART * batch
        parts = [list(pending[start : start + size]) for start in range(0, len(pending), size)]
    if not parts:
        return
    mine = not ray.is_initialized()
    if mine:
        where = address if isinstance(address, str) else "local"
        ray.init(address=where, log_to_driver=False, **({"include_dashboard": False} if where == "local" else {}))
    context = data.DataContext.get_current()
    bars = context.enable_progress_bars
    try:
        context.enable_progress_bars = False
        count, processors, gpu = _shares(ray.cluster_resources(), actors)
        count = min(count, len(parts))
        packed = ray.cloudpickle.dumps(_movable(job))  # classes of the user's own script too
        made = data.from_items([{"part": pickle.dumps(part)} for part in parts], override_num_blocks=len(parts)).map(
            _Actor,
            fn_constructor_kwargs={
                "job": ray.put(packed),
                "source": ray.put(source),
                "done": ray.put(done if pending is None else set()),
                "batch": batch,
                "threads": processors,
                "gpu": gpu,
                "hands": hands or processors,
            },
            concurrency=count,
            num_cpus=processors,
            num_gpus=1 if gpu else 0,
        )
        for row in made.iter_rows():
            yield pickle.loads(row["result"])
    finally:
        context.enable_progress_bars = bars
        if mine:
            ray.shutdown()


def _movable(job: Job) -> Job:
    """The job with its model on the CPU, from where any actor can take it; the user's own stays where it is."""
    if all(tensor.device.type == "cpu" for tensor in job.model.state_dict().values()):
        return job
    return dataclasses.replace(job, model=copy.deepcopy(job.model).to("cpu"))


def _shares(resources: dict[str, float], actors: int | None) -> tuple[int, int, bool]:
    """How many actors, the processors of each, and whether each has a GPU."""
    processors = max(1, int(resources.get("CPU", os.cpu_count() or 1)))
    gpus = int(resources.get("GPU", 0))
    if gpus:
        count = min(actors or gpus, gpus)
        return count, max(1, processors // count), True
    count = actors or -(-processors // GROUP)
    return count, max(1, processors // count), False
