"""One file from one of several web addresses into a folder: whole and checked, or not there at all.

NAME.part grows until it is complete, NAME.part.json says what it is a part of, and a rename makes it NAME; NAME.json keeps size and
SHA-256. A broken transfer is taken up where it stopped, by this process or the next; a second process waits for the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import queue
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from spar.files import write_json
from spar.types import SparError

Progress = Callable[[int, int | None], None]  # bytes there so far, bytes of the whole file where the server says
CHUNK = 1 << 18
POLL = 0.1  # seconds between two looks at a part that another process writes
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and how often to try."""

    connect: float = 4.0  # for a connection to one server
    reach: float = 7.0  # for connections to all servers, one after another, when none answers
    silence: float = 20.0  # for the next byte
    tries: int = 5  # of one address, in a row, without a new byte
    backoff: float = 0.5  # before the second try; doubled before each one after it


PATIENCE = Patience()


class _Refused(Exception):
    """This address will not give the file; the next one may."""


class _Broken(Exception):
    """The transfer stopped; the same address may continue it."""


class _Silent(_Broken):
    """No answer at all."""


def download(
    addresses: Sequence[str],
    target: Path,
    signature: bytes = b"",
    check: Callable[[Path], object] = lambda path: None,
    hint: str = "",
    progress: Progress = lambda done, total: None,
    patience: Patience = PATIENCE,
) -> Path:
    """`target`, fetched from the first of `addresses` that gives it, unless it is there already.

    The file must begin with `signature`, and `check` raises SparError for a complete one that is no good. Raises SparError in one line,
    naming every address' failure and where the file may be put by hand (and `hint`), when none gives it; the part stays for the next try.
    """
    if target.exists():
        return verify(target)
    part, note = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")
    reasons = []
    with _claimed(target, part, progress) as file:
        if file is None:
            return verify(target)
        for address in addresses:
            try:
                _transfer(address, file, note, signature, progress, patience, min(patience.connect, patience.reach / len(addresses)))
                _approve(check, part)
            except _Refused as error:
                reasons.append(f"{urlsplit(address).hostname}: {error}")
                continue
            with _writing(part):
                os.fsync(file.fileno())
                record = {"size": part.stat().st_size, "sha256": sha256(part), "address": address}
                write_json(_record_path(target), record)
                part.replace(target)
                note.unlink(missing_ok=True)
            return target
        if part.stat().st_size == 0:
            part.unlink()
            note.unlink(missing_ok=True)
    raise SparError(f"'{target.name}' cannot be downloaded ({'; '.join(reasons)}); put it into the folder {target.parent} by hand{hint}")


