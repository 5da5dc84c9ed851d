"""The page about the three claims of Mariotte et al. 2025: numbers by source, and verdicts.

- `write_claims`: write `claims.html`, named `PAGE`
- `examine`: numbers of all sources, and verdicts; `CLAIMS` are the claims and their rules
- `sentences`, `setting`: text of the verdicts, and of what was examined
"""

from otoscope.report.claims.page import CLAIMS, PAGE, examine, write_claims

__all__ = ["CLAIMS", "PAGE", "examine", "write_claims"]
