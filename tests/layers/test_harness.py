"""Every layer of the package passes the harness that Keras has for its own; a layer without a row here is refused.

`run_layer_test`: the configuration as JSON and back, building by shape, symbolic and eager calls of the same shapes,
one compiled step of training, float16 with variables of float32. A new layer needs a row in `ROWS`.
"""

import atexit
import importlib
import inspect
import pkgutil
import shutil
import tempfile

import keras
import pytest
from keras.src import testing

from homl_models import layers, models
from homl_models.layers.attention import Attention, DecoderBlock, EncoderBlock, MultiHeadAttention
from homl_models.layers.dense import Dense
from homl_models.layers.dropout import Dropout, DropPath
from homl_models.layers.gaussian import GaussianNoise, Sampling
from homl_models.layers.gumbel import GumbelSoftmax
from homl_models.layers.hub import HubLayer
from homl_models.layers.masking import AttentionPooling, MaskedConv1D
from homl_models.layers.minibatch import MinibatchStddev
from homl_models.layers.normalization import GroupNormalization
from homl_models.layers.positional import LearnedPositionalEmbedding, PositionalEncoding
from homl_models.layers.prelu import PReLU
from homl_models.layers.recurrent import GRU, LSTM
from homl_models.layers.spectral import SpectralNormConv2D
from homl_models.layers.tied import DenseTranspose
from homl_models.layers.transformer_block import LayerScale
from homl_models.models.bert_config import BertConfig
from homl_models.models.bert_layers import BertBlock, BertEmbeddings, RelativeAttention
from homl_models.models.dvae_networks import BottleneckBlock, ConvDecoder, ConvEncoder, DalleDecoder, DalleEncoder
from homl_models.models.gan_networks import Discriminator, Generator
from homl_models.models.rrdb import RRDB, ResidualDenseBlock
from homl_models.models.segmentation_layers import FCN, ConvNormRelu, FeaturePyramid, UPerNet
from homl_models.models.srresnet import SRResidualBlock
from homl_models.models.unet import AttentionBlock, ResidualBlock, SeparableUNet, UNet
from homl_models.models.vit_config import BeitConfig, DeiTConfig, ViTConfig
from homl_models.models.vit_layers import PatchEmbedding, ViTBlock, ViTEmbeddings
from tests.layers import hub_modules


def built_dense():
    """8 -> 5; `DenseTranspose` takes it."""
    dense = keras.layers.Dense(5)
    dense.build((None, 8))
    return dense


