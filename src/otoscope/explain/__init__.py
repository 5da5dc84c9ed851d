"""Latents: when they fire, and the clips in which they fire.

- `write_activation_index`, `ActivationIndex`: all codes of a dictionary, by clip and by latent
- `top_activations`, `quantile_examples`, `silent_clips`, `near_misses`: rows and clips that show when a latent fires
- `response_curve`, `explained_shares`: activation against pitch, level, formants, ... over frames of unseen groups
- `sweep_latents`: activation while the synthesiser changes one factor and keeps the others fixed; `causal_curves`,
  `crossed_shares`, `curve_agreement`: its statistics
- `temporal_profile`: lag after sound onsets, duration, persistence, modulation spectrum
- `describe_latents`, `score_cards`: when latents fire in words, and blind scores on unseen groups beside controls, all
  tested as one family; `card`: the same of one latent
- `describe_frames`: acoustic descriptors and log-mel spectra at the frames of an encoder
- `splice`: a layer replaced by its reconstruction; `recovered_share`, `score_shares`: its effect on later layers
- `intervene`: change latents at a layer; `mean_effects`, `side_effect`: effects on readouts of concepts
- `fit_readouts`, `concept_targets`: linear readouts of classes and factors; `leace`: erase a concept from frames
- `gain_sums`, `lost_gain`, `diagonal_dominance`: losses of readouts when each concept is erased; `swap_pairs`
- `attribute`, `flipped_by_ablation`: decisions as sums over latents; `MaskedSound`, `occlude`, `occlusion_curves`,
  `retained`: the parts of a sound on which an activation depends
- `firing_by_class`, `co_firing`: firing rates per label or group, and latents that fire together
- `match_indices`, `match_codes`: latents of other seeds, layers, encoders or checkpoints that fire alike;
  `latent_families`: latents of one dictionary that fire together
- `score_labels`: the best latent for each annotated label, beside the layer's own units and clusters
- `annotation_tables`: the scores of `score_labels` for a run, with sound examples
- `choose_latents`, `choose_class_latents`: the best latent of each factor, or of each class of a label, chosen on
  training groups and tested on test groups; `LatentOutcome` is the decision of the test groups
- `top_activating_clips`: the clips in which a latent is strongest
- `spectrogram`, `to_png`: spectrograms as small pictures
- `write_top_clips`, `read_top_clips`: sound, spectrogram and activation of these clips in a run's `explain/`

Start with `otoscope.pipeline.explain`, which combines them.
"""

from otoscope.explain.activation_index import ActivationIndex, Firing
from otoscope.explain.annotated_labels import AnnotatedFrames, Units, score_labels
from otoscope.explain.annotation_tables import AnnotationTables, annotation_tables
from otoscope.explain.artifacts import (
    ActivatingClip,
    Sound,
    TimedCodes,
    TopClips,
    read_top_clips,
    top_activating_clips,
    write_sound,
    write_top_clips,
)
from otoscope.explain.attribution import (
    Decisions,
    MaskedSound,
    OcclusionCurves,
    attribute,
    even_grid,
    flipped_by_ablation,
    occlude,
    occlusion_curves,
    retained,
    rotated_regions,
)
from otoscope.explain.card_scores import (
    CardScore,
    ScoredDescription,
    card,
    embedding_auroc,
    intruder_score,
    score_cards,
)
from otoscope.explain.card_tables import CardTables, card_tables, choose_clips, gather_frames
from otoscope.explain.cards import LatentDescription, describe_latents
from otoscope.explain.causal_curves import (
    CausalCurve,
    SweepTables,
    causal_curves,
    crossed_shares,
    curve_agreement,
    number_of_clips,
    sweep_latents,
)
from otoscope.explain.erasure import (
    Dominance,
    Eraser,
    LostGain,
    diagonal_dominance,
    gain_sums,
    leace,
    lost_gain,
    swap_pairs,
)
from otoscope.explain.firing import (
    Example,
    co_firing,
    example_table,
    firing_by_class,
    near_miss_table,
    near_misses,
    quantile_examples,
    silent_clips,
    top_activations,
)
from otoscope.explain.frame_descriptors import DESCRIPTORS, FrameTable, describe_clips, describe_frames, frame_table
from otoscope.explain.index_writer import index_inputs, write_activation_index
from otoscope.explain.interventions import Effect, intervene, mean_effects, side_effect
from otoscope.explain.latent_choice import LatentChoice, LatentOutcome
from otoscope.explain.matching import LatentFamilies, LatentMatches, latent_families, match_codes, match_indices
from otoscope.explain.readouts import Concept, Readouts, Targets, concept_targets, fit_readouts
from otoscope.explain.response_curves import ResponseCurve, explained_shares, response_curve
from otoscope.explain.selection import choose_class_latents, choose_latents
from otoscope.explain.spectrogram import Spectrogram, spectrogram, to_png
from otoscope.explain.splice import Splice, SpliceScore, recovered_share, score_shares, splice
from otoscope.explain.swept_voices import SWEPT, SweptFactor, VoiceSetting, sing
from otoscope.explain.temporal_profile import TemporalProfile, sound_onsets, temporal_profile

__all__ = [
    "DESCRIPTORS",
    "SWEPT",
    "ActivatingClip",
    "ActivationIndex",
    "AnnotatedFrames",
    "AnnotationTables",
    "CardScore",
    "CardTables",
    "CausalCurve",
    "Concept",
    "Decisions",
    "Dominance",
    "Effect",
    "Eraser",
    "Example",
    "Firing",
    "FrameTable",
    "LatentChoice",
    "LatentDescription",
    "LatentFamilies",
    "LatentMatches",
    "LatentOutcome",
    "LostGain",
    "MaskedSound",
    "OcclusionCurves",
    "Readouts",
    "ResponseCurve",
    "ScoredDescription",
    "Sound",
    "Spectrogram",
    "Splice",
    "SpliceScore",
    "SweepTables",
    "SweptFactor",
    "Targets",
    "TemporalProfile",
    "TimedCodes",
    "TopClips",
    "Units",
    "VoiceSetting",
    "annotation_tables",
    "attribute",
    "card",
    "card_tables",
    "causal_curves",
    "choose_class_latents",
    "choose_clips",
    "choose_latents",
    "co_firing",
    "concept_targets",
    "crossed_shares",
    "curve_agreement",
    "describe_clips",
    "describe_frames",
    "describe_latents",
    "diagonal_dominance",
    "embedding_auroc",
    "even_grid",
    "example_table",
    "explained_shares",
    "firing_by_class",
    "fit_readouts",
    "flipped_by_ablation",
    "frame_table",
    "gain_sums",
    "gather_frames",
    "index_inputs",
    "intervene",
    "intruder_score",
    "latent_families",
    "leace",
    "lost_gain",
    "match_codes",
    "match_indices",
    "mean_effects",
    "near_miss_table",
    "near_misses",
    "number_of_clips",
    "occlude",
    "occlusion_curves",
    "quantile_examples",
    "read_top_clips",
    "recovered_share",
    "response_curve",
    "retained",
    "rotated_regions",
    "score_cards",
    "score_labels",
    "score_shares",
    "side_effect",
    "silent_clips",
    "sing",
    "sound_onsets",
    "spectrogram",
    "splice",
    "swap_pairs",
    "sweep_latents",
    "temporal_profile",
    "to_png",
    "top_activating_clips",
    "top_activations",
    "write_activation_index",
    "write_sound",
    "write_top_clips",
]
