"""Batches that pass through a network in blocks: the same outcome as whole ones, up to rounding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spar import ops
from spar.baselines import cql
from spar.method import critics, imitation, residual
from spar.types import Batch
from tests.test_baselines import KEY, fixed_batch, trained
from tests.test_residual import prepared


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 96), st.integers(1, 200), st.integers(1, 3000))
def test_blocks_are_equal_and_the_fewest_that_fit(batch: int, copies: int, rows: int) -> None:
    """A batch whose divisors leave no block of a sensible size stays whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "BLOCK_ROWS", rows)
        count = ops.block_count(batch, copies)
    sensible = [n for n in range(1, batch + 1) if batch % n == 0 and rows // 8 <= batch // n * copies <= rows]
    assert count == (1 if batch * copies <= rows else min(sensible, default=1))


def test_a_gpu_takes_a_batch_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert ops.block_count(256, 64) == 1


def test_blocks_keep_their_order_and_can_be_joined() -> None:
    x = jnp.arange(24).reshape(2, 6, 2)
    for axis in (0, 1, 2):
        blocks = ops.cut(x, 2, axis)
        np.testing.assert_array_equal(blocks, np.stack(np.split(np.asarray(x), 2, axis)))
        np.testing.assert_array_equal(ops.joined(blocks, axis), x)
    assert ops.cut({"a": x, "b": x[:, 0]}, 2)["b"].shape == (2, 1, 2)


def test_a_step_over_blocks_is_that_over_all_rows() -> None:
    """Losses, metrics and parameters, of a mean over rows."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(12, 3)), jnp.float32), jnp.asarray(rng.normal(size=12), jnp.float32)
    params, tx = {"w": jnp.ones(3)}, ops.adam(1e-2, clip_norm=0.5)

    def loss(params: ops.Params, rows: tuple[jax.Array, jax.Array] = (x, y)) -> tuple[jax.Array, ops.Metrics]:
        error = rows[0] @ params["w"] - rows[1]
        return (error**2).mean(), {"error": error.mean()}

    whole = ops.grad_step(loss, params, tx.init(params), tx, name="fit")
    parts = ops.grad_step(loss, params, tx.init(params), tx, name="fit", blocks=ops.cut((x, y), 4))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_candidates_and_weights_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, state, batch = prepared("spar-proj")
    z = np.random.default_rng(0).normal(size=(4, 16, 3)).astype(np.float32)
    guides = critics.members(state.critics, "guide")
    found = []
    for rows, count in ((ops.BLOCK_ROWS, 1), (8, 8)):
        monkeypatch.setattr(ops, "BLOCK_ROWS", rows)
        assert ops.block_count(16, 4) == count
        found.append(imitation.proposals(cfg.cvae, cfg.weighting, cfg.critic, state.residual.target, guides, batch, z))
    whole = residual.decode(cfg.cvae, state.residual.target, batch.rows.obs, batch.frozen["a_base"], z)
    np.testing.assert_allclose(found[0][0], whole, rtol=1e-5, atol=1e-6)
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_cqls_update_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into blocks or whole, the critics take the same step."""
    found, batch = trained("cql"), Batch(fixed_batch(), {})
    steps = []
    for rows, count in ((10**6, 1), (70, 140)):
        monkeypatch.setattr(ops, "BLOCK_ROWS", rows)
        assert ops.block_count(len(batch.rows.reward), 3 * found.cfg.samples + 1) == count
        steps.append(jax.jit(lambda: cql.update(found.cfg, found.state, batch, KEY, jnp.int32(0)))())
    for one, other in zip(jax.tree.leaves(steps[0]), jax.tree.leaves(steps[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
