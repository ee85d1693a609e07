"""Minari datasets (Younis et al. 2024), read and written without the `minari` package, which only `download` needs.

DATASET/data/metadata.json says what is there; DATASET/data/main_data.hdf5 has a group `episode_N` for each episode, with `observations`
(T + 1 of them), `actions`, `rewards`, `terminations` and `truncations` (T of each). A dict observation is a group with a dataset or a
group for each key, a tuple one a group with `_index_0`, `_index_1` and so on.

Composite observations are joined as gymnasium's `flatten` joins them: keys in alphabetical order, depth first, each array in C order. With
`observation_keys`, only those top-level keys are joined, in the order given.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from spar.data import rules
from spar.data.blocks import Allocate, heap
from spar.data.episodes import Log
from spar.data.rows import Rows
from spar.data.sources import minari_arrow, minari_hdf5
from spar.data.sources.minari_hdf5 import Steps
from spar.files import new_folder, write_json
from spar.types import SparError

ROOT_VARIABLE = "MINARI_DATASETS_PATH"
METADATA = "metadata.json"
PATIENCE = 4.0  # seconds to wait for the server before a download
LAYOUT_VERSION = "0.5.0"  # of Minari: the first with this layout, and known to all later ones
ID = re.compile(r"([-_\w][-_\w/]*[-_\w]+/)?[-_\w]+-v\d+")  # what Minari takes for the id of a dataset


def root() -> Path:
    """The folder of all local datasets, as Minari finds it."""
    given = os.environ.get(ROOT_VARIABLE)
    return Path(given) if given else Path.home() / ".minari" / "datasets"


def find(dataset: str | Path) -> Path | None:
    """The data folder of a dataset, given as that folder, as the dataset's folder, or as an id like `D4RL/hopper/medium-v2` to look up
    under `root()`; None where there is none."""
    for folder in (Path(dataset), Path(dataset) / "data", root() / dataset / "data"):
        if (folder / METADATA).is_file():
            return folder
    return None


def read(
    path: str | Path,
    name: str | None = None,
    env_id: str | None = None,
    strict: bool = True,
    allocate: Allocate = heap,
    observation_keys: Sequence[str] = (),
) -> Log:
    """The log of the dataset `path` (see `find`); the environment and the action box are those of its metadata.

    Arrays go straight into what `allocate` gives, an episode at a time. Raises SparError with file, episode and field for anything that
    cannot be trusted (with `strict` off, values are not looked at).
    """
    folder = find(path)
    if folder is None:
        raise SparError(f"{path}: no Minari dataset: neither a folder with data/{METADATA} nor an id below {root()}; download it first")
    metadata, source = read_metadata(folder), str(folder)
    storage = metadata.get("data_format", "hdf5")
    if storage not in ("hdf5", *minari_arrow.FORMATS):
        raise SparError(f"{source}: data_format '{storage}' is not supported; make the dataset anew with data_format='hdf5'")
    reader = minari_hdf5.read if storage == "hdf5" else minari_arrow.read
    steps: Steps = reader(folder, metadata, tuple(observation_keys), allocate)
    notes: list[str] = []
    low, high = action_box(source, metadata, steps.actions.shape[1], notes)
    found_id, env_kwargs = _environment(metadata, notes)
    ends = np.cumsum(steps.lengths) - 1
    unmarked = ends[:-1][~(steps.terminated | steps.truncated)[ends[:-1]]]
    if len(unmarked):
        notes.append(f"{len(unmarked)} episodes end without a mark, first at row {unmarked[0]}; read as truncated")
        steps.truncated[unmarked] = True
    goes_on = rules.walks_on(found_id, notes)
    if goes_on:
        steps.terminated[:] |= steps.rewards >= 1
    rows = Rows(
        source, steps.observations, steps.actions, steps.rewards, steps.terminated, steps.truncated,
        stacked=True, ends=ends, action_low=low, action_high=high, env_id=env_id or found_id,
        env_kwargs=env_kwargs if env_id in (None, found_id) else "",
        observation_keys=tuple(observation_keys) or tuple(metadata.get("observation_keys", ())),
        episode_returns=None if goes_on else steps.returns, terminal_ends=not goes_on, notes=notes,
    )  # fmt: skip
    return rows.log(name or str(metadata.get("dataset_id") or folder.parent.name), strict, allocate)


def read_metadata(folder: Path) -> dict[str, Any]:
    """Of the data folder `folder`. Raises SparError where it is not what Minari writes."""
    path = folder / METADATA
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SparError(f"{path}: not readable ({str(error).splitlines()[0]}); copy the dataset's data folder anew") from None
    for key in ("total_episodes", "total_steps"):
        if not isinstance(metadata, dict) or type(metadata.get(key)) is not int or metadata[key] < 1:
            raise SparError(f"{path}: '{key}' must be a positive integer; the dataset is empty or the file is damaged")
    return metadata


def action_box(source: str, metadata: dict[str, Any], width: int, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), each (act_dim,), from the metadata; -1 and 1 for a dimension that it does not bound, with a note."""
    low, high = np.full((2, width), [[-1.0], [1.0]], np.float32)
    space = _parsed(source, metadata, "action_space")
    if not space:
        notes.append("the metadata has no action space: actions are taken to lie in [-1, 1]")
        return low, high
    if space.get("type") != "Box":
        raise SparError(f"{source}: actions are of type {space.get('type')}; only continuous ones (Box) are supported")
    try:
        stated = np.asarray([space["low"], space["high"]], np.float64).reshape(2, -1)
    except (KeyError, TypeError, ValueError):
        raise SparError(f"{source}: 'action_space' in {METADATA} has no readable low and high; repair it") from None
    if stated.shape[1] != width:
        raise SparError(f"{source}: 'action_space' in {METADATA} has {stated.shape[1]} dimensions, 'actions' {width}")
    bounded = np.isfinite(stated).all(0)
    if not bounded.all():
        notes.append(f"action dimensions {np.flatnonzero(~bounded).tolist()} have no bounds in the metadata: taken to lie in [-1, 1]")
    return np.where(bounded, stated[0], low).astype(np.float32), np.where(bounded, stated[1], high).astype(np.float32)


