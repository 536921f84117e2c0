"""Turns what a command printed into an SVG that looks like a terminal.

    make quickstart | python3 hack/picture.py > docs/images/quickstart.svg
"""

import html
import re
import sys

STYLES = {"1": "font-weight:bold", "2": "opacity:.6", "31": "fill:#f7768e", "32": "fill:#9ece6a", "33": "fill:#e0af68",
          "34": "fill:#7aa2f7", "35": "fill:#bb9af7", "36": "fill:#7dcfff"}
WIDTH, HEIGHT, MARGIN = 8.4, 19, 16


def spans(line):
    """Text pieces of a line with the style that its escape sequences give them."""
    style = []
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        sequence = re.fullmatch(r"\x1b\[([0-9;]*)m", part)
        if sequence is None:
            if part:
                yield part, ";".join(style)
            continue
        for code in sequence.group(1).split(";"):
            style = [] if code in ("", "0", "39", "22") else style + [STYLES.get(code, "")]


lines = [re.sub(r"\x1b\[[0-9;]*[A-HJKf]|\r", "", line.rstrip("\n")) for line in sys.stdin]
columns = max((len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines), default=0)
width, height = int(columns * WIDTH + 2 * MARGIN), int(len(lines) * HEIGHT + 2 * MARGIN)
print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">')
print(f'<rect width="{width}" height="{height}" rx="8" fill="#1a1b26"/>')
print('<g font-family="ui-monospace,DejaVu Sans Mono,Menlo,monospace" font-size="14" fill="#c0caf5">')
for number, line in enumerate(lines):
    y = MARGIN + (number + 0.8) * HEIGHT
    # Browsers collapse plain spaces, whatever xml:space says.
    kept = ((html.escape(text).replace(" ", "\u00a0"), style) for text, style in spans(line))
    pieces = "".join(f'<tspan style="{style}">{text}</tspan>' for text, style in kept)
    print(f'<text x="{MARGIN}" y="{y:.0f}">{pieces}</text>')
print("</g></svg>")
