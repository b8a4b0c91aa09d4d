"""Section serve: a thousand bodies of no sense, then many clients for ten minutes, some of whom go away: what was
answered, and how the memory of the server goes."""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from kleiber.experiments.bench.figures import Figure, at_most
from kleiber.experiments.bench.setting import Setting
from kleiber.model.config import ModelConfig
from sections.decoding import MODEL, SHORT_MODEL

NUM_BODIES, NUM_CLIENTS, SECONDS = 1000, 32, 600.0
SHORT_BODIES, SHORT_CLIENTS, SHORT_SECONDS = 20, 3, 2.0
GONE = 0.1
"""Part of the requests whose client goes away after the first event."""


def write_run(place: Path, model: ModelConfig) -> Path:
    """Returns the folder of a run of bytes that was never trained."""
    from kleiber.experiments.exchange.converted_run import convert
    from kleiber.experiments.exchange.huggingface_folder import write_huggingface
    from kleiber.model.functional import init_params
    from kleiber.train.config import OptimizerConfig, TrainConfig
    from kleiber.train.data.tokenizers import ByteTokenizer

    write_huggingface(
        place / "model", TrainConfig(model, OptimizerConfig(0.1), (1000,)), init_params(model, 0), ByteTokenizer()
    )
    convert(place / "model", place / "run")
    return place / "run"


class Clients:
    """Threads that ask one server until a time is over."""

    def __init__(self, port: int, window: int):
        self.port, self.window = port, window
        self.statuses: Counter[str] = Counter()
        self.num_tokens, self.lock = 0, threading.Lock()

    def ask(self, body: bytes, goes_away: bool = False) -> tuple[int, bytes]:
        """Returns the status and the answer, or what there was of it when the client went away."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=330)
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        found = answer.status, answer.read(20) if goes_away else answer.read()
        connection.close()
        return found

    def tell(self, what: str, num_tokens: int = 0) -> None:
        """Counts one answer."""
        with self.lock:
            self.statuses[what] += 1
            self.num_tokens += num_tokens

    def work(self, seed: int, until: float) -> None:
        """Asks for one completion after another."""
        draw = random.Random(seed)
        while time.monotonic() < until:
            known, new = draw.randint(1, self.window // 2), draw.randint(1, self.window // 2 - 1)
            goes_away = draw.random() < GONE
            body = {"prompt": "a" * known, "max_tokens": new, "ignore_eos": True, "stream": goes_away}
            try:
                status, text = self.ask(json.dumps(body).encode(), goes_away)
            except OSError as problem:
                self.tell(type(problem).__name__)
                continue
            if goes_away or status != 200:
                self.tell("gone" if goes_away and status == 200 else str(status))
            else:
                self.tell("200", json.loads(text)["usage"]["completion_tokens"])


def measure_serving(setting: Setting) -> dict[str, Any]:
    """Returns rates, statuses, and the server's memory at the end over that after a tenth of the time."""
    from test_asked import body

    is_short = setting.is_short
    model = ModelConfig(**(SHORT_MODEL if is_short else MODEL))
    run, log = write_run(setting.place("served"), model), setting.place("log") / "said.txt"
    line = [sys.executable, "-m", "kleiber", "serve", str(run), "--port", "0", "--queue", "64"]
    with open(log, "w") as said:
        process = subprocess.Popen(line, stdout=said, stderr=subprocess.DEVNULL)
    try:
        setting.tell("compiling")
        while "serving" not in log.read_text():
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}: {log.read_text()[-500:]}")
            time.sleep(0.2)
        clients = Clients(int(log.read_text().split("/v1")[0].rpartition(":")[2]), model.seq_len)
        draw, fuzzed = random.Random(1), Counter[str]()
        num_bodies = SHORT_BODIES if is_short else NUM_BODIES
        for done in range(num_bodies):
            fuzzed[f"{clients.ask(body(draw))[0] // 100}xx"] += 1
            if done % 200 == 199:
                setting.tell(f"{done + 1} bodies of no sense")
        seconds = SHORT_SECONDS if is_short else SECONDS * min(1.0, setting.sweep_scale * 10)
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(target=clients.work, args=[seed, until])
            for seed in range(SHORT_CLIENTS if is_short else NUM_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        server, sizes = psutil.Process(process.pid), []
        while time.monotonic() < until:
            time.sleep(seconds / 20)
            sizes.append(server.memory_info().rss / 1e6)
            setting.tell(f"{clients.statuses.total()} answers, {sizes[-1]:,.0f} MB")
        for thread in threads:
            thread.join()
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    wrong = num_bodies - fuzzed["2xx"] - fuzzed["4xx"]
    lost = sum(count for what, count in clients.statuses.items() if what not in ("200", "gone"))
    figures = [
        Figure("bodies answered by neither 2xx nor 4xx", wrong, "bodies", goal=at_most(0), note=f"of {num_bodies}"),
        Figure("answers to clients", clients.statuses["200"] / seconds, "/s", note=f"{len(threads)} in {seconds:g} s"),
        Figure("tokens to clients", clients.num_tokens / seconds, "tokens/s"),
        Figure("requests not answered", lost, "requests", goal=at_most(0)),
        Figure("memory of the server, at the end over after a tenth", sizes[-1] / sizes[1], "ratio",
               goal=at_most(1.1, 1.02), note=f"{sizes[-1]:,.0f} MB"),
        Figure("exit code of the server after Ctrl-C", code, "", goal=at_most(0)),
    ]  # fmt: skip
    return {"figures": figures, "fuzzed": dict(fuzzed), "statuses": dict(clients.statuses), "megabytes": sizes}
