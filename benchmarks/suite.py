"""The table of docs/suite.md: python benchmarks/suite.py RUN ... , finished runs, at most one for each dataset of the suite.

Each run is diagnosed, as `spar diagnose` does it, and its numbers go into results/suite.json, in place of the dataset's earlier ones; the
page is written from all that are there, so runs may be made, and deleted, one after another. Without a RUN the page is written anew.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import causes
import numpy as np
import page

import spar
from spar import api, files
from spar.data import sheets
from spar.evaluate import offline, stats
from spar.report.console import percent
from spar.runs import environment

STORE, PAGE = page.ROOT / "results" / "suite.json", page.ROOT / "docs" / "suite.md"
HEAD = """# The suite

Collected by D4RL's recipes with policies trained here (`spar data make NAME`; `spar data show NAME` has each data sheet); never called
D4RL. Written by `benchmarks/suite.py` from one run a dataset, of the algorithm of the task's preset.

"""
TAIL = """

*behaviour*: mean logged return, and on D4RL's scale (pointmaze: ours); pen's demonstrations last 200 steps and the evaluation 100, as in
D4RL. *anchor*: the behaviour-cloned anchor in the dataset's own
environment, 10 or 100 episodes a seed. *gain*: of the gated policy over that anchor, with its 95 % interval over seeds and episodes
(Student's where that is wider), of one seed over its episodes. *gate accepts*: of the steps of the evaluation episodes.
So few updates are a first look: these columns show that a dataset trains, and where so few updates are not enough.
*delta_rho*: the radius that holds 95 % of the logged actions' deviations from that anchor, actions scaled to [-1, 1] (eq. 3). *directions*:
how many hold 95 % of their variance, of all action dimensions.{notes}
"""
CAUSES = """
## Where the gain over the anchor is not sure

Of runs of the present version; means over seeds. *gain*: with Student's interval over seeds where that is wider than the bootstrap's.
*clone / log*: the anchor's mean return over the logged one, where logged episodes are neither longer than evaluated ones nor, of more
than a tenth, cut sooner. *critics moved*: over the last fifth of Stage I. *order of returns*: rank correlation of the anchor's critics
with returns of held-out episodes. *order of gains*: of the gains for which the gate accepted a correction with those that the simulator
shows, the episode played on by the anchor from there with and without it, 32 noisy pairs a seed; *predicted gain*, *real gain*: their
means, discounted. They are the same quantity only where critics value the behaviour (expectile 0.5) and the time limit hides little of
what follows: elsewhere (pen, the mazes) no cause is read off them. *support distance*: 95 % quantile of the distance to logged actions,
over the log's own; held-out episodes are few, pen-human's one, so the anchor's own stands beside it. The last column is what
`benchmarks/causes.py` says by its limits: a clone below half of the log, critics that moved by more than 5 %, an order of gains not above
0, real gains not above 0 and below the predicted, a distance above 1.1 and above the anchor's, a gate open on fewer than 5 % of the
logged states, or surely higher returns without the gate; *perhaps* where Student's interval over the seeds does not bear it out. Where
the gain is not told apart from none, how many seeds gain stands before that: all of three that gain by unequal amounts have an interval
that wide.

"""
HEADER = ("dataset", "transitions", "episodes", "behaviour", "normalised", "anchor", "95 % interval", "algorithm", "gain", "95 % interval",
          "gate accepts", "delta_rho", "directions", "seeds", "updates", "target rate", "commit")  # fmt: skip


def measured(run: api.Run) -> dict[str, Any]:
    """What the page says of a run; geometry of its first seed's anchor."""
    summary, policy = run.summary, run.policy()
    geometry = offline.residual_geometry(policy, spar.load_log(run.config.dataset))
    returns = {name: np.asarray(summary["returns"][name]) for name in ("policy", "anchor", "ungated")}
    gain = stats.paired_gain(returns["policy"], returns["anchor"])
    return {
        "causes": causes.measured(run),
        "clone_share": causes.clone_share(run),
        **{key: summary["dataset"][key] for key in ("name", "transitions", "episodes")},
        **{key: summary[key] for key in ("algo", "seeds", "steps")},
        "behaviour": summary["intervals"].get("behaviour", {}).get("mean"),
        "normalised": summary["normalised"]["behaviour"] if summary["normalised"] else None,
        "anchor": summary["intervals"]["anchor"],
        "gain": gain._asdict(),
        "seed_gains": (returns["policy"].mean(1) - returns["anchor"].mean(1)).tolist(),
        "opening": stats.paired_gain(returns["ungated"], returns["policy"])._asdict(),
        "acceptance": summary["gate"]["acceptance"],
        "delta_rho": geometry["delta_rho"],
        "directions": [geometry["directions_with_95_percent_of_variance"], policy.act_dim],
        "target_rate": run.config.config.critic.polyak,
        "commit": ", ".join(environment.unique(str(place["commit"]) for place in environment.read(run.folder))),
    }


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    anchor, gain = row["anchor"], row["gain"]
    return (
        f"`{row['name']}`", f"{row['transitions']:,}", f"{row['episodes']:,}",
        f"{row['behaviour']:.4g}" if row["behaviour"] is not None else "-",
        f"{row['normalised']:.1f}" if row["normalised"] is not None else "-",
        f"{anchor['mean']:.4g}", f"[{anchor['low']:.4g}, {anchor['high']:.4g}]", row["algo"], f"{gain['mean']:+.4g}",
        f"[{gain['low']:+.4g}, {gain['high']:+.4g}]", percent(row["acceptance"]), f"{row['delta_rho']:.3f}",
        "{} of {}".format(*row["directions"]), str(len(row["seeds"])), f"{row['steps']['anchor']:,} + {row['steps']['residual']:,}",
        f"{row['target_rate']:g}" if "target_rate" in row else "-", ", ".join(
            commit[:7] for commit in (row["commit"] or "unknown").split(", ")
        ),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    arguments = parser.parse_args()
    rows = json.loads(STORE.read_text()) if STORE.is_file() else {}
    for folder in arguments.runs:
        row = measured(api.Run(folder))
        rows[row["name"]] = row
    order = [sheet["name"] for sheet in sheets.known()]
    rows = {name: rows[name] for name in order if name in rows}
    files.write_json(STORE, rows)
    older = " Rows of unknown commit are of an earlier version and not reproduced by this one; those of target rate 0.02 are, with "
    notes = f"{older}`--critic.polyak 0.02`." if any(row["commit"] is None for row in rows.values()) else ""
    missing = ", ".join(f"`{name}`" for name in order if name not in rows)
    notes += f" No run yet: {missing}." if missing else ""
    text = HEAD + page.table(HEADER, map(cells, rows.values())) + TAIL.format(notes=notes)
    diagnosed = [row for row in rows.values() if "causes" in row]
    if diagnosed:
        text += CAUSES + page.table(causes.HEADER, map(causes.cells, diagnosed)) + "\n"
    files.write_text(PAGE, text)
    print(PAGE)


if __name__ == "__main__":
    main()
