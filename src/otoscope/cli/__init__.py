"""Command line of otoscope.

`main.main` is the console script. `stages` has the commands that take a configuration, one per stage of
`otoscope.pipeline.STAGES`; `store`, `synth`, `reproduce` and `doctor` have the others. `progress` draws bars,
`summary` prints the results of a run.
"""
