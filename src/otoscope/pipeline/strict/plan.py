"""What the protocol is about to do, said before it starts."""

from otoscope.pipeline.strict.frame import Frame
from otoscope.report.words import count


def say_plan(frame: Frame) -> None:
    """Say how many representations, dictionaries and regressions are to come."""
    settings, config, asked = frame.settings, frame.run.config, frame.asked
    layers, sparsities = len(frame.material.store.layers), len(config.train.sparsities)
    limits = len(settings.limit_presets) * len(settings.limit_sparsities)
    light, full = layers + sparsities + limits, 1 + settings.seeds + len(settings.baselines)
    fits = full * len(asked.names) * (1 + settings.permutations)
    dropped = len(asked.clips.factor_names) - len(asked.names)
    say = frame.run.watch.say
    say(
        f"  strict: {count(len(asked.names), 'factor')} ({dropped} dropped or near duplicates of these), "
        f"{count(len(frame.tasks), 'task')}: {', '.join(task.name for task in frame.tasks) or 'none'}"
    )
    say(
        f"  strict: at most {light} representations read linearly ({layers} layers, {sparsities} sparsities, {limits} "
        f"for the limit), then {full} in full (dense, {settings.seeds} seeds, {len(settings.baselines)} to beat): "
        f"{fits:,} tuned regressions over {count(frame.material.corpus.clips.height, 'clip')}"
    )
