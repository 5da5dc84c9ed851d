"""Pretrained audio encoders behind one interface.

Start with `load_encoder("openai/whisper-tiny.en")`; `encode(waves, layers)` returns hidden states and a mask.

- `load_encoder`: load a folder, a Hub model or the offline starter model; `FAMILIES` and `MODELS` list what is known
- `Encoder`: the interface; `Layer`, `Frames` and `Encoded` are its layer geometry, frame positions and batch of states
- `BatchedEncoder`: base class for a new family; `Runtime` holds device, threads and precision
- `wrap_encoder`: any PyTorch module as an encoder
- `capture`: activations at any named sub-module of any model
- `reinitialise`: the same architecture with newly drawn weights, a baseline
- `families`: one module per architecture; `precision`: exact float32 or fast bfloat16
- `resolve`, `starter`: the folder of a model identifier; the offline starter model
"""

from otoscope.encoders.base import BatchedEncoder as BatchedEncoder
from otoscope.encoders.base import Encoded as Encoded
from otoscope.encoders.base import Encoder as Encoder
from otoscope.encoders.base import Frames as Frames
from otoscope.encoders.base import Layer as Layer
from otoscope.encoders.base import Runtime as Runtime
from otoscope.encoders.base import States as States
from otoscope.encoders.base import frame_spans as frame_spans
from otoscope.encoders.catalog import FAMILIES as FAMILIES
from otoscope.encoders.catalog import MODELS as MODELS
from otoscope.encoders.catalog import KnownModel as KnownModel
from otoscope.encoders.catalog import load_encoder as load_encoder
from otoscope.encoders.catalog import reinitialise as reinitialise
from otoscope.encoders.custom import WrappedEncoder as WrappedEncoder
from otoscope.encoders.custom import wrap_encoder as wrap_encoder
from otoscope.encoders.hooks import Capture as Capture
from otoscope.encoders.hooks import capture as capture
