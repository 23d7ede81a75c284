/**
 * Layer graphs as trainable layers.
 *
 * {@linkcode interpret} evaluates a graph operation by operation, on any backend: the specification. {@linkcode NormActivation}
 * gives it parameters, moving statistics, a training and an inference form; {@linkcode normActivationLayer} wraps that for
 * Keras-style `tf.layers` models.
 *
 * @module
 */
export { batchMomentNodes, type GraphInputs, interpret, type InterpretOptions } from "./interpret.ts";
export {
  groupCount,
  type LayerSource,
  NormActivation,
  type NormActivationOptions,
  resolveLayer,
} from "./norm_activation.ts";
export { type Parameter, type ParameterKind, Parameters } from "./parameters.ts";
export { type NormActivationConfig, NormActivationLayer, normActivationLayer } from "./keras.ts";
