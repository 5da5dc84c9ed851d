"""Which labels of a corpus can be probed across groups, and why the others cannot."""

from otoscope.config import RunConfig
from otoscope.corpus.table import SPLITS, Corpus
from otoscope.errors import ConfigError


def probed_labels(corpus: Corpus, config: RunConfig) -> list[str]:
    """Return the labels to probe: those that the configuration names, or all that can be.

    Raises `CorpusError` when a named label does not exist and `ConfigError` when it cannot be probed.
    """
    wanted = config.evaluate.labels
    if wanted is None:
        return [name for name in corpus.labels if why_not(corpus, name) is None]
    for name in wanted:
        if reason := why_not(corpus, name):
            raise ConfigError(
                f"evaluate.labels: {name!r} cannot be probed: {reason}; leave it out, or deal other splits"
            )
    return list(wanted)


def why_not(corpus: Corpus, name: str) -> str | None:
    """Say why a label cannot be probed on unseen groups, or return None when it can."""
    column = corpus.label(name)
    classes = {side: column.filter(corpus.clips["split"] == side).drop_nulls().unique().sort() for side in SPLITS}
    if empty := [side for side, found in classes.items() if found.is_empty()]:
        return f"no clip of {' and '.join(empty)} has it"
    if len(classes["train"]) == 1:
        return f"all clips of train have the one class {classes['train'][0]!r}"
    if not set(classes["train"]) & set(classes["test"]):
        return "no class is in both train and test"
    return None
