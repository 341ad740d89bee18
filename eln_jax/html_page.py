"""What every page of ours is made of: one document without links, in one style.

It reads on a phone and on paper, on a light and on a dark screen, without a script.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from io import BytesIO

from PIL import Image

_STYLE = """
:root{color-scheme:light dark;--ink:#22242a;--faint:#6c707b;--paper:#fff;--card:#f5f6f8;
--line:#dfe1e6;--error:#c22f2f;--warning:#9a6200;--note:#3a6ea5;--good:#2c7a3f;
--blue:#0072b2;--orange:#d55e00;--green:#009e73;--pink:#b8578f;--sky:#3f9fd8}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e8e9ec;--faint:#9a9eaa;--paper:#17181c;
--card:#212329;--line:#363941;--error:#ff8078;--warning:#f0b14a;--note:#84b6ea;--good:#7fd394;
--blue:#4fa8e0;--orange:#f08a45;--green:#35c297;--pink:#dd93bd;--sky:#8ccdf5}}
*{box-sizing:border-box}
body{font:16px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;
padding:16px;max-width:1100px;overflow-wrap:break-word}
h1{font-size:1.5rem;margin:.2em 0}h2{font-size:1.2rem;margin:1.8em 0 .5em}
h3{font-size:1rem;margin:0 0 .3em}p{margin:.3em 0}.faint{color:var(--faint);font-size:.85rem}
.verdict{font-size:1.1rem;font-weight:600}
.error{--tone:var(--error)}.warning{--tone:var(--warning)}.note{--tone:var(--note)}
.good{--tone:var(--good)}.tone{color:var(--tone)}
article{background:var(--card);border-left:4px solid var(--tone);border-radius:6px;
padding:12px;margin:12px 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:right;padding:4px 6px;border-bottom:1px solid var(--line);white-space:nowrap;
font-variant-numeric:tabular-nums}
th:first-child,td:first-child{text-align:left}table{overflow-wrap:normal}
.swatch{display:inline-block;width:.8em;height:.8em;border-radius:3px;margin-right:.5em;
border:1px solid var(--line)}
td i{display:block;height:.4em;border-radius:2px;min-width:2px;margin-left:auto;
outline:1px solid var(--line)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,230px),1fr));gap:12px;
margin-top:8px}
figure{margin:0}figure img{width:100%;max-height:190px;object-fit:contain;object-position:left;
border-radius:4px;display:block}figcaption{font-size:.82rem;margin-top:3px}
ul{padding-left:1.1em;margin:.4em 0;font-size:.88rem}summary{cursor:pointer;padding:.3em 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(120px,1fr));gap:10px;margin:14px 0}
.tile{background:var(--card);border-radius:8px;padding:10px 12px;line-height:1.3}
.tile b{display:block;white-space:nowrap;font-size:1.5rem;font-variant-numeric:tabular-nums}
.tile b small{font-size:.95rem;font-weight:500}.tile .faint{display:block;margin-top:.3em}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:20px}
.charts svg{width:100%;height:auto;display:block;overflow:visible}
svg text{font:11px system-ui,sans-serif;fill:var(--faint)}
@media(min-width:800px){.charts{grid-template-columns:1fr 1fr}svg text{font-size:8px}}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:.85rem}
.legend .swatch{margin-right:.4em}
.legend+h3,article+h3{margin-top:1.2em}
.wrap td,.wrap th{white-space:normal}
@media(max-width:480px){.wrap table{font-size:.8rem}.wrap td,.wrap th{padding:4px 3px;
max-width:12em}.tile:last-child:nth-child(odd){grid-column:1/-1}}
.bars{margin-top:8px;display:grid;grid-template-columns:minmax(3em,auto) 1fr;gap:8px 12px;
align-items:center}
.bar{display:flex;align-items:center;gap:6px;font-size:.8rem;line-height:1.25;
font-variant-numeric:tabular-nums}
.bar i{height:.75em;border-radius:2px;min-width:1px}
.matrix{width:auto;font-size:.78rem}.matrix td,.matrix th{padding:4px 3px;text-align:center;
min-width:2.6em;border:1px solid var(--paper)}
.matrix th{font-weight:500;border:0}.matrix tr>:first-child{text-align:right;padding-right:8px;
position:sticky;left:0;background:var(--paper)}
.matrix tr:first-child th{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;
min-width:0}.matrix tr:first-child th:first-child{writing-mode:horizontal-tb;transform:none}
@media(max-width:480px),print{.matrix{font-size:.65rem}.matrix td{min-width:2.05em;padding:3px 0}
.matrix tr>:first-child{padding-right:4px}}
.strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(30%,160px),1fr));gap:8px}
.strip img{max-height:none}pre{white-space:pre-wrap;font-size:.8rem}
@media print{*{print-color-adjust:exact;-webkit-print-color-adjust:exact}body{padding:0;
font-size:10pt;max-width:none}.tile b{font-size:1.15rem}.scroll{overflow:visible}
h2,h3,p.faint,body>.legend{break-after:avoid}
.strip{grid-template-columns:repeat(6,1fr)}
article,figure,.chart,.tile,.strip,.bars,.bars>*,tr{break-inside:avoid}}
"""


def make_document(title: str, sections: Iterable[str]) -> str:
    """Puts sections of HTML together to a document; the title is escaped."""
    body = "\n".join(sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def escape(text: object) -> str:
    """Escapes text; a file's name may hold bytes that are no text at all."""
    return html.escape(str(text).encode(errors="replace").decode())


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls sideways where it is too wide; heads are text, cells are HTML."""
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def figure(picture: str, caption: str) -> str:
    """A picture, as a data URL, over a caption, as HTML."""
    return (
        f'<figure><img loading="lazy" alt="" src="{picture}"><figcaption>{caption}</figcaption>'
        "</figure>"
    )


def swatch(color: str) -> str:
    """A small field of a colour, such as "#ff8000"."""
    return f'<span class="swatch" style="background:{color}"></span>'


def data_url(picture: Image.Image) -> str:
    """A picture as "data:image/jpeg;base64,..."."""
    return jpeg_url(jpeg(picture))


def jpeg(picture: Image.Image) -> bytes:
    """A picture as the bytes of a JPEG file."""
    file = BytesIO()
    picture.save(file, "JPEG", quality=80, optimize=True)
    return file.getvalue()


def jpeg_url(content: bytes) -> str:
    """The bytes of a JPEG file as a data URL."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()
