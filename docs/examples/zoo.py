"""A name for a model."""

from bench.inputs.models import Alias

MINE = Alias("hub", "my-org/my-model", seqlen=1024, about="the model of our group")
