"""Nsight Compute's counters of one launch of each kernel, as a table: python3 hack/gpu/counters.py [PART]... on the machine with the GPU.

Clocks are left as they are. PART is a function of launch_once.py.
"""

import csv
import io
import os
import subprocess
import sys

METRICS = {
    "gpu__time_duration.sum": "ns",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "DRAM %",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed": "tensor pipe %",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue slots %",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps %",
    "l1tex__data_bank_conflicts_pipe_lsu.sum": "bank conflicts",
    "launch__registers_per_thread": "registers",
}
STALLS = ("long_scoreboard", "short_scoreboard", "barrier", "mio_throttle", "math_pipe_throttle", "wait", "membar", "gmma", "lg_throttle", "not_selected", "sleeping")
STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
PARTS = sys.argv[1:] or ["norm", "rows", "decode", "attention", "linear", "fp8", "w4", "sparse", "norm_gradients", "sample", "primitives"]

columns = [*METRICS, *(STALL.format(s) for s in STALLS)]
ours = "regex:^(add_rms|rms_|layer_|softmax|gelu|silu|cross_|paged_|prefill|attention_|linear|w4a16|w8a16|sample|scan_|histogram|reduce_|transpose_|topk|radix_pass)"
for part in PARTS:
    command = ["ncu", "--clock-control", "none", "--csv", "--page", "raw", "--metrics", ",".join(columns), "-k", ours, sys.executable, "hack/gpu/launch_once.py", part]
    out = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    lines = [line for line in out.stdout.splitlines() if line.startswith('"')]
    if not lines:
        print(part, (out.stdout + out.stderr)[-300:], flush=True)
        continue
    for row in csv.DictReader(io.StringIO("\n".join(lines))):
        if not row["Kernel Name"] or not row.get("gpu__time_duration.sum"):
            continue
        number = lambda name: float((row.get(name) or "0").replace(",", "") or 0)
        stalls = sorted(((number(STALL.format(s)), s) for s in STALLS), reverse=True)[:3]
        values = [f"{label} {number(name):.5g}" for name, label in METRICS.items() if row.get(name)]
        print(f"{row['Kernel Name']}: {', '.join(values)}; stalled on {', '.join(f'{s} {v:.1f}' for v, s in stalls)}", flush=True)
