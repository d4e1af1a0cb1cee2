"""Faults of data sets, and of the servers that they come from, for faults.py.

The data set is a MNIST of ten images, which ganlib and torchvision are told to expect, and the
server one of this machine, in a thread.
"""

import gzip
import os
import random
import shutil
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fault_files import hostile_files
from fault_tools import FORK, SMALL, files_of, flipped, free_port, refuse, row, speak_to
from torchvision.datasets import CIFAR10, MNIST

from ganlib import data
from ganlib.data import load_images

LIMIT = 30.0  # seconds until an error
FILES = {
    f"{part}-{kind}-ubyte": header + bytes(i * i % 191 % top for i in range(n * size))
    for part, n in (("train", 7), ("t10k", 3))
    for kind, size, top, header in (
        ("images-idx3", 784, 256, struct.pack(">4I", 0x803, n, 28, 28)),
        ("labels-idx1", 1, 10, struct.pack(">2I", 0x801, n)),
    )
}
PACKED = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in FILES.items()}
Behavior = Callable[[BaseHTTPRequestHandler, bytes], None]


@contextmanager
def small_mnist(url: str, sums: dict[str, str] | None = None) -> Iterator[None]:
    """torchvision and ganlib take the ten images for MNIST, and a server for its only one."""
    known = {name: md5(content).hexdigest() for name, content in FILES.items()} | (sums or {})
    resources = [(name, md5(content).hexdigest()) for name, content in PACKED.items()]
    with ExitStack() as stack:
        stack.enter_context(patch.object(MNIST, "mirrors", [url]))
        stack.enter_context(patch.object(MNIST, "resources", resources))
        stack.enter_context(patch.dict(data._MD5, MNIST=known))
        yield


# Servers


def answer(http: BaseHTTPRequestHandler, body: bytes, length: int | None = None) -> None:
    http.send_response(200)
    http.send_header("Content-Length", str(len(body) if length is None else length))
    http.end_headers()
    http.wfile.write(body)


