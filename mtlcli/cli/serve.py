"""The verb `mtl serve PATH`: a model behind HTTP, with a page to try its tasks."""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from mtlcli import garbage
from mtlcli.cli.eval import import_methods, overrides_among, path_problems
from mtlcli.cli.parser import Parser
from mtlcli.cli.typed import config_dir_problems
from mtlcli.config.paths import typed_path
from mtlcli.errors import Problem, UserError
from mtlcli.output import say
from mtlcli.pulse import Pulse
from mtlcli.serve.limits import MEGABYTE, Limits

PACKAGES = ("fastapi", "uvicorn", "h11")
"""What the extra `serve` installs."""

HELP = """\
Serve the model of a run folder (its best checkpoint), or of one checkpoint, over HTTP.

usage: mtl serve PATH [--port N] [--host H] [--max-size MB] [--max-rows N] [--queue N]
                 [--timeout S] [--read-timeout S] [-cd DIR] [KEY=VALUE ...]

  mtl serve runs/NAME
  mtl serve runs/NAME --port 9000 --host 0.0.0.0 runner.threads=4

  POST /predict      {"task": "sst2", "inputs": ["a delight", "a bore"]} -> {"predictions": [...]};
                     an input is a text, the values of the task's columns in order, or an object;
                     several tasks: {"task": ["sst2", "cola"], ...}
  GET /tasks         the tasks with their columns and labels, and the limits
  GET /health        whether the server takes requests, and how many wait
  GET /              a page to try the tasks in a browser

  --port N           default: 8000; 0: any free port
  --host H           default: 127.0.0.1, for this machine alone; 0.0.0.0: for every machine that
                     reaches this one. There is no password and no encryption
  --max-size MB      the largest body of a request; default: 1
  --max-rows N       the most inputs of a request; default: 1000
  --queue N          the most requests that wait for the model; default: 256
  --timeout S        seconds in which a request is answered; default: 30
  --read-timeout S   seconds in which a request has to arrive; default: 10
  -cd DIR            take the run's methods from the Python files of this folder, as for mtl eval
  KEY=VALUE          as for mtl predict; runner.eval_batch_size inputs, of one or many requests,
                     share a pass of the model

Needs pip install 'mtlcli[serve]'. The address is printed once the model is loaded. Ctrl-C or
SIGTERM: what has been asked is answered, and the server ends with exit code 130 or 143.
"""


def serve_main(argv: list[str]) -> int:
    """Run `mtl serve` and return the exit code."""
    usual = Limits()
    parser = Parser(prog="mtl serve", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=partial(typed_path, where="-cd"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-size", type=float, default=usual.size / MEGABYTE)
    parser.add_argument("--max-rows", type=int, default=usual.rows)
    parser.add_argument("--queue", type=int, default=usual.waiting)
    parser.add_argument("--timeout", type=float, default=usual.answer_seconds)
    parser.add_argument("--read-timeout", type=float, default=usual.read_seconds)
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.help:
        print(HELP, end="")
        return 0
    overrides = overrides_among(arguments.rest)
    paths = [typed_path(word, "PATH") for word in arguments.rest if word not in overrides]
    own: Path | None = arguments.config_dir
    problems = [] if own is None else config_dir_problems(own)
    problems += path_problems(paths, "mtl serve PATH")
    problems += [
        Problem(f"{value:g} is not between {least:g} and {most:g}", option, "give another number")
        for option, value, least, most in (
            ("--port", arguments.port, 0, 65535),
            ("--max-size", arguments.max_size, 0.001, 1000),
            ("--max-rows", arguments.max_rows, 1, 1_000_000),
            ("--queue", arguments.queue, 1, 100_000),
            ("--timeout", arguments.timeout, 0.001, 86_400),
            ("--read-timeout", arguments.read_timeout, 0.001, 3600),
        )
        if not least <= value <= most
    ]
    problems += extra_problems()
    if problems:
        raise UserError(problems)
    limits = Limits(
        size=round(arguments.max_size * MEGABYTE),
        rows=arguments.max_rows,
        waiting=arguments.queue,
        answer_seconds=arguments.timeout,
        read_seconds=arguments.read_timeout,
    )
    with listen(arguments.host, arguments.port) as listening:
        return _serve(paths[0], own, overrides, listening, limits)


def _serve(
    path: Path, own: Path | None, overrides: list[str], listening: socket.socket, limits: Limits
) -> int:
    # Print this line before the imports, which take seconds.
    say(f"mtl serve: loading {path}")
    for line in import_methods(path, own):
        say(line)
    with Pulse(stderr=True):
        from mtlcli.predict.load import load
        from mtlcli.serve.server import serve

        model = load(path, overrides=overrides, config_dir=own, say=say)
    garbage.at_work()
    if not model.tasks:
        raise UserError("the run has no task with predictions", str(path), "give another run")
    host, port = listening.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
    return serve(model, listening, limits)


def extra_problems() -> list[Problem]:
    """Return a problem if a package of the extra is not installed."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        what = f"the server needs the package {missing[0]}, which is not installed"
        return [Problem(what, "mtl serve", "type pip install 'mtlcli[serve]'")]
    return []


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens: whoever connects before the model is loaded waits. Raises
    UserError when the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        what = f"there is no host '{host}': {getattr(error, 'strerror', None) or error}"
        fix = "type --host 127.0.0.1, or an address of this machine"
        raise UserError(what, "--host", fix) from error
    listening = socket.socket(family, kind, protocol)
    try:
        # Connections of a server that has just ended do not hold the port.
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        where = f"--port {port}"
        fix = "give another port, or --port 0 for any free one"
        what = f"the port cannot be opened: {error.strerror}"
        if error.errno == errno.EADDRINUSE:
            what = "another program uses the port"
        elif error.errno == errno.EADDRNOTAVAIL:
            what, where = f"{host} is no address of this machine", "--host"
            fix = "type --host 127.0.0.1, or 0.0.0.0 for all addresses of this machine"
        raise UserError(what, where, fix) from error
    return listening
