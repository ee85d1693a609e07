"""Downloads from a real server on this machine that misbehaves in every way a server can."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spar.data import download as downloads
from spar.data.download import Patience, download, verify
from spar.types import SparError

SIGNATURE = b"signature"
BODY = SIGNATURE + np.random.default_rng(0).bytes(1_000_000)
QUICK = Patience(connect=2.0, reach=3.0, silence=1.0, tries=3, backoff=0.001)


@dataclass
class Page:
    """How the server answers for one path."""

    body: bytes = BODY
    kind: str = "application/octet-stream"
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    cuts: list[int] = field(default_factory=list)  # bytes after which the first, second... answer is cut off
    statuses: list[int] = field(default_factory=list)  # of the first, second... answer
    announced: int | None = None  # Content-Length, where it lies; -1: none
    hold: threading.Event | None = None  # waits for this before it answers
    stall: threading.Event | None = None  # waits for this before it hangs up
    asked: list[dict[str, str]] = field(default_factory=list)  # request headers


class Site(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Page] = {}

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page = self.server.pages.get(self.path)
        if page is None:
            self.send_error(404)
            return
        page.asked.append(dict(self.headers))
        if page.hold is not None:
            page.hold.wait(30)
        if page.statuses and (status := page.statuses.pop(0)) != 200:
            self.send_error(status)
            return
        start, wanted = 0, self.headers.get("Range")
        if wanted and page.ranges and self.headers.get("If-Range") in (None, page.headers.get("ETag")):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(page.body):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(page.body) - 1}/{len(page.body)}")
        for name, value in {"Content-Type": page.kind, **page.headers}.items():
            self.send_header(name, value)
        if page.announced != -1:
            self.send_header("Content-Length", str((page.announced or len(page.body)) - start))
        self.end_headers()
        body = page.body[start:]
        self.wfile.write(body[: page.cuts.pop(0)] if page.cuts else body)
        if page.stall is not None:
            self.wfile.flush()
            page.stall.wait(30)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(site: Site, folder: Path, *paths: str, **options: Any) -> Path:
    return download([site.base + path for path in paths or ("/f",)], folder / "f.hdf5", SIGNATURE, **{"patience": QUICK, **options})


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_whole_with_progress_and_a_record(site: Site, tmp_path: Path) -> None:
    site.pages["/f"] = page = Page()
    seen: list[tuple[int, int | None]] = []
    path = get(site, tmp_path / "new" / "folder", progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == BODY
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(BODY), len(BODY))
    assert left(path.parent) == ["f.hdf5", "f.hdf5.json"]
    assert json.loads((path.parent / "f.hdf5.json").read_text()) == {
        "size": len(BODY), "sha256": downloads.sha256(path), "address": site.base + "/f",
    }  # fmt: skip
    assert get(site, path.parent) == path
    assert len(page.asked) == 1


def test_a_lost_connection_is_taken_up_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.pages["/f"] = page = Page(cuts=[300_000, 5, 100_000, 1])
    assert get(site, tmp_path).read_bytes() == BODY
    starts = [int(asked.get("Range", "bytes=0-")[6:-1]) for asked in page.asked]
    assert starts == [0, 300_000, 300_005, 400_005, 400_006]
    assert {asked.get("If-Range") for asked in page.asked[1:]} == {'"one"'}


def test_the_next_process_takes_up_the_part(site: Site, tmp_path: Path) -> None:
    site.pages["/f"] = page = Page(cuts=[300_000], statuses=[200, 500, 500, 500])
    with pytest.raises(SparError, match="HTTP 500"):
        get(site, tmp_path)
    assert left(tmp_path) == ["f.hdf5.part", "f.hdf5.part.json"]
    assert get(site, tmp_path).read_bytes() == BODY
    assert page.asked[-1]["Range"] == "bytes=300000-"
    assert left(tmp_path) == ["f.hdf5", "f.hdf5.json"]


def test_a_complete_part_needs_no_server(site: Site, tmp_path: Path) -> None:
    address = site.base + "/gone"
    (tmp_path / "f.hdf5.part").write_bytes(BODY)
    (tmp_path / "f.hdf5.part.json").write_text(json.dumps({"address": address, "size": len(BODY), "validator": None}))
    assert get(site, tmp_path, "/gone").read_bytes() == BODY


@pytest.mark.parametrize(
    "change",
    [
        {"headers": {"ETag": '"two"'}},
        {"headers": {"ETag": '"two"'}, "ranges": False},
        {"headers": {}, "body": SIGNATURE + b"another size"},
    ],
)
def test_a_file_that_changed_meanwhile_is_fetched_anew(site: Site, tmp_path: Path, change: dict[str, Any]) -> None:
    site.pages["/f"] = Page(headers=change["headers"] and {"ETag": '"one"'}, cuts=[300_000], statuses=[200, 404])
    with pytest.raises(SparError):
        get(site, tmp_path)
    new = SIGNATURE + np.random.default_rng(1).bytes(1_000_000)
    site.pages["/f"] = Page(**{"body": new, **change})
    assert get(site, tmp_path).read_bytes() == site.pages["/f"].body


def test_a_server_that_resumes_a_changed_file_regardless(site: Site, tmp_path: Path) -> None:
    site.pages["/f"] = Page(cuts=[300_000], statuses=[200, 404])
    with pytest.raises(SparError):
        get(site, tmp_path)
    note = tmp_path / "f.hdf5.part.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "validator": None}))  # so that no If-Range is sent
    new = SIGNATURE + np.random.default_rng(1).bytes(1_000_000)
    site.pages["/f"] = Page(body=new, headers={"ETag": '"two"'})
    assert get(site, tmp_path).read_bytes() == new


def test_without_ranges_it_starts_again(site: Site, tmp_path: Path) -> None:
    site.pages["/f"] = page = Page(ranges=False, cuts=[300_000, 600_000], headers={})
    assert get(site, tmp_path).read_bytes() == BODY
    assert len(page.asked) == 3


def test_a_server_that_never_gets_further_is_given_up(site: Site, tmp_path: Path) -> None:
    site.pages["/f"] = page = Page(ranges=False, cuts=[300_000] * 10)
    with pytest.raises(SparError, match="lost after 300000 of 1000009 bytes"):
        get(site, tmp_path)
    assert len(page.asked) == QUICK.tries


def test_a_foreign_part_is_not_continued(site: Site, tmp_path: Path) -> None:
    (tmp_path / "f.hdf5.part").write_bytes(b"somebody else's")
    site.pages["/f"] = page = Page()
    assert get(site, tmp_path).read_bytes() == BODY
    assert "Range" not in page.asked[0]


def test_a_mirror_stands_in(site: Site, tmp_path: Path) -> None:
    site.pages["/b"], site.pages["/c"] = Page(cuts=[500_000], statuses=[200, 404]), Page()
    path = get(site, tmp_path, "/missing", "/b", "/c")
    assert path.read_bytes() == BODY
    assert "Range" not in site.pages["/c"].asked[0]
    assert json.loads((tmp_path / "f.hdf5.json").read_text())["address"].endswith("/c")


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.pages["/f"] = Page(statuses=[503, 429])
    assert get(site, tmp_path).read_bytes() == BODY


REFUSED = {
    "HTML page": (Page(body=b"<html>log in</html>", kind="text/html; charset=utf-8"), "an HTML page instead of the file"),
    "HTML page that says it is binary": (Page(body=b"<html>log in</html>"), "not a file of the expected format"),
    "empty": (Page(body=b"", headers={}), "a file of 0 bytes"),
    "longer than announced": (Page(announced=1000), "truncated|bytes, the server announced 1000"),
    "shorter than announced": (Page(body=BODY[:1000], announced=2000, ranges=False), "lost after 1000 of 2000 bytes"),
    "gone": (Page(statuses=[410]), "HTTP 410"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_the_file_is_refused_and_not_kept(site: Site, tmp_path: Path, name: str) -> None:
    page, message = REFUSED[name]
    site.pages["/f"] = page

    def whole(path: Path) -> None:
        if path.stat().st_size != len(BODY):
            raise SparError(f"{path}: truncated")

    with pytest.raises(SparError, match=message) as error:
        get(site, tmp_path, check=whole, hint=", or do this")
    assert "\n" not in str(error.value)
    assert f"put it into the folder {tmp_path} by hand, or do this" in str(error.value)
    assert "'f.hdf5'" in str(error.value)
    if name != "shorter than announced":  # that one may still be continued
        assert left(tmp_path) == []
    site.pages["/f"] = Page()
    assert get(site, tmp_path).read_bytes() == BODY


def test_a_server_that_does_not_say_how_long(site: Site, tmp_path: Path) -> None:
    site.pages["/f"] = Page(announced=-1)
    seen: list[int | None] = []
    assert get(site, tmp_path, progress=lambda done, total: seen.append(total)).read_bytes() == BODY
    assert set(seen) == {None}


def test_a_silent_server_and_no_server(site: Site, tmp_path: Path) -> None:
    """One takes the request and never answers; behind the other port is nobody."""
    site.pages["/silent"] = Page(hold=threading.Event())
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        addresses = [f"{site.base}/silent", f"http://127.0.0.1:{nobody.getsockname()[1]}/f", "http://no-such-host.invalid/f"]
        with pytest.raises(SparError, match=r"127.0.0.1: no answer in time; 127.0.0.1: Connection refused; no-such-host.invalid: "):
            download(addresses, tmp_path / "f.hdf5", SIGNATURE, patience=QUICK)
    site.pages["/silent"].hold.set()
    assert left(tmp_path) == []


def test_a_name_look_up_that_hangs_does_not_hang_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        release.wait(30)
        raise socket.gaierror("too late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(SparError, match="no answer in time"):
        download(["http://example.invalid/f"], tmp_path / "f.hdf5", patience=Patience(connect=0.05))
    release.set()


def test_through_a_proxy(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.base)
    site.pages["http://example.invalid/f"] = Page(cuts=[300_000])
    path = download(["http://example.invalid/f"], tmp_path / "f.hdf5", SIGNATURE, patience=QUICK)
    assert path.read_bytes() == BODY


def test_a_disk_without_room(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/f"] = Page()
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(SparError, match="no room for 1000009 bytes"):
        get(site, tmp_path)
    assert not (tmp_path / "f.hdf5").exists()


def test_a_folder_that_cannot_be_written(site: Site, tmp_path: Path) -> None:
    site.pages["/f"] = Page()
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SparError, match=r"cannot be written .*choose another folder"):
        get(site, tmp_path / "file")


def test_a_changed_file_is_noticed(site: Site, tmp_path: Path) -> None:
    site.pages["/f"] = Page()
    path = get(site, tmp_path)
    assert verify(path, checksum=True) == path
    path.write_bytes(BODY[:-1] + b"?")
    assert get(site, tmp_path) == path
    with pytest.raises(SparError, match="SHA-256 is not"):
        verify(path, checksum=True)
    path.write_bytes(BODY[:-1])
    with pytest.raises(SparError, match=f"{len(BODY) - 1} bytes, its download had {len(BODY)}"):
        get(site, tmp_path)
    (tmp_path / "f.hdf5.json").unlink()
    assert get(site, tmp_path) == path


CHILD = """
import sys
from pathlib import Path
from spar.data.download import download
download([sys.argv[1]], Path(sys.argv[2]), b"signature", progress=lambda done, total: print(done, total, flush=True))
"""


def child(site: Site, folder: Path) -> subprocess.Popen[str]:
    """Another process that fetches the same file and prints its progress."""
    command = [sys.executable, "-c", CHILD, site.base + "/f", str(folder / "f.hdf5")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_and_threads_at_once_share_one_download(site: Site, tmp_path: Path) -> None:
    site.pages["/f"] = page = Page(hold=threading.Event())
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(get, site, tmp_path, patience=Patience()) for _ in range(3)]
        while not page.asked:
            time.sleep(0.01)
        processes = [child(site, tmp_path) for _ in range(2)]
        for process in processes:
            assert process.stdout.readline() == "0 None\n"  # it waits
        page.hold.set()
        assert {future.result(60).read_bytes() == BODY for future in found} == {True}
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(page.asked) == 1
    assert left(tmp_path) == ["f.hdf5", "f.hdf5.json"]


def test_a_killed_process_leaves_a_part_and_no_lock(site: Site, tmp_path: Path) -> None:
    site.pages["/f"] = page = Page(cuts=[300_000], stall=threading.Event())
    process = child(site, tmp_path)
    while int(process.stdout.readline().split()[0]) < 200_000:
        pass
    process.kill()
    process.communicate(timeout=60)
    page.stall.set()
    assert get(site, tmp_path).read_bytes() == BODY
    assert int(page.asked[-1]["Range"][6:-1]) >= 200_000
