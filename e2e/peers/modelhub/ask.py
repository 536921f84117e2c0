#!/usr/bin/env python3
"""A8 and A9: an ask's time by step, and retrieval on the handbook's questions.

A8 asks with whole passages in the prompt (rag.focus_sentences 0), about 1,500 tokens of them, and up to 64 tokens of answer; then
with the quickstart's settings, a prompt of a few sentences. The bar, for the first: search and ModelHub's own work are under 3 % of
the ask. The model ends most answers long before 64 tokens; a longer answer makes the share smaller.
"""
import argparse, datetime, json, os, pathlib, platform, socket, statistics, subprocess, sys, tempfile, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
HANDBOOK = ROOT / "examples/quickstart/handbook"
QUESTIONS = ROOT / "examples/quickstart/questions.jsonl"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def call(url, body=None, timeout=120):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=timeout))


def wait_for(url):
    for _ in range(3000):
        try:
            return urllib.request.urlopen(url, timeout=2).read()
        except OSError:
            time.sleep(0.1)
    sys.exit(f"nothing answers at {url}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--record")
    parser.add_argument("--asks", type=int, default=7)
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="ask-bench-")
    kv, kv_admin, vf, vf_admin, chat, chat_admin, embed, embed_admin, hub, hub_admin = (free_port() for _ in range(10))
    local = "127.0.0.1:{}".format
    base = dict(os.environ, AISTACK_LOG="warn")
    starts = [
        (["tinykv"], {"TINYKV_LISTEN_CLIENT": local(kv), "TINYKV_LISTEN_PEER": local(free_port()), "TINYKV_DATA_DIR": f"{folder}/kv",
                      "TINYKV_SERVER__ADMIN_LISTEN": local(kv_admin)}, kv_admin),
        (["vectorforge"], {"VECTORFORGE_LISTEN_GRPC": local(vf), "VECTORFORGE_LISTEN_HTTP": local(free_port()),
                           "VECTORFORGE_DATA_DIR": f"{folder}/vf", "VECTORFORGE_SERVER__ADMIN_LISTEN": local(vf_admin)}, vf_admin),
    ]
    for model, port, admin in (("smollm2-135m-instruct", chat, chat_admin), ("all-minilm-l6-v2", embed, embed_admin)):
        starts.append((["tinyinfer"], {"TINYINFER_MODEL": model, "TINYINFER_LISTEN_HTTP": local(port),
                                       "TINYINFER_LISTEN_GRPC": local(free_port()), "TINYINFER_SERVER__ADMIN_LISTEN": local(admin)}, admin))
    processes, url = [], f"http://{local(hub)}"
    try:
        for command, env, admin in starts:
            processes.append(subprocess.Popen([f"{args.bin}/{command[0]}"], env={**base, **env}, stdout=subprocess.DEVNULL))
        for _, _, admin in starts:
            wait_for(f"http://{local(admin)}/readyz")
        engines = [{"name": "chat", "endpoint": f"http://{local(chat)}", "task": "chat"},
                   {"name": "embed", "endpoint": f"http://{local(embed)}", "task": "embed"}]
        config = {"listen": local(hub), "server": {"admin_listen": local(hub_admin)}, "kv": {"endpoints": [f"http://{local(kv)}"]},
                  "vector": {"endpoint": f"http://{local(vf)}"}, "artefacts": f"{folder}/artefacts", "engines": engines}

        def hub_with(rag):
            config_file = pathlib.Path(folder, "modelhub.yaml")
            config_file.write_text(json.dumps({**config, "rag": rag}))
            processes.append(subprocess.Popen([f"{args.bin}/modelhub", "serve", "--config", str(config_file)], env=base, stdout=subprocess.DEVNULL))
            wait_for(f"{url}/v1/models")

        hub_with({"focus_sentences": 0, "prompt_passages": 100, "max_answer_tokens": 64})
        hub_command(args, url, "rag", "ingest", "handbook", str(HANDBOOK))
        lines = [share_of_ask(args, url, "whole passages in the prompt", {"top_k": 18, "min_score": -1, "max_tokens": 64}, bar=0.03)]
        processes[-1].terminate()
        processes.pop().wait()
        hub_with({})
        lines.append(share_of_ask(args, url, "the quickstart's settings", {}, bar=None))
        lines.append(retrieval(args, url))
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait()
    if args.record:
        with open(args.record, "a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    for line in lines:
        print(json.dumps(line))
    sys.exit(0 if all(line["ok"] for line in lines) else 1)


def hub_command(args, url, *words):
    env = dict(os.environ, AISTACK_MODELHUB_URL=url)
    return subprocess.run([f"{args.bin}/modelhub", *words], env=env, check=True, capture_output=True, text=True).stdout


def common():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return {"peer": None, "ratio": None, "peer_version": None, "commit": commit, "date": datetime.date.today().isoformat(),
            "machine": f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {platform.machine()}"}


def share_of_ask(args, url, how, settings, bar):
    questions = [json.loads(line)["question"] for line in QUESTIONS.read_text().splitlines()]
    runs = []
    # Another question each time, or the engine's prefix cache would hold most of the prompt; the first one only warms up.
    for i, question in enumerate(questions[: args.asks + 1]):
        timings = call(f"{url}/api/v1/rag/handbook/query", {"question": question, **settings})["timings"]
        if i:
            runs.append(timings)
    steps = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
    share = statistics.median((r["search_ms"] + r["rag_ms"] + gateway_ms(r)) / r["total_ms"] for r in runs)
    tokens = f"{steps['prompt_tokens']:.0f} tokens of prompt and {steps['answer_tokens']:.0f} of answer"
    return {"id": "A8", "what": f"search + gateway + RAG as a share of an ask, {how}: {tokens}", "ours": round(share, 4), "unit": "share",
            "bar": bar, "ok": bar is None or share < bar, "runs": len(runs), "steps_ms": {k: round(v, 2) for k, v in steps.items()}, **common()}


def retrieval(args, url):
    report = json.loads(hub_command(args, url, "rag", "eval", "handbook", "--questions", str(QUESTIONS), "--source", str(HANDBOOK), "-o", "json"))
    return {"id": "A9", "what": f"hit@3 on the handbook's {report['questions']} questions; spans that open at their text",
            "ours": report["hit_at_k"], "unit": "share", "bar": 0.9, "ok": report["hit_at_k"] >= 0.9 and not report["spans_wrong"],
            "runs": report["questions"], "hit_at_1": report["hit_at_1"], "spans_checked": report["spans_checked"],
            "spans_wrong": len(report["spans_wrong"]), **common()}


def gateway_ms(run):
    """What no step accounts for: the gateway's forwarding, the stores of records, the network."""
    return max(run["total_ms"] - sum(run[k] for k in ("embed_ms", "search_ms", "rag_ms", "prefill_ms", "decode_ms")), 0)


main()
