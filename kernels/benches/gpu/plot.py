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
    return f"{what} / {re.sub(r' .rel.*?[)]| [(]torch.*?[)]| of vLLM.*| [(]cupy.*', '', row['peer_version'])}"


def peers():
    families = {}
    for row in rows:
        if row["ratio"]:
            better = row["ratio"] if row["better"] == "higher" else 1 / row["ratio"]
            families.setdefault((row["id"], family(row)), []).append((better, row["what"], row["peer_version"]))
    left, width, step = 520, 480, 22
    height = 60 + step * len(families)
    at = lambda ratio: left + width * (math.log2(min(max(ratio, 0.5), 4)) + 1) / 3
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 40}" height="{height}">', '<rect width="100%" height="100%" fill="white"/>']
    for ratio in (0.5, 0.71, 1, 1.41, 2, 2.83, 4):
        out.append(f'<line x1="{at(ratio):.1f}" y1="30" x2="{at(ratio):.1f}" y2="{height - 12}" stroke="{"#222" if ratio == 1 else "#ddd"}"/>')
        out.append(f'<text x="{at(ratio):.1f}" y="22" text-anchor="middle" {TEXT}>{ratio}</text>')
    for i, ((id_, name), dots) in enumerate(sorted(families.items())):
        y = 48 + i * step
        out.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end" {TEXT}>{escape(f"{id_} {name}"[:84])}</text>')
        for better, what, peer in dots:
            out.append(f'<circle cx="{at(better):.1f}" cy="{y}" r="4" fill="{COLOURS[int(id_[1:]) % 8] if id_[1:].isdigit() else "#888"}" fill-opacity="0.55"><title>{escape(f"{what}: {better:.3f} of {peer}")}</title></circle>')
    (FOLDER / "gpu-peers.svg").write_text("\n".join([*out, "</svg>"]) + "\n")


def points():
    """(name, kind, floating-point operations a byte, TFLOP/s)."""
    for row in rows:
        kind = next((k for k in DENSE if k in row["what"]), "bf16")
        size = {"fp8": 1, "int8": 1}.get(kind, 2)
        shape = re.search(r"M (\d+) N (\d+) K (\d+)", row["what"])
        if row["unit"] == "TFLOP/s" and shape:
            m, n, k = map(int, shape.groups())
            yield row["what"], f"linear {kind}", 2 * m * n * k / (size * (m * k + n * k) + 2 * m * n), row["ours"]
        prefill = re.search(r"causal prefill (\d+) x (\d+), heads 32/8, d (\d+)", row["what"])
        if prefill and "the last" not in row["what"]:
            length = int(prefill[2])
            yield row["what"], "prefill attention", 4 * 32 * length / 2 / (2 * (2 * 32 + 2 * 8)), row["ours"]
        if row["unit"] == "GB/s" and "decode" in row["what"] and "32/8" in row["what"]:
            yield row["what"], "decode attention", 8 if "e4m3" in row["what"] else 4, row["ours"] * (8 if "e4m3" in row["what"] else 4) / 1000


def roofline():
    copy = max(r["ours"] for r in rows if r["id"] == "copy") / 1000
    left, top, width, height = 70, 20, 760, 440
    x = lambda intensity: left + width * math.log10(intensity / 0.5) / 5
    y = lambda rate: top + height * (1 - math.log10(max(rate, 1) / 1) / 3.6)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 20}" height="{top + height + 60}">', '<rect width="100%" height="100%" fill="white"/>']
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
    out.append(f'<text x="{left + width / 2}" y="{top + height + 42}" text-anchor="middle" {TEXT}>floating-point operations a byte that must move; slope: the copy rate, {copy:.2f} TB/s</text>')
    (FOLDER / "gpu-roofline.svg").write_text("\n".join([*out, "</svg>"]) + "\n")


peers()
roofline()
