"""Who may look and who may steer: by a key in the page's address."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass

__all__ = ["Keys"]


@dataclass(frozen=True)
class Keys:
    """The keys that the page asks for; None: everyone who reaches it may.

    Attributes:
        watch: needed to look. Who may steer may look too.
        steer: needed to change settings and to send pictures.
    """

    watch: str | None = None
    steer: str | None = None

    @classmethod
    def made(cls, local: bool, read_only: bool) -> Keys:
        """New keys: to look where others than this machine can reach the page, to steer where it is for reading.

        Where it is not for reading alone, one key serves for both.
        """
        one = secrets.token_urlsafe(12)
        if read_only:
            return cls(None if local else secrets.token_urlsafe(12), one)
        return cls() if local else cls(one, one)

    def may_steer(self, key: str) -> bool:
        """Whether this key lets change settings."""
        return self.steer is None or _same(key, self.steer)

    def may_watch(self, key: str) -> bool:
        """Whether this key lets look."""
        return self.watch is None or _same(key, self.watch) or (self.steer is not None and _same(key, self.steer))


def _same(key: str, other: str) -> bool:
    return hmac.compare_digest(key.encode(), other.encode())
