export interface ClassAccuracy {
  /** Share of the rows that have their own class. */
  readonly top1: number;
  /** Mean of that share over the classes that have rows. */
  readonly meanPerClass: number;
  readonly perClass: readonly { readonly name: string; readonly images: number; readonly top1: number }[];
}

/** Predicted against true classes; classes without rows are left out of mean and list. */
export function classAccuracy(
  predictions: Int32Array,
  labels: Int32Array,
  classes: readonly string[],
): ClassAccuracy {
  const images = new Int32Array(classes.length);
  const right = new Int32Array(classes.length);
  labels.forEach((label, row) => {
    images[label]!++;
    if (predictions[row] === label) right[label]!++;
  });
  const perClass = classes
    .map((name, c) => ({ name, images: images[c]!, top1: right[c]! / images[c]! }))
    .filter((entry) => entry.images > 0);
  return {
    top1: right.reduce((sum, count) => sum + count, 0) / labels.length,
    meanPerClass: perClass.reduce((sum, entry) => sum + entry.top1, 0) / perClass.length,
    perClass,
  };
}
