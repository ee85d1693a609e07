"""Readers of other people's files, one format a module, all into `spar.data.episodes.Log`."""
