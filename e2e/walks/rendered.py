#!/usr/bin/env python3
"""What the operator's chart becomes with each e2e/charts/NAME.values.yaml is e2e/charts/NAME.yaml, by either helm.

    rendered.py HELM           compares
    rendered.py HELM --write   writes them anew, to be read before they are committed
"""

import difflib
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETS = sorted((ROOT / "e2e/charts").glob("*.values.yaml"))


def rendered(helm, values):
    command = [helm, "template", "aistack", str(ROOT / "charts/aistack"), "-n", "aistack-system", "--kube-version", "1.37.0", "-f", str(values)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # helm 3 and helm 4 leave different empty lines.
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines() if line.strip())


def main():
    helm, write = sys.argv[1], sys.argv[2:] == ["--write"]
    differences = []
    for values in SETS:
        snapshot = values.with_name(values.name.replace(".values", ""))
        now = rendered(helm, values)
        if write:
            snapshot.write_text(now)
        before = snapshot.read_text() if snapshot.exists() else ""
        name = str(snapshot.relative_to(ROOT))
        differences += difflib.unified_diff(before.splitlines(True), now.splitlines(True), name, f"{name}, rendered now")
    if differences:
        sys.stdout.writelines(differences)
        sys.exit("error: the chart becomes something else. If that is meant: e2e/walks/rendered.py $(hack/helm.sh 4) --write")
    print(f"   what the chart becomes is as committed, for {len(SETS)} sets of values")


main()
