"""What only shows once all representations are measured: structure, curves, seeds, layers, limits."""

from dataclasses import replace

from otoscope.artifacts import fingerprint
from otoscope.evaluate.record import Record
from otoscope.evaluate.robust import effective_rank
from otoscope.pipeline.grid import Member
from otoscope.pipeline.parts import Made, Part, arrays_of
from otoscope.pipeline.strict.frame import Frame, dictionary_columns
from otoscope.protocols import strict
from otoscope.protocols.strict.factors import counted
from otoscope.protocols.strict.measure import Measured
from otoscope.protocols.strict.names import CODES, DENSE
from otoscope.protocols.strict.reading import well_read
from otoscope.protocols.strict.structure import Common, common_factors, mean_curve, structure


def compare(
    frame: Frame,
    dense: dict[int, Part],
    layer: int,
    seeds: list[Member],
    of_seeds: list[Part],
    baselines: dict[str, Part],
    limits: dict[Member, Part],
) -> list[Part]:
    """Return the parts that put representations side by side."""
    if not frame.asked.names:
        return []
    rests_on = [part.inputs for part in (dense[layer], *of_seeds, *baselines.values())]

    def sides() -> Made:
        folder = frame.run.folder.parts
        main = Measured.of(arrays_of(folder, dense[layer]))
        codes = [Measured.of(arrays_of(folder, part)) for part in of_seeds]
        others = {name: Measured.of(arrays_of(folder, part)) for name, part in baselines.items()}
        common = _common(frame, main, codes)
        null = others.get("permuted")
        records = list(counted(frame.asked, frame.about(DENSE, layer)))
        for found, about in (
            (main, frame.about(DENSE, layer)),
            *(
                (m, replace(frame.about(CODES, layer), **dictionary_columns(s)))
                for m, s in zip(codes, seeds, strict=True)
            ),
            *((others[name], replace(frame.about(name, layer), pooling=frame.pooling)) for name in others),
        ):
            records += structure(found, common, about, null=null if about.representation == CODES else None)
            records += _shares(found, frame, about)
            records += _curves(found, common, frame, about)
        return Made(records, {"common": common.mask})

    inputs = fingerprint(frame.shared, rests_on, frame.settings.min_r2)
    return [Part(f"{strict.NAME}/structure", inputs, sides)]


def _common(frame: Frame, dense: Measured, codes: list[Measured]) -> Common:
    mask = common_factors(dense, codes, min_r2=frame.settings.min_r2)
    train = frame.asked.split == "train"
    rank = effective_rank(frame.asked.values[train][:, mask]) if mask.any() else 0.0
    return Common(mask, frame.asked.names, rank)


def _shares(found: Measured, frame: Frame, about: Record) -> list[Record]:
    """Say what share of all factors asked is predicted well."""
    read = well_read(found.reading, frame.settings.min_r2)
    by_null = well_read(found.reading._replace(r2=found.reading.null_high), frame.settings.min_r2)
    groups = int(found.reading.groups.max(initial=0))
    whole = replace(about, metric="predicted_share", n=len(read), groups=groups)
    return [replace(whole, value=float(read.mean()), null_mean=float(by_null.mean()))]


def _curves(found: Measured, common: Common, frame: Frame, about: Record) -> list[Record]:
    real, null = mean_curve(found.curve, common), mean_curve(found.curve_null, common)
    groups = int(found.reading.groups.max(initial=0))
    return [
        replace(
            about, metric="sparse_r2", k=size, value=point.value, low=point.low, high=point.high,
            null_mean=floor.value, n=int(common.mask.sum()), groups=groups,
        )
        for size, point, floor in zip(frame.settings.sizes, real, null, strict=True)
    ]  # fmt: skip
