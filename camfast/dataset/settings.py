"""What a folder was made with: ``run.json``, and the refusal of a second start with something else."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..version import __version__
from .shards import write_whole

__all__ = ["alone", "found_layer", "read_settings", "settle", "stable", "weights_digest"]

_LONG = {"weights": "other weights", "class_names": "other class names"}


def stable(value: Any) -> str:
    """``value`` in words that are the same in every process: without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def weights_digest(model: nn.Module) -> str:
    """A number that changes with any of the model's weights and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            plain = tensor.detach().cpu().contiguous().reshape(-1)
            if plain.numel():
                digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def settle(out: Path, settings: dict[str, Any]) -> None:
    """Writes ``run.json`` at a first start.

    At a later one raises ``ValueError`` where any of the settings was another one; the version may change, and rows tell
    which one made them.
    """
    plain = json.loads(json.dumps(settings, default=stable))
    file = out / "run.json"
    if file.exists():
        before = read_settings(out)
        for name, value in plain.items():
            if name in before and before[name] != value:
                change = _LONG.get(name, f"{name} {_short(before[name])}, not {_short(value)}")
                raise ValueError(
                    f"{out} was made with {change}: give another folder, or the settings of the first start"
                )
        return
    if out.exists() and any((out / "shards").glob("part-*.parquet")):
        raise ValueError(f"expected {out} to be empty or to hold run.json, got shards alone; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    fingerprint = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    _write(file, plain | {"layer": None, "version": __version__, "fingerprint": fingerprint, "started": started})


def found_layer(out: Path, layer: str, map_size: tuple[int, int]) -> None:
    """Adds to ``run.json`` which layer is explained, and the size of its maps, once that is known."""
    content = read_settings(out)
    if content.get("layer") is None:
        _write(out / "run.json", content | {"layer": layer, "map_size": list(map_size)})


def read_settings(out: Path) -> dict[str, Any]:
    """What ``run.json`` says. Raises ``ValueError`` where it is damaged."""
    try:
        content = json.loads((out / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {out / 'run.json'}: {error}; give another folder") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected settings in {out / 'run.json'}, got something else; give another folder")
    return content


def _write(file: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=1)
    write_whole(file, lambda stream: stream.write(text.encode()))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:299]}…"


_written: set[Path] = set()  # by this process
_guard = threading.Lock()


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keeps a second run from writing into ``out`` meanwhile; the lock of a killed process is gone with it.

    The lock is of the process alone (``lockf``): one that its workers inherit would be held until the last of them has seen
    that their process was killed, and a start in those seconds would be refused. Other threads are kept out by a set.
    """
    out.mkdir(parents=True, exist_ok=True)
    own = out.resolve()
    with _guard:
        if own in _written:
            raise _taken(out)
        _written.add(own)
    try:
        with open(own / ".lock", "a") as file:
            try:
                import fcntl

                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise _taken(out) from None
            except (ImportError, OSError):  # Windows; a file system without locks
                pass
            yield
    finally:
        _written.discard(own)


def _taken(out: Path) -> ValueError:
    return ValueError(f"another run is writing into {out}: wait for it, or give another folder")
