"""Runs the tests of one of etcd's suites one by one, each in a process of its own, so that one that fails or hangs spoils
no other; counts, and says what was not run and why.

suite.py --binary COMPILED_SUITE --directory PACKAGE --bin-dir DIR --skipped FILE --results FILE --suite NAME --logs DIR
         --sample ETCDS_SAMPLE_OF_ITS_FILE [--pattern REGEX]

Each test has a directory of its own, and where the system allows it a network and processes of its own: a server that one
leaves behind holds no port of the next.
"""

import argparse
import datetime
import json
import os
import re
import signal
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

PATIENCE = int(os.environ.get("SUITE_PATIENCE", "600"))  # seconds for one test
JOBS = int(os.environ.get("SUITE_JOBS", "1"))  # tests at a time, where each can have its own network

running = set()  # the process groups of tests


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("binary", "directory", "bin-dir", "skipped", "results", "suite", "logs", "sample"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--pattern", default=".")
    return parser.parse_args()


def read_skipped(path):
    """Lines of a test's name, or of one case of it, and the reason."""
    lines = (line.split("#")[0].split(maxsplit=1) for line in open(path, encoding="utf-8"))
    return {words[0]: words[1].strip() for words in lines if words}


def apart():
    """The command that runs another one with a network and processes of its own; nothing, where that is not allowed."""
    for who in ([], ["--map-root-user"]):
        command = ["unshare", *who, "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
                   'ip link set lo up && exec "$@"', "sh"]
        if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    return []


def place(options, above):
    """A directory for the test to run in; beside it what the suite looks for at `..`."""
    here = os.path.join(above, "tests", os.path.basename(options.directory))
    os.makedirs(here)
    module = os.path.dirname(options.directory)
    for name in os.listdir(module):
        if name != os.path.basename(options.directory):
            os.symlink(os.path.join(module, name), os.path.join(above, "tests", name))
    os.symlink(options.sample, os.path.join(above, os.path.basename(options.sample)))
    return here


def end(group):
    """Ends a test, and the servers that it left behind."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def end_all(*_):
    for group in list(running):
        end(group)
    os._exit(143)


def run(options, test, skip):
    """The outcomes of the test and of its cases, by name."""
    command = [*options.apart, "go", "tool", "test2json", options.binary, "-test.v=test2json", "-test.count=1"]
    command.append(f"-test.run=^{test}$")
    if skip:
        command.append("-test.skip=" + "|".join(skip))
    command.append(f"-bin-dir={options.bin_dir}")
    log = os.path.join(options.logs, f"{test}.log")
    outcomes = {}
    with open(log, "wb") as output, tempfile.TemporaryDirectory() as above:
        process = subprocess.Popen(
            command, cwd=place(options, above), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        running.add(process.pid)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            print(f"{test}: no end after {PATIENCE} s", flush=True)
        end(process.pid)
        process.wait()
        running.discard(process.pid)
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
    line = re.sub(r"^\S+\.go:\d+: ", "", lines[-1]) if lines else "the suite says nothing"
    # The folder of the programs is another one in every run.
    return re.sub(r"/\S+/bin/", "", line)


def main():
    options = arguments()
    skipped = read_skipped(options.skipped)
    options.apart = apart()
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, end_all)
    names = subprocess.run(
        [options.binary, "-test.list=.", f"-bin-dir={options.bin_dir}"],
        cwd=options.directory, capture_output=True, text=True, check=True,
    ).stdout.split()
    names = [name for name in names if name.startswith("Test") and re.search(options.pattern, name)]
    unknown = [name for name in skipped if options.pattern == "." and name.split("/")[0] not in names]
    cases = {test: [name for name in skipped if name.startswith(test + "/")] for test in names}

    def attempt(test, what=""):
        began = time.monotonic()
        results, log = run(options, test, cases[test])
        if results[test] == "fail":
            leaves = [name for name, result in results.items() if result == "fail"]
            leaves = [name for name in leaves if not any(other.startswith(name + "/") for other in leaves)]
            for leaf in leaves:
                print(f"failed: {leaf}\n" + "".join(f"    {line[:300]}\n" for line in said(log, leaf)[-6:]), end="")
        print(f"{test}: {results[test]}{what}, {time.monotonic() - began:.1f} s", flush=True)
        return results, log

    to_run = [test for test in names if test not in skipped]
    with ThreadPoolExecutor(JOBS if options.apart else 1) as pool:
        attempts = dict(zip(to_run, pool.map(attempt, to_run)))
    # Tests with limits of a second fail on a busy machine; one that fails twice has a reason of its own.
    again = [test for test in to_run if attempts[test][0][test] == "fail"]
    attempts.update({test: attempt(test, " the second time") for test in again})
    outcomes, passed, failed, left_out = {}, [], [], []
    for test in names:
        if test in skipped:
            left_out.append({"name": test, "reason": skipped[test]})
            continue
        results, log = attempts[test]
        outcomes.update(results)
        left_out += [{"name": name, "reason": skipped[name]} for name in cases[test]]
        if results[test] == "skip":
            left_out.append({"name": test, "reason": "skipped by the suite: " + reason(log, test)})
        else:
            (passed if results[test] == "pass" else failed).append(test)
    again = [test for test in again if test in passed]
    print("not run:")
    for test in left_out:
        print(f"    {test['name']}   {test['reason']}")
    for name in unknown:
        print(f"error: {options.skipped} names {name}, which the suite does not have")
    for test in again:
        print(f"passed the second time: {test}")
    every = [name for name in outcomes if "/" in name]
    count = {kind: sum(outcomes[name] == kind for name in every) for kind in ("pass", "fail", "skip")}
    print(f"{options.suite}: {len(passed)} passed, {len(failed)} failed, {len(left_out)} not run; "
          f"of their cases {count['pass']} passed, {count['fail']} failed, {count['skip']} were skipped")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    summary = {
        "suite": options.suite, "passed": len(passed), "failed": len(failed), "cases": count, "failures": failed,
        "passed_the_second_time": again,
        "skipped": left_out, "version": os.environ["SUITE_VERSION"],
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"), "commit": commit,
    }
    with open(options.results, "w", encoding="utf-8") as file:
        json.dump(summary, file, indent=2)
        file.write("\n")
    sys.exit(bool(failed or unknown or not passed))


main()
