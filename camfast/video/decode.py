"""A clip read from its beginning to its end: upright RGB pictures with their times, and the sound's packets between them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..brief import Brief
from ..errors import require, why_no_file

__all__ = ["Clip", "Colors", "Picture", "Sound", "VideoError", "reason_of"]

# swscale's conversions by the numbers of ITU-T H.273: 709, FCC, 601 (two numbers), 240M, 2020 (two).
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_UNKNOWN = 2
_RATE = Fraction(25)  # of streams that tell none
_TELLING = {
    "matroska",
    "webm",
    "flv",
    "asf",
}  # containers whose head tells how long they are, and not how many frames they have
_LOST = 0.5  # seconds that must be missing at the end of one: its last packets may have no duration


class VideoError(ValueError):
    """A clip that cannot be read or written; the message is one sentence that names the file and the reason."""


@dataclass(frozen=True, repr=False)
class Picture(Brief):
    """A frame: RGB uint8 ``[H, W, 3]``, upright. Times count in the clip's ``time_base`` from the part's beginning."""

    pixels: np.ndarray
    pts: int
    duration: int  # 0 where it is not known


@dataclass(frozen=True)
class Sound:
    """A packet of the audio stream ``number``, as it is in the file."""

    number: int
    packet: Any


@dataclass(frozen=True)
class Colors:
    """How numbers become colours, by the numbers of ITU-T H.273; ``matrix`` is one that swscale knows."""

    matrix: int
    primaries: int
    transfer: int


class Clip:
    """A video file, or anything else that FFmpeg opens, from ``start`` to ``end`` seconds.

    Iterating gives :class:`Picture` and :class:`Sound` in the order of the file, once. Pictures of another size than
    the first one's are scaled to it. Packets that cannot be decoded are left out; where the file breaks off, iteration
    ends. :attr:`notes` then says so.

    Attributes:
        height, width: of the first picture, upright.
        rate: frames a second, on average.
        time_base: seconds that the unit of times stands for.
        frames: the expected number of pictures, None where it cannot be known.
        aspect: width of a pixel over its height.
        colors: how its numbers become colours.
        audio: the audio streams (of PyAV).
        notes: what was not as it should be, in sentences.

    ``decoder`` is ``"cpu"``, or a device of FFmpeg's that decodes: ``"cuda"`` (NVDEC), ``"qsv"``, ``"vaapi"``, ...

    Raises :class:`VideoError` where there is no such file, it is no video, or no picture can be decoded from it;
    ``ValueError`` for a part that is empty.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        start: float = 0.0,
        end: float | None = None,
        *,
        options: dict[str, str] | None = None,
        format: str | None = None,
        timeout: float | None = None,
        audio: bool = True,
        decoder: str = "cpu",
    ) -> None:
        if start < 0 or (end is not None and end <= start):
            raise ValueError(f"expected a part of the clip, 0 <= start < end, got {start:g} to {end}")
        self.path = str(path)
        self.start = Fraction(start).limit_denominator(10**6)
        self.end = None if end is None else Fraction(end).limit_denominator(10**6)
        self.notes: list[str] = []
        self._av = require("av", "video")
        self._container = self._open(options, format, timeout, self._device(decoder))
        try:
            self._stream = self._video_stream()
            self._stream.thread_type = "AUTO"
            self.audio = [s for s in self._container.streams.audio if s.codec_context is not None] if audio else []
            self.time_base: Fraction = self._stream.time_base or 1 / _RATE
            self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or _RATE
            # The earliest stream begins at 0: all are moved alike, so that they stay in step.
            self.origin = Fraction(self._container.start_time or 0, self._av.time_base) + self.start
            self.metadata = dict(self._container.metadata)
            self.aspect, self.colors = Fraction(1), Colors(5, _UNKNOWN, _UNKNOWN)  # until the first picture is known
            self._size: tuple[int, int] | None = None  # (height, width), upright
            self._items = self._read()
            self._first = list(self._until_picture())
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Picture | Sound]:
        return itertools.chain(self._first, self._items)

    @property
    def height(self) -> int:
        assert self._size is not None
        return self._size[0]

    @property
    def width(self) -> int:
        assert self._size is not None
        return self._size[1]

    @property
    def duration(self) -> float | None:
        """Seconds of the part, where they are known."""
        whole: Fraction | None = None
        if self._stream.duration:
            whole = self._stream.duration * self.time_base
        elif self._container.duration:
            whole = Fraction(self._container.duration, self._av.time_base)
        ends = [t for t in (whole, self.end) if t is not None]
        return max(float(min(ends) - self.start), 0.0) if ends else None

    @property
    def frames(self) -> int | None:
        if self._stream.frames and not self.start and self.end is None:
            return self._stream.frames
        return None if self.duration is None else round(self.duration * self.rate)

    def close(self) -> None:
        """Closes the file. Not while another thread iterates."""
        self._container.close()

    def __enter__(self) -> Clip:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _device(self, decoder: str) -> Any:
        """The device that decodes, for PyAV; None for the processor. Its pictures come back to the processor's memory."""
        if decoder == "cpu":
            return None
        hwaccel = require("av.codec.hwaccel", "video")
        known = hwaccel.hwdevices_available()
        if decoder not in known:
            raise ValueError(f"decoder must be 'cpu' or one of {', '.join(map(repr, known))}, got {decoder!r}")
        return hwaccel.HWAccel(decoder, allow_software_fallback=False)

    def _open(self, options: dict[str, str] | None, format: str | None, timeout: float | None, device: Any) -> Any:
        path = self.path
        is_file = "://" not in path and format is None
        if is_file:
            path = str(Path(path).expanduser())
            why = why_no_file(path)
            if why and not Path(path).is_fifo():  # FFmpeg waits for what another program writes
                raise VideoError(f"cannot read {path}: {why}")
            if not why and Path(path).stat().st_size == 0:
                raise VideoError(f"cannot read {path}: the file is empty")
        try:
            return self._av.open(path, format=format, options=options or {}, timeout=timeout, hwaccel=device)
        except (self._av.FFmpegError, OSError, ValueError, RuntimeError) as error:
            if device is not None:
                raise VideoError(
                    f"cannot read {path} by the chosen decoder, {reason_of(error)}: it needs that device and a codec that it "
                    "knows; 'cpu' reads all"
                ) from error
            if is_file and isinstance(error, (self._av.InvalidDataError, EOFError)):
                raise VideoError(f"cannot read {path}: it is no video, or one that was cut short or damaged") from error
            raise VideoError(f"cannot read {path}: {reason_of(error)}") from error

    def _video_stream(self) -> Any:
        pictures = self._av.stream.Disposition.attached_pic
        streams = [s for s in self._container.streams.video if not s.disposition & pictures]  # no cover of a song
        if not streams:
            found = sorted({s.type for s in self._container.streams}) or ["nothing"]
            raise VideoError(f"cannot use {self.path}: expected a video stream, got {' and '.join(found)} alone")
        if streams[0].codec_context is None:
            raise VideoError(f"cannot read {self.path}: its video codec is unknown to this FFmpeg")
        return streams[0]

    def _until_picture(self) -> Iterator[Picture | Sound]:
        for item in self._items:
            yield item
            if isinstance(item, Picture):
                return
        reason = "no picture in it can be decoded"
        if self.start:
            reason = f"there is no picture at or after {float(self.start):g} s"
        raise VideoError(f"cannot read {self.path}: {reason}{'; ' + self.notes[0] if self.notes else ''}")

    def _read(self) -> Iterator[Picture | Sound]:
        if self.start:
            self._container.seek(round(self.origin * self._av.time_base), backward=True)
        numbers = {stream.index: number for number, stream in enumerate(self.audio)}
        pending = {self._stream.index, *numbers}  # streams that have not reached the end
        shown = _Shown(self)
        skipped, why = 0, ""
        reached = Fraction(0)  # the end of the last packet, of any stream
        packets = self._container.demux(self._stream, *self.audio)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except (self._av.FFmpegError, OSError) as error:
                self.notes.append(f"{self.path} breaks off after {shown.seconds:.2f} s ({reason_of(error)})")
                yield from self._decoded(None, shown)
                break
            if packet.pts is not None:
                reached = max(reached, (packet.pts + (packet.duration or 0)) * packet.time_base - self.origin)
            if packet.stream.index in numbers:
                time = None if packet.pts is None else packet.pts * packet.time_base - self.origin
                if time is not None and self.end is not None and time >= self.end - self.start:
                    pending.discard(packet.stream.index)
                elif packet.size and (time is None or time >= 0 or not self.start):
                    yield Sound(numbers[packet.stream.index], packet)
            else:
                try:
                    yield from self._decoded(packet, shown)
                except (self._av.FFmpegError, ValueError) as error:
                    skipped += 1
                    why = reason_of(error)
                if shown.past_end:
                    pending.discard(self._stream.index)
            if self.end is not None and (not pending or (shown.past_end and packet.stream is self._stream)):
                # Sound lies close to its pictures in a file; some that belongs to the end may come just after it.
                pending.discard(self._stream.index)
                shown.late += 1
                if not pending or shown.late > 50:
                    break
        if skipped:
            self.notes.append(f"{skipped} damaged packet{'s' * (skipped != 1)} of {self.path} left out ({why})")
        if self.start or self.end is not None or self.notes:
            return
        expected, length = self._stream.frames, self._told_length()
        ends = f"{self.path} ends after"
        lost = None if length is None else length - reached
        apart = reached / max(shown.count, 1)  # AVI files may count moments without a frame of their own
        if expected and shown.count < expected and (lost is None or lost > 1.5 * apart):
            self.notes.append(f"{ends} {shown.count} of {expected} frames ({shown.seconds:.2f} s): it was cut short")
        elif not expected and length is not None and length - reached > _LOST:
            self.notes.append(f"{ends} {float(reached):.2f} of {float(length):.2f} s: it was cut short")

    def _told_length(self) -> Fraction | None:
        """Seconds that the file's head tells; None where it tells none, or FFmpeg may have guessed them from its size."""
        if self._stream.frames:
            return self._stream.frames / self.rate
        length = self._container.duration
        streams = self._container.streams
        if not length or not _TELLING & set(self._container.format.name.split(",")):
            return None
        if len(streams) > 1 + len(self.audio):
            return None  # subtitles may outlast the pictures
        return Fraction(length, self._av.time_base)

    def _decoded(self, packet: Any, shown: _Shown) -> Iterator[Picture]:
        for frame in self._stream.decode(packet):
            picture = shown.picture(frame)
            if picture is not None:
                yield picture


