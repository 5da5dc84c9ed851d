"""Protocols: fixed procedures that score representations of clips and return result rows.

Each protocol plans a `ProtocolRun` from a run's artifacts (`plan`), which computes its parts and returns a table.

- `held_out`: probes, factor regressions and reconstruction of every dense layer and every SAE, on held-out groups.
- `strict`: layer and sparsity chosen on validation groups, then one SAE compared with baselines in full.
- `mariotte2025`: the procedure of Mariotte et al. 2025, including its published figures.
- `comparison`: estimates with intervals, comparisons of codes with layers and baselines, and decision rules.
- `claims`: the three claims of the study and the rules that decide them.
- `claim_sources`: the numbers behind these claims, from each protocol and from the published tables.

Start with `held_out.plan`; it is the shortest complete protocol.
"""
