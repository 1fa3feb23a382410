"""``camfast image``: its arguments, and what it prints. The work is done in :mod:`camfast.cli.photographs`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from ..methods import METHODS
from ..methods.explainer import Explainer
from ..pictures import photos
from ..zoo import Network
from . import rounds
from .arguments import add_heat, add_network, add_photos, load_network, positive, value_range, wanted_targets
from .documents import Entry, as_csv, as_json, save_text
from .names import file_stems
from .page import as_page
from .photographs import Overlay, Style, write_overlays
from .tables import Number, aligned

__all__ = ["Overlay", "Style", "add_arguments", "file_stems", "run", "write_overlays"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast image``."""
    add_photos(parser)
    out = parser.add_argument_group("what is written")
    out.add_argument(
        "-o",
        "--output",
        default="overlays",
        metavar="DIR",
        help="folder for the overlays, in subfolders as the photographs (%(default)s)",
    )
    out.add_argument(
        "--format", choices=["jpg", "png", "webp"], default="jpg", help="of the overlays (%(default)s); png is lossless"
    )
    out.add_argument(
        "--legend",
        choices=["corner", "strip", "none"],
        default="corner",
        help="class and score in the picture's corner; in a strip below it with the scale of colours; not at all "
        "(%(default)s)",
    )
    out.add_argument("--csv", metavar="FILE", help="a table of photographs, classes, scores and files")
    out.add_argument("--json", metavar="FILE", help="the same as a document, with what was run")
    out.add_argument("--html", metavar="FILE", help="the same as a page of pictures, to search and to sort")
    out.add_argument(
        "--maps", choices=["npz"], help="the raw maps of each photograph, a NumPy file beside its overlays"
    )
    add_network(parser)
    parser.add_argument(
        "--batch-size",
        type=positive,
        metavar="B",
        help="photographs per pass (1 on the CPU, so that each is timed by itself; 8 on a GPU)",
    )
    heat = add_heat(parser)
    heat.add_argument(
        "--normalize",
        type=value_range,
        default=True,
        metavar="RANGE",
        help="each: every map by its own range; shared: all photographs by one, so that their colours can be compared; "
        "LOW,HIGH: this one, in raw values, such as that of another run (each)",
    )


def run(options: argparse.Namespace) -> int:
    """Explains the photographs; the exit code is 1 where some could not be done."""
    start = time.perf_counter()
    folder, files, entries = rounds.find(options, "image")
    if not files:
        return 1
    network = load_network(options)
    explainer = METHODS[options.method](network.model, options.layer)
    device = next(network.model.parameters()).device
    style = Style(
        colormap=options.colormap,
        alpha=options.alpha,
        legend=options.legend,
        suffix=f".{options.format}",
        normalize=options.normalize,
        maps=options.maps is not None,
        notes=[f"{options.method} of {options.model}"],
    )
    results = write_overlays(
        files,
        network,
        explainer,
        folder,
        targets=wanted_targets(options.target, network.class_names),
        places=options.photos,
        batch_size=options.batch_size or (8 if device.type == "cuda" else 1),
        style=style,
    )
    try:
        rounds.collect(results, files, entries, "image")
    finally:  # also after Ctrl-C: what is done is told
        _tell(options, network, explainer, entries, time.perf_counter() - start)
    return rounds.exit_code(entries)


def _tell(
    options: argparse.Namespace, network: Network, explainer: Explainer, entries: Sequence[Entry], seconds: float
) -> None:
    """Prints the table, and writes those that were asked for."""
    done = [found for _, found in entries if not isinstance(found, photos.PhotoError)]
    rows = [row for found in done for row in found]
    if rows:
        print(_listing(rows))
        print(f"\n{_summary(options, explainer, done, seconds)}")
    if options.csv is not None:
        save_text(as_csv(entries), options.csv)
    if options.json is not None:
        facts = {
            "model": options.model,
            "method": options.method,
            "layers": explainer.layers,
            "normalize": rows[0].scale if rows else None,
            "seconds": seconds,
        }
        save_text(as_json(entries, facts), options.json)
    if options.html is not None:
        place = Path(options.html).expanduser()
        title = f"What {network.name} saw in {len(done)} photograph{'s' * (len(done) != 1)}"
        note = _summary(options, explainer, done, seconds) if rows else ""
        save_text(as_page([found for _, found in entries], place, title, note), place)


def _listing(rows: Sequence[Overlay]) -> str:
    head = ["photo", "class", "score", "ms", "file"]
    cells = []
    for row in rows:
        score, milliseconds = Number(f"{row.score:.3f}"), Number(f"{row.milliseconds:.1f}")
        cells.append([row.photo, row.class_name, score, milliseconds, row.file])
    return aligned(head, cells)


def _summary(options: argparse.Namespace, explainer: Explainer, done: Sequence[list[Overlay]], seconds: float) -> str:
    """What was run, how long it took, and what the colours are."""
    first = done[0][0]
    most = max(found[0].batch for found in done)
    of = "each timed by itself" if most == 1 else f"an even share of passes of up to {most}"
    mean = sum(found[0].milliseconds for found in done) / len(done)
    count = len(done)
    ranges = (
        "each map by its own range"
        if isinstance(first.scale, str)
        else f"from {first.scale[0]:.6g} to {first.scale[1]:.6g} of raw values, the same in all pictures"
    )
    return (
        f"{options.method} of {options.model} at {', '.join(explainer.layers)}; heat: {ranges}\n"
        f"{count} photograph{'s' * (count != 1)} in {seconds:.1f} s with loading and drawing; "
        f"scores and heat alone: {mean:.1f} ms per photograph, {of}"
    )
