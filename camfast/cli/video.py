"""``camfast video``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import require
from ..video import explain_video, summary
from .arguments import add_heat, add_network, add_smooth, add_threads, not_negative, positive
from .detectors import add_stream_detector, stream

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast video``."""
    parser.add_argument("clip", metavar="IN", help="a video file, or anything else that FFmpeg opens")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="the explained clip, such as out.mp4")
    part = parser.add_argument_group("the clip")
    part.add_argument(
        "--layout",
        choices=["overlay", "side-by-side", "heatmap"],
        default="overlay",
        help="the heat over the frame; beside the frame; alone (%(default)s)",
    )
    part.add_argument("--start", type=not_negative, default=0.0, metavar="S", help="from this second on (%(default)g)")
    part.add_argument("--end", type=not_negative, metavar="S", help="up to this second (the clip's end)")
    part.add_argument(
        "--codec", metavar="C", help="h264, hevc, vp9, av1 or an encoder of FFmpeg (h264; in .webm files vp9)"
    )
    part.add_argument(
        "--quality", type=not_negative, metavar="Q", help="the codec's constant rate factor, lower is better (h264: 18)"
    )
    part.add_argument(
        "--decoder", default="cpu", metavar="D", help="cpu, or a device: cuda (NVDEC), qsv, vaapi, ... (%(default)s)"
    )
    part.add_argument("--no-summary", action="store_true", help="no table and chart of the classes beside the clip")
    part.add_argument("--every", type=positive, default=1, metavar="N", help="look at each N-th frame (%(default)s)")
    add_threads(parser)
    add_network(parser, fit="stretch")
    add_stream_detector(parser)
    add_smooth(add_heat(parser, None, "grad_cam; of a detector layer_cam"))


def run(options: argparse.Namespace) -> int:
    """Explains the clip; the exit code is 0 for a whole one, 1 for a part, 130 on Ctrl-C."""
    network, engine = stream(options, every=options.every)
    tqdm = require("tqdm", "vision").tqdm
    output = Path(options.output).expanduser()
    bar = tqdm(unit="frame", file=sys.stderr, dynamic_ncols=True)

    def progress(done: int, expected: int | None) -> None:
        if bar.total != expected:
            bar.total = expected
        bar.update(done - bar.n)

    try:
        report = explain_video(
            options.clip,
            output,
            engine,
            layout=options.layout,
            start=options.start,
            end=options.end,
            codec=options.codec,
            quality=options.quality,
            progress=progress,
            decoder=options.decoder,
        )
    finally:
        bar.close()
    for note in report.notes:
        print(f"camfast video: {note}", file=sys.stderr)
    if report.output is None:
        return 1
    files, problem = [output], ""
    if not options.no_summary and report.rows:
        title = f"{Path(options.clip).name}: what {network.name} saw"
        try:
            files.append(summary.write_table(report.rows, network.class_name, output.with_suffix(".csv")))
            files.append(summary.write_chart(report.rows, network.class_name, output.with_suffix(".png"), title))
        except OSError as error:  # a full disk: how far the clip got is told all the same
            problem = f"the table and chart of the classes are not whole: {error.strerror or error}"
    rate = report.frames / max(report.elapsed, 1e-9)
    print(
        f"{report.frames} frames, {report.seconds:.2f} s of the clip, {rate:.1f} frames/s: {', '.join(map(str, files))}"
    )
    threads = "" if engine.threads is None else f", {engine.threads} thread{'s' if engine.threads != 1 else ''}"
    print(f"{engine.method} of {network.name} at {', '.join(engine.layers_in_use)}{threads}")
    if problem:
        print(f"camfast video: {problem}", file=sys.stderr)
    if report.stopped:
        print(
            f"camfast video: {report.stopped}; {report.frames} frames, up to {report.seconds:.2f} s, are in {output}",
            file=sys.stderr,
        )
        return 130 if report.stopped == "interrupted" else 1
    return 1 if problem or any("breaks off" in note or "cut short" in note for note in report.notes) else 0
