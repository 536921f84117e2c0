"""Draws docs/benchmarks/gpu.jsonl: gpu-peers.svg, every measurement beside its peer, and gpu-roofline.svg, what the machine would allow.

    python3 kernels/benches/gpu/plot.py          # from the repository root; no packages, no GPU
"""

import json
import math
import re
from html import escape
from pathlib import Path

FOLDER = Path("docs/benchmarks")
DENSE = {"bf16": 989.0, "fp16": 989.0, "fp8": 1979.0, "int8": 1979.0}  # TFLOP/s of the datasheet
TEXT = 'font-family="sans-serif" font-size="12" fill="#222"'
COLOURS = ["#1b6ca8", "#c8553d", "#588157", "#8e5ea2", "#b8860b", "#3d5a80", "#6c584c", "#9a031e"]

rows = {}
for line in (FOLDER / "gpu.jsonl").read_text().splitlines():
    row = json.loads(line)
    if row.get("unit"):
        rows[row["what"], re.sub(r" \(rel.*?\)", "", row["peer_version"] or "")] = row  # the last one counts
rows = list(rows.values())


def family(row):
    """What is measured, without its extents."""
    what = re.sub(r"(,? ?M \d+ N [\dx ]+ K \d+| \[.*?\]|,? \d+ x \d+.*)", "", row["what"]).strip()
    what = re.sub(r' of$', '', what)
    return f"{what} / {re.sub(r' .rel.*?[)]| [(]torch.*?[)]| of vLLM.*| [(]cupy.*', '', row['peer_version'])}"


def peers():
    families = {}
    for row in rows:
        if row["ratio"]:
            better = row["ratio"] if row["better"] == "higher" else 1 / row["ratio"]
            families.setdefault((row["id"], family(row)), []).append((better, row["what"], row["peer_version"]))
    # Names take what width they need: about 6.4 pixels a letter.
    names = [f"{id_} {name}" for id_, name in sorted(families)]
    left, width, step, top = int(40 + 6.4 * max(map(len, names))), 520, 22, 96
    height = top + step * len(families) + 40
    clipped = 8.0
    at = lambda ratio: left + width * (math.log2(min(max(ratio, 0.5), clipped)) + 1) / 4
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" height="{height}">', '<rect width="100%" height="100%" fill="white"/>']
    out.append(f'<text x="20" y="28" {TEXT.replace("12", "18")}>TinyKernels beside its peers on one H200</text>')
    out.append(f'<text x="20" y="48" {TEXT}>One dot a shape: speed as a multiple of the peer’s in one interleaved run; right of the line at 1, TinyKernels is faster. Logarithmic; an arrow is beyond {clipped:g}.</text>')
    for ratio in (0.5, 0.71, 1, 1.41, 2, 2.83, 4, 5.66, 8):
        x = at(ratio)
        out.append(f'<line x1="{x:.1f}" y1="{top - 14}" x2="{x:.1f}" y2="{height - 40}" stroke="{"#222" if ratio == 1 else "#ddd"}"/>')
        for y in (top - 20, height - 22):
            out.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle" {TEXT}>{ratio:g}×</text>')
    out.append(f'<text x="{at(0.5):.1f}" y="{height - 6}" {TEXT}>← peer faster</text><text x="{at(8):.1f}" y="{height - 6}" text-anchor="end" {TEXT}>TinyKernels faster →</text>')
    out.append(f'<text x="{left + width / 2:.1f}" y="{height - 6}" text-anchor="middle" {TEXT}>speed ÷ the peer’s speed (logarithmic)</text>')
    for i, ((id_, name), dots) in enumerate(sorted(families.items())):
        y = top + 4 + i * step
        colour = COLOURS[int(id_[1:]) % 8] if id_[1:].isdigit() else "#888"
        if i % 2:
            out.append(f'<rect x="0" y="{y - 11}" width="{left + width + 60}" height="{step}" fill="#000" fill-opacity="0.03"/>')
        out.append(f'<text x="{left - 14}" y="{y + 4}" text-anchor="end" {TEXT}>{escape(f"{id_} {name}")}</text>')
        for better, what, peer in dots:
            title = f'<title>{escape(f"{what}: {better:.3f} of {peer}")}</title>'
            if better > clipped:
                x = at(clipped)
                out.append(f'<path d="M{x:.1f} {y - 5} l9 5 l-9 5 z" fill="{colour}" fill-opacity="0.55">{title}</path>')
            else:
                out.append(f'<circle cx="{at(better):.1f}" cy="{y}" r="4" fill="{colour}" fill-opacity="0.55">{title}</circle>')
    beyond = {i: max(b for b, *_ in dots) for i, (_, dots) in enumerate(sorted(families.items())) if max(b for b, *_ in dots) > clipped}
    for i, most in beyond.items():
        out.append(f'<text x="{at(clipped) + 12:.1f}" y="{top + 8 + i * step}" {TEXT}>{most:.0f}×</text>')
    (FOLDER / "gpu-peers.svg").write_text("\n".join([*out, "</svg>"]) + "\n")