@dataclass
class _Shown:
    """What has been shown of a clip, and the step from a decoded frame to a picture."""

    clip: Clip
    count: int = 0
    last: int | None = None  # time of the last picture
    past_end: bool = False
    late: int = 0
    resized: bool = False
    sizes: set[tuple[int, int]] = field(default_factory=set)

    @property
    def seconds(self) -> float:
        return 0.0 if self.last is None else float((self.last + 1) * self.clip.time_base)

    def picture(self, frame: Any) -> Picture | None:
        """``frame`` as a picture, or None where it lies outside the part."""
        clip, unit = self.clip, self.clip.time_base
        base = frame.time_base or unit
        step = max(1, round(1 / (clip.rate * unit)))
        if frame.pts is None:
            pts = 0 if self.last is None else self.last + step
        else:
            pts = round((frame.pts * base - clip.origin) / unit)
        if pts < 0 and clip.start:
            return None
        if clip.end is not None and pts * unit >= clip.end - clip.start:
            self.past_end = True
            return None
        if self.last is not None and pts <= self.last:  # times must rise: a frame is never lost for it
            pts = self.last + 1
        pixels = self.upright(frame)
        self.last = pts
        self.count += 1
        return Picture(pixels, pts, round(frame.duration * base / unit) if frame.duration else 0)

    def upright(self, frame: Any) -> np.ndarray:
        """RGB uint8 ``[H, W, 3]`` of the clip's size, turned as its display matrix says."""
        clip = self.clip
        turns = round(frame.rotation / 90) % 4
        if clip._size is None:
            size = (frame.height, frame.width)
            clip._size = size[::-1] if turns % 2 else size
            aspect = clip._stream.sample_aspect_ratio or Fraction(1)
            clip.aspect = 1 / aspect if turns % 2 and aspect else aspect or Fraction(1)
            clip.colors = _colors(frame, clip._stream.codec_context)
        height, width = clip._size[::-1] if turns % 2 else clip._size
        if (frame.height, frame.width) != (height, width) and not self.resized:
            self.resized = True
            clip.notes.append(
                f"frames change from {width} x {height} to {frame.width} x {frame.height} after {self.seconds:.2f} s: "
                "they are scaled to the first size"
            )
        alpha = any(component.is_alpha for component in frame.format.components)
        how = {"width": width, "height": height, "format": "rgba" if alpha else "rgb24"}
        if not frame.format.is_rgb:
            how |= {"src_colorspace": clip.colors.matrix, "dst_colorspace": clip.colors.matrix}
        pixels = frame.to_ndarray(**how)
        if alpha:
            pixels = _on_white(pixels)
        return np.ascontiguousarray(np.rot90(pixels, turns))


def reason_of(error: BaseException) -> str:
    """Why, in a few words: FFmpeg's own, without the number and the file's name around them."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()).rstrip(".").lower()


def _colors(frame: Any, context: Any) -> Colors:
    usual = 1 if frame.height >= 720 else 5  # what players take where nothing is said
    known = frame.colorspace in _MATRICES
    primaries, transfer = int(context.color_primaries), int(context.color_trc)
    return Colors(_MATRICES[frame.colorspace] if known else usual, primaries or _UNKNOWN, transfer or _UNKNOWN)


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """RGBA ``[H, W, 4]`` laid on white, as transparent photographs are."""
    share = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)
