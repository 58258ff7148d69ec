/** Decoded pixels, RGB interleaved, 8 bits a channel. */
export interface RgbImage {
  readonly data: Uint8Array;
  readonly width: number;
  readonly height: number;
}
