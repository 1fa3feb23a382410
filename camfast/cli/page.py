"""What was found in photographs, as one page of HTML: pictures with names and scores, to search and to sort, without a server."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from ..pictures.photos import PhotoError

__all__ = ["Card", "as_page"]

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --paper: #fff; --ink: #1c2026; --soft: #68707a; --card: #f3f4f6; --bar: #d65424; }}
@media (prefers-color-scheme: dark) {{ :root {{ --paper: #15181c; --ink: #e8eaed; --soft: #9aa3ad; --card: #20252b; }} }}
body {{ margin: 0 auto; max-width: 1600px; padding: 24px; background: var(--paper); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; }}
h1 {{ font-size: 26px; margin: 0; }}
p, small {{ color: var(--soft); margin: 4px 0; overflow-wrap: anywhere; }}
form {{ display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0; }}
input, select {{ font: inherit; padding: 6px 10px; border: 1px solid var(--soft); border-radius: 8px;
  background: var(--paper); color: var(--ink); }}
input {{ flex: 1; min-width: 200px; max-width: 420px; }}
main {{ display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(260px, 100%), 1fr)); }}
figure {{ margin: 0; background: var(--card); border-radius: 12px; overflow: hidden; }}
figure[hidden] {{ display: none; }}
img {{ display: block; width: 100%; height: 220px; object-fit: contain; background: #0002; }}
figcaption {{ padding: 10px 12px; }}
figcaption b {{ display: flex; justify-content: space-between; gap: 8px; }}
meter {{ display: block; width: 100%; height: 6px; margin: 6px 0; appearance: none; background: var(--paper);
  border-radius: 3px; overflow: hidden; }}
meter::-webkit-meter-bar {{ background: var(--paper); border: 0; height: 6px; }}
meter::-webkit-meter-optimum-value {{ background: var(--bar); }}
meter::-moz-meter-bar {{ background: var(--bar); }}
li {{ color: var(--soft); overflow-wrap: anywhere; }}
</style></head><body>
<h1>{title}</h1>
<p>{note}</p>
<form onsubmit="return false">
<input type="search" id="words" placeholder="class or file name" aria-label="class or file name">
<select id="order" aria-label="order"><option value="order">in their order</option>
<option value="-score">surest first</option><option value="score">least sure first</option>
<option value="class">by class</option></select>
<p id="count"></p>
</form>
<main>
"""

_FOOT = """</main>
{errors}<script>
const all = [...document.querySelectorAll("figure")], main = document.querySelector("main");
const words = document.getElementById("words"), order = document.getElementById("order");
function show() {
  const wanted = words.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const one of all) {
    one.hidden = !wanted.every(word => one.dataset.words.includes(word));
    shown += !one.hidden;
  }
  document.getElementById("count").textContent = shown + " of " + all.length + " pictures";
  const by = order.value, sign = by.startsWith("-") ? -1 : 1, key = by.replace("-", "");
  const value = one => key === "class" ? one.dataset.class : Number(one.dataset[key]);
  all.slice().sort((a, b) => sign * (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) ||
    a.dataset.order - b.dataset.order).forEach(one => main.append(one));
}
words.oninput = order.onchange = show;
show();
</script></body></html>
"""


@dataclass(frozen=True)
class Card:
    """A picture of the page, what is in it, and how sure that is, in [0, 1]."""

    class_name: str
    score: float
    photo: Path
    file: Path


class _Shown(Protocol):
    """What a card is made of, such as :class:`camfast.cli.photographs.Overlay`."""

    @property
    def class_name(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def photo(self) -> Path: ...
    @property
    def file(self) -> Path: ...


def as_page(photographs: Iterable[Sequence[_Shown] | PhotoError], place: Path, title: str, note: str) -> str:
    """The page, for a file at ``place``: its links are relative, so that a folder can be moved or sent as a whole."""
    cards: list[str] = []
    errors: list[str] = []
    for found in photographs:
        if isinstance(found, PhotoError):
            errors.append(f"<li>{html.escape(str(found))}</li>")
            continue
        for row in found:
            link = quote(os.fsencode(Path(os.path.relpath(row.file, place.parent)).as_posix()))
            name, photo = html.escape(row.class_name), html.escape(str(row.photo))
            words = html.escape(f"{row.class_name} {row.photo}".lower())
            cards.append(
                f'<figure data-order="{len(cards)}" data-score="{row.score:.6f}" data-class="{name.lower()}" '
                f'data-words="{words}"><a href="{link}"><img src="{link}" loading="lazy" alt="{name}: {photo}"></a>'
                f"<figcaption><b><span>{name}</span><span>{row.score:.1%}</span></b>"
                f'<meter min="0" max="1" value="{row.score:.4f}"></meter><small>{photo}</small></figcaption></figure>\n'
            )
    failed = f"<h2>Not done</h2><ul>{''.join(errors)}</ul>\n" if errors else ""
    head = _HEAD.format(title=html.escape(title), note=html.escape(note).replace("\n", "<br>"))
    return head + "".join(cards) + _FOOT.replace("{errors}", failed)
