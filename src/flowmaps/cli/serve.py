"""``flowmaps serve CHECKPOINT``"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..configuration.parsing import parse
from .checkpoints import model_parser, open_model
from .demo import chosen_port

HELP = """Serve completions of a text model to OpenAI's clients: /v1/completions (prompt, suffix, n, temperature, seed,
max_tokens; steps, sampler, grid), /v1/models and /health. Requests that wait are drawn together. Example: flowmaps
serve runs/novels --port 8000, then OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="-")"""


def run(arguments: Sequence[str]) -> int:
    p = model_parser("serve", HELP)
    p.add_argument("--host", type=str, default="127.0.0.1", help="address to listen at; 0.0.0.0 serves the network")
    p.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one, which is printed")
    p.add_argument("--name", type=str | None, help="what clients call the model (default: the checkpoint's last name)")
    p.add_argument("--steps", type=int, default=8, help="network evaluations where a request says nothing")
    p.add_argument("--batch", type=int, default=32, help="completions of one network call")
    p.add_argument("--max_tokens", type=int, default=1024, help="of one completion")
    p.add_argument("--max_waiting", type=int, default=512, help="completions that wait; more are answered with 429")
    p.add_argument("--max_seconds", type=float, default=300.0, help="after which a request is answered with 503")
    cfg = parse(p, arguments)
    for name in ("steps", "batch", "max_tokens", "max_waiting", "max_seconds"):
        if not cfg[name] > 0:
            raise ValueError(f"{name} is {cfg[name]}, expected a positive number")
    port = chosen_port(cfg.host, cfg.port)
    import uvicorn

    from ..integrations.completions import Limits
    from ..integrations.serving import Service, application

    limits = Limits(tokens=cfg.max_tokens, rows=cfg.max_waiting, batch=cfg.batch, seconds=cfg.max_seconds)
    name = cfg.name or Path(cfg.checkpoint).resolve().name
    service = Service(open_model(cfg), name, cfg.steps, limits)
    print(f"{name} at http://{cfg.host}:{port}/v1 (Ctrl-C ends it)", flush=True)
    config = uvicorn.Config(application(service), cfg.host, port or 0, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    server.run()
    if not server.started:
        print(f"flowmaps serve: cannot listen at {cfg.host}:{port}", file=sys.stderr)
    return 0 if server.started else 2
