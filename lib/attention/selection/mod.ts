/** The rivals' selections: which keys each query sees, made from the data or from the shape of a video. */
export { attendSelection, type Selection } from "./selection.ts";
export {
  type BlockGrid,
  type BlockMap,
  blockMapMask,
  type BlockRule,
  type BlockSelection,
  type MassRule,
  poolMean,
  topBlocks,
  type TopBlocksSettings,
} from "./blocks.ts";
export { minferenceBlocks, type MinferenceBlocksSettings } from "./minference.ts";
export {
  verticalSlash,
  type VerticalSlashBlocks,
  type VerticalSlashHead,
  type VerticalSlashSelection,
  type VerticalSlashSettings,
} from "./vertical_slash.ts";
export {
  bandOfWidth,
  chooseHeads,
  type HeadChoice,
  type HeadChoiceSettings,
  profilingMask,
  sparseVideoGen,
  type SparseVideoGenSettings,
  type TextRule,
  videoGenBand,
  videoGenMask,
  videoGenWidth,
} from "./sparse_videogen.ts";
export {
  spargeAttention,
  type SpargeAttentionSelection,
  type SpargeAttentionSettings,
} from "./spargeattn.ts";
export { xAttention, type XAttentionSettings } from "./xattention.ts";
export { radialAttention, radialKeeps, type RadialSettings, radialWidth } from "./radial.ts";
export { type Extent3, slidingTiles, type SlidingTilesSettings, tileMajorLayout } from "./sliding_tiles.ts";
