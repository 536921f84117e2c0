#!/usr/bin/env python3
"""CPU time per request of modelhub and nginx between the same client and the same upstream, interleaved.

usage: bench.py --modelhub BINARY --bench BINARY [--nginx nginx] [--rounds 7] [--record docs/benchmarks/gateway.jsonl]

CPU time is that of the proxy's process (all threads, from /proc/*/schedstat, which counts nanoseconds), so other work on the
machine moves it little. Each round runs both proxies one after the other; the medians over the rounds are compared.
"""
import argparse, datetime, json, os, pathlib, platform, socket, statistics, subprocess, sys, tempfile, time, urllib.request

HERE = pathlib.Path(__file__).resolve().parent
WORKLOADS = [
    # id, body bytes, concurrency, requests, bar for the ratio (None: reported only)
    ("A7", 1024, 16, 6000, 2.5),
    ("A7-c1", 1024, 1, 2000, None),
    ("A7-220k", 220 * 1024, 4, 400, None),
]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, path="/v1/models"):
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1).read()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing answers on port {port}")


def cpu_ns(pid):
    total = 0
    pids = [pid] + [int(c) for t in os.listdir(f"/proc/{pid}/task")
                    for c in pathlib.Path(f"/proc/{pid}/task/{t}/children").read_text().split()]
    for p in pids:
        for task in os.listdir(f"/proc/{p}/task"):
            total += int(pathlib.Path(f"/proc/{p}/task/{task}/schedstat").read_text().split()[0])
    return total


def load(bench, port, body, concurrency, requests):
    out = subprocess.run([bench, "load", "--url", f"http://127.0.0.1:{port}/v1/chat/completions", "--requests", str(requests),
                          "--concurrency", str(concurrency), "--body", str(body)], check=True, capture_output=True, text=True)
    result = json.loads(out.stdout)
    if result["failed"]:
        sys.exit(f"{result['failed']} requests failed on port {port}")
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--modelhub", required=True)
    parser.add_argument("--bench", required=True, help="the crate's bench binary `gateway`")
    parser.add_argument("--nginx", default="nginx")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record")
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="gateway-bench-")
    mock_port, nginx_port, hub_port, admin_port = (free_port() for _ in range(4))
    conf = (HERE / "nginx.conf.in").read_text()
    for name, value in (("DIR", folder), ("MOCK", mock_port), ("PORT", nginx_port)):
        conf = conf.replace(f"@{name}@", str(value))
    conf_file = pathlib.Path(folder, "nginx.conf")
    conf_file.write_text(conf)
    hub_file = pathlib.Path(folder, "modelhub.yaml")
    hub_file.write_text(json.dumps({
        "server": {"admin_listen": f"127.0.0.1:{admin_port}"}, "listen": f"127.0.0.1:{hub_port}",
        "artefacts": f"{folder}/artefacts", "kv": {"endpoints": [f"http://127.0.0.1:{free_port()}"]},
        "engines": [{"name": "mock", "endpoint": f"http://127.0.0.1:{mock_port}", "models": ["mock"]}]}))
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    processes = [subprocess.Popen([args.bench, "mock", "--listen", f"127.0.0.1:{mock_port}"], **quiet)]
    try:
        wait_for(mock_port)
        nginx = subprocess.Popen([args.nginx, "-c", str(conf_file), "-p", folder], **quiet)
        hub = subprocess.Popen([args.modelhub, "serve", "--config", str(hub_file), "--log-level", "warn"], **quiet)
        processes += [nginx, hub]
        wait_for(nginx_port)
        wait_for(hub_port)
        lines = [measure(args, work, nginx.pid, nginx_port, hub.pid, hub_port) for work in WORKLOADS]
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait()
    if args.record:
        with open(args.record, "a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    bad = [line for line in lines if line["bar"] and line["ratio"] > line["bar"]]
    sys.exit(1 if bad else 0)


def measure(args, work, nginx_pid, nginx_port, hub_pid, hub_port):
    name, body, concurrency, requests, bar = work
    figures = {"modelhub": [], "nginx": []}
    for proxy, port in (("modelhub", hub_port), ("nginx", nginx_port)):
        load(args.bench, port, body, concurrency, max(requests // 10, concurrency))
    for _ in range(args.rounds):
        for proxy, pid, port in (("modelhub", hub_pid, hub_port), ("nginx", nginx_pid, nginx_port)):
            before = cpu_ns(pid)
            result = load(args.bench, port, body, concurrency, requests)
            result["cpu_us"] = (cpu_ns(pid) - before) / 1e3 / result["requests"]
            figures[proxy].append(result)
    median = {p: {k: statistics.median(r[k] for r in runs) for k in ("cpu_us", "p50_us", "per_second")} for p, runs in figures.items()}
    ours, peer = median["modelhub"]["cpu_us"], median["nginx"]["cpu_us"]
    version = subprocess.run([args.nginx, "-v"], capture_output=True, text=True).stderr.strip().rsplit("/", 1)[-1]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout.strip()
    line = {
        "id": name, "what": f"gateway CPU per request, {body} B chat, concurrency {concurrency}, mock upstream",
        "ours": round(ours, 1), "peer": round(peer, 1), "unit": "us CPU/request", "ratio": round(ours / peer, 2), "bar": bar,
        "peer_version": f"nginx {version}", "machine": f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {platform.machine()}",
        "commit": commit, "date": datetime.date.today().isoformat(), "runs": args.rounds,
        "ours_p50_us": round(median["modelhub"]["p50_us"]), "peer_p50_us": round(median["nginx"]["p50_us"]),
        "ours_all": [round(r["cpu_us"], 1) for r in figures["modelhub"]], "peer_all": [round(r["cpu_us"], 1) for r in figures["nginx"]],
    }
    print(f"{name:8} modelhub {ours:7.1f} us   nginx {peer:7.1f} us   ratio {ours / peer:.2f}", flush=True)
    return line


main()
