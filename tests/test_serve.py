"""The server: what it answers is what the run writes, what it cannot answer it refuses, and who goes frees a slot."""

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import kleiber as kb
from kleiber.experiments.api.writing import Writing
from kleiber.experiments.cli import main
from kleiber.experiments.exchange.converted_run import convert
from kleiber.experiments.exchange.huggingface_folder import write_huggingface
from kleiber.experiments.serving import app
from kleiber.experiments.serving.server import Server
from kleiber.model.config import ModelConfig
from kleiber.model.functional import init_params
from kleiber.train.config import OptimizerConfig, TrainConfig
from kleiber.train.data.tokenizers import ByteTokenizer

MODEL = ModelConfig(d_model=16, num_layers=1, num_heads=2, vocab_size=256, seq_len=48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run that was never trained, of bytes."""
    draw, place = np.random.default_rng(0), tmp_path_factory.mktemp("served")
    tree = jax.tree.map(lambda x: (x + 0.3 * draw.standard_normal(x.shape)).astype(x.dtype), init_params(MODEL, 0))
    write_huggingface(place / "hf", TrainConfig(MODEL, OptimizerConfig(0.1), (1000,)), tree, ByteTokenizer())
    convert(place / "hf", place / "run")
    return place / "run"


@pytest.fixture(scope="module")
def server(folder):
    server = Server(kb.load(folder), "127.0.0.1", 0, num_slots=2, most_waiting=3, most_seconds=60)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server
    server.close()
    thread.join()


def asked(server, method, path, body=None, headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    data = json.dumps(body) if isinstance(body, dict) else body
    connection.request(method, path, data, {"Content-Type": "application/json", **dict(headers)})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def completed(server, **body):
    status, text = asked(server, "POST", "/v1/completions", body)
    return status, json.loads(text)


def until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def test_completions_are_what_generate_writes_alone_or_many_at_once(server, folder):
    run = kb.load(folder)
    status, told = completed(server, prompt="once", max_tokens=20, seed=5, temperature=0.9, top_p=0.95, ignore_eos=True)
    (choice,) = told["choices"]
    assert status == 200 and told["object"] == "text_completion" and told["model"] == run.name
    assert choice["text"] == run.generate("once", 20, 0.9, seed=5, top_p=0.95) and choice["finish_reason"] == "length"
    assert told["usage"] == {"prompt_tokens": 5, "completion_tokens": 20, "total_tokens": 25}
    many = completed(server, prompt=["a", [98]], n=2, max_tokens=7, seed=3, model=run.name)[1]["choices"]
    assert [each["index"] for each in many] == [0, 1, 2, 3]
    assert [each["text"] for each in many[:2]] == [run.generate("a", 7, seed=s, stops_at_end=True) for s in (3, 4)]


def test_a_stream_tells_the_same_text_in_whole_characters_and_ends(server, folder):
    body = {"prompt": "on", "max_tokens": 40, "seed": 8, "ignore_eos": True, "stream": True}
    status, text = asked(server, "POST", "/v1/completions", body | {"stream_options": {"include_usage": True}})
    *events, end, nothing = text.split("\n\n")
    parts = [json.loads(event.removeprefix("data: ")) for event in events]
    assert status == 200 and (end, nothing) == ("data: [DONE]", "") and len(parts) > 3
    assert parts[-1]["usage"]["completion_tokens"] == 40 and parts[-1]["choices"] == []
    told = [part["choices"][0] for part in parts[:-1]]
    assert "".join(each["text"] for each in told) == kb.load(folder).generate("on", 40, seed=8)
    assert [each["finish_reason"] for each in told] == [None] * (len(told) - 1) + ["length"]


def test_a_text_ends_before_the_first_stop_and_no_part_of_it_is_told():
    class Letters:
        def decode(self, ids):
            return bytes(ids.tolist())

    text = "€ ab abc d".encode()
    writing = Writing(Letters(), ("abc", "d"))
    assert [writing.add([each]) for each in text] == ["", "", "€", " ", "", "", "ab ", *[""] * 5]
    assert writing.is_over and writing.end() == ""
    whole = Writing(Letters(), ("xyz",))
    assert whole.add(b"a xy") + whole.end() == "a xy" and whole.add(b"\xe2") + whole.end() == "�"


def test_a_stop_ends_generate_and_the_server_alike(server, folder):
    run = kb.load(folder)
    free = run.generate("so", 30, seed=2)
    stop = free[9:11]
    told = completed(server, prompt="so", max_tokens=30, seed=2, stop=stop, ignore_eos=True)[1]["choices"][0]
    assert told["text"] == run.generate("so", 30, seed=2, stop=[stop]) == free[: free.index(stop)]
    assert told["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ('{"prompt": "a"', 400, "no JSON object"),
        ("[" * 100_000, 400, "no JSON object"),
        ("[1]", 400, "JSON list, expected an object"),
        (b"\xff", 400, "no JSON object"),
        ('{"prompt": NaN}', 400, "NaN is no JSON"),
        ({}, 400, "prompt: expected a text"),
        ({"prompt": []}, 400, "prompt: expected a text"),
        ({"prompt": [True]}, 400, "prompt: expected a text"),
        ({"prompt": "\ud800"}, 400, "half a surrogate pair"),
        ({"prompt": [256]}, 400, "token 256 is outside the vocabulary"),
        ({"prompt": "a", "promt": 1}, 400, "did you mean 'prompt'"),
        ({"prompt": "a" * 60}, 400, "61 tokens and 1 more, but the window holds 48: shorten the prompt"),
        ({"prompt": "a", "max_tokens": 60}, 400, "ask for at most 47"),
        ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens is 0, expected a whole number from 1"),
        ({"prompt": "a", "n": 65}, 400, "n is 65, expected a whole number from 1 to 64"),
        ({"prompt": ["a", "b"], "n": 33}, 400, "2 prompts with 33 choices"),
        ({"prompt": "a", "temperature": -1}, 400, "expected a number 0 to 2"),
        ({"prompt": "a", "top_p": 0}, 400, "expected a number above 0, to 1"),
        ({"prompt": "a", "top_k": True}, 400, "top_k is true"),
        ({"prompt": "a", "seed": 2**31}, 400, "seed is 2147483648"),
        ({"prompt": "a", "stop": [""]}, 400, "stop: expected a text"),
        ({"prompt": "a", "stream": 1}, 400, "stream is 1, expected true or false"),
        ({"prompt": "a", "logprobs": 5}, 400, "'logprobs' is not supported"),
        ({"prompt": "a", "model": "gpt"}, 404, "'gpt' is not served here"),
        ({"prompt": "a", "n": 6}, 429, "0 wait; try later"),
        (b"x" * (app.MOST_BYTES + 1), 413, "larger than 1,048,576 bytes"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(server, body, status, words):
    until(lambda: server.answering.load == (0, 0))
    found, text = asked(server, "POST", "/v1/completions", body)
    assert found == status and words in json.loads(text)["error"]["message"]


def test_other_paths_methods_and_senders_are_refused_in_json(server, folder):
    assert asked(server, "GET", "/v1/models")[0] == 200
    name = json.loads(asked(server, "GET", "/v1/models")[1])["data"][0]["id"]
    assert name == kb.load(folder).name and asked(server, "GET", f"/v1/models/{name}")[0] == 200
    assert json.loads(asked(server, "GET", "/health")[1])["status"] == "ok"
    for found, expected in (
        (asked(server, "GET", "/v1/models/x"), 404),
        (asked(server, "GET", "/v1/chat"), 404),
        (asked(server, "GET", "/v1/completions"), 405),
        (asked(server, "POST", "/v1/completions", {"prompt": "a"}, {"Content-Type": "text/plain"}), 415),
        (asked(server, "GET", "/health", headers={"Host": "evil.example"}), 403),
    ):
        assert found[0] == expected and json.loads(found[1])["error"]["message"]


def test_on_another_address_a_token_is_asked_for(folder, monkeypatch):
    monkeypatch.setenv("A_TOKEN", "short")
    with pytest.raises(ValueError, match="A_TOKEN holds 5 characters, expected 16 or more"):
        Server(kb.load(folder), "0.0.0.0", 0, "A_TOKEN")
    monkeypatch.setenv("A_TOKEN", "a" * 20)
    server = Server(kb.load(folder), "0.0.0.0", 0, "A_TOKEN", num_slots=1)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.server.started)
    assert asked(server, "GET", "/v1/models", headers={"Host": "127.0.0.1"})[0] == 401
    assert asked(server, "GET", "/v1/models", headers={"Authorization": f"Bearer {'b' * 20}"})[0] == 401
    assert asked(server, "GET", "/v1/models", headers={"Authorization": f"Bearer {'a' * 20}"})[0] == 200
    server.close()
    thread.join()
    with pytest.raises(ValueError, match="give another --port"):
        taken = socket.create_server(("127.0.0.1", 0))
        Server(kb.load(folder), "127.0.0.1", taken.getsockname()[1])


def test_a_client_that_goes_away_frees_its_slots_and_one_that_waits_too_long_is_told(server, monkeypatch):
    calm = server.answering.engine.advance
    monkeypatch.setattr(server.answering.engine, "advance", lambda *a, **k: time.sleep(0.1) or calm(1))
    body = json.dumps({"prompt": "a", "max_tokens": 47, "n": 4, "ignore_eos": True, "stream": True})
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert server.answering.load == (2, 2) and answer.read(6) == b"data: "
    answer.close()
    connection.close()
    until(lambda: server.answering.load == (0, 0))
    monkeypatch.setattr(server.served, "most_seconds", 0.3)
    status, told = completed(server, prompt="a", max_tokens=40, ignore_eos=True)
    assert status == 503 and told["error"]["code"] == "timeout"
    monkeypatch.undo()
    until(lambda: server.answering.load == (0, 0))
    assert completed(server, prompt="a", max_tokens=2, seed=1)[0] == 200


def test_the_verb_serves_until_it_is_interrupted(folder, monkeypatch, capsys):
    monkeypatch.setattr(Server, "compile", lambda server: threading.Thread(target=interrupt, args=[server]).start())
    answers = []

    def interrupt(server):
        until(lambda: server.server.started)
        answers.append(asked(server, "GET", "/v1/models"))
        body = json.dumps({"prompt": "a", "max_tokens": 47, "n": 60, "ignore_eos": True, "stream": True})
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        os.kill(os.getpid(), signal.SIGINT)
        answers.append(answer.read().decode())

    assert main(["serve", str(folder), "--port", "0", "--slots", "1"]) == 0
    until(lambda: len(answers) == 2)
    assert answers[0][0] == 200 and answers[1].endswith("data: [DONE]\n\n") and "the server is ending" in answers[1]
    told = capsys.readouterr()
    assert "serving run-D0 at http://127.0.0.1:" in told.out and "Bearer" not in told.out and not told.err


def test_what_cannot_be_served_is_told_in_a_line(folder, monkeypatch, capsys):
    taken = socket.create_server(("127.0.0.1", 0))
    for options, words in (
        (["--port", str(taken.getsockname()[1])], "give another --port or --host"),
        (["--port", "99999"], "give another --port or --host"),
        (["--slots", "0"], "0 slots, expected 1 or more"),
        (["--queue", "-1"], "--queue -1"),
        (["--slots", str(10**9)], "1000000000 slots of 48 places take 6,144.0 GB of memory"),
    ):
        assert main(["serve", str(folder), *options]) == 2 and words in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "kleiber.experiments.serving.server", None)
    assert main(["serve", str(folder)]) == 2 and "pip install 'kleiber[serve]'" in capsys.readouterr().err


def test_a_draft_changes_no_text_and_one_with_other_tokens_is_refused(folder, capsys):
    line = ["generate", str(folder), "on", "--num-tokens", "30", "--json"]
    assert main(line) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*line, "--draft", str(folder)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {name: told[name] for name in plain} == plain and told["num_passes"] == 6 and told["num_kept"] == 24
    other = kb.load(folder)
    for name, model, words in (("bytes", b"x", "another bytes"), ("sentencepiece:4000", b"", "not bytes")):
        other.__dict__["tokenizer"] = SimpleNamespace(name=name, model=model)
        with pytest.raises(ValueError, match=f"the draft run-D0 has tokens of .*{words}"):
            kb.load(folder).generate("on", 3, draft=other)
