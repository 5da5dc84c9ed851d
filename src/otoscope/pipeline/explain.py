"""Stage `explain`: index codes, choose latents, and run the steps that explain them."""

from collections.abc import Mapping, Sequence

from otoscope.artifacts import fingerprint
from otoscope.errors import ConfigError
from otoscope.explain import ActivationIndex
from otoscope.explain.activation_index import remove_index
from otoscope.formatting import comma_list, first_few
from otoscope.pipeline.explain_steps import (
    ExplainStep,
    annotations_step,
    attribution_step,
    cards_step,
    erasure_step,
    firing_step,
    interventions_step,
    lens_step,
    matching_step,
    splice_step,
    sweeps_step,
    top_clips_step,
)
from otoscope.pipeline.explained_run import ExplainedRun, prepare
from otoscope.runs.cache import run_stage
from otoscope.runs.context import Context
from otoscope.runs.training import GridMember


def explain(run: Context) -> None:
    """Index the codes of the dictionary shown, choose latents for the best-predicted factors, and explain these.

    Each step of `explain.only` writes its own files to `explain/` and is skipped while its inputs are the same. Files
    of steps that are not listed stay as long as they are current.
    """
    folder = run.folder
    stage = prepare(run)
    steps = _steps(stage)
    wanted = [step for name, step in steps.items() if name in run.config.explain.only and step.possible]
    members = stage.grid if run.config.explain.dictionaries == "all" else [stage.member]
    for text in _skipped(stage, steps):
        run.progress.message(text)

    def work() -> None:
        for member in members:
            stage.index_of(member)
        for path in stage.indices.iterdir():
            if path.name not in {member.sae_id for member in members}:
                remove_index(path)
        for step in steps.values():
            if not step.is_current(folder):
                step.clear()
        for step in wanted:
            step.ensure(folder)
        if silent := stage.silent_latents:
            run.progress.message(f"latents of explain.latents that never fire on this corpus: {first_few(silent, 10)}")

    run_stage(
        folder,
        "explain",
        inputs=fingerprint([step.inputs for step in wanted], stage.inputs, [member.sae_id for member in members]),
        outputs=lambda: [
            *(path for step in wanted for path in (*step.files(), step.card(folder))),
            *(path for member in members for path in ActivationIndex.open(stage.indices / member.sae_id).files),
        ],
        work=work,
        progress=run.progress,
        code=["otoscope.explain"],
    )


def step_inputs(run: Context) -> dict[str, str]:
    """Return the fingerprint of the inputs of every step that is possible for the dictionary shown."""
    return {name: step.inputs for name, step in _steps(prepare(run)).items()}


def _steps(stage: ExplainedRun) -> dict[str, ExplainStep]:
    """Return the steps that are possible for the dictionary; raise `ConfigError` for one on request that is not."""
    steps = [firing_step(stage), top_clips_step(stage)]
    if stage.member.pooling == "encode_then_pool":
        steps.append(cards_step(stage))
        if stage.member.layer < max(stage.store.layers):
            steps += [splice_step(stage), interventions_step(stage), erasure_step(stage)]
        steps += [lens_step(stage), attribution_step(stage), sweeps_step(stage), annotations_step(stage)]
    found = {step.name: step for step in (*steps, matching_step(stage))}
    for name in stage.run.config.explain.only:
        if name in ON_REQUEST and (reason := unavailable_reason(name, stage.member, stage.store.layers)):
            raise ConfigError(f"explain.only: {name} {reason}")
    return found


def _skipped(stage: ExplainedRun, steps: Mapping[str, ExplainStep]) -> list[str]:
    """Return the steps of `explain.only` that are not possible, a line for each reason.

    Annotations, which are listed by default, count if the corpus has some or if nothing else is listed.
    """
    only, reasons = stage.run.config.explain.only, dict[str, list[str]]()
    for name in only:
        if name == "annotations" and not stage.run.config.corpus.annotated:
            reason = "needs corpus.annotations, the folder of the annotations" if len(only) == 1 else None
        else:
            reason = unavailable_reason(name, stage.member, stage.store.layers) if name not in steps else None
        if reason:
            reasons.setdefault(reason, []).append(name)
    return [f"explain skips {comma_list(names)}: {reason}" for reason, names in reasons.items()]


ON_REQUEST = ("interventions", "erasure", "lens", "attribution", "sweeps")
"""Steps that run only if they are named, and that are refused where they are not possible."""


def unavailable_reason(step: str, member: GridMember, layers: Sequence[int]) -> str | None:
    """Return the reason why a step that reads frames is not possible for a dictionary, and what to do; else None.

    >>> pooled = GridMember(3, "pool_then_encode", "default", 64, 0.9, 0)
    >>> print(unavailable_reason("erasure", pooled, [3, 4]))  # doctest: +ELLIPSIS
    needs a dictionary of frames, and layer03-pooled-default-m64-k6-seed0 encodes pooled clips; add ...
    """
    if member.pooling != "encode_then_pool":
        return (
            f"needs a dictionary of frames, and {member.sae_id} encodes pooled clips; add encode_then_pool to "
            "train.poolings"
        )
    if step in ("splice", "interventions", "erasure") and member.layer >= max(layers):
        return (
            f"reads a layer after the dictionary's, and layer {member.layer} is the last that was extracted; train an "
            "earlier layer, or extract a later one"
        )
    return None
