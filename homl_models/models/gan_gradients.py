"""Gradients for two networks with an optimizer each, on TensorFlow and on JAX.

Keras' `fit` takes the gradient of one loss by all weights. A `gan.GAN` needs the gradients of two losses, each by the
weights of one network, and the gradient penalty the gradient of a logit by the image.
"""

import keras

from homl_models import devices


def input_gradient(function, x):
    """The gradient of a scalar function by its input, itself differentiable."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function)(x)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def loss_gradients(function, weights, variables, scale):
    """Gradients of scale * loss / replicas by `weights`, which the optimizer adds up, and the output of `function`.

    Args:
        function: () -> (loss, anything else), called once.
        weights: variables.
        variables: all that the function may read or change.
        scale: a scalar, for mixed precision.
    """
    if keras.backend.backend() == "jax":
        return _jax_loss_gradients(function, weights, variables, scale)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        outputs = function()
        scaled = outputs[0] * scale / devices.num_replicas()
    return tape.gradient(scaled, [weight.value for weight in weights]), outputs


def gradient_step(function, weights, variables, optimizer):
    """A step of `optimizer` on the loss of `function` -> its output; arguments as in `loss_gradients`."""
    scale = optimizer.scale_loss(keras.ops.ones(()))
    gradients, outputs = loss_gradients(function, weights, variables, scale)
    optimizer.apply(gradients, weights)
    return outputs


def _jax_loss_gradients(function, weights, variables, scale):
    """The function runs in a scope of its own, on copies; then the variables get the values that it left."""
    import jax

    chosen = {id(weight) for weight in weights}
    others = [variable for variable in variables if id(variable) not in chosen]
    before = [(variable, variable.value) for variable in others]

    def pure(values):
        with keras.StatelessScope(state_mapping=[*zip(weights, values), *before]) as scope:
            outputs = function()
        return outputs[0] * scale, (outputs, [scope.get_current_value(variable) for variable in others])

    gradients, (outputs, after) = jax.grad(pure, has_aux=True)([weight.value for weight in weights])
    for variable, value in zip(others, after):
        variable.assign(value)
    return gradients, outputs


def stateless_step(model, step, state, data):
    """`step(data)` in the form that Keras' trainer on JAX calls: (logs, state), where `state` holds all variables.

    On evaluation the optimizer's are not among them.
    """
    groups = [model.trainable_variables, model.non_trainable_variables, model.metrics_variables]
    if len(state) > len(groups):
        groups.insert(2, model.optimizer.variables)
    pairs = [pair for group, values in zip(groups, state) for pair in zip(group, values)]
    with keras.StatelessScope(state_mapping=pairs) as scope:
        logs = step(data)
    return logs, tuple([scope.get_current_value(variable) for variable in group] for group in groups)
