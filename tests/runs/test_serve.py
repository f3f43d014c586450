"""`mtl serve`: the predictions are those of `mtl predict`, whatever clients do, and the page works
in a browser."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mtlcli.predict.predictor import Predictor
from tests import warm

pytest.importorskip("fastapi", reason="the extra serve is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
ROWS: dict[str, list[dict[str, Any]]] = {
    "sst2": [{"sentence": f"a delight and {'no ' * n}bore"} for n in range(5)],
    "rte": [{"sentence1": f"a dog {'ran ' * n}", "sentence2": "a cat"} for n in range(1, 4)],
    "squad_v2": [
        {"question": "who?", "context": "Anna, not Bob 😀"},
        {"question": "x", "context": "y"},
    ],
    "conll2003": [{"tokens": ["Anna", "met", "Bob"]}],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "run"
    sizes = ("model.layers=1", "model.hidden=16", "model.heads=2", "data.max_train_rows=20")
    more = ("data.max_eval_rows=8", "data.max_length=32", "runner.steps=2", "logger.console=plain")
    task = "task=[cola,sst2,rte,squad_v2,conll2003]"
    done = warm.mtl(
        *("train", task, "data=sample", "model=tiny", *sizes, *more),
        *("runner.batch_size=8", f"run_dir={folder}"),
    )
    assert done.returncode == 0, done.stderr
    return folder


class Server:
    """A running `mtl serve`, which is killed when its context ends and it still runs."""

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()

    def __init__(self, run: Path, *options: str, before: warm.Before = ()) -> None:
        self.process = warm.start("serve", str(run), "--port", "0", *options, before=before)
        self.port = 0
        while not self.port:
            assert self.process.poll() is None, self.process.stderr
            time.sleep(0.02)
            with suppress(FileNotFoundError):  # It has not opened its output yet.
                found = re.search(r"http://127\.0\.0\.1:(\d+)/\n", self.process.stdout)
                self.port = int(found[1]) if found else 0

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any, dict[str, str]]:
        """The status, the JSON and the headers that one request gets."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, content)
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()
        return answer.status, found, {name.lower(): value for name, value in answer.getheaders()}

    def predict(self, task: str | list[str], inputs: list[Any]) -> Any:
        status, found, _ = self.ask("POST", "/predict", {"task": task, "inputs": inputs})
        assert status == 200, found
        return found["predictions"]

    def error(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """The status of a refusal, and its parts in a line."""
        status, found, _ = self.ask(method, path, body)
        assert list(found["error"]) == ["what", "where", "what to do"]
        return status, " | ".join(found["error"].values())

    def raw(self, *chunks: bytes) -> tuple[int, str]:
        """The status and the error that some bytes get."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as client:
            for chunk in chunks:
                client.sendall(chunk)
            answer = b""
            while part := client.recv(65536):
                answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), " | ".join(json.loads(body)["error"].values())

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait()


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Server]:
    with Server(run) as made:
        yield made
        assert made.end(signal.SIGINT) == 130
        assert "mtl serve: stopped by SIGINT" in made.process.stderr
        assert "Traceback" not in made.process.stderr


def test_predictions_are_those_of_mtl_predict(server: Server, run: Path, tmp_path: Path) -> None:
    for task, rows in ROWS.items():
        file = tmp_path / f"{task}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = warm.mtl("predict", str(run), "--task", task, "--input", str(file))
        wanted = [json.loads(line) for line in done.stdout.splitlines()]
        assert [{"row": n} | each for n, each in enumerate(server.predict(task, rows), 1)] == wanted
    sentences = [row["sentence"] for row in ROWS["sst2"]]
    both = server.predict(["sst2", "cola"], sentences)
    assert both == {name: server.predict(name, sentences) for name in ("sst2", "cola")}
    assert server.predict("sst2", []) == []
    assert server.predict("rte", [list(ROWS["rte"][0].values())])


def test_200_requests_at_once_are_answered(server: Server) -> None:
    rows = [(task, row) for task in ("sst2", "rte") for row in ROWS[task]]
    alone = [server.predict(task, [row])[0] for task, row in rows]
    before = server.ask("GET", "/health")[1]

    def client(number: int) -> Any:
        task, row = rows[number % len(rows)]
        return server.predict(task, [row])[0]

    with ThreadPoolExecutor(200) as threads:
        found = list(threads.map(client, range(200)))
    for number, one in enumerate(found):
        other = alone[number % len(rows)]
        # Requests share batches, and their padding changes the last digits.
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    after = server.ask("GET", "/health")[1]
    assert after["answered"] - before["answered"] == after["batched"] - before["batched"] == 200
    assert after["waiting"] == 0 and after["status"] == "ok"


def test_what_cannot_be_answered_is_explained(server: Server) -> None:
    for method, path, body, status, text in (
        ("POST", "/predict", b"a" * 10_000_000, 413, "more than 1 MB | body | send the inputs in"),
        ("POST", "/predict", b"\x00garbage\xff", 400, "not JSON: its bytes are not UTF-8 | body"),
        (
            "POST",
            "/predict",
            {"task": "sst", "inputs": ["x"]},
            422,
            "'sst' | task | did you mean 'sst2'",
        ),
        ("POST", "/predict", {"inputs": ["x"]}, 422, "has 5 tasks, and none is named | task"),
        (
            "POST",
            "/predict",
            {"task": "rte", "inputs": ["x"]},
            422,
            "takes 2 values (sentence1, sent",
        ),
        (*("POST", "/predict"), {"task": "sst2", "inputs": [{"sentense": "x"}]})
        + (422, "there is no column 'sentence' | input | did you mean 'sentense'"),
        (*("POST", "/predict"), {"task": "sst2", "inputs": ["x", " "]})
        + (422, "column 'sentence' is empty or missing | input, row 2"),
        (*("POST", "/predict"), {"task": "sst2", "inputs": ["x"] * 1001})
        + (422, "1,001 inputs, and a request may have 1,000"),
        ("GET", "/predict", None, 405, "/predict does not take GET | path | send POST"),
        ("GET", "/task", None, 404, "there is no /task | path | did you mean '/tasks'"),
    ):
        found = server.error(method, path, body)
        assert found[0] == status and text in found[1]
    assert server.raw(b"\x16\x03\x01\x02\x00 a TLS client")[0] == 400
    chunks = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert (
        server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + 40 * chunks + b"0\r\n\r\n")[0]
        == 413
    )
    assert server.predict("sst2", ["x"])


def test_the_tasks_are_described(server: Server, run: Path) -> None:
    found = server.ask("GET", "/tasks")[1]
    assert found["run"] == run.name and found["step"] == 2
    tasks = {each["name"]: each for each in found["tasks"]}
    assert tasks["rte"]["columns"] == ["sentence1", "sentence2"]
    assert tasks["sst2"]["labels"] == ["negative", "positive"]
    assert tasks["squad_v2"]["optional"] == ["id"]
    assert "/predict" in server.ask("GET", "/openapi.json")[1]["paths"]


def test_clients_that_are_slow_or_too_many(run: Path) -> None:
    with Server(run, "--read-timeout", "1", "--queue", "1", before=few_connections) as server:
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n"
        with ThreadPoolExecutor() as threads:
            body = threads.submit(server.raw, head, b'{"task": ')
            start = threads.submit(server.raw, b"POST /predict HT")
            silent = threads.submit(server.raw)
            assert body.result()[0] == 408
            assert "the body has not arrived within 1 s (9 bytes have) | body" in body.result()[1]
            assert start.result()[0] == silent.result()[0] == 408
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        assert server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 503
        for each in clients:
            each.close()
        assert server.end() == 143


def few_connections() -> None:
    """Let a server have three connections."""
    from mtlcli.serve.limits import Limits

    Limits.connections = property(lambda self: 3)  # type: ignore[method-assign, assignment]


def hold(flag: Path) -> None:
    """Let the model work for as long as a file exists."""
    answer_together = Predictor.answer_together

    def held(self: Predictor, inputs: Any, on_batch: Callable[[], None]) -> Any:
        while flag.exists():
            time.sleep(0.01)
        return answer_together(self, inputs, on_batch)

    Predictor.answer_together = held  # type: ignore[method-assign, assignment]


def test_a_stop_answers_what_was_asked_and_a_full_queue_refuses(run: Path, tmp_path: Path) -> None:
    flag = tmp_path / "held"
    flag.touch()
    with Server(run, "--queue", "20", before=partial(hold, flag)) as server:
        with ThreadPoolExecutor(21) as threads:
            first = threads.submit(server.predict, "sst2", ["first"])
            wait_for(lambda: server.ask("GET", "/health")[1]["batches"] == 1)
            others = [threads.submit(server.predict, "sst2", [f"x{n}"]) for n in range(20)]
            wait_for(lambda: server.ask("GET", "/health")[1]["waiting"] == 20)
            status, found, headers = server.ask(
                "POST", "/predict", {"task": "sst2", "inputs": ["x"]}
            )
            assert (status, headers["retry-after"]) == (503, "1")
            assert found["error"]["what"] == "too many requests wait for the model (20)"
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: not accepts(server.port))
            flag.unlink()
            assert [len(each.result()) for each in (first, *others)] == [1] * 21
        assert server.process.wait() == 143
        assert "stopped by SIGTERM, 21 requests answered" in server.process.stderr


def test_an_answer_that_takes_too_long(run: Path, tmp_path: Path) -> None:
    flag = tmp_path / "held"
    flag.touch()
    with Server(run, "--timeout", "0.3", before=partial(hold, flag)) as server:
        status, text = server.error("POST", "/predict", {"task": "sst2", "inputs": ["x"]})
        assert (status, text.split(" | ")[0]) == (504, "the request was not answered within 0.3 s")
        server.process.send_signal(signal.SIGINT)
        wait_for(lambda: not accepts(server.port))
        assert server.end(signal.SIGINT) == 130  # at once, while the model still works


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_mistakes_are_told_before_torch_is_loaded(run: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = [
            ([str(run), "--port", port], f"--port {port}: another program uses the port"),
            ([str(run), "--port", "70000"], "--port: 70000 is not between 0 and 65535"),
            ([str(run), "--host", "no.such.host.invalid"], "--host: there is no host 'no.such"),
            ([str(run), "--host", "192.0.2.1"], "--host: 192.0.2.1 is no address of this machine"),
            ([str(tmp_path)], "neither a run folder (looked for config.yaml)"),
            ([], "no path is given"),
            ([str(run), "--queue", "0"], "--queue: 0 is not between 1 and 100000"),
        ]
        code = (
            "import sys\nfrom mtlcli.cli import main\n"
            f"for words in {[words for words, _ in cases]}:\n"
            "    assert main(['serve', *words]) == 2\n"
            "from mtlcli.cli import serve\nserve.PACKAGES = ('no_such_package',)\n"
            f"assert main(['serve', {str(run)!r}]) == 2\n"
            "assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [text for _, text in cases if text not in done.stderr] == []
    assert "type pip install 'mtlcli[serve]'" in done.stderr


def test_the_page_in_a_browser(server: Server, tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("there is no chromium")
    said: list[str] = []
    with api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path, executable_path=browser, args=FLAGS, color_scheme="dark"
        )
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(urlsplit(request.url).netloc))
        page.goto(f"http://127.0.0.1:{server.port}/")

        def predicted(task: str, also: str | None = None, **fields: str) -> str:
            page.get_by_label("Task", exact=True).select_option(task)
            for name, text in fields.items():
                page.get_by_label(name).fill(text)
            if also:
                page.get_by_label(also).check()
            page.get_by_role("button", name="Predict").click()
            region = page.get_by_role("region", name=f"Prediction of {also or task}")
            region.wait_for()
            text: str = region.inner_text()
            return text

        odd = "<img src=x onerror=alert(1)> & a delight"
        (wanted,) = server.predict("sst2", [odd])
        text = predicted("sst2", sentence=odd)
        assert wanted["label"] in text
        assert f"{wanted['probabilities']['positive']:.3f}" in text
        assert "acceptable" in predicted("sst2", also="cola")
        fields = {"question": "who?", "context": "😀 Anna, not Bob"}
        (answer,) = server.predict("squad_v2", [fields])
        text = predicted("squad_v2", **fields)
        assert (answer["text"] or "no answer") in text
        assert ("😀" in text) == bool(answer["text"])
        assert "conll2003" in predicted("conll2003", tokens="Anna met <b>Bob</b>")
        assert page.locator("#results img, #results b").count() == 0
        page.get_by_label("Task", exact=True).select_option("rte")
        page.get_by_role("button", name="Predict").click()
        assert "is empty or missing" in page.get_by_role("alert").first.inner_text()
        page.set_viewport_size({"width": 320, "height": 600})
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 27)"
        context.close()
    # The browser reports the status 422 by itself; nothing came from elsewhere.
    said = [each for each in said if "422" not in each]
    assert set(said) == {f"127.0.0.1:{server.port}"}
