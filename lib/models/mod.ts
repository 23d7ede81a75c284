/**
 * Convolutional networks that take any layer graph as their normalization-activation.
 *
 * {@linkcode resnet} is the CIFAR form of the pre-activation ResNet, an anchor architecture of the search.
 *
 * @module
 */
export { type ImageModel, parameterCount } from "./model.ts";
export { resnet, type ResNetConfig } from "./resnet.ts";
