"""The writer of modules of TensorFlow Hub: a text encoder as a reusable SavedModel, which can be trained on.

The interface is https://www.tensorflow.org/hub/reusable_saved_models: `module(texts, training=False)` -> vectors, with
`trainable_variables`, `variables` and `regularization_losses`; also a signature serving_default, texts -> vectors.
`layers/hub.py` reads such modules.
"""

from homl_models import loading
from homl_models.checkpoints import huggingface
from homl_models.errors import UserError
from homl_models.training import files


def export_hub(run, to):
    """Write the encoder of `run` (run folder, .keras file or Hugging Face folder) as a module to the new folder `to`.

    `UserError` for models without an encoder of texts, and without a vocabulary.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise UserError("modules of TensorFlow Hub need TensorFlow: set KERAS_BACKEND to tensorflow")
    model = text_embedder(run)
    assert model.tokenizer  # UserError without a vocabulary
    with files.atomic_write(to) as aside:
        write_module(model, aside)


def text_embedder(run):
    """The encoder of `run` as a `TextEmbedder`, in float32: one as it is, of another model the mean of its tokens."""
    from homl_models.models.bert_heads import TextEmbedder

    if not str(run).endswith(".keras"):
        try:
            loading.find(run)
        except UserError:
            return huggingface.from_pretrained(run, TextEmbedder)
    model = loading.load(run)
    if huggingface.family_of(getattr(model, "pretrained_head", model)) is None:
        raise UserError(f"{run} is a {type(model).__name__}, which is no encoder of texts: give a BERT or an ELECTRA")
    return huggingface.replace_head(model, TextEmbedder, dtype="float32")


def write_module(model, folder):
    """Write a `TextEmbedder` as a module to a new folder."""
    import tensorflow as tf

    from homl_models.models.text_model import model_inputs

    def embed(texts, training=False):
        return model(model_inputs(model.tf_tokenize(texts, truncate=True)), training=training)

    texts = tf.TensorSpec([None], tf.string, name="texts")
    module, call = tf.train.Checkpoint(), tf.function(embed, autograph=False)
    for training in (False, True):
        call.get_concrete_function(texts, training=training)
    module.__call__ = call
    module.variables = [variable.value for variable in model.variables]
    module.trainable_variables = [variable.value for variable in model.trainable_variables]
    module.regularization_losses = []
    serve = tf.function(lambda texts: {"vectors": call(texts)}, input_signature=[texts], autograph=False)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, str(folder), {"serving_default": serve}, options)
