"""Activations of pretrained encoders: encoded once, stored on disk, read many times.

- `extract` encodes a corpus and returns an `ActivationStore`; `iter_extract` yields `ExtractionProgress` on the way.
- `ActivationStore` reads pooled clips, frames, times, segments, and `StoredRows` for training.
- `Sharding` and `Segments` configure windows, shards and segments.
- `store_info`, `verify_store`, `collect_garbage`, `compact_store` and `merge_stores` maintain stores.

A store is a folder of safetensors and Parquet files:

```
card.json                             specification and fingerprint of the store (written first)
layer_03/frames-00000.safetensors     tensor "frames" [rows, width]: valid frames of the clips of shard 0
layer_03/pooled-00000.safetensors     tensor "pooled" [clips, width]: mean over each clip's valid frames
layer_03/segments-00000.safetensors   tensor "segments" [segments, width]: mean over each segment's frames
layer_03/tokens-00000.safetensors     tensor "tokens" [clips, tokens, width]: only from encoders with such tokens
index/00000.parquet                   one row per frame: clip_id, frame, start_s, end_s, shard, offset
                                      (and low_hz, high_hz for encoders with frequency bands)
segments/00000.parquet                one row per segment: clip_id, segment, start_s, end_s, frames, shard, offset
shards/00000.json                     clips, set-aside clips, size and SHA-256 per file of shard 0 (its last file)
clips.parquet                         one row per clip: clip_id, path, shard, pooled_offset, first_offset, frames,
                                      sound_s
set_aside.parquet                     one row per unusable clip: clip_id, path, reason
manifest.json                         counts and checksums of all files; a store without it is incomplete
```

Clips added later go into new shards, and the tables of all clips get new names, `clips-1.parquet` and so on; the
manifest names the current ones. A shard may hold clips that the table of clips no longer lists. Clips are sorted by
`clip_id`, the rows of the index by `clip_id` within a shard. A frame is row `offset` of its shard's `frames`; the
frames of a clip are the rows `first_offset` to `first_offset + frames`. Times are relative to the start of the clip.
`safetensors` and `polars` suffice to read a store:

```python
clip = pl.read_parquet("clips.parquet").row(0, named=True)
with safe_open(f"layer_03/frames-{clip['shard']:05d}.safetensors", framework="pt") as file:
    frames = file.get_slice("frames")[clip["first_offset"] : clip["first_offset"] + clip["frames"]]
times = pl.scan_parquet("index/*.parquet").filter(clip_id=clip["clip_id"]).collect()
```
"""

from otoscope.activations.extract import extract as extract
from otoscope.activations.extract import iter_extract as iter_extract
from otoscope.activations.format import Sharding as Sharding
from otoscope.activations.maintain import collect_garbage as collect_garbage
from otoscope.activations.maintain import compact_store as compact_store
from otoscope.activations.maintain import merge_stores as merge_stores
from otoscope.activations.maintain import store_info as store_info
from otoscope.activations.maintain import verify_store as verify_store
from otoscope.activations.progress import ExtractionProgress as ExtractionProgress
from otoscope.activations.segments import Segments as Segments
from otoscope.activations.store import ActivationStore as ActivationStore
from otoscope.activations.store import StoredRows as StoredRows
