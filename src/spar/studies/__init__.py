"""Every table and figure of the paper as a declared grid of runs, with the paper's numbers beside ours and its claims judged."""
