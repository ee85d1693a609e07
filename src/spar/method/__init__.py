"""SPAR, in the paper's order: anchor, critics, weighting, residual, imitation, plas, gate; `spar` composes them."""
