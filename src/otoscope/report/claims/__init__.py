"""The page about the three claims of Mariotte et al. 2025: numbers by source, and verdicts.

- `page`: `write_claims` and `examine`, the entry points
- `numbers`, `strict_numbers`: numbers of the claims from a results table
- `verdicts`, `notes`, `formatting`, `setting`: outcomes, what qualifies them, and their text
"""
