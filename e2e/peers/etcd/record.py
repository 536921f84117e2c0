"""Notes the results of a run in docs/conformance/tinykv.json, from which page.py makes the table of docs/tinykv.md.

record.py SUITE REPORT [SKIPPED]
  REPORT   the lines of go test -json; or the output of a script that prints "NAME: ok" for each client that passed
  SKIPPED  the list of tests that were not run, and why
Run it on a clean checkout: the commit that is noted is the one that was built.
"""

import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

import summary

RESULTS = Path(__file__).resolve().parents[3] / "docs/conformance/tinykv.json"


def of_tests(path, skipped):
    report = summary.read(path)
    return {
        "tests": summary.count(report, summary.whole(report)),
        "with_cases": summary.count(report, report.outcomes),
        "failed": summary.failures(report) + [f"{test} (did not end)" for test in report.unfinished],
        "not_run": [{"test": name, "why": why} for name, why in (summary.skipped(skipped) if skipped else [])],
    }


def of_clients(path):
    return {"clients": re.findall(r"^(\S.*?): ok", Path(path).read_text(encoding="utf-8"), re.MULTILINE)}


def main(suite, report, skipped=None):
    first = Path(report).read_text(encoding="utf-8", errors="replace").lstrip()[:1]
    result = of_tests(report, skipped) if first == "{" else of_clients(report)
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=RESULTS.parents[2], check=True, capture_output=True, text=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[suite] = {"commit": commit.stdout.strip(), "date": datetime.date.today().isoformat(), **result}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    print(f"{suite}: {json.dumps({key: value for key, value in results[suite].items() if key != 'not_run'})}")


main(*sys.argv[1:])
