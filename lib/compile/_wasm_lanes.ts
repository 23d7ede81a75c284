/** Loading and storing the channels of a pixel, four at a time or the one to three that are left. */
import { type Code, type Local, sequence, v128 } from "../wasm/mod.ts";

/** How many lanes of a vector are channels: 4, or fewer in the last block. */
export type Lanes = 1 | 2 | 3 | 4;

/** Loads channels; lanes beyond them are 0, and no byte beyond them is read. */
export function loadLanes(address: Code, lanes: Lanes, offset = 0): Code {
  switch (lanes) {
    case 4:
      return v128.load(address, offset);
    case 3:
      return v128.loadLane32(address, v128.loadZero64(address, offset), 2, offset + 8);
    case 2:
      return v128.loadZero64(address, offset);
    case 1:
      return v128.loadZero32(address, offset);
  }
}

/** Stores channels and nothing beyond them. */
export function storeLanes(address: Code, value: Local, lanes: Lanes, offset = 0): Code {
  switch (lanes) {
    case 4:
      return v128.store(address, value, offset);
    case 3:
      return sequence(
        v128.storeLane64(address, value, 0, offset),
        v128.storeLane32(address, value, 2, offset + 8),
      );
    case 2:
      return v128.storeLane64(address, value, 0, offset);
    case 1:
      return v128.storeLane32(address, value, 0, offset);
  }
}
