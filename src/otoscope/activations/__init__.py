"""Activations of a pretrained encoder, computed once and kept.

`extract` writes a folder, `ActivationStore` reads it. The folder holds plain safetensors and Parquet:

```
card.json                             what the store is a function of, and its fingerprint (written first)
layer_03/frames-00000.safetensors     tensor "frames" [rows, width]: valid frames of the clips of shard 0
layer_03/pooled-00000.safetensors     tensor "pooled" [clips, width]: mean over each clip's valid frames
layer_03/segments-00000.safetensors   tensor "segments" [segments, width]: mean over the frames of each segment
layer_03/tokens-00000.safetensors     tensor "tokens" [clips, tokens, width]: only from encoders that have some
index/00000.parquet                   a row a frame: clip_id, frame, start_s, end_s, [low_hz, high_hz,] shard, offset
segments/00000.parquet                a row a segment: clip_id, segment, start_s, end_s, frames, shard, offset
shards/00000.json                     clips, set-aside clips, size and SHA-256 of each file of shard 0 (its last file)
clips.parquet                         a row a clip: clip_id, path, shard, pooled_offset, first_offset, frames, sound_s
set_aside.parquet                     a row a clip that could not be used: clip_id, path, reason
manifest.json                         all of the above in numbers and checksums; without it the store is incomplete
```

Clips that come later go into new shards, and the tables of all clips get new names, `clips-1.parquet` and so on: the
manifest says which count. Of a shard, only the clips that the table of clips names count. Clips are sorted by
`clip_id`, the rows of the index by `clip_id` within a shard. A frame lies in row `offset` of its shard's `frames`; the
frames of a clip are the rows `first_offset` to `first_offset + frames`. Times count from the clip's own start.
Nothing but `safetensors` and `polars` is needed to read it:

```python
clip = pl.read_parquet("clips.parquet").row(0, named=True)
with safe_open(f"layer_03/frames-{clip['shard']:05d}.safetensors", framework="pt") as file:
    frames = file.get_slice("frames")[clip["first_offset"] : clip["first_offset"] + clip["frames"]]
times = pl.scan_parquet("index/*.parquet").filter(clip_id=clip["clip_id"]).collect()
```
"""
