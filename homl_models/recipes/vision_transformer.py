"""Base classes of the recipes of vision Transformers: the sizes of the model, its optimizer, a model to start from."""

import dataclasses
import functools
import warnings
from typing import ClassVar

from homl_models.errors import UserError
from homl_models.recipes.recipe import Recipe, positive, rate

SIZES = "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size"


@dataclasses.dataclass(frozen=True)
class VisionTransformer(Recipe):
    """Settings of BEiT: the size of the model and the optimizer. A subclass has `channels`, of images."""

    size: int = 64
    """Height and width that the model sees, a multiple of --patch-size. Image files are brought to --stored-size."""
    batch_size: int = 64
    steps_per_execution: int = 5
    """Training steps per call of the compiled function; more costs less time."""
    patch_size: int = 8
    """Height and width of a patch."""
    hidden_size: int = 192
    """Size of a patch's hidden states."""
    num_hidden_layers: int = 6
    """Blocks of the Transformer."""
    num_attention_heads: int = 3
    """Attention heads of a block."""
    intermediate_size: int = 768
    """Hidden units of the feed-forward networks."""
    drop_path: float = 0.1
    """Stochastic depth: probability to skip the last block; of earlier ones it is less."""
    warmup: float = 0.1
    """Fraction of the training in which the learning rate rises; then it falls, as a cosine, to 0."""
    decay: float = 0.05
    """Weight decay, of all but biases and normalizations."""
    layer_decay: ClassVar[float] = 1.0

    def __post_init__(self):
        super().__post_init__()
        positive(**{name: getattr(self, name) for name in (*SIZES, "size", "steps_per_execution")})
        rate(drop_path=self.drop_path, warmup=self.warmup)
        if self.size % self.patch_size:
            raise UserError(f"--patch-size {self.patch_size} does not divide --size {self.size}")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"--num-attention-heads {self.num_attention_heads} does not divide --hidden-size {self.hidden_size}"
            )
        if self.decay < 0:
            raise UserError("--decay must be 0 or more")

    def config(self, **settings):
        """A new `BeitConfig`."""
        from homl_models.models.vit_config import BeitConfig

        sizes = {name: getattr(self, name) for name in SIZES}
        own = {"image_size": self.size, "num_channels": self.channels, "drop_path_rate": self.drop_path}
        return BeitConfig(**sizes, **own, layer_norm_eps=1e-6, **settings)

    def optimizer(self, steps):
        from homl_models.optimizers import LayerwiseAdamW
        from homl_models.schedules import WarmUp

        schedule = WarmUp(self.learning_rate, steps, int(self.warmup * steps), "cosine")
        layers = {"num_layers": self.num_hidden_layers, "layer_decay": self.layer_decay, "head_distance": 1}
        return LayerwiseAdamW(schedule, self.decay, **layers, global_clipnorm=3.0)

    def compile_kwargs(self):
        jit_compile = self.precision == "float32" or "auto"  # XLA has no fast products in half precision on a CPU
        return {"jit_compile": jit_compile, "steps_per_execution": self.steps_per_execution}


@dataclasses.dataclass(frozen=True)
class FineTunedTransformer(VisionTransformer):
    """Settings of a BEiT with a head that is trained on labels, from pre-training or from scratch."""

    start: str = ""
    """Start from this model: a run of beit_pretrain or beit_classify, or the folder (or name) of a Hugging Face model.
    Empty: from scratch."""
    layer_decay: float = 0.75
    """Learning rate of each block as a fraction of that of the block above it; 1 is without."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"--layer-decay must lie in (0, 1], not {self.layer_decay}")

    @functools.cached_property
    def start_model(self):
        """The model of --start."""
        from homl_models import loading
        from homl_models.checkpoints import huggingface

        try:
            loading.find(self.start)
        except UserError:
            return huggingface.from_pretrained(self.start)
        return loading.load(self.start)

    def head(self, head_class, arguments, **fields):
        """A new head, on the backbone of --start or a new one; a table of relative positions in each block.

        arguments: of the head. fields: of the configuration.
        """
        from homl_models.models.beit import Beit

        if self.start:
            return self.with_start(head_class, arguments | fields)
        config = self.config(use_relative_position_bias=True, **fields)
        backbone = Beit(config, add_pooling_layer=head_class.uses_pooler, dtype=self.precision)
        return head_class(backbone, **arguments, dtype=self.precision)

    def with_start(self, head_class, settings):
        """A new head on the backbone of --start; the tables of relative positions are from the shared one."""
        from homl_models.checkpoints import huggingface
        from homl_models.models.beit import Beit

        model = getattr(self.start_model, "pretrained_head", self.start_model)
        backbone = getattr(model, "backbone", model)
        if not isinstance(backbone, Beit):
            raise UserError(f"{self.start} is a {type(model).__name__}, no BEiT; give a run of beit_pretrain")
        self.check_start(backbone.config)
        position = {"use_relative_position_bias": True, "use_shared_relative_position_bias": False}
        settings |= position | {"use_mask_token": False, "image_size": self.size, "drop_path_rate": self.drop_path}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*newly initialized.*")  # as this head is
            return huggingface.replace_head(self.start_model, head_class, **settings, dtype=self.precision)

    def check_start(self, config):
        """`UserError` unless the sizes of the model of --start are those of this recipe."""
        flags = {field.name for field in dataclasses.fields(self)}
        for field, flag in {**{name: name for name in SIZES}, "num_channels": "channels"}.items():
            if (wanted := getattr(config, field)) != (own := getattr(self, flag)):
                if flag not in flags:
                    raise UserError(f"{self.start} takes images of {wanted} channels; {own} are needed")
                raise UserError(f"give --{flag.replace('_', '-')} {wanted}, as {self.start} has it")
