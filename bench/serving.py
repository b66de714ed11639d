"""Requests per second and latency of ``flowmaps serve`` with 1, 8 and 32 clients, with and without batching.

    python bench/serving.py runs/novels

starts a server on loopback for each size of batch and asks it as OpenAI's clients do. Besides the clock, which other
programs of the machine slow down, it tells the processor time that the map took for a request.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
HEAD = [
    "clients",
    "batch",
    "requests / s",
    "median latency (ms)",
    "95 % (ms)",
    "texts a batch",
    "processor ms a request",
]


def ask(address: str, path: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    with OPENER.open(urllib.request.Request(address + path, data), timeout=600) as answer:
        return json.load(answer)


@contextmanager
def server(checkpoint: str, batch: int, steps: int):
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "flowmaps", "serve", checkpoint, "--port=0", "--name=model", f"--batch={batch}",
               f"--steps={steps}", "--device=cpu"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    address = process.stdout.readline().split(" at ")[1].split("/v1")[0]
    while True:
        try:
            ask(address, "/health")
            break
        except OSError:
            time.sleep(0.1)
    try:
        yield address
    finally:
        process.terminate()
        process.wait()


def load(address: str, clients: int, requests: int, tokens: int) -> dict[str, float]:
    """Numbers of one load: each client asks again as soon as it is answered."""

    def one(seed: int) -> float:
        start = time.perf_counter()
        body = {"model": "model", "prompt": "it was the ", "max_tokens": tokens, "seed": seed}
        assert ask(address, "/v1/completions", body)["choices"]
        return 1e3 * (time.perf_counter() - start)

    one(0)
    before, start = ask(address, "/health"), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        latency = sorted(pool.map(one, range(requests)))
    seconds, after = time.perf_counter() - start, ask(address, "/health")
    texts = after["texts"] - before["texts"]
    return {
        "rate": requests / seconds,
        "median": statistics.median(latency),
        "late": latency[int(0.95 * (len(latency) - 1))],
        "together": texts / (after["batches"] - before["batches"]),
        "cpu": 1e3 * (after["cpu_seconds"] - before["cpu_seconds"]) / texts,
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("checkpoint")
    p.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    p.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    p.add_argument("--requests", type=int, default=128, help="of each load; at least four a client")
    p.add_argument("--tokens", type=int, default=32)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--out", default=Path(__file__).parent / "results" / "serving.json", type=Path)
    cfg = p.parse_args()
    rows = []
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for batch in cfg.batches:
        with server(cfg.checkpoint, batch, cfg.steps) as address:
            for clients in cfg.clients:
                found = load(address, clients, max(cfg.requests, 4 * clients), cfg.tokens)
                rows.append({"clients": clients, "batch": batch, **found})
                cells = [clients, batch, *(f"{found[k]:.3g}" for k in ("rate", "median", "late", "together", "cpu"))]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)
    cfg.out.write_text(json.dumps({"tokens": cfg.tokens, "steps": cfg.steps, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
