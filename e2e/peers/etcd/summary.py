"""Counts what go test -json said, prints what failed, and the list of what was not run; fails when something failed.

summary.py REPORT SKIPPED
"""

import json
import sys
from collections import namedtuple

Report = namedtuple("Report", "outcomes output unfinished ended")


def read(path):
    outcomes, output, ended = {}, {}, False
    for line in open(path, encoding="utf-8", errors="replace"):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            print(line, end="", file=sys.stderr)
            continue
        test = event.get("Test")
        if test and event["Action"] == "output":
            output.setdefault(test, []).append(event["Output"])
        elif test and event["Action"] in ("pass", "fail", "skip"):
            outcomes[test] = event["Action"]
        elif not test and event["Action"] in ("output", "build-output") and "FAIL" in event.get("Output", ""):
            print(event["Output"], end="", file=sys.stderr)
        elif not test and event["Action"] in ("pass", "fail"):
            ended = True
    unfinished = [test for test in output if test not in outcomes]
    # After a failure the suite skips what follows, for goroutines that are left over: those were not run.
    unfinished += [test for test, lines in output.items() if outcomes.get(test) == "skip" and "leaked gorout" in "".join(lines)]
    return Report(outcomes, output, unfinished, ended)


def failures(report):
    """The innermost tests that failed."""
    failed = [test for test, outcome in report.outcomes.items() if outcome == "fail"]
    return [test for test in failed if not any(other.startswith(test + "/") for other in failed)]


def skipped(path):
    """What a list of skipped tests says: name and reason."""
    lines = [line.strip() for line in open(path, encoding="utf-8")]
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


def count(report, tests):
    return {kind: sum(report.outcomes[test] == kind for test in tests) for kind in ("pass", "fail", "skip")}


def whole(report):
    """The tests that are no case of another."""
    return [test for test in report.outcomes if "/" not in test]


def main(path, list_of_skipped):
    report = read(path)
    for test in failures(report):
        said = [line for line in report.output.get(test, []) if "Error" in line or "_test.go" in line or "expected" in line]
        print(f"failed: {test}")
        print("".join("    " + line for line in said[-6:]), end="")
    for test in report.unfinished:
        print(f"did not end: {test}")
    print(f"not run, by {list_of_skipped.rsplit('/', 1)[-1]}:")
    for name, why in skipped(list_of_skipped):
        print(f"    {name}   {why}")
    for title, tests in (("tests", whole(report)), ("with their cases", report.outcomes)):
        print(f"{title}: " + ", ".join(f"{number} {kind}" for kind, number in count(report, tests).items()))
    sys.exit(bool(count(report, report.outcomes)["fail"] or report.unfinished or not report.outcomes or not report.ended))


if __name__ == "__main__":
    main(*sys.argv[1:])
