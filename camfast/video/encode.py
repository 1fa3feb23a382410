"""Pictures and sound written to a file that appears under its name when it is complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import require
from .decode import Clip, Picture, Sound, VideoError, reason_of

__all__ = ["CODECS", "Writer"]

CODECS = {"h264": "libx264", "hevc": "libx265", "h265": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
"""Short names of encoders; every other name is one of FFmpeg's own."""

_OPTIONS = {  # constant quality, a little better than what the eye sees, at several times real time
    "libx264": {"crf": "18", "preset": "veryfast"},
    "libx265": {"crf": "21", "preset": "fast", "x265-params": "log-level=error"},
    "libvpx-vp9": {"crf": "28", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"},
    "libsvtav1": {"crf": "28", "preset": "9"},
}
_FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv422p10le", "rgb24", "bgr0", "rgb8")


class Writer:
    """A video file like ``clip``, of pictures ``height`` x ``width``, with the clip's times and sound.

    What is written goes to a hidden file beside ``path``; :meth:`finish` gives it its name. Files of MP4 and MOV are
    written in fragments, so that after a full disk or a killed process what was written can be played.

    ``codec`` is one of :data:`CODECS` or an encoder of FFmpeg; None is H.264, or the usual one of a container that does
    not take it. ``quality`` is the codec's constant rate factor: lower is better and larger.

    Raises :class:`VideoError` for a container, codec or size that cannot be written.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        clip: Clip,
        height: int,
        width: int,
        codec: str | None = None,
        quality: float | None = None,
    ) -> None:
        self._av = av = require("av", "video")
        self.path = Path(path).expanduser()
        self.notes: list[str] = []
        self.pictures = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part{self.path.suffix}")
        fragments = {"movflags": "+hybrid_fragmented+delay_moov", "frag_duration": "1000000"}
        # FFmpeg 8.0 writes no usable file so; a full disk costs an MP4 there.
        able = av.library_versions["libavformat"] >= (62, 12, 0)
        self._fragmented = able and self.path.suffix.lower() in (".mp4", ".mov", ".m4v")
        try:
            self._container = av.open(str(self.partial), "w", container_options=fragments if self._fragmented else {})
        except (av.FFmpegError, OSError, ValueError) as error:
            self.partial.unlink(missing_ok=True)
            if isinstance(error, ValueError) and not isinstance(error, OSError):
                raise VideoError(f"expected a file name of a video, such as clip.mp4, got {self.path}") from error
            raise VideoError(f"cannot write {self.path}: {reason_of(error)}") from error
        try:
            self._matrix = clip.colors.matrix
            self._video = self._video_stream(clip, height, width, codec, quality)
            self._origin = clip.origin
            self._anew: list[bool] = []  # for each audio stream: whether it is encoded anew
            self._sounds = [self._audio_stream(stream) for stream in clip.audio]
            for key in ("title", "artist", "date", "creation_time", "comment"):
                if key in clip.metadata:
                    self._container.metadata[key] = clip.metadata[key]
            self._container.start_encoding()
        except (av.FFmpegError, OSError, ValueError) as error:
            self.discard()
            if isinstance(error, VideoError):
                raise
            name = codec or "h264"
            message = f"cannot write {self.path} of {width} x {height} with {name}: {reason_of(error)}"
            raise VideoError(message) from error

    def picture(self, pixels: np.ndarray, picture: Picture) -> None:
        """Writes ``pixels``, RGB uint8 ``[H, W, 3]``, at the time of ``picture``."""
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if not self._rgb:
            how = {"dst_colorspace": self._matrix, "dst_color_range": self._range}
            frame = frame.reformat(format=self._video.codec_context.pix_fmt, **how)
            frame.colorspace, frame.color_range = self._matrix, self._range
        frame.pts, frame.duration, frame.time_base = picture.pts, picture.duration, self._unit
        self._mux(self._video.encode(frame))
        self.pictures += 1

    def sound(self, sound: Sound) -> None:
        """Writes a packet of sound: as it is, or encoded anew where the container does not take its codec."""
        stream = self._sounds[sound.number]
        if stream is None:
            return
        packet = sound.packet
        if not self._anew[sound.number]:
            shift = round(self._origin / packet.time_base)
            if packet.pts is None:
                return
            packet.pts -= shift
            if packet.dts is not None:
                packet.dts -= shift
            packet.stream = stream
            self._mux([packet])
            return
        try:
            frames = packet.decode()
        except self._av.FFmpegError:
            return  # a damaged packet: silence
        for frame in frames:
            if frame.pts is not None:
                frame.pts -= round(self._origin / frame.time_base)
            self._mux(stream.encode(frame))

    def finish(self) -> Path:
        """Completes the file, gives it its name and returns that."""
        self._mux(self._video.encode(None))
        for stream, anew in zip(self._sounds, self._anew, strict=True):
            if stream is not None and anew:
                self._mux(stream.encode(None))
        try:
            self._container.close()
        except (self._av.FFmpegError, OSError) as error:
            raise self._failed(error) from error
        os.replace(self.partial, self.path)
        return self.path

    def rescue(self) -> int:
        """After a failure: gives what can be played of the file its name; returns its number of frames, 0 for none."""
        with contextlib.suppress(self._av.FFmpegError, OSError):
            self._container.close()
        if self._fragmented:
            _cut_last_fragment(self.partial)
        count = 0
        damage = (self._av.FFmpegError, OSError, ValueError, IndexError)
        with contextlib.suppress(*damage), self._av.open(str(self.partial)) as container:
            for frame in container.decode(video=0):
                count += not frame.is_corrupt
        if count:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink(missing_ok=True)
        return count

    def discard(self) -> None:
        """Forgets the file."""
        with contextlib.suppress(self._av.FFmpegError, OSError, ValueError):
            self._container.close()
        self.partial.unlink(missing_ok=True)

    def _mux(self, packets: Iterable[Any]) -> None:
        try:
            for packet in packets:
                self._container.mux(packet)
        except (self._av.FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> VideoError:
        return VideoError(f"cannot go on writing {self.path}: {reason_of(error)}")

    def _video_stream(self, clip: Clip, height: int, width: int, codec: str | None, quality: float | None) -> Any:
        av = self._av
        name = CODECS.get((codec or "h264").lower(), codec)
        if codec is None and "h264" not in self._container.supported_codecs:
            default = self._container.default_video_codec
            name = CODECS.get(default, default)
        try:
            encoder = av.Codec(name, "w")
        except (av.FFmpegError, ValueError, TypeError) as error:
            known = ", ".join(sorted(CODECS))
            raise VideoError(f"expected a codec such as {known}, or an encoder of FFmpeg, got {codec!r}") from error
        if encoder.type != "video":
            raise VideoError(f"expected a codec for video, got {codec!r}, one for {encoder.type}")
        options = dict(_OPTIONS.get(encoder.name, {}))
        if quality is not None:
            if "crf" not in options:
                raise VideoError(f"expected a quality with {', '.join(sorted(CODECS))}, got it with {encoder.name}")
            options["crf"] = f"{quality:g}"
        stream = self._container.add_stream(encoder.name, rate=clip.rate.limit_denominator(100000), options=options)
        context = stream.codec_context
        context.width, context.height = width, height
        context.pix_fmt = _format(encoder, height, width)
        self._rgb = av.VideoFormat(context.pix_fmt).is_rgb
        context.sample_aspect_ratio = clip.aspect
        # MPEG-4 part 2 has 16 bits for the unit of time.
        short = encoder.name in ("mpeg4", "libxvid", "msmpeg4v3", "msmpeg4v2", "h263")
        self._unit = clip.time_base
        context.time_base = clip.time_base.limit_denominator(65535) if short else clip.time_base
        if not self._rgb:
            self._range = 2 if encoder.name == "mjpeg" else 1  # JPEG uses all values from 0 to 255
            context.colorspace, context.color_range = self._matrix, self._range
            context.color_primaries, context.color_trc = clip.colors.primaries, clip.colors.transfer
        context.thread_type = "AUTO"
        return stream

    def _audio_stream(self, source: Any) -> Any:
        """The stream that takes ``source``, None where no sound can be written; notes in ``_anew`` whether to encode."""
        name = source.codec_context.codec.canonical_name
        if name in self._container.supported_codecs:
            with contextlib.suppress(self._av.FFmpegError, ValueError):
                stream = self._container.add_stream_from_template(source)
                self._anew.append(False)
                return stream
        default = self._container.default_audio_codec
        if not default or default == "none":
            self._anew.append(False)
            self.notes.append(f"{self.path.suffix} files take no sound: it is left out")
            return None
        encoder = self._av.Codec({"opus": "libopus", "vorbis": "libvorbis"}.get(default, default), "w")
        rates = encoder.audio_rates
        rate = source.codec_context.sample_rate
        if rates and rate not in rates:
            rate = min(rates, key=lambda known: (known < rate, abs(known - rate)))
        stream = self._container.add_stream(encoder.name, rate=rate)
        stream.codec_context.layout = "mono" if source.codec_context.channels == 1 else "stereo"
        self._anew.append(True)
        self.notes.append(f"the sound ({name}) is encoded as {default}, since {self.path.suffix} files do not take it")
        return stream


def _format(encoder: Any, height: int, width: int) -> str:
    known = [known.name for known in encoder.video_formats or []]
    wanted: Sequence[str] = _FORMATS
    if (height % 2 or width % 2) and "yuv444p" in known:
        wanted = ("yuv444p", *_FORMATS)  # halved colour wants even sizes in H.264
    return next((name for name in wanted if name in known), known[0] if known else "yuv420p")


def _cut_last_fragment(path: Path) -> None:
    """Cuts off what stands behind the last whole fragment of an MP4: a box is its length, its type, its content."""
    end, size = 0, path.stat().st_size
    with path.open("r+b") as file:
        place = 0
        while place + 16 <= size:
            file.seek(place)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            length = int.from_bytes(head[8:], "big") if length == 1 else length
            if length < 8 or place + length > size:
                break
            place += length
            if head[4:8] == b"mdat":
                end = place
        if end:
            file.truncate(end)
