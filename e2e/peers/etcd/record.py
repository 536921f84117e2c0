"""Notes the outcome of a run in results/SUITE.json, from which page.py makes the table of docs/tinykv.md.

record.py SUITE REPORT [JUDGE]
  REPORT   the lines of go test -json; or the output of a script that prints "NAME: ok" for each client that passed
  JUDGE    the same of etcd itself, in the same run
Run it on a clean checkout: the commit that is noted is the one that was built. suite.sh notes the outcome of etcd's own suites.
"""

import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def of_tests(lines):
    outcomes, begun, figures = {}, set(), []
    for line in lines:
        event = json.loads(line) if line.startswith("{") else {}
        test = event.get("Test")
        figures += re.findall(r": figures: (.*)", event.get("Output", ""))
        if test and event["Action"] == "run":
            begun.add(test)
        elif test and event["Action"] in ("pass", "fail", "skip"):
            outcomes[test] = event["Action"]
    outcomes.update({test: "fail" for test in begun - outcomes.keys()})  # It did not end.
    whole = {test: outcome for test, outcome in outcomes.items() if "/" not in test}
    cases = [outcome for test, outcome in outcomes.items() if "/" in test]
    return {
        **({"figures": "; ".join(figures)} if figures else {}),
        "passed": sum(outcome == "pass" for outcome in whole.values()),
        "failed": sum(outcome == "fail" for outcome in whole.values()),
        "cases": {kind: cases.count(kind) for kind in ("pass", "fail", "skip")},
        "failures": [test for test, outcome in whole.items() if outcome == "fail"],
        "skipped": [{"name": test, "reason": "skipped by itself"} for test, outcome in whole.items() if outcome == "skip"],
    }


def of_clients(text):
    clients = sorted(set(re.findall(r"^(\S.*?): ok", text, re.MULTILINE)))
    return {"passed": len(clients), "failed": 0, "failures": [], "skipped": [], "clients": clients}


def of(report):
    text = Path(report).read_text(encoding="utf-8", errors="replace")
    return of_tests(text.splitlines()) if text.startswith("{") else of_clients(text)


def main(suite, report, judge=None):
    result = of(report)
    if judge:
        result["etcd"] = {name: of(judge)[name] for name in ("passed", "failed", "cases", "failures")}
    assert result["passed"] + result["failed"], f"{report} tells of no test"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, check=True, capture_output=True, text=True)
    result |= {"suite": suite, "date": datetime.date.today().isoformat(), "commit": commit.stdout.strip()}
    file = HERE / "results" / f"{suite}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{suite}: {result['passed']} passed, {result['failed']} failed")


main(*sys.argv[1:])
