"""Counts what go test -json said, prints what failed, and the list of what was not run; fails when something failed.

summary.py REPORT SKIPPED
"""

import json
import sys

outcomes, output, ended = {}, {}, False
for line in open(sys.argv[1], encoding="utf-8", errors="replace"):
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        print(line, end="")
        continue
    test = event.get("Test")
    if test and event["Action"] == "output":
        output.setdefault(test, []).append(event["Output"])
    elif test and event["Action"] in ("pass", "fail", "skip"):
        outcomes[test] = event["Action"]
    elif not test and event["Action"] in ("output", "build-output") and "FAIL" in event.get("Output", ""):
        print(event["Output"], end="")
    elif not test and event["Action"] in ("pass", "fail"):
        ended = True

unfinished = [test for test in output if test not in outcomes]
# After a failure the suite skips what follows, for goroutines that are left over: those were not run.
unfinished += [test for test, lines in output.items() if outcomes.get(test) == "skip" and "leaked gorout" in "".join(lines)]
failed = [test for test, outcome in outcomes.items() if outcome == "fail"]
leaves = [test for test in failed if not any(other.startswith(test + "/") for other in failed)]
for test in leaves:
    said = [line for line in output.get(test, []) if "Error" in line or "_test.go" in line or "expected" in line]
    print(f"failed: {test}")
    print("".join("    " + line for line in said[-6:]), end="")
for test in unfinished:
    print(f"did not end: {test}")


def count(tests):
    return ", ".join(f"{sum(outcomes[test] == kind for test in tests)} {kind}" for kind in ("pass", "fail", "skip"))


print("not run, by common.skipped:")
for line in open(sys.argv[2], encoding="utf-8"):
    if line.strip() and not line.startswith("#"):
        print("    " + line, end="")
print(f"tests: {count([test for test in outcomes if '/' not in test])}")
print(f"with their cases: {count(outcomes)}")
sys.exit(bool(failed or unfinished or not outcomes or not ended))
