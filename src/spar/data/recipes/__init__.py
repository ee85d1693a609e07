"""How our own datasets are collected: `python -m spar.data.recipes NAME --out FILE` makes one again, from the policies kept here."""