def _environment(metadata: dict[str, Any], notes: list[str]) -> tuple[str | None, str]:
    """The id of the environment to evaluate in, and the arguments that make it (JSON); wrappers cannot be carried and become a note. Where
    D4RL's rules differ from what the dataset was recorded with, they count, and a note says so: scores are normalised by D4RL's returns."""
    if "env_id" in metadata or "env_kwargs" in metadata:  # our own
        return metadata.get("env_id"), str(metadata.get("env_kwargs", ""))
    spec = _parsed(METADATA, metadata, "eval_env_spec") or _parsed(METADATA, metadata, "env_spec")
    if not spec:
        return None, ""
    limit = spec.get("max_episode_steps")
    arguments = {**(spec.get("kwargs") or {}), **({"max_episode_steps": limit} if limit else {})}
    wrappers = [str(wrapper.get("name")) for wrapper in spec.get("additional_wrappers") or ()]
    if wrappers:
        notes.append(f"the dataset's {spec.get('id')} was wrapped in {', '.join(wrappers)}; evaluation makes it without")
    env_id = str(spec.get("id"))
    recorded = rules.recorded(env_id, arguments)
    for name, value in rules.evaluation(env_id).items():
        if recorded.get(name, value) != value:
            notes.append(f"recorded with {name} {recorded[name]}; evaluation takes {value}, as D4RL's does")
    arguments |= rules.evaluation(env_id)
    return env_id, json.dumps(arguments) if arguments else ""


