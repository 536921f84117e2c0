"""Puts the clients' code and the table of conformance into docs/tinykv.md, after the comments that name them.

page.py           writes the page
page.py --check   fails when a client's code in the page is not that of its file
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/tinykv.md"
RESULTS = ROOT / "e2e/peers/etcd/results"
LANGUAGES = {".go": "go", ".rs": "rust", ".py": "python", ".mjs": "js"}
# What each suite is, in the order of the table; the numbers are those of its last run.
SUITES = {
    "common": "etcd's own `tests/v3/common` (`E2E_TEST_MINIMAL`), TinyKV as `etcd`, driven by `etcdctl`",
    "common-full": "the same with every kind of cluster and of connection",
    "e2e": "etcd's own `tests/v3/e2e`",
    "differential": "the same random operations, users, gateway calls and certificates on etcd 3.7.3 and TinyKV, answer by answer",
    "cluster": "three members: leaders killed under load, members that come and go, users, TLS between members",
    "crash": "kill -9 in the middle of writes",
    "crash-three": "three members of which one, two or all are killed (`kill -9`) at random moments, with a ledger of what was acknowledged",
    "faults": "bit flips, torn logs, a full disk",
    "clients": "clients, unchanged, against one member",
    "robustness": "etcd's robustness models over three members under 15 faults, 100 seeded runs of each of four traffics",
    "kubernetes-storage": "Kubernetes' own tests of its storage, `k8s.io/apiserver/pkg/storage/etcd3`",
    "page": "the programs of this page, before and after a member is killed",
}


def row(what, result):
    run = f"{result['date']}, {result['commit']}"
    cases = result.get("cases", {})
    def cell(whole, kind):
        return f"{whole} ({cases[kind]} cases)" if cases.get(kind) else str(whole)
    passed = ", ".join(result["clients"]) if "clients" in result else cell(result["passed"], "pass")
    what += f" {result['version']}" if "version" in result else ""
    what += f": {result['figures']}" if "figures" in result else ""
    if "etcd" in result:
        what += f" (etcd in the same run: {result['etcd']['passed']} passed, {result['etcd']['failed']} failed)"
    return f"| {what} | {passed} | {cell(result['failed'], 'fail')} | {len(result['skipped'])} | {run} |"


def table():
    lines = ["| Suite | Passed | Failed | Not run | When, commit |", "|---|---|---|---|---|"]
    notes = []
    for suite, what in SUITES.items():
        file = RESULTS / f"{suite}.json"
        if file.exists():
            result = json.loads(file.read_text())
            lines.append(row(what, result))
            notes += [f"- failed in {suite}: `{test}`" for test in result.get("failures", [])]
            again = ", ".join(f"`{test}`" for test in result.get("passed_the_second_time", []))
            notes += [f"- failed in {suite} and passed when it was run again: {again}"] if again else []
    return "\n".join(lines + ([""] + notes if notes else []))


def code(path):
    file = ROOT / path
    return f"```{LANGUAGES[file.suffix]}\n{file.read_text(encoding='utf-8').rstrip()}\n```"


def filled(page, with_table):
    """The page with what follows each comment, up to the next blank line outside of code, made anew."""
    out, lines, index = [], page.split("\n"), 0
    while index < len(lines):
        line = lines[index]
        out.append(line)
        index += 1
        named = re.fullmatch(r"<!-- file: (\S+) -->", line)
        if not named and (line != "<!-- conformance -->" or not with_table):
            continue
        out += [code(named[1])] if named else [table()]
        # What was there before: a block of code, or a table with its notes.
        if index < len(lines) and lines[index].startswith("```"):
            index = lines.index("```", index + 1) + 1
        while index < len(lines) and (lines[index].startswith(("|", "- failed in")) or (
            lines[index] == "" and index + 1 < len(lines) and lines[index + 1].startswith("- failed in")
        )):
            index += 1
    return "\n".join(out)


def main(arguments):
    page = PAGE.read_text(encoding="utf-8")
    wanted = filled(page, with_table=arguments != ["--check"])
    if arguments == ["--check"]:
        if page != wanted:
            sys.exit("error: docs/tinykv.md is not what its sources say\n  run: python3 e2e/peers/etcd/page.py")
        return
    PAGE.write_text(wanted, encoding="utf-8")


main(sys.argv[1:])
