import * as tf from "@tensorflow/tfjs";

/**
 * Registers the filter gradient of regular convolutions on the wasm backend, which lacks it: the product of the input shifted to each
 * place of the kernel with dy.
 */
export function registerConvolutionGradients(): void {
  tf.registerKernel({
    kernelName: "Conv2DBackpropFilter",
    backendName: "wasm",
    kernelFunc: ({ inputs, attrs }) => {
      const { x, dy } = inputs as unknown as Record<"x" | "dy", tf.Tensor4D>;
      const { strides, pad, dilations, filterShape } = attrs as unknown as {
        strides: number | [number, number];
        dilations?: number | [number, number];
        pad: "same" | "valid" | number;
        filterShape: [number, number, number, number];
      };
      const info = tf.backend_util.computeConv2DInfo(x.shape, filterShape, strides, dilations ?? 1, pad);
      const { padInfo, outHeight, outWidth, strideHeight, strideWidth, dilationHeight, dilationWidth } = info;
      const [kernelHeight, kernelWidth, input, output] = filterShape;
      const gradient = tf.tidy(() => {
        const padded = tf.pad(x, [[0, 0], [padInfo.top, padInfo.bottom], [padInfo.left, padInfo.right], [
          0,
          0,
        ]]);
        const rows = dy.reshape<tf.Tensor2D>([-1, output]);
        const places: tf.Tensor[] = [];
        for (let i = 0; i < kernelHeight; i++) {
          for (let j = 0; j < kernelWidth; j++) {
            const begin = [0, i * dilationHeight, j * dilationWidth, 0];
            const end = [
              x.shape[0],
              begin[1]! + (outHeight - 1) * strideHeight + 1,
              begin[2]! + (outWidth - 1) * strideWidth + 1,
              input,
            ];
            const shifted = tf.stridedSlice(padded, begin, end, [1, strideHeight, strideWidth, 1]);
            places.push(tf.matMul(tf.transpose(shifted.reshape([-1, input])), rows));
          }
        }
        return tf.stack(places).reshape(filterShape);
      });
      // The scope that asked for this kernel owns the result: give up the tensor made here, keep its data.
      tf.backend().incRef(gradient.dataId);
      gradient.dispose();
      return { dataId: gradient.dataId, shape: filterShape, dtype: "float32" };
    },
  });
}
