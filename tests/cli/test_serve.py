"""A real server on loopback, asked by OpenAI's client and by rude ones."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from train.toys import environment

openai = pytest.importorskip("openai", reason="the client that the server is tested with")
pytest.importorskip("uvicorn", reason="needs the extra serve")

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def server(words):
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "flowmaps", "serve", str(words), "--port", "0", "--name", "words", "--device=cpu",
               "--max_tokens=64", "--batch=8", "--steps=2"]  # fmt: skip
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    line = process.stdout.readline()
    try:
        assert " at http://127.0.0.1:" in line, line + process.stdout.read()
        address = line.split(" at ")[1].split("/v1")[0]
        wait(address)
        yield address
    finally:
        process.terminate()
        assert process.wait(30) in (0, -15, 143), process.stdout.read()


def wait(address, attempts=200):
    for _ in range(attempts):
        try:
            return get(address, "/health")
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def get(address, path):
    with OPENER.open(address + path, timeout=60) as answer:
        return json.load(answer)


def post(address, body, path="/v1/completions"):
    """The status and the body of an answer, whatever it is."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    try:
        with OPENER.open(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def client(server):
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    return openai.OpenAI(base_url=f"{server}/v1", api_key="-", max_retries=0)


def test_completions(client):
    asked = {"model": "words", "prompt": "it was ", "max_tokens": 5, "n": 3}
    first = client.completions.create(**asked, seed=7)
    texts = [choice.text for choice in first.choices]
    assert [len(text) for text in texts] == [5, 5, 5] and len(set(texts)) > 1
    assert [choice.finish_reason for choice in first.choices] == ["length"] * 3
    assert (first.usage.prompt_tokens, first.usage.completion_tokens) == (7, 15) and first.model == "words"
    again, other = (client.completions.create(**asked, seed=seed) for seed in (7, 8))
    assert [choice.text for choice in again.choices] == texts != [choice.text for choice in other.choices]
    assert client.completions.create(**asked).choices[0].text, "no seed: any"


def test_several_prompts_suffix_echo_and_stop(client):
    asked = {"model": "words", "seed": 1, "n": 2}
    both = client.completions.create(**asked, prompt=["the best", "of"], max_tokens=4, echo=True)
    assert [choice.text[:-4] for choice in both.choices] == ["the best"] * 2 + ["of"] * 2
    gap = client.completions.create(**asked, prompt="it was ", suffix=" times", max_tokens=3)
    assert all(len(choice.text) == 3 for choice in gap.choices) and gap.usage.prompt_tokens == 13
    long = client.completions.create(**asked, prompt="it was the best of times " * 4, max_tokens=40)
    assert all(len(choice.text) == 40 for choice in long.choices), "longer than a window"
    text = long.choices[0].text
    stopped = client.completions.create(**asked, prompt="it was the best of times " * 4, max_tokens=40, stop=text[3])
    assert stopped.choices[0].text == text[: text.index(text[3])] and stopped.choices[0].finish_reason == "stop"
    cold = client.completions.create(**asked, prompt="it", max_tokens=4, temperature=0)
    assert len(cold.choices[0].text) == 4


@pytest.mark.parametrize(
    "extra",
    [{"steps": 1}, {"steps": 3, "sampler": "renoise"}, {"steps": 2, "sampler": "euler"},
     {"steps": 2, "sampler": "heun"}, {"grid": [0, 0.7, 1]}, {"grid": "uniform", "steps": 4}],
)  # fmt: skip
def test_ways_of_sampling(client, extra):
    asked = {"model": "words", "prompt": "", "max_tokens": 6, "n": 2, "seed": 1}
    made = [client.completions.create(**asked, extra_body=extra) for _ in range(2)]
    texts = [[choice.text for choice in one.choices] for one in made]
    assert texts[0] == texts[1] and all(len(text) == 6 for text in texts[0])


def test_models_and_health(client, server):
    assert [model.id for model in client.models.list()] == ["words"]
    assert client.models.retrieve("words").owned_by == "flowmaps"
    assert get(server, "/health")["status"] == "ok"
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.completions.create(model="other", prompt="a")


def test_requests_that_wait_are_drawn_together(client, server):
    def ask(seed):
        return client.completions.create(model="words", prompt="it was ", max_tokens=6, seed=seed).choices[0].text

    alone = [ask(seed) for seed in range(24)]
    before = get(server, "/health")
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(ask, range(24)))
    after = get(server, "/health")
    assert together == alone, "a text is a function of its request"
    assert after["texts"] - before["texts"] == 24 and after["batches"] - before["batches"] < 24


GOOD = {"model": "words", "prompt": "it was "}
BAD = [
    (b"{", 400), (b"", 400), (b"[" * 100_000, 400), ([1], 400), ("text", 400), (b"\xff\xfe", 400),
    ({"prompt": "a"}, 400), ({**GOOD, "model": "gpt"}, 404), ({**GOOD, "model": 3}, 400),
    *(({**GOOD, name: value}, 400) for name, value in [
        ("n", 0), ("n", 10**9), ("n", 1.5), ("n", "2"), ("max_tokens", 0), ("max_tokens", 65), ("max_tokens", 10**30),
        ("temperature", -1), ("temperature", "hot"), ("temperature", 3), ("steps", 0), ("steps", 10**6),
        ("sampler", "x"), ("grid", [0, 2]), ("grid", [0.5, 1]), ("grid", []), ("grid", "late"),
        ("stream", True), ("logprobs", 3), ("top_p", 0.5), ("best_of", 4),
        ("prompt", [1, 2]), ("prompt", []), ("prompt", [[1]]), ("prompt", None),
        ("prompt", "漢字"), ("prompt", "\ud800"), ("prompt", "a" * 20_000), ("suffix", 7), ("step", 4), ("seed", "x"),
        ("stop", 3), ("logit_bias", {"5": 1.0}),
    ]),
    (b'{"model": "words", "prompt": "a", "temperature": NaN}', 400), ({**GOOD, "user": "x" * 2**21}, 413),
]  # fmt: skip


def test_bad_requests_are_answered_and_never_a_crash(server):
    for body, status in BAD:
        found, answer = post(server, body)
        assert found == status, (str(body)[:80], answer)
        assert answer["error"]["message"] and answer["error"]["type"] == "invalid_request_error", answer
    assert post(server, {}, "/v1/chat/completions")[0] == 404
    assert post(server, {}, "/health")[0] == 405
    assert post(server, GOOD)[0] == 200, "the server lives on"


def test_servers_refuse_other_modalities_and_settings(trained, words, tell):
    code, _, err = tell("serve", trained, "--port", 0)
    assert code == 2 and "completions need one of Text" in err
    code, _, err = tell("serve", words, "--steps", 0)
    assert code == 2 and "steps is 0, expected a positive number" in err
