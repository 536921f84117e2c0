"""Runs the tests of one of etcd's suites one by one, each in a process of its own, so that one that fails or hangs spoils
no other; counts, and says what was not run and why.

suite.py --binary COMPILED_SUITE --directory PACKAGE --bin-dir DIR --skipped FILE --results FILE --suite NAME
         [--pattern REGEX] [--logs DIR]
"""

import argparse
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import time

PATIENCE = int(os.environ.get("SUITE_PATIENCE", "600"))  # seconds for one test


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("binary", "directory", "bin-dir", "skipped", "results", "suite", "logs"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--pattern", default=".")
    return parser.parse_args()


def read_skipped(path):
    """Lines of a test's name, or of one case of it, and the reason."""
    lines = (line.split("#")[0].split(maxsplit=1) for line in open(path, encoding="utf-8"))
    return {words[0]: words[1].strip() for words in lines if words}


def run(options, test, skip):
    """The outcomes of the test and of its cases, by name."""
    command = ["go", "tool", "test2json", options.binary, "-test.v=test2json", "-test.count=1", f"-test.run=^{test}$"]
    if skip:
        command.append("-test.skip=" + "|".join(skip))
    command.append(f"-bin-dir={options.bin_dir}")
    log = os.path.join(options.logs, f"{test}.log")
    outcomes = {}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, cwd=options.directory, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            print(f"{test}: no end after {PATIENCE} s", flush=True)
        # Also the servers that it left behind.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    for line in open(log, encoding="utf-8", errors="replace"):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if event.get("Test") and event["Action"] in ("pass", "fail", "skip"):
            outcomes[event["Test"]] = event["Action"]
    outcomes.setdefault(test, "fail")
    return outcomes, log


def said(log, test):
    """What a test gave as the reason of its end."""
    lines = []
    for line in open(log, encoding="utf-8", errors="replace"):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        text = event.get("Output", "")
        if event.get("Test", "").startswith(test) and re.search(r"_test\.go:|\.go:\d+: |Error:|expected|panic", text):
            lines.append(text.strip())
    return lines


def reason(log, test):
    lines = [line for line in said(log, test) if "_test.go" in line or ".go:" in line]
    return re.sub(r"^\S+\.go:\d+: ", "", lines[-1]) if lines else "the suite says nothing"


def main():
    options = arguments()
    skipped = read_skipped(options.skipped)
    names = subprocess.run(
        [options.binary, "-test.list=.", f"-bin-dir={options.bin_dir}"],
        cwd=options.directory, capture_output=True, text=True, check=True,
    ).stdout.split()
    names = [name for name in names if name.startswith("Test") and re.search(options.pattern, name)]
    unknown = [name for name in skipped if options.pattern == "." and name.split("/")[0] not in names]
    outcomes, passed, failed, left_out, reasons = {}, [], [], [], {}
    for nth, test in enumerate(names):
        if test in skipped:
            left_out.append({"name": test, "reason": skipped[test]})
            continue
        began = time.monotonic()
        cases = [name for name in skipped if name.startswith(test + "/")]
        results, log = run(options, test, cases)
        outcomes.update(results)
        left_out += [{"name": name, "reason": skipped[name]} for name in cases]
        outcome = results[test]
        if outcome == "pass":
            passed.append(test)
        elif outcome == "skip":
            left_out.append({"name": test, "reason": "skipped by the suite: " + reason(log, test)})
        else:
            failed.append(test)
            leaves = [name for name, result in results.items() if result == "fail"]
            leaves = [name for name in leaves if not any(other.startswith(name + "/") for other in leaves)]
            for leaf in leaves:
                print(f"failed: {leaf}")
                print("".join(f"    {line[:300]}\n" for line in said(log, leaf)[-6:]), end="")
        print(f"{nth + 1}/{len(names)} {test}: {outcome}, {time.monotonic() - began:.1f} s", flush=True)
    print("not run:")
    for test in left_out:
        print(f"    {test['name']}   {test['reason']}")
    for name in unknown:
        print(f"error: {options.skipped} names {name}, which the suite does not have")
    cases = [name for name in outcomes if "/" in name]
    count = {kind: sum(outcomes[name] == kind for name in cases) for kind in ("pass", "fail", "skip")}
    print(f"{options.suite}: {len(passed)} passed, {len(failed)} failed, {len(left_out)} not run; "
          f"of their cases {count['pass']} passed, {count['fail']} failed, {count['skip']} were skipped")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    summary = {
        "suite": options.suite, "passed": len(passed), "failed": len(failed), "cases": count, "failures": failed,
        "skipped": left_out, "version": os.environ["SUITE_VERSION"],
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"), "commit": commit,
    }
    with open(options.results, "w", encoding="utf-8") as file:
        json.dump(summary, file, indent=2)
        file.write("\n")
    sys.exit(bool(failed or unknown or not passed))


main()
