"""A socket, a model and what stands between them."""

import asyncio
import socket
from typing import Any

import psutil
import uvicorn

from kleiber.experiments.api.runs import Run
from kleiber.experiments.api.weights import prompt_ids
from kleiber.experiments.serving.answering import Answering
from kleiber.experiments.serving.app import Served, make_app
from kleiber.experiments.watching.access import new_token
from kleiber.model.decode.batching import Engine, memory_bytes

ENDING_SECONDS = 2
"""That answers on their way have when the server ends."""


class _Http(uvicorn.Server):
    """Tells whoever waits that the server ends, before it waits for them."""

    def __init__(self, config: uvicorn.Config, answering: Answering):
        super().__init__(config)
        self.answering = answering

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends."""
        await asyncio.to_thread(self.answering.close)
        await super().shutdown(sockets)


class Server:
    """Serves one run."""

    def __init__(
        self,
        run: Run,
        host: str,
        port: int,
        token_variable: str = "",
        num_slots: int = 8,
        most_waiting: int = 64,
        most_seconds: float = 300.0,
    ):
        """Takes a port, any free one if it is 0, and lays out the slots.

        Raises:
          ValueError: the port is taken, the host is none of this machine, the run says nothing of what comes next, or
            the slots take more memory than is free.
        """
        _, separator = prompt_ids(run.config, run.tokenizer, "")
        needed, free = memory_bytes(run.config.model, max(1, num_slots)), psutil.virtual_memory().available
        if needed > free:
            raise ValueError(
                f"{num_slots} slots of {run.config.model.seq_len:,} places take {needed / 1e9:,.1f} GB of memory, and "
                f"{free / 1e9:,.1f} GB are free; take fewer --slots, or a model with less context."
            )
        engine = Engine(run.config.model, run.tree, num_slots)
        self.answering, self.token = Answering(engine, most_waiting), new_token(host, token_variable)
        self.served = Served(
            name=run.name,
            answering=self.answering,
            tokenizer=run.tokenizer,
            separator=separator,
            encode=lambda prompt: prompt_ids(run.config, run.tokenizer, prompt)[0],
            token=self.token,
            most_seconds=most_seconds,
        )
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self.socket = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as problem:
            told = getattr(problem, "strerror", None) or problem
            raise ValueError(f"nothing to serve on at {host}:{port} ({told}); give another --port or --host.") from None
        self.port = self.socket.getsockname()[1]
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        options: dict[str, Any] = {"lifespan": "off", "ws": "none", "http": "h11", "loop": "asyncio"}
        options |= {"log_level": "error", "access_log": False, "server_header": False, "backlog": 128}
        options |= {"proxy_headers": False}
        # Beyond these connections uvicorn itself answers 503: what they hold is bounded.
        options |= {"limit_concurrency": 4 * (num_slots + most_waiting) + 64}
        options |= {"timeout_graceful_shutdown": ENDING_SECONDS, "timeout_keep_alive": 5}
        self.server = _Http(uvicorn.Config(make_app(self.served), **options), self.answering)

    def compile(self) -> None:
        """Makes every program before the first request."""
        self.answering.engine.compile()

    def run(self) -> None:
        """Answers until a signal or close ends it."""
        self.answering.start()
        try:
            self.server.run(sockets=[self.socket])
        finally:
            self.close()
            self.socket.close()

    def close(self) -> None:
        """Answers no more."""
        self.server.should_exit = True
        self.answering.close()
