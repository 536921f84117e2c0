"""Puts the clients' code and the table of conformance into docs/tinykv.md, after the comments that name them.

page.py           writes the page
page.py --check   fails when the page is not what would be written
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/tinykv.md"
RESULTS = ROOT / "docs/conformance/tinykv.json"
LANGUAGES = {".go": "go", ".rs": "rust", ".py": "python", ".mjs": "js"}
# What each suite is, in the order of the table; the numbers are those of its last run.
SUITES = {
    "common": "etcd 3.7.3's own `tests/v3/common` (`E2E_TEST_MINIMAL`), TinyKV as `etcd`, driven by `etcdctl` 3.7.3: `e2e/peers/etcd/common.sh`",
    "differential": "the same random operations, users, gateway calls and certificates on etcd 3.7.3 and TinyKV, answer by answer: `differential`",
    "cluster": "three members: leaders killed under load, members that come and go, users, TLS between members: `cluster`",
    "crash": "kill -9 in the middle of writes: `crash`",
    "faults": "bit flips, torn logs, a full disk: `faults`",
    "clients": "clients, unchanged, against one member: `e2e/peers/etcd/clients.sh`",
    "page": "the programs of this page, against three members with TLS and users, before and after one is killed: `e2e/peers/etcd/page.sh`",
}


def table():
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    lines = ["| Suite | Passed | Failed | Skipped by the suite itself | Run |", "|---|---|---|---|---|"]
    notes = []
    for suite, what in SUITES.items():
        result = results.get(suite)
        if result is None:
            lines.append(f"| {what} | – | – | – | not yet |")
            continue
        run = f"{result['date']}, {result['commit']}"
        if "clients" in result:
            lines.append(f"| {what} | {', '.join(sorted(set(result['clients'])))} | – | – | {run} |")
            continue
        tests, cases = result["tests"], result["with_cases"]
        cell = {kind: str(tests[kind]) if tests == cases else f"{tests[kind]} ({cases[kind]} with cases)" for kind in tests}
        lines.append(f"| {what} | {cell['pass']} | {cell['fail']} | {cell['skip']} | {run} |")
        notes += [f"- failed in {suite}: `{test}`" for test in result["failed"]]
        notes += [f"- not run in {suite}: `{one['test']}`: {one['why']}" for one in result["not_run"]]
    return "\n".join(lines + ([""] + notes if notes else []))


def code(path):
    file = ROOT / path
    return f"```{LANGUAGES[file.suffix]}\n{file.read_text(encoding='utf-8').rstrip()}\n```"


def filled(page):
    """The page with what follows each comment, up to the next blank line outside of code, made anew."""
    out, lines, index = [], page.split("\n"), 0
    while index < len(lines):
        line = lines[index]
        out.append(line)
        index += 1
        named = re.fullmatch(r"<!-- file: (\S+) -->", line)
        if not named and line != "<!-- conformance -->":
            continue
        out += [code(named[1])] if named else [table()]
        # What was there before: a block of code, or a table with its notes.
        if index < len(lines) and lines[index].startswith("```"):
            index = lines.index("```", index + 1) + 1
        while index < len(lines) and (lines[index].startswith(("|", "- failed in", "- not run in")) or (
            lines[index] == "" and index + 1 < len(lines) and lines[index + 1].startswith(("- failed in", "- not run in"))
        )):
            index += 1
    return "\n".join(out)


def main(arguments):
    page = PAGE.read_text(encoding="utf-8")
    wanted = filled(page)
    if arguments == ["--check"]:
        if page != wanted:
            sys.exit("error: docs/tinykv.md is not what its sources say\n  run: python3 e2e/peers/etcd/page.py")
        return
    PAGE.write_text(wanted, encoding="utf-8")


main(sys.argv[1:])
