#!/usr/bin/env python3
"""One ask is one trace over every component, and its files are what Jaeger opens. Needs a stack that is up with --traces.

    e2e/trace.py AISTACK RAG
"""
import json
import re
import subprocess
import sys
import time

AISTACK, RAG = sys.argv[1:]
PODS = {"modelhub-0", "tinyinfer-chat", "tinyinfer-embed", "vectorforge-0", "tinykv-0"}


def aistack(*arguments, code=0):
    done = subprocess.run([AISTACK, *arguments], capture_output=True, text=True)
    assert done.returncode == code, f"aistack {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def attributes(things):
    return {pair["key"]: next(iter(pair["value"].values())) for pair in things}


def otlp(trace_id):
    """The rules of opentelemetry-proto's trace.proto and its JSON encoding; returns (pod, span) pairs."""
    request = json.loads(aistack("trace", "-o", "otlp", trace_id))
    assert set(request) == {"resourceSpans"}, request.keys()
    spans = []
    for resource in request["resourceSpans"]:
        who = attributes(resource["resource"]["attributes"])
        assert who["service.name"] in ("modelhub", "tinyinfer", "vectorforge", "tinykv"), who
        for scope in resource["scopeSpans"]:
            spans += [(who["service.instance.id"], span) for span in scope["spans"]]
    ids = {span["spanId"] for _, span in spans}
    assert len(ids) == len(spans), "span ids are unique"
    for _, span in spans:
        assert span["traceId"] == trace_id
        assert re.fullmatch("[0-9a-f]{32}", span["traceId"]) and re.fullmatch("[0-9a-f]{16}", span["spanId"]), span
        assert isinstance(span["startTimeUnixNano"], str) and isinstance(span["kind"], int), span
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]), span
        assert not span["parentSpanId"] or span["parentSpanId"] in ids, f"a parent that is not there: {span}"
    return spans


def jaeger(trace_id, count):
    """The rules of Jaeger's model/json/model.go and of what its UI does with an upload."""
    file = json.loads(aistack("trace", "-o", "jaeger", trace_id))
    (data,) = file["data"]
    assert data["traceID"] == trace_id and len(data["spans"]) == count
    assert {process["serviceName"] for process in data["processes"].values()} == PODS
    ids = {span["spanID"] for span in data["spans"]}
    roots = 0
    for span in data["spans"]:
        assert span["traceID"] == trace_id and span["processID"] in data["processes"]
        assert isinstance(span["startTime"], int) and 1.6e15 < span["startTime"] < 4e15, "microseconds since the epoch"
        assert isinstance(span["duration"], int) and span["duration"] >= 0
        assert isinstance(span["operationName"], str) and isinstance(span["logs"], list)
        assert all(tag["type"] in ("string", "bool", "int64", "float64", "binary") for tag in span["tags"])
        for reference in span["references"]:
            assert reference["refType"] == "CHILD_OF" and reference["spanID"] in ids and reference["traceID"] == trace_id
        roots += not span["references"]
    assert roots == 1, roots


def written(prefix):
    """Waits until every component has written its spans, which `aistack trace` itself does for three seconds only."""
    until = time.monotonic() + 300
    before = None
    while True:
        done = subprocess.run([AISTACK, "trace", "-o", "jaeger", prefix], capture_output=True, text=True)
        if done.returncode == 0 and "is not whole" not in done.stderr:
            (data,) = json.loads(done.stdout)["data"]
            now = len(data["spans"])
            if {process["serviceName"] for process in data["processes"].values()} == PODS and now == before:
                return
            before = now
        assert time.monotonic() < until, f"the spans of trace {prefix} are not all there:\n{done.stdout}{done.stderr}"


shown = aistack("ask", "--rag", RAG, "Who approves a purchase?")
printed = re.search(r"trace ([0-9a-f]{8})", shown).group(1)
written(printed)

table = aistack("trace", printed)
trace_id = re.match(r"trace ([0-9a-f]{32}) ", table).group(1)
assert trace_id.startswith(printed)
assert aistack("trace").startswith(f"trace {trace_id}"), "the latest ask is the one that was just asked"

spans = otlp(trace_id)
pods = {pod for pod, _ in spans}
assert pods == PODS, f"components in the trace: {sorted(pods)}"
(root,) = [span for _, span in spans if not span["parentSpanId"]]
assert root["name"] == "POST /api/v1/rag/{name}/query", root["name"]
names = {(pod, span["name"]) for pod, span in spans}
for wanted in [
    ("modelhub-0", "retrieve"),
    ("tinykv-0", "etcdserverpb.KV/Range"),
    ("tinyinfer-embed", "POST /v1/embeddings"),
    ("vectorforge-0", "qdrant.Points/Query"),
    ("tinyinfer-chat", "POST /v1/chat/completions"),
    ("tinyinfer-chat", "prefill"),
    ("tinyinfer-chat", "decode"),
]:
    assert wanted in names, f"{wanted} is not among {sorted(names)}"
# One clock on one machine: nothing begins before the request, and the model is done before the answer is.
begin, end = int(root["startTimeUnixNano"]), int(root["endTimeUnixNano"])
for pod, span in spans:
    assert begin <= int(span["startTimeUnixNano"]) <= end, (pod, span["name"])
assert len(table.splitlines()) == len(spans) + 2, table
jaeger(trace_id, len(spans))

assert "no recorded trace begins with 0123456789abcdef" in aistack("trace", "0123456789abcdef", code=1)
assert "up to 32 hex digits" in aistack("trace", "not-a-trace", code=2)
assert any(trace_id in line for line in aistack("trace", "--list").splitlines())
print(f"trace: {len(spans)} spans of {len(pods)} components, each with its parent")