def verify(path: Path, checksum: bool = False) -> Path:
    """`path`, which must have the size that its download had, and with `checksum` its SHA-256. A file put there by hand has no record
    of either and is taken as it is. Raises SparError for a file that has changed since."""
    record = _json(_record_path(path))
    size = path.stat().st_size
    if record.get("size", size) != size:
        changed = f"{size} bytes, its download had {record['size']}"
    elif checksum and record.get("sha256", "") and sha256(path) != record["sha256"]:
        changed = f"its SHA-256 is not the {record['sha256'][:12]}... of its download"
    else:
        return path
    raise SparError(f"{path}: the file has changed ({changed}); delete it to download it again, or {_record_path(path).name} to keep it")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _json(path: Path) -> dict[str, Any]:
    """What is written there; nothing where that cannot be read, for then it was not written by us to the end."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _approve(check: Callable[[Path], object], part: Path) -> None:
    try:
        check(part)
    except SparError as error:
        os.truncate(part, 0)
        raise _Refused(str(error).removeprefix(f"{part}: ")) from None


@contextlib.contextmanager
def _claimed(target: Path, part: Path, progress: Progress) -> Iterator[BinaryIO | None]:
    """The part, open and locked, its end being its write position; None as soon as another process has made `target` of it."""
    import fcntl  # Windows has none, and needs none until it downloads

    with _writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    while not target.exists():
        with _writing(part):
            file = part.open("a+b")
        with file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    progress(os.fstat(file.fileno()).st_size, None)
                    time.sleep(POLL)
                except OSError as error:
                    raise SparError(f"{part}: cannot be locked ({error.strerror}); use a folder on a local disk") from None
            if not _is_at(part, file):
                continue  # what was locked has been renamed or removed meanwhile
            if target.exists():
                part.unlink()
                break
            yield file
            return
    yield None


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _writing(part: Path) -> Iterator[None]:
    """A disk's failure told apart from the network's: both are OSError."""
    try:
        yield
    except OSError as error:
        raise SparError(f"{part}: cannot be written ({error.strerror}); make room there or choose another folder") from None


def _transfer(address: str, file: BinaryIO, note: Path, signature: bytes, progress: Progress, patience: Patience, connect: float) -> None:
    """All bytes of `address` in `file`. Raises _Refused when it will not give them, or has not given a new one for long."""
    failures, most, answered = 0, 0, False
    while True:
        try:
            return _attempt(address, file, note, signature, progress, patience.silence, connect)
        except _Broken as error:
            answered |= not isinstance(error, _Silent)
            have = file.seek(0, os.SEEK_END)
            failures = 1 if have > most else failures + 1
            most = max(most, have)
            if not answered or failures >= patience.tries:
                raise _Refused(str(error)) from None
        time.sleep(patience.backoff * 2 ** (failures - 1))


def _attempt(address: str, file: BinaryIO, note: Path, signature: bytes, progress: Progress, silence: float, connect: float) -> None:
    """One request: for the rest, where `file` is known to be a part of what `address` gives, else for all of it."""
    have, origin = file.seek(0, os.SEEK_END), _json(note)
    size, validator = origin.get("size") or 0, origin.get("validator")
    if origin.get("address") != address or size == 0:
        have = 0
    if have and have == size:
        return
    headers = {"User-Agent": "spar"}
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
    try:
        response = _opener(connect, silence).open(urllib.request.Request(address, headers=headers), timeout=connect / 2)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            _restart(file)
        raise (_Broken if error.code in (*TRANSIENT, 416) else _Refused)(f"HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Silent(_told(error)) from None
    try:
        with response:
            if have and response.status == 206:
                continues = response.headers.get("Content-Range") == f"bytes {have}-{size - 1}/{size}"
                if not continues or _validator(response) not in (None, validator):
                    _restart(file)
                    raise _Broken("the server continues another file")
                _copy(response, file, size, progress)
            else:
                _copy(response, file, _begin(address, response, file, note, signature), progress)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Broken(_told(error)) from None


def _validator(response: Any) -> str | None:
    """What the server calls this version of the file, if it promises that equal names mean equal bytes."""
    tag = response.headers.get("ETag", "")
    found: str | None = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    return found


def _begin(address: str, response: Any, file: BinaryIO, note: Path, signature: bytes) -> int | None:
    """Checks the answer's head and makes it the new start of `file`; the size of the whole."""
    kind = response.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        raise _Refused(f"an HTML page instead of the file, from {urlsplit(response.url).hostname}")
    size = int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None
    head = response.read(len(signature))
    if not signature.startswith(head):
        raise _Refused("not a file of the expected format")
    if len(head) < len(signature):
        if size is None or size >= len(signature):
            raise _Broken("the connection was lost")
        raise _Refused(f"a file of {size} bytes")
    _restart(file)
    with _writing(note):
        if size is not None and size > shutil.disk_usage(note.parent).free:
            raise SparError(f"{note.parent}: no room for {size} bytes; make room there or choose another folder")
        write_json(note, {"address": address, "size": size, "validator": _validator(response)})
        file.write(head)
    return size


def _restart(file: BinaryIO) -> None:
    file.flush()
    file.truncate(0)


def _copy(response: Any, file: BinaryIO, size: int | None, progress: Progress) -> None:
    """The answer's body appended to `file`, which then has `size` bytes."""
    done = file.seek(0, os.SEEK_END)
    progress(done, size)
    try:
        while chunk := response.read1(CHUNK):
            with _writing(Path(str(file.name))):
                file.write(chunk)
            done += len(chunk)
            progress(done, size)
    finally:
        with _writing(Path(str(file.name))):
            file.flush()
    if size is not None and done < size:
        raise _Broken(f"the connection was lost after {done} of {size} bytes")
    if size is not None and done > size:
        _restart(file)
        raise _Refused(f"{done} bytes, the server announced {size}")


def _told(error: Exception) -> str:
    """An error of the network in a few words, on one line."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return re.sub(r"\s+", " ", getattr(reason, "strerror", None) or str(reason) or type(reason).__name__)


def _opener(connect: float, silence: float) -> urllib.request.OpenerDirector:
    """Opens web addresses, through the user's proxy where there is one: `connect` seconds for a connection, with name look-up, handshake
    and all of a host's numbers, none of which a socket's own timeout covers; then `silence` seconds for the next byte."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            _within(connect, super().connect)
            self.sock.settimeout(silence)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            _within(connect, super().connect)
            self.sock.settimeout(silence)

    class Handler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, request)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, request)

    return urllib.request.build_opener(Handler, SecureHandler)


def _within(seconds: float, call: Callable[[], None]) -> None:
    """`call()`, in a thread that is left behind when it takes longer; raises TimeoutError then, or what `call` raises."""
    outcome: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            call()
            outcome.put(None)
        except (OSError, http.client.HTTPException, ValueError) as error:
            outcome.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        failure = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no connection within {seconds:g} s") from None
    if failure is not None:
        raise failure
