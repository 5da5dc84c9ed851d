"""What the protocol is about to do, said before it starts."""

from otoscope.pipeline.strict.frame import Frame
from otoscope.report.words import count


def say_plan(frame: Frame) -> None:
    """Say how many representations, dictionaries and regressions are to come."""
    settings, config, asked = frame.settings, frame.run.config, frame.asked
    layers, sparsities = len(frame.material.store.layers), len(config.train.sparsities)
    limits = len(settings.limit_presets) * len(settings.limit_sparsities)
    representations = layers + sparsities + settings.seeds - 1 + limits + len(settings.baselines)
    fits = representations * len(asked.names) * (1 + settings.permutations)
    dropped = len(asked.clips.factor_names) - len(asked.names)
    say = frame.run.watch.say
    say(
        f"  strict: {count(len(asked.names), 'factor')} ({dropped} dropped or near duplicates of these), "
        f"{count(len(frame.tasks), 'task')}: {', '.join(task.name for task in frame.tasks) or 'none'}"
    )
    say(
        f"  strict: at most {representations} representations ({layers} layers, {sparsities} sparsities, "
        f"{settings.seeds} seeds, {limits} for the limit, {len(settings.baselines)} to beat), {fits:,} regressions "
        f"over {count(frame.material.corpus.clips.height, 'clip')}"
    )
