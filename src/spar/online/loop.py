"""Fine-tuning: a block of environment steps of every seed, then as many updates in one dispatch, and again. It knows no algorithm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spar import trainer
from spar.data.episodes import HostRows
from spar.deploy.policy import Policy
from spar.evaluate.environments import EnvConfig
from spar.online import replay
from spar.online.explore import Explorer
from spar.types import Algo, Config, DataNeeds, SparError, Spec, Stage, State, Transitions

ONLINE_STEP = trainer.INIT_STEP - 1  # the "step" whose key starts fine-tuning's own keys; no offline step reaches it


@dataclass(frozen=True)
class Settings:
    steps: int  # environment steps of each seed, one update after each
    block: int = 50  # environment steps between dispatches; as many updates follow in one. 1: acting and updating alternate
    noise: float = 0.1  # standard deviation of the exploration on actions in [-1, 1]
    new_share: float | None = None  # share of lived rows in every batch; None: all rows, logged or lived, are equally likely


class Moment(NamedTuple):
    """Where fine-tuning stands after a block."""

    step: int  # environment steps lived, and updates made, by each seed
    state: State  # leading axis S
    guard: trainer.Guard
    metrics: dict[str, np.ndarray]  # (S,), means over the block


def online_stage(algo: Algo, cfg: Config, needs: DataNeeds) -> Stage:
    """What is repeated online: `algo.online`, or the last stage's update. Raises SparError where neither can learn from new rows."""
    last = algo.stages[-1]
    reason = None
    if not hasattr(cfg, "critic"):
        reason = "it has no critic, so it cannot learn from the returns of what it tries"
    elif algo.online is None and (needs.next_action or last.prepare is not None):
        reason = "its last stage improves on the log alone"
    if reason:
        raise SparError(f"'{algo.name}' cannot be fine-tuned online: {reason}; train another algorithm, for instance spot")
    return Stage("online", "all", algo.online or last.update)


def check_shapes(algo: Algo, cfg: Config, spec: Spec, state: State) -> None:
    """Raises SparError when `cfg` describes other networks than those in `state` (leading axis S)."""
    fresh = jax.eval_shape(lambda key: algo.init(cfg, spec, key), jax.random.key(0))
    wanted, found = (jax.tree_util.tree_flatten_with_path(tree)[0] for tree in (fresh, state))
    if [(path, leaf.shape) for path, leaf in wanted] != [(path, leaf.shape[1:]) for path, leaf in found]:
        raise SparError(f"'{algo.name}': the settings describe other networks than those that were trained; leave their sizes as they were")


def deployed(algo: Algo, cfg: Config, state: State, offline: Policy) -> Policy:
    """The deployable policy of one seed's state (no seed axis), with the scaler and the residual radius of its offline policy."""
    description, arrays = algo.export(cfg, state)
    found = {key: np.asarray(array) for key, array in arrays.items()}
    return Policy({**description, "delta_rho": offline.description["delta_rho"]}, found, offline.scaler)


def policies(algo: Algo, cfg: Config, state: State, offline: Sequence[Policy]) -> list[Policy]:
    """`deployed` of every seed."""
    return [deployed(algo, cfg, jax.tree.map(lambda leaf, i=i: leaf[i], state), one) for i, one in enumerate(offline)]


class Loop:
    """`stage` is `online_stage`'s; `rows` are the log's, scaled as offline; `state` (leading axis S) the checkpoint's, optimisers too."""

    def __init__(
        self,
        algo: Algo,
        stage: Stage,
        cfg: Config,
        settings: Settings,
        loop: trainer.Settings,
        rows: HostRows,
        env: EnvConfig,
        seeds: Sequence[int],
        state: State,
        offline: Sequence[Policy],
    ) -> None:
        self.algo, self.cfg, self.settings, self.seeds, self.offline = algo, cfg, settings, list(seeds), list(offline)
        self.mix = replay.Mix(loop.batch_size, settings.new_share)
        self.work = trainer.Work(stage, cfg, loop, fed=True)
        check_shapes(algo, cfg, rows.log.spec, state)
        self.keys = jax.vmap(lambda key: jax.random.fold_in(key, ONLINE_STEP))(trainer.seed_keys(seeds))
        self.replay = replay.start(rows.on_device(), len(self.seeds), settings.steps)
        self.explorers = [Explorer(env, rows, settings.noise, seed) for seed in self.seeds]
        count = jnp.zeros(len(self.seeds), jnp.int32)
        self.state, self.guard = state, trainer.Guard(count, count.copy(), count.copy(), jnp.zeros(len(self.seeds), bool))
        self.done = 0  # environment steps lived, and updates made, by each seed

    def policies(self) -> list[Policy]:
        """The present deployable policy of each seed."""
        return policies(self.algo, self.cfg, self.state, self.offline)

    def relive(self, part: Transitions, again: bool) -> None:
        """Stand where a loop of the same arguments stood after the steps of `part` (S, n, ...), which follow those that this one has lived,
        but for what was learned. With `again` the environments are led through them, else they stay as they are.

        Raises SparError when an environment does not come out as it did.
        """
        count = part.obs.shape[1]
        for first in range(0, count if again else 0, self.settings.block):
            for i, explorer in enumerate(self.explorers):
                explorer.relive(jax.tree.map(lambda x, i=i, k=first: np.asarray(x[i, k : k + self.settings.block]), part))
        self._write(part, self.done)
        self.done += count

    def lived(self, first: int) -> Transitions:
        """What every seed has lived from step `first` on: (S, n, ...), NumPy."""
        return jax.tree.map(lambda column: np.asarray(column[:, first : self.done]), self.replay.lived)

    def run(self) -> Iterator[Moment]:
        """After every block, where it stands. Raises trainer.Halted when too many updates in a row were not finite."""
        for done in range(self.done, self.settings.steps, self.settings.block):
            count = min(self.settings.block, self.settings.steps - done)
            lived = [explorer.live(policy, count) for explorer, policy in zip(self.explorers, self.policies(), strict=True)]
            self._write(jax.tree.map(lambda *columns: np.stack(columns), *lived), done)
            yield self._learn(done, count)

    def _write(self, rows: Transitions, at: int) -> None:
        self.replay = self.replay._replace(lived=replay.write(self.replay.lived, jax.tree.map(jnp.asarray, rows), jnp.int32(at)))

    def _learn(self, done: int, count: int) -> Moment:
        first, end = jnp.int32(done), jnp.int32(done + count)
        batches = replay.draw(self.mix, self.replay, end, self.keys, first, self.settings.block)
        data = trainer.Data(batches, {}, self.keys)
        self.state, self.guard, metrics = trainer.advance(self.work, self.state, self.guard, data, done, count)
        self.done = done + count
        if bool(self.guard.halted.any()):
            raise trainer.Halted(self._explain())
        return Moment(done + count, self.state, self.guard, {name: np.asarray(value) for name, value in metrics.items()})

    def _explain(self) -> str:
        i = int(np.flatnonzero(np.asarray(self.guard.halted))[0])
        rows = self.work.settings.max_consecutive_errors
        return (
            f"fine-tuning, seed {self.seeds[i]}: {rows} updates in a row were not finite, from step {int(self.guard.first[i])} on; "
            "the curve up to here is kept, the offline run is untouched; lower the learning rate or check the environment's rewards"
        )

    def close(self) -> None:
        for explorer in self.explorers:
            explorer.close()
