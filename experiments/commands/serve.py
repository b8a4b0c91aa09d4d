"""Serves completions of a finished run over HTTP, as OpenAI's interface has them: POST /v1/completions, GET /v1/models.

Many requests are answered side by side, each with the text that it would get alone. Ctrl-C ends it. On an address other
than this machine's own a token is asked for: KLEIBER_TOKEN, or a new one, which is printed.

example: kleiber serve out/quickstart/runs/d64-L2-s0-2ad14a-D102400 --port 8000
         curl localhost:8000/v1/completions -H 'Content-Type: application/json' -d '{"prompt": "The instance"}'
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE
from kleiber.experiments.terminal import tell, working

TOKEN = "KLEIBER_TOKEN"


@dataclass(frozen=True)
class Options:
    """Options of `kleiber serve`."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, in a sweep or copied elsewhere, or DIRECTORY/NAME with the beginning of its name."""
    host: str = "127.0.0.1"
    """Address to serve on; on any but this machine's own, it asks for a token."""
    port: int = 8000
    """To serve on; 0 takes a free one."""
    slots: int = 8
    """Requests answered side by side."""
    queue: int = 64
    """Requests that may wait; more are refused with status 429."""
    max_seconds: float = 300.0
    """That a request may take, waiting included."""


def run(options: Options) -> int:
    """Serves until it is interrupted; returns 0."""
    if options.queue < 0 or options.max_seconds <= 0:
        raise ValueError(f"--queue {options.queue} --max-seconds {options.max_seconds:g}, expected 0 or more, above 0.")
    try:
        from kleiber.experiments.serving.server import Server
    except ModuleNotFoundError as missing:
        raise ValueError(f"serving needs starlette and uvicorn ({missing}): pip install 'kleiber[serve]'.") from None
    from kleiber.experiments.api.runs import load

    found = load(options.run)
    limits = (options.slots, options.queue, options.max_seconds)
    server = Server(found, options.host, options.port, TOKEN, *limits)
    try:
        with working(f"compiling for {options.slots} slots"):
            server.compile()
        tell(f"serving {found.name} at {server.address}/v1")
        if server.token:
            tell(f"Authorization: Bearer {server.token}")
        server.run()
    except KeyboardInterrupt:
        tell("ended")
    finally:
        server.close()
    return EXIT_DONE
