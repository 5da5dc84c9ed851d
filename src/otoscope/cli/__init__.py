"""Command line of otoscope.

`main.main` is the console script. `stages` has the commands that take a configuration, one per stage of
`otoscope.pipeline.STAGES`; `store`, `synth`, `reproduce` and `doctor` have the others. `summary` prints the results
of a run.
"""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON line on standard output.")]