def points():
    """(name, kind, floating-point operations a byte, TFLOP/s)."""
    for row in rows:
        kind = next((k for k in DENSE if k in row["what"]), "bf16")
        size = {"fp8": 1, "int8": 1}.get(kind, 2)
        shape = re.search(r"M (\d+) N (\d+) K (\d+)", row["what"])
        if row["unit"] == "TFLOP/s" and shape:
            m, n, k = map(int, shape.groups())
            sparse = "2:4 sparse" in row["what"]  # operations as if dense; 9/16 of the weights' bytes
            name = f"linear {kind}" + (", 2:4 sparse" if sparse else "")
            yield row["what"], name, 2 * m * n * k / (size * (m * k + n * k * (9 / 16 if sparse else 1)) + 2 * m * n), row["ours"]
        prefill = re.search(r"causal prefill (\d+) x (\d+), heads 32/8, d (\d+)", row["what"])
        if prefill and "the last" not in row["what"]:
            length = int(prefill[2])
            yield row["what"], "prefill attention", 4 * 32 * length / 2 / (2 * (2 * 32 + 2 * 8)), row["ours"]
        if row["unit"] == "GB/s" and "decode" in row["what"] and "32/8" in row["what"]:
            yield row["what"], "decode attention", 8 if "e4m3" in row["what"] else 4, row["ours"] * (8 if "e4m3" in row["what"] else 4) / 1000


def roofline():
    copy = max(r["ours"] for r in rows if r["id"] == "copy") / 1000
    left, top, width, height = 90, 70, 760, 440
    x = lambda intensity: left + width * math.log10(intensity / 0.5) / 5
    y = lambda rate: top + height * (1 - math.log10(max(rate, 1) / 1) / 3.6)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 20}" height="{top + height + 60}">', '<rect width="100%" height="100%" fill="white"/>']
    out.append(f'<text x="20" y="28" {TEXT.replace("12", "18")}>What one H200 would allow, and what TinyKernels does</text>')
    out.append(f'<text x="20" y="48" {TEXT}>Slope: the measured copy rate, {copy:.2f} TB/s. Flat: the datasheet’s rates, which the card’s power limit keeps everyone from.</text>')
    out.append(f'<text transform="translate(24 {top + height / 2}) rotate(-90)" text-anchor="middle" {TEXT}>TFLOP/s (logarithmic)</text>')
    for decade in (1, 10, 100, 1000, 10000):
        out.append(f'<line x1="{x(decade):.0f}" y1="{top}" x2="{x(decade):.0f}" y2="{top + height}" stroke="#eee"/><text x="{x(decade):.0f}" y="{top + height + 18}" text-anchor="middle" {TEXT}>{decade}</text>')
    for rate in (1, 10, 100, 1000):
        out.append(f'<line x1="{left}" y1="{y(rate):.0f}" x2="{left + width}" y2="{y(rate):.0f}" stroke="#eee"/><text x="{left - 8}" y="{y(rate) + 4:.0f}" text-anchor="end" {TEXT}>{rate}</text>')
    for peak in sorted(set(DENSE.values())):
        knee = peak / copy
        out.append(f'<polyline points="{x(0.5):.0f},{y(copy * 0.5):.0f} {x(knee):.0f},{y(peak):.0f} {left + width},{y(peak):.0f}" fill="none" stroke="#222"/>')
        out.append(f'<text x="{left + width - 4}" y="{y(peak) - 5:.0f}" text-anchor="end" {TEXT}>{peak:.0f} TFLOP/s (datasheet)</text>')
    kinds = []
    for name, kind, intensity, rate in points():
        if kind not in kinds:
            kinds.append(kind)
        out.append(f'<circle cx="{x(intensity):.1f}" cy="{y(rate):.1f}" r="4" fill="{COLOURS[kinds.index(kind) % 8]}" fill-opacity="0.6"><title>{escape(f"{name}: {rate:.0f} TFLOP/s at {intensity:.0f} FLOP a byte")}</title></circle>')
    for i, kind in enumerate(kinds):
        out.append(f'<circle cx="{left + 20}" cy="{top + 20 + 18 * i}" r="4" fill="{COLOURS[i % 8]}"/><text x="{left + 32}" y="{top + 24 + 18 * i}" {TEXT}>{kind}</text>')
    out.append(f'<text x="{left + width / 2}" y="{top + height + 42}" text-anchor="middle" {TEXT}>floating-point operations for each byte that must move (logarithmic)</text>')
    (FOLDER / "gpu-roofline.svg").write_text("\n".join([*out, "</svg>"]) + "\n")


peers()
roofline()
