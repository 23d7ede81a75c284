/** A box to place: its width on paper and the earlier boxes that its edges come from. */
export interface Box {
  readonly width: number;
  readonly inputs: readonly number[];
}

/** A layered drawing. */
export interface Layout {
  /** Per box the centre x and the layer, counted from the bottom. */
  readonly boxes: readonly { readonly x: number; readonly layer: number }[];
  /** Per box and input, the x of the edge in each layer that it passes through on its way up. */
  readonly bends: readonly (readonly (readonly number[])[])[];
  readonly width: number;
  readonly layers: number;
}

/** A box, or the place where an edge passes through a layer. */
interface Slot {
  readonly width: number;
  readonly layer: number;
  readonly below: Slot[];
  readonly above: Slot[];
  x: number;
}

const gap = 22;
const laneWidth = 6;
const sweeps = 12;

/**
 * Places boxes in layers, each above all of its inputs, by Sugiyama's method: layers by longest path, order by
 * barycentre, then positions that pull edges straight. Boxes come after their inputs.
 */
export function layered(boxes: readonly Box[]): Layout {
  const slots: Slot[] = [];
  const lanes: Slot[][] = [];
  const bends: Slot[][][] = [];
  for (const { width, inputs } of boxes) {
    const slot = newSlot(width, 1 + Math.max(-1, ...inputs.map((input) => slots[input]!.layer)));
    bends.push(inputs.map((input) => connect(slots[input]!, slot, lanes[input]!)));
    slots.push(slot);
    lanes.push([]);
  }
  const layers: Slot[][] = [];
  for (const slot of [...slots, ...lanes.flat()]) (layers[slot.layer] ??= []).push(slot);
  arrange(layers);
  const all = layers.flat();
  const left = Math.min(...all.map((slot) => slot.x - slot.width / 2));
  const right = Math.max(...all.map((slot) => slot.x + slot.width / 2));
  return {
    boxes: slots.map(({ x, layer }) => ({ x: x - left, layer })),
    bends: bends.map((edges) => edges.map((edge) => edge.map((slot) => slot.x - left))),
    width: right - left,
    layers: layers.length,
  };
}

function newSlot(width: number, layer: number): Slot {
  return { width, layer, below: [], above: [], x: 0 };
}

/** Joins two boxes through the layers between them. All edges from one box share its lane. */
function connect(from: Slot, to: Slot, lane: Slot[]): Slot[] {
  const passed = to.layer - from.layer - 1;
  while (lane.length < passed) {
    const slot = newSlot(laneWidth, from.layer + 1 + lane.length);
    join(lane.at(-1) ?? from, slot);
    lane.push(slot);
  }
  join(passed === 0 ? from : lane[passed - 1]!, to);
  return lane.slice(0, passed);
}

function join(below: Slot, above: Slot): void {
  below.above.push(above);
  above.below.push(below);
}

function arrange(layers: Slot[][]): void {
  for (const layer of layers) pack(layer, layer.map(() => 0));
  for (let sweep = 0; sweep < sweeps; sweep++) {
    const upwards = sweep % 2 === 0;
    for (const layer of upwards ? layers : layers.toReversed()) {
      const wanted = new Map(
        layer.map((slot) => [slot, centre(upwards ? slot.below : slot.above) ?? slot.x]),
      );
      // First the order is settled, then only positions.
      if (sweep < sweeps / 2) layer.sort((a, b) => wanted.get(a)! - wanted.get(b)!);
      pack(layer, layer.map((slot) => wanted.get(slot)!));
    }
  }
}

function centre(slots: readonly Slot[]): number | undefined {
  if (slots.length === 0) return undefined;
  return slots.reduce((sum, slot) => sum + slot.x, 0) / slots.length;
}

/** Puts a layer's slots, in their order, near where they want to be and no closer than their widths allow. */
function pack(layer: readonly Slot[], wanted: readonly number[]): void {
  const apart = (k: number) => (layer[k]!.width + layer[k + 1]!.width) / 2 + gap;
  const pushedRight = [...wanted], pushedLeft = [...wanted];
  for (let k = 1; k < layer.length; k++) {
    pushedRight[k] = Math.max(wanted[k]!, pushedRight[k - 1]! + apart(k - 1));
  }
  for (let k = layer.length - 2; k >= 0; k--) {
    pushedLeft[k] = Math.min(wanted[k]!, pushedLeft[k + 1]! - apart(k));
  }
  layer.forEach((slot, k) => slot.x = (pushedRight[k]! + pushedLeft[k]!) / 2);
}
