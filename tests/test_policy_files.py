"""A policy's folder: what is written is read back, and files that cannot be trusted are refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from spar import registry
from spar.deploy import exports
from spar.deploy import policy as deploy
from spar.deploy.actors import misfit, networks
from spar.types import SparError
from tests.conftest import GATED
from tests.test_policy import OBS, POLICY, make


@pytest.mark.parametrize("algo", GATED)
def test_saved_and_loaded_policies_are_the_same(algo: str, tmp_path: Path) -> None:
    policy, _, _ = make(algo, gate={"eta_abs": -np.inf})
    exports.save(tmp_path / "policy", {3: policy, 5: policy}, {"why": "test"})
    loaded = exports.load(tmp_path / "policy", seed=5)
    policy.reset(1)
    loaded.reset(1)
    for before, after in zip(policy.act(OBS), loaded.act(OBS), strict=True):
        np.testing.assert_array_equal(before, after)
    assert loaded.gate == policy.gate  # minus infinity survives JSON
    with pytest.raises(SparError, match="exists already"):
        exports.save(tmp_path / "policy", {3: policy}, {})
    with pytest.raises(SparError, match="no seed 4"):
        exports.load(tmp_path / "policy", seed=4)


def test_loading_needs_no_training_stack(tmp_path: Path) -> None:
    exports.save(tmp_path / "policy", {0: POLICY}, {})
    code = (
        "import sys, numpy, spar; p = spar.load_policy(sys.argv[1]); print(p.act(numpy.zeros(3)).reason);"
        "bad = [m for m in ('jax', 'flax', 'gymnasium', 'mujoco', 'h5py', 'orbax') if m in sys.modules]; assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "policy")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in deploy.REASONS


def spoil_json(change: Any) -> Any:
    def spoil(folder: Path) -> None:
        document = json.loads((folder / "policy.json").read_text())
        change(document)
        (folder / "policy.json").write_text(json.dumps(document))

    return spoil


def spoil_arrays(change: Any) -> Any:
    def spoil(folder: Path) -> None:
        arrays = load_file(folder / "arrays.safetensors")
        change(arrays)
        save_file(arrays, folder / "arrays.safetensors")
        digest = hashlib.sha256((folder / "arrays.safetensors").read_bytes()).hexdigest()
        spoil_json(lambda document: document.update(arrays_sha256=digest))(folder)

    return spoil


def cut(arrays: dict[str, np.ndarray], prefix: str, part: Any) -> None:
    """Only `part` of every array under `prefix`."""
    for key in [key for key in arrays if key.startswith(f"seed-0/{prefix}")]:
        arrays[key] = np.ascontiguousarray(arrays[key][part])


def last(arrays: dict[str, np.ndarray], prefix: str, part: Any) -> None:
    """The same of the last layer alone."""
    deepest = max(key.split("/")[-2] for key in arrays if key.startswith(f"seed-0/{prefix}"))
    cut(arrays, f"{prefix}/{deepest}", part)


def grow(arrays: dict[str, np.ndarray], prefix: str) -> None:
    for key in [key for key in arrays if key.startswith(f"seed-0/{prefix}")]:
        arrays[key] = np.full_like(arrays[key], 1e25)


def poison(arrays: dict[str, np.ndarray]) -> None:
    arrays["seed-0/residual/Dense_0/kernel"][0, 0] = np.nan


SPOILERS = {
    "another schema": (spoil_json(lambda d: d.update(schema=99)), "schema 99"),
    "not JSON": (lambda folder: (folder / "policy.json").write_text("{"), "not valid JSON"),
    "no JSON": (lambda folder: (folder / "policy.json").unlink(), "no policy.json"),
    "no arrays": (lambda folder: (folder / "arrays.safetensors").unlink(), "cannot be read"),
    "cut arrays": (
        lambda folder: (folder / "arrays.safetensors").write_bytes((folder / "arrays.safetensors").read_bytes()[:-100]),
        "cannot be read",
    ),
    "NaN weight": (spoil_arrays(poison), "non-finite"),
    "missing scaler": (spoil_arrays(lambda a: a.pop("seed-0/scaler/obs_std")), "'scaler/obs_std'"),
    "missing network": (spoil_arrays(lambda a: a.pop("seed-0/residual/Dense_1/kernel")), "do not fit"),
    "wrong width": (spoil_arrays(lambda a: a.update({"seed-0/anchor/mlp/Dense_0/kernel": np.zeros((9, 16), np.float32)})), "do not fit"),
    "wrong sizes": (spoil_json(lambda d: d.update(obs_dim=4)), "disagree"),
    "NaN mean": (spoil_arrays(lambda a: a["seed-0/scaler/obs_mean"].fill(np.nan)), "scaler/obs_mean' holds non-finite"),
    "NaN bound": (spoil_arrays(lambda a: a["seed-0/scaler/action_high"].fill(np.nan)), "scaler/action_high' holds non-finite"),
    "NaN range": (spoil_arrays(lambda a: a["seed-0/scaler/obs_low"].fill(np.nan)), "scaler/obs_low' holds non-finite"),
    "no spread": (spoil_arrays(lambda a: a["seed-0/scaler/obs_std"].fill(0)), "not positive"),
    "bounds the wrong way": (spoil_arrays(lambda a: a["seed-0/scaler/action_high"].fill(-2)), "not below"),
    "short scaler": (spoil_arrays(lambda a: a.update({"seed-0/scaler/obs_high": np.zeros(2, np.float32)})), "shape"),
    "no margin": (spoil_json(lambda d: d["gate"].update(obs_margin="nan")), "obs_margin is nan"),
    "unknown threshold": (spoil_json(lambda d: d["gate"].update(eta=1.0)), "not as `save` writes it"),
    "no gate": (spoil_json(lambda d: d.pop("gate")), "not as `save` writes it"),
    "no seeds": (spoil_json(lambda d: d.pop("seeds")), "not as `save` writes it"),
    "bounds edited": (spoil_json(lambda d: d.update(action_high=[100.0, 100.0])), "bounds"),
    "other arrays": (lambda folder: save_file({"a": np.zeros(1)}, folder / "arrays.safetensors"), "is not the file that"),
    "no critic's penalty": (spoil_json(lambda d: d.update(lambda_u=float("nan"))), "lambda_u is nan"),
    "no radius": (spoil_json(lambda d: d["seeds"]["0"].update(delta_rho=0)), "delta_rho is 0"),
    "no text": (lambda folder: (folder / "policy.json").write_bytes(b"\xff\xfe"), "not valid JSON"),
    "deep": (lambda folder: (folder / "policy.json").write_text("[" * 100_000), "not valid JSON"),
    "seeds without one": (spoil_json(lambda d: d.update(seeds={})), "there are none"),
    "schema true": (spoil_json(lambda d: d.update(schema=True)), "schema True"),
    "bias of one": (spoil_arrays(lambda a: a.update({"seed-0/anchor/mlp/Dense_2/bias": np.zeros(1, np.float32)})), "do not fit"),
    "one output": (spoil_arrays(lambda a: last(a, "residual", np.s_[..., :1])), "do not fit"),
    "a critic less": (spoil_arrays(lambda a: cut(a, "critics/members/mlp/Dense_0", np.s_[:1])), "do not fit"),
    "critics of one": (spoil_arrays(lambda a: cut(a, "critics", np.s_[0])), "do not fit"),
    "overflow": (spoil_arrays(lambda a: grow(a, "critics")), "not finite even at the log's mean"),
    "a list": (lambda folder: (folder / "policy.json").write_text("[1]"), "schema None"),
}


@pytest.mark.parametrize("name", SPOILERS)
def test_a_damaged_policy_fails_when_loaded(name: str, tmp_path: Path) -> None:
    spoil, message = SPOILERS[name]
    exports.save(tmp_path / "policy", {0: POLICY}, {})
    spoil(tmp_path / "policy")
    with pytest.raises(SparError, match=message):
        exports.load(tmp_path / "policy")


@pytest.mark.parametrize("algo", registry.ALGOS)
def test_every_export_has_the_networks_that_its_description_promises(algo: str, tmp_path: Path) -> None:
    policy = make(algo)[0]
    wanted = networks(policy.description, policy.arrays, policy.obs_dim, policy.act_dim)
    assert {key.rsplit("/", 2)[0] for key in policy.arrays if "/Dense_" in key} == set(wanted)
    assert all(misfit(policy.arrays, prefix, shape) is None for prefix, shape in wanted.items())
    for prefix, shape in wanted.items():
        assert misfit(policy.arrays, prefix, shape._replace(inputs=shape.inputs + 1)) is not None
        assert misfit(policy.arrays, prefix, shape._replace(outputs=shape.outputs + 1)) is not None
        assert misfit(policy.arrays, prefix, shape._replace(ensemble=not shape.ensemble)) is not None


def test_a_policy_can_be_read_by_whoever_may_read_its_folder(tmp_path: Path) -> None:
    """The networks by the same people as the text."""
    exports.save(tmp_path / "policy", {0: POLICY}, {})
    modes = {(tmp_path / "policy" / name).stat().st_mode & 0o777 for name in (exports.JSON_NAME, exports.ARRAYS_NAME)}
    assert len(modes) == 1


def test_a_policy_of_a_first_version_still_loads(tmp_path: Path) -> None:
    """Without the hash of its arrays."""
    exports.save(tmp_path / "policy", {0: POLICY}, {})
    spoil_json(lambda document: document.pop(exports.HASH))(tmp_path / "policy")
    np.testing.assert_array_equal(exports.load(tmp_path / "policy").act(OBS).action, POLICY.act(OBS).action)
