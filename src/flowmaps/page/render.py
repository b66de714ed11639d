"""From an answer to HTML: a lead, the samples, what can be downloaded, and the same noise at several steps."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from .answers import Answer, File, Panel, Strip, seconds

STYLE = """
.fm-page { max-width: 1240px; margin: 0 auto; }
.fm-head h1 { font-size: 1.6rem; font-weight: 650; margin: .4rem 0 .1rem; }
.fm-head p, .fm-about { color: var(--body-text-color-subdued); margin: 0 0 .5rem; }
.fm-answer { color: var(--body-text-color); }
.fm-lead { margin: .1rem 0 .7rem; font-size: .95rem; }
.fm-answer h3 { font-size: .95rem; font-weight: 600; margin: 1.4rem 0 .5rem; }
.fm-grid { display: grid; gap: .6rem; }
.fm-cards { grid-template-columns: repeat(auto-fill, minmax(168px, 1fr)); }
.fm-images { grid-template-columns: repeat(10, minmax(0, 1fr)); }
.fm-lines, .fm-maps { grid-template-columns: 1fr; }
.fm-panel { background: #fff; color: #1f2933; border: 1px solid #d9dee5; border-radius: 8px; overflow: hidden;
  display: flex; flex-direction: column; position: relative; }
.fm-panel svg, .fm-panel img { width: 100%; height: auto; display: block; }
.fm-images img { image-rendering: pixelated; }
.fm-bad { border-color: #e7a3a3; background: #fffafa; }
.fm-mark { position: absolute; top: .35rem; left: .45rem; font-size: .68rem; font-weight: 600; padding: .05rem .4rem;
  border-radius: 99px; background: #e3f4e8; color: #1c6b37; }
.fm-bad .fm-mark { background: #fbe3e3; color: #9b2c2c; }
.fm-caption { padding: 0 .55rem; font: .74rem/1.35 ui-monospace, monospace; overflow-wrap: anywhere; }
.fm-images .fm-caption { text-align: center; padding: .1rem; border-top: 1px solid #eef1f4; }
.fm-panel .fm-caption, .fm-panel .fm-text { color: #1f2933 !important; }  /* cards are white in dark mode too */
.fm-note { padding: .1rem .55rem .5rem; font-size: .74rem; color: #5b6673; }
.fm-links { display: flex; gap: .5rem; margin: .8rem 0 0; flex-wrap: wrap; }
.fm-links a { font-size: .85rem; padding: .3rem .8rem; border: 1px solid var(--border-color-primary);
  border-radius: 6px; text-decoration: none; color: var(--body-text-color); }
.fm-links a:hover { border-color: var(--color-accent); }
.fm-row { display: grid; grid-template-columns: 5.2rem 1fr; gap: .7rem; align-items: center; padding: .3rem 0;
  border-top: 1px solid var(--border-color-primary); }
.fm-row-name { font-weight: 600; font-size: .88rem; }
.fm-row-name span { display: block; font-weight: 400; color: var(--body-text-color-subdued); font-size: .8rem; }
.fm-row .fm-grid { gap: .35rem; }
.fm-row .fm-cards { grid-template-columns: repeat(8, minmax(0, 1fr)); }
.fm-row .fm-cards .fm-mark { display: none; }
.fm-of-maps { display: grid; grid-template-columns: 1fr 1fr; gap: .2rem .8rem; }
.fm-of-maps .fm-row { display: block; }
.fm-of-maps .fm-row-name span { display: inline; margin-left: .5rem; }
.fm-maps .fm-panel { border-color: transparent; }
.fm-text { padding: .55rem .8rem; font: .92rem/1.5 Georgia, serif; white-space: pre-wrap; overflow-wrap: anywhere; }
.fm-text b { font-weight: 700; color: #1d4fa3; }
.fm-bases { padding: .55rem .8rem .2rem; font: 600 .76rem/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
.fm-bases u { text-decoration-thickness: 2px; text-underline-offset: 2px; }
.fm-lines .fm-note { padding: 0 .8rem .5rem; }
.fm-panel svg.fm-strip { height: 15px; }
.fm-of-lines .fm-grid { gap: 2px; }
.fm-of-lines .fm-panel:has(.fm-strip) { border: 0; border-radius: 2px; }
.fm-refused { color: #9b2c2c; background: #fdeeee; border: 1px solid #eab8b8; border-radius: 8px; padding: .6rem .9rem;
  margin: .2rem 0; }
.fm-scaffold { background: #fff; border: 1px solid #d9dee5; border-radius: 8px; max-width: 260px; margin: 0 auto; }
.fm-scaffold svg { width: 100%; height: auto; display: block; }
.fm-scaffold [data-place] { cursor: pointer; opacity: 0; fill: #2f6fd6; stroke: #2f6fd6; stroke-linecap: round; }
.fm-scaffold [data-place]:hover, .fm-scaffold [data-place]:focus { opacity: .3; outline: none; }
.fm-parts { display: flex; flex-wrap: wrap; gap: .25rem; margin: .1rem 0 .4rem; }
.fm-parts button { width: 42px; padding: 0; background: #fff; border: 1px solid #d9dee5; border-radius: 6px;
  cursor: pointer; }
.fm-parts button:hover, .fm-parts button:focus { border-color: #2f6fd6; }
.fm-tools label { padding: .15rem .5rem !important; }
footer { display: none !important; }
"""


def page_of(answer: Answer) -> str:
    """An answer as HTML; texts are escaped, the bodies of panels are as they are."""
    compared = ""
    if answer.rows:
        rows = "".join(_row(row, answer.shape) for row in answer.rows)
        head = "<h3>The same noise in 1, 2, 4 and 8 steps</h3>"
        compared = f'{head}<div class="fm-compared fm-of-{answer.shape}">{rows}</div>'
    links = f'<div class="fm-links">{"".join(map(_link, answer.files))}</div>' if answer.files else ""
    lead = f'<p class="fm-lead">{escape(answer.lead)}</p>'
    return f'<div class="fm-answer">{lead}{_grid(answer.panels, answer.shape)}{links}{compared}</div>'


def refusal(text: str) -> str:
    """What is said of a request that cannot be answered."""
    return f'<div class="fm-answer"><p class="fm-refused" role="alert">{escape(text[:1].upper() + text[1:])}</p></div>'


def _grid(panels: Sequence[Panel], shape: str) -> str:
    return f'<div class="fm-grid fm-{shape}">{"".join(map(_panel, panels))}</div>' if panels else ""


def _panel(panel: Panel) -> str:
    mark = f'<span class="fm-mark">{escape(panel.mark)}</span>' if panel.mark else ""
    caption = f'<div class="fm-caption">{escape(panel.caption)}</div>' if panel.caption else ""
    note = f'<div class="fm-note">{escape(panel.note)}</div>' if panel.note else ""
    kind = "fm-panel fm-bad" if panel.good is False else "fm-panel"
    return f'<div class="{kind}">{mark}{panel.body}{caption}{note}</div>'


def _row(row: Strip, shape: str) -> str:
    name = f'<div class="fm-row-name">{escape(row.name)}<span>{seconds(row.seconds)}</span></div>'
    plain = [panel._replace(caption="", note="") for panel in row.panels]
    return f'<div class="fm-row">{name}{_grid(plain, shape)}</div>'


def _link(file: File) -> str:
    data = b64encode(file.text.encode()).decode()
    return f'<a download="{escape(file.name)}" href="data:{file.kind};base64,{data}">Download {escape(file.name)}</a>'