def answer_half_and_hang(http: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(http, body[: len(body) // 2], len(body))
    http.wfile.flush()
    hang(http, body)


def hang(http: BaseHTTPRequestHandler, _: bytes) -> None:
    http.server.hangs.set()  # pyright: ignore[reportAttributeAccessIssue]
    http.server.closing.wait(4 * LIMIT)  # pyright: ignore[reportAttributeAccessIssue]


def point_to_itself(http: BaseHTTPRequestHandler, _: bytes) -> None:
    http.send_response(302)
    http.send_header("Location", http.path)
    http.end_headers()


def answer_late(http: BaseHTTPRequestHandler, body: bytes) -> None:
    time.sleep(0.2)
    answer(http, body)


BAD: dict[str, Behavior] = {
    "A server that says 404": lambda http, _: http.send_error(404),
    "A server that says 503": lambda http, _: http.send_error(503),
    "A server that closes without an answer": lambda http, _: None,
    "A server that sends a login page instead": lambda http, _: answer(http, b"<html>Log in"),
    "A server that sends half and closes": lambda http, b: answer(http, b[: len(b) // 2], len(b)),
    "A server that sends half and calls it all": lambda http, b: answer(http, b[: len(b) // 2]),
    "A server that changes a byte": lambda http, b: answer(http, b[:-9] + b"?" + b[-8:]),
    "A server that sends another file": lambda http, _: answer(http, gzip.compress(bytes(10**6))),
    "A server that points to itself": point_to_itself,
    "A server that never answers": hang,
    "A server that sends half and waits": answer_half_and_hang,
}


@contextmanager
def server(behave: Behavior) -> Iterator[Any]:
    """A server of this machine; its `url`, `hangs` (set when it does) and `closing`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            behave(self, PACKED[self.path.removeprefix("/")])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.hangs, http.closing, http.handle_error = threading.Event(), threading.Event(), lambda *_: 0
    http.url = f"http://127.0.0.1:{http.server_port}/"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield http
    finally:
        http.closing.set()
        http.shutdown()
        thread.join()
        http.server_close()


def assert_loads(root: Path, download: bool = True) -> None:
    """The data set comes out as it is, and nothing else lies beside it."""
    with server(answer) as http, small_mnist(http.url):
        images, labels = load_images("mnist", "train", root, download=download)
    assert images.numpy().tobytes() == FILES["train-images-idx3-ubyte"][16:], "other images"
    assert labels.tolist() == list(FILES["train-labels-idx1-ubyte"][8:]), "other labels"
    assert [f.name for f in root.iterdir() if not f.name.startswith(".")] == ["MNIST"]
    assert {f.name for f in (root / "MNIST").iterdir()} == {"raw"}


def fail_to_download(folder: Path, url: str) -> None:
    """`train` refuses in time, leaves nothing behind, and the same folder serves the next call."""
    root, out, began = folder / "root", folder / "out", time.perf_counter()
    try:
        with small_mnist(url):
            refuse("train", "conv", "--dataset", "mnist", "--data-dir", root, *SMALL.split(),
                   "--out", out, says="mnist could not be downloaded")  # fmt: skip
        seconds = time.perf_counter() - began
        assert seconds < LIMIT, f"the error came after {seconds:.0f} s"
        assert list(root.iterdir()) == [], f"left behind: {list(root.iterdir())}"
        assert not out.exists(), "a run was begun"
        assert_loads(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


# Processes


def child(url: str, root: Path) -> None:
    """Load the data set, in a process of its own."""
    speak_to(f"{root}.log")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with small_mnist(url):
        load_images("mnist", "train", root)


def stop_in_the_middle(folder: Path, number: int) -> None:
    """A download that is interrupted or killed in the middle; the next one works."""
    root = folder / "root"
    with server(answer_half_and_hang) as http:
        process = FORK.Process(target=child, args=(http.url, root))
        process.start()
        assert http.hangs.wait(LIMIT)
        os.kill(process.pid or 0, number)
        process.join(LIMIT)
    assert process.exitcode not in (None, 0), process.exitcode
    assert not (root / "MNIST").exists(), "half a data set is in place"
    assert_loads(root)
    shutil.rmtree(root)


def load_in_two(folder: Path) -> None:
    """Two processes that need the same missing data set at once."""
    root = folder / "root"
    with server(answer_late) as http:
        processes = [FORK.Process(target=child, args=(http.url, root)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(LIMIT)
    codes = [process.exitcode for process in processes]
    assert codes == [0, 0], f"exit codes {codes}: {Path(f'{root}.log').read_text()[-300:]}"
    assert_loads(root, download=False)
    shutil.rmtree(root)


# Files


def refuse_file(folder: Path, name: str, content: bytes | None, fits: bool = False) -> None:
    """`train` refuses a data set of which one file is another, or missing, and leaves it so."""
    raw = folder / "root/MNIST/raw"
    raw.mkdir(parents=True)
    for other, whole in FILES.items():
        (raw / other).write_bytes(whole)
    (raw / name).unlink() if content is None else (raw / name).write_bytes(content)
    sums = {name: md5(content).hexdigest()} if fits and content is not None else {}
    before = files_of(folder)
    options = ("--dataset", "mnist", "--data-dir", folder / "root", *SMALL.split())
    try:
        with small_mnist("http://127.0.0.1:1/", sums):
            refuse("train", "conv", *options, "--out", folder / "out", says="damaged or incomplete")
        assert files_of(folder) == before, "files were changed"
    finally:
        shutil.rmtree(folder / "root")


def refuse_hostile_cifar10(folder: Path, codes: list[bytes]) -> None:
    """CIFAR-10 comes as pickles: none of its files is unpickled unless it is the known one."""
    inside = folder / "root/cifar-10-batches-py"
    inside.mkdir(parents=True)
    lists = [name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)]
    for i, name in enumerate([*lists, CIFAR10.meta["filename"]]):
        (inside / name).write_bytes(codes[i % len(codes)])
    before = files_of(folder)
    refuse("train", "maxout", "--dataset", "cifar10", "--data-dir", folder / "root",
           "--out", folder / "out", says="damaged or incomplete")  # fmt: skip
    assert files_of(folder) == before, "code was run, or files were changed"
    shutil.rmtree(folder / "root")


def data_rows(folder: Path, rng: random.Random, n: int = 10) -> Iterator[dict[str, Any]]:
    """Missing and damaged data sets, servers, and processes that are stopped or meet."""
    says = "exit code 2 and a sentence; no file is changed"
    damaged: dict[str, Callable[[bytes], bytes | None]] = {
        "A file that is missing": lambda _: None,
        "A file that is empty": lambda _: b"",
        "A file that is cut, at a random byte": lambda whole: whole[: rng.randrange(len(whole))],
        "A file with one bit flipped, at a random place": lambda whole: flipped(
            whole, rng.randrange(8 * len(whole))
        ),
        "A file with another magic number": lambda whole: b"\x00\x00\x0d\x09" + whole[4:],
    }
    for what, damage in damaged.items():
        cases = [(name, damage(FILES[name])) for name in FILES for _ in range(n)]
        yield row("data", what, says, [partial(refuse_file, folder, *case) for case in cases])
    magic = [partial(refuse_file, folder, name, b"\0\0\x0d\x09" + FILES[name][4:], True)
             for name in FILES if name.startswith("train")]  # fmt: skip
    yield row("data", "The same, with a checksum that fits", says, magic)
    codes = [code for code in hostile_files(folder / "marker") if not code.startswith(b"PK")]
    yield row("data", "CIFAR-10's pickles with code in them", f"{says}; the code is not run",
              [partial(refuse_hostile_cifar10, folder, codes)])  # fmt: skip
    says = "in time, exit code 2 and a sentence; nothing is left, and the next download works"
    yield row("server", "No server: the connection is refused", says,
              [partial(fail_to_download, folder, f"http://127.0.0.1:{free_port()}/")])  # fmt: skip
    for what, behave in BAD.items():
        with server(behave) as http:
            yield row("server", what, says, [partial(fail_to_download, folder, http.url)])
    says = "nothing half-made is in place, and the next download works"
    stops = {"Ctrl-C in the middle of a download": signal.SIGINT,
             "A kill in the middle of a download": signal.SIGKILL}  # fmt: skip
    for what, number in stops.items():
        yield row("server", what, says, [partial(stop_in_the_middle, folder, number)] * 2)
    yield row("server", "Two processes that download the same data set at once",
              "both get it, once", [partial(load_in_two, folder)] * 3)  # fmt: skip
