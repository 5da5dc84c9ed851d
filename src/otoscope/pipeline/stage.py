"""A stage: skipped when its inputs and outputs are as its card says, otherwise done again."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from otoscope.artifacts import digest, environment, read_json, write_json
from otoscope.errors import ArtifactError
from otoscope.pipeline.folder import RunFolder
from otoscope.pipeline.watch import Watch


def run_stage(
    folder: RunFolder,
    name: str,
    *,
    inputs: str,
    outputs: Sequence[Path],
    work: Callable[[], object],
    watch: Watch,
    intact: Callable[[], bool] = lambda: True,
) -> bool:
    """Do `work` unless the stage's card holds the fingerprint `inputs` and the digests of `outputs`.

    `intact` says whether what is too large to be read each time is still there.
    Returns whether work was done. The card is written last, so a stage that was killed counts as
    not done; what it can reuse of its own unfinished work is its own affair.
    """
    if is_current(folder, name, inputs=inputs, outputs=outputs) and intact():
        folder.log("skipped", stage=name, fingerprint=inputs)
        watch.say(f"{name}: up to date")
        return False
    folder.card(name).unlink(missing_ok=True)
    folder.log("started", stage=name, fingerprint=inputs)
    start_s = time.monotonic()
    work()
    seconds = time.monotonic() - start_s
    made = {str(path.relative_to(folder.root)): digest(path) for path in outputs}
    write_json(folder.card(name), {"stage": name, "fingerprint": inputs, "outputs": made, "versions": environment()})
    folder.log("finished", stage=name, seconds=round(seconds, 3))
    watch.say(f"{name}: {seconds:.1f} s")
    return True


def is_current(folder: RunFolder, name: str, *, inputs: str, outputs: Sequence[Path]) -> bool:
    """Whether a stage's card and its files agree with what is asked."""
    try:
        card = read_json(folder.card(name))
    except ArtifactError:
        return False
    made = {str(path.relative_to(folder.root)): path for path in outputs}
    return (
        card.get("fingerprint") == inputs
        and card.get("outputs", {}).keys() == made.keys()
        and all(path.is_file() and digest(path) == card["outputs"][name] for name, path in made.items())
    )