def _parsed(source: str, metadata: dict[str, Any], key: str) -> dict[str, Any]:
    """An entry that Minari stores as JSON inside JSON; empty where missing."""
    try:
        found = json.loads(metadata.get(key) or "{}")
    except (TypeError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise SparError(f"{source}: '{key}' in {METADATA} is not the JSON text that Minari writes; repair or remove it")
    return found


def write_log(path: str | Path, log: Log) -> None:
    """`log` as a new dataset folder that Minari opens, and from which `read` makes an equal log. Raises SparError if `path` exists.

    Each episode's return is its group's attribute `episode_return`; `env_id`, `env_kwargs` and `observation_keys` are entries of the
    metadata.
    """
    path = Path(path)
    with new_folder(path) as folder:
        data = folder / "data"
        data.mkdir()
        minari_hdf5.write(data, log)
        document = {
            "total_episodes": len(log.lengths),
            "total_steps": len(log),
            "data_format": "hdf5",
            "observation_space": _box(np.full(log.spec.obs_dim, -np.inf), np.full(log.spec.obs_dim, np.inf)),
            "action_space": _box(log.action_low, log.action_high),
            "dataset_id": _dataset_id(path),
            "minari_version": LAYOUT_VERSION,
            "dataset_size": round((data / minari_hdf5.MAIN).stat().st_size / 1e6, 1),
        }
        document |= {"env_id": log.env_id, **_env_spec(log.env_id, log.env_kwargs)} if log.env_id else {}
        document |= {"env_kwargs": log.env_kwargs} if log.env_kwargs else {}
        document |= {"observation_keys": list(log.observation_keys)} if log.observation_keys else {}
        write_json(data / METADATA, document)


def _box(low: np.ndarray, high: np.ndarray) -> str:
    return json.dumps({"type": "Box", "dtype": "float32", "shape": list(low.shape), "low": low.tolist(), "high": high.tolist()})


def _dataset_id(path: Path) -> str:
    """The id that Minari would find the dataset under, or the folder's name made into one."""
    inside = path.resolve()
    text = inside.relative_to(root().resolve()).as_posix() if inside.is_relative_to(root().resolve()) else path.name
    return text if ID.fullmatch(text) else re.sub(r"[^-_\w]", "-", path.name) + "-v0"


def _env_spec(env_id: str, env_kwargs: str) -> dict[str, str]:
    """What Minari needs to make the environment again; nothing where gymnasium does not know it."""
    import gymnasium

    try:
        spec, arguments = copy.deepcopy(gymnasium.spec(env_id)), json.loads(env_kwargs or "{}")
        spec.max_episode_steps = arguments.pop("max_episode_steps", spec.max_episode_steps)
        spec.kwargs |= arguments
        return {"env_spec": spec.to_json()}
    except (gymnasium.error.Error, ImportError, ValueError):
        return {}


def download(dataset_id: str) -> Path:
    """The data folder of the dataset `dataset_id`, fetched by the `minari` package from its server unless it is there already.

    Raises SparError within seconds where the package or the network is missing, and where the server does not have the dataset.
    """
    if (folder := find(dataset_id)) is not None:
        return folder
    if not ID.fullmatch(dataset_id):
        raise SparError(f"'{dataset_id}' is no Minari id; one looks like D4RL/hopper/medium-v2")
    try:
        import minari
    except ImportError:
        raise SparError(
            f"'{dataset_id}' is downloaded by the minari package, which is missing; `pip install '.[minari]'` where spar's sources lie"
        ) from None
    server = _server()
    if not _answers(*server):
        hint = f"on a machine with a network run 'minari download {dataset_id}', then copy the folder to {root() / dataset_id}"
        raise SparError(f"'{dataset_id}' cannot be downloaded: {server[0]} does not answer; {hint}")
    try:
        minari.download_dataset(dataset_id)
    except Exception as error:
        raise SparError(f"'{dataset_id}' cannot be downloaded: {(str(error) or repr(error)).splitlines()[0]}") from error
    if (folder := find(dataset_id)) is None:
        raise SparError(f"'{dataset_id}': the download left nothing in {root() / dataset_id}; try again")
    return folder


def _server() -> tuple[str, int]:
    """(host, port) of what a download must reach first: the proxy where one is set, else the store that Minari is told to use."""
    google = os.environ.get("MINARI_REMOTE", "hf://").startswith("gcp://")
    address = urlsplit("https://storage.googleapis.com" if google else os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if not urllib.request.proxy_bypass(address.hostname or ""):
        proxies = urllib.request.getproxies()
        address = urlsplit(proxies.get(address.scheme) or proxies.get("all") or address.geturl())
    return address.hostname or "", address.port or (80 if address.scheme == "http" else 443)


def _answers(host: str, port: int) -> bool:
    """Whether a connection can be made within PATIENCE seconds. Looking a name up has no time limit of its own, hence the thread."""
    answered = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=PATIENCE):
            answered.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answered.is_set()