def hub_module():
    """The folder of a module of images; `HubLayer` loads it."""
    folder = tempfile.mkdtemp(prefix="homl_models_hub_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return hub_modules.save_image(folder)


WHOLE = "ids", "timesteps", "labels"  # inputs that are whole numbers


def row(settings, inputs, output, weights=0, seeds=0, frozen=0, masks=True):
    """A layer, as arguments of `run_layer_test`.

    inputs: the shape of the input, or {name: shape} of several arguments. output: the shape, or shapes, that come out.
    weights, frozen: how many weights are trained, and are not; None for as many as after a call.
    seeds: generators of random numbers. masks: whether it passes masks on.
    """
    several = isinstance(inputs, dict)
    return {
        "init_kwargs": settings,
        "input_shape": tuple(inputs.values()) if several else inputs,
        "input_dtype": tuple("int32" if name in WHOLE else "float32" for name in inputs) if several else None,
        "expected_output_shape": output,
        "expected_num_trainable_weights": weights,
        "expected_num_non_trainable_weights": frozen,
        "expected_num_non_trainable_variables": None if frozen is None else frozen + seeds,
        "expected_num_seed_generators": seeds,
        "expected_num_losses": 0,
        "supports_masking": masks,
    }, (tuple(inputs) if several else ())


PIXELS = {"image_mean": 0.5, "image_std": 0.5}
BERT = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
DECODER = {"is_decoder": True, "add_cross_attention": True}
VISION = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
VISION |= {"image_size": 8, "patch_size": 4, "num_channels": 1}
BLOCK = {"dim": 8, "num_heads": 2, "hidden_units": 12}
TEXT, MEMORY, MAPS, IMAGES = (2, 5, 8), (2, 3, 8), (2, 4, 4, 8), (2, 8, 8, 1)
PYRAMID = tuple((2, n, n, 8) for n in (16, 8, 4, 2))
NOISY = {"images": IMAGES, "timesteps": (2,), "labels": (2,)}
ROWS = {
    Attention: [
        row({}, {"query": TEXT, "memory": MEMORY}, (TEXT, (2, 5, 3))),
        row({"score": "general"}, {"query": (2, 5, 6), "memory": MEMORY}, (TEXT, (2, 5, 3)), 1),
        row({"score": "concat", "units": 4}, {"query": (2, 5, 6), "memory": MEMORY}, (TEXT, (2, 5, 3)), 3),
    ],
    MultiHeadAttention: [
        row({"dim": 8, "num_heads": 2, "dropout": 0.1}, TEXT, TEXT, 8, 1),
        row({"dim": 8, "num_heads": 2, "head_dim": 3, "use_bias": False}, {"query": TEXT, "memory": (2, 7, 6)}, TEXT,
            4),
    ],
    EncoderBlock: [
        row(BLOCK, TEXT, TEXT, 16, 2),
        row(BLOCK | {"pre_norm": True, "attention_dropout": 0.1, "activation": "gelu"}, TEXT, TEXT, 16, 3),
    ],
    DecoderBlock: [row(BLOCK, {"x": TEXT, "memory": MEMORY}, TEXT, 26, 3)],
    Dense: [
        row({"units": 4, "activation": "relu"}, (2, 8), (2, 4), 2),
        row({"units": 4, "use_bias": False}, MAPS, (2, 4, 4, 4), 1),
    ],
    Dropout: [
        row({"rate": 0.5, "seed": 1}, TEXT, TEXT, seeds=1),
        row({"rate": 0.5, "noise_shape": (None, 1, 8)}, TEXT, TEXT, seeds=1),
    ],
    DropPath: [row({"rate": 0.5, "seed": 1}, TEXT, TEXT, seeds=1)],
    LayerScale: [row({"initial_value": 0.5}, TEXT, TEXT, 1)],
    GaussianNoise: [row({"stddev": 1.5, "seed": 1}, TEXT, TEXT, seeds=1)],
    Sampling: [row({"seed": 1}, ((2, 3), (2, 3)), (2, 3), seeds=1)],
    GumbelSoftmax: [
        row({"seed": 1}, MAPS, MAPS, seeds=1),
        row({"straight_through": True}, TEXT, TEXT, seeds=1),
    ],
    MaskedConv1D: [
        row({"filters": 3, "kernel_size": 2, "activation": None}, TEXT, (2, 3, 3), 2),
        row({"filters": 4, "kernel_size": 3}, (2, 6, 8), (2, 2, 4), 2),
    ],
    AttentionPooling: [row({"units": 5}, TEXT, (2, 8), 3)],
    HubLayer: [
        row({"handle": hub_module(), "trainable": True}, (2, 4, 4, 3), (2, 4), 1, masks=False),
    ],
    MinibatchStddev: [row({}, MAPS, (2, 4, 4, 9)), row({}, (4, 6), (4, 7))],
    GroupNormalization: [
        row({"groups": 2}, MAPS, MAPS, 2),
        row({"groups": -1, "scale": False}, MAPS, MAPS, 1),
        row({"groups": 2, "axis": 1}, MAPS, MAPS, 2),
    ],
    PReLU: [row({"slope": 0.1}, MAPS, MAPS, 1)],
    SpectralNormConv2D: [
        row({"filters": 5, "kernel_size": (3, 3), "padding": "same"}, MAPS, (2, 4, 4, 5), 2, frozen=1, masks=False),
    ],
    PositionalEncoding: [row({"max_wavelength": 100.0}, TEXT, TEXT)],
    LearnedPositionalEmbedding: [row({"max_length": 7}, TEXT, TEXT, 1)],
    GRU: [
        row({"units": 4}, TEXT, (2, 4), 3, 1),
        row({"units": 4, "return_sequences": True, "dropout": 0.1, "go_backwards": True}, TEXT, (2, 5, 4), 3, 1),
        row({"units": 4, "reset_after": False}, TEXT, (2, 4), 3, 1),
    ],
    LSTM: [
        row({"units": 4}, TEXT, (2, 4), 3, 1),
        row({"units": 4, "return_sequences": True, "return_state": True}, TEXT, ((2, 5, 4), (2, 4), (2, 4)), 3, 1),
    ],
    DenseTranspose: [row({"dense": built_dense(), "activation": "relu"}, (2, 3, 5), (2, 3, 8), 3)],
    BertEmbeddings: [
        row({"config": BertConfig(**BERT)}, {"ids": (2, 5)}, TEXT, 5, 1),
        row({"config": BertConfig(**BERT, position_embedding_type="relative_key")}, {"ids": (2, 5)}, TEXT, 4, 1),
    ],
    RelativeAttention: [
        row({"dim": 8, "num_heads": 2, "position_embedding_type": name, "max_distance": 7}, TEXT, TEXT, 9)
        for name in ("relative_key", "relative_key_query")
    ],
    BertBlock: [
        row({"config": BertConfig(**BERT, chunk_size_feed_forward=2)}, {"x": TEXT}, (TEXT, (2, 2, 5, 5)), 16, 3),
        row({"config": BertConfig(**BERT, **DECODER, gradient_checkpointing=True)},
            {"x": TEXT, "encoder_hidden_states": MEMORY},
            (TEXT, (2, 2, 5, 5), (2, 2, 5, 3)), 26, 5),
    ],
    PatchEmbedding: [row({"config": ViTConfig(**VISION)}, IMAGES, (2, 4, 8), 2)],
    ViTEmbeddings: [
        row({"config": DeiTConfig(**VISION, **PIXELS)}, {"images": IMAGES}, (2, 6, 8), 5),
        row({"config": BeitConfig(**VISION, use_mask_token=True)},
            {"images": IMAGES, "bool_masked_pos": (2, 4)}, TEXT, 4),
    ],
    ViTBlock: [
        row({"config": ViTConfig(**VISION, qkv_bias=False)}, {"x": TEXT}, (TEXT, (2, 2, 5, 5)), 13),
        row({"config": BeitConfig(**VISION, use_relative_position_bias=True), "index": 1},
            {"x": TEXT}, (TEXT, (2, 2, 5, 5)), 18, 2),
    ],
    ConvNormRelu: [
        row({"config": BeitConfig(**VISION), "units": 4, "kernel_size": 3}, MAPS, (2, 4, 4, 4), 3, frozen=2),
    ],
    FeaturePyramid: [row({"config": BeitConfig(**VISION), "epsilon": 1e-3}, (MAPS,) * 4, PYRAMID, 8, frozen=2)],
    UPerNet: [
        row({"config": BeitConfig(**VISION, pool_scales=(1, 2)), "num_labels": 3}, PYRAMID, (2, 16, 16, 3), 32,
            frozen=20),
    ],
    FCN: [
        row({"config": BeitConfig(**VISION, auxiliary_channels=4, auxiliary_concat_input=True), "num_labels": 3},
            MAPS, (2, 4, 4, 3), 8, frozen=4),
    ],
    ResidualBlock: [
        row({"filters": 8, "dropout": 0.1}, {"maps": MAPS, "condition": (2, 6)}, MAPS, 10, 1),
        row({"filters": 16}, {"maps": MAPS, "condition": (2, 6)}, (2, 4, 4, 16), 12),
    ],
    ResidualDenseBlock: [row({"filters": 8, "growth": 4}, MAPS, MAPS, 10)],
    RRDB: [row({"filters": 8, "growth": 4}, MAPS, MAPS, 30)],
    SRResidualBlock: [
        row({"filters": 8}, MAPS, MAPS, 9, frozen=4),
        row({"filters": 8, "batch_norm": False, "activation": "relu", "gain": 0.1}, MAPS, MAPS, 4),
    ],
    AttentionBlock: [row({"num_heads": 2}, MAPS, MAPS, 10)],
    UNet: [
        row({"filters": (8, 16), "attention_levels": (), "num_classes": 3, "dropout": 0.1}, NOISY, IMAGES, None, 6),
    ],
    SeparableUNet: [
        row({"filters": (4, 8), "time_dim": 8, "num_classes": 3}, NOISY, IMAGES, None, 0, frozen=None),
    ],
    BottleneckBlock: [
        row({"filters": 8, "hidden_filters": 2, "gain": 0.1}, MAPS, MAPS, 8),
        row({"filters": 6, "hidden_filters": 3, "kernel_sizes": (3, 1)}, MAPS, (2, 4, 4, 6), 6),
    ],
    ConvEncoder: [row({"vocab_size": 5, "dim": 8, "num_blocks": 1}, IMAGES, (2, 1, 1, 5), 12)],
    ConvDecoder: [row({"output_channels": 2, "vocab_size": 8, "dim": 8, "num_blocks": 1}, MAPS, (2, 32, 32, 2), 14)],
    DalleEncoder: [row({"vocab_size": 5, "dim": 4, "num_blocks": 1}, IMAGES, (2, 1, 1, 5), 42)],
    DalleDecoder: [row({"output_channels": 2, "vocab_size": 8, "dim": 4, "num_blocks": 1}, MAPS, (2, 32, 32, 2), 44)],
    Generator: [
        row({"coding_size": 3, "image_shape": IMAGES[1:], "hidden_units": (6, 5)}, (2, 3), IMAGES, 6),
        row({"coding_size": 3, "image_shape": IMAGES[1:], "filters": (6, 5)}, (2, 3), IMAGES, 10, frozen=4),
    ],
    Discriminator: [
        row({"image_shape": IMAGES[1:], "hidden_units": (6, 5)}, IMAGES, (2,), 6, 2),
        row({"image_shape": IMAGES[1:], "filters": (5, 6), "num_classes": 3, "minibatch_stddev": True},
            {"images": IMAGES, "labels": (2,)}, (2,), 7, 2),
    ],
}  # fmt: skip


def layer_classes():
    """Layers of the layers' modules, and those of the models' modules that can be saved."""
    found = set()
    for package in (layers, models):
        for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            module = importlib.import_module(info.name)
            for name, cls in inspect.getmembers(module, inspect.isclass):
                own = cls.__module__ == module.__name__ and not name.startswith("_")
                saved = keras.saving.get_registered_name(cls) != name
                if own and issubclass(cls, keras.layers.Layer) and not issubclass(cls, keras.Model):
                    called = cls.call is not keras.layers.Layer.call  # or else it is a base class
                    found |= {cls} if called and (saved or package is layers) else set()
    return found


def joined(cls, names):
    """The layer with one argument, a tuple of its inputs, as the harness' training test wants it."""

    class Joined(cls):
        def build(self, shapes):
            super().build(*shapes[: len(inspect.signature(cls.build).parameters) - 1])

        def call(self, inputs, training=None):
            more = {"training": training} if "training" in inspect.signature(cls.call).parameters else {}
            outputs = super().call(**dict(zip(names, inputs)), **more)
            # a block of BERT without cross-attention has None instead of its weights
            return tuple(x for x in outputs if x is not None) if isinstance(outputs, tuple) else outputs

    return Joined


def plain(setting):
    """As saved; a function by its name."""
    saved = keras.saving.serialize_keras_object(setting)
    return saved["config"] if isinstance(saved, dict) and saved.get("class_name") == "function" else saved


def test_every_layer_has_a_row_and_a_name_of_its_own():
    assert len({cls.__name__ for cls in layer_classes()}) == len(layer_classes())
    assert {cls.__name__ for cls in layer_classes()} == {cls.__name__ for cls in ROWS}


@pytest.mark.filterwarnings(
    "ignore:The model does not have any trainable weights",
    "ignore:Gradients do not exist",
    "ignore:`shuffle=True` was passed",
)
@pytest.mark.parametrize(
    ("cls", "settings", "names"),
    [pytest.param(cls, *row, id=f"{cls.__name__}_{i}") for cls, rows in ROWS.items() for i, row in enumerate(rows)],
)
def test_harness(cls, settings, names):
    config = cls(**settings["init_kwargs"]).get_config()
    for name, value in settings["init_kwargs"].items():
        assert plain(config[name]) == plain(value), name
    cls = joined(cls, names) if names else cls
    testing.TestCase().run_layer_test(cls, **settings, custom_objects={"Joined": cls})
