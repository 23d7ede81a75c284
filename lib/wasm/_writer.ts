/** A growing buffer of bytes with the integer encodings of the WebAssembly binary format. */
export class Writer {
  #bytes = new Uint8Array(4096);
  #size = 0;

  /** How many bytes were written. */
  get size(): number {
    return this.#size;
  }

  byte(value: number): void {
    if (this.#size === this.#bytes.length) this.#grow(this.#size + 1);
    this.#bytes[this.#size++] = value;
  }

  bytes(values: ArrayLike<number>): void {
    if (this.#size + values.length > this.#bytes.length) this.#grow(this.#size + values.length);
    this.#bytes.set(values, this.#size);
    this.#size += values.length;
  }

  /** An unsigned integer below 2^32 in LEB128. */
  unsigned(value: number): void {
    let rest = value >>> 0;
    while (rest > 127) {
      this.byte((rest & 127) | 128);
      rest >>>= 7;
    }
    this.byte(rest);
  }

  /** A signed 32-bit integer in LEB128. */
  signed(value: number): void {
    let rest = value | 0;
    while (rest < -64 || rest > 63) {
      this.byte((rest & 127) | 128);
      rest >>= 7;
    }
    this.byte(rest & 127);
  }

  /** A string with its length in front. */
  name(text: string): void {
    const encoded = new TextEncoder().encode(text);
    this.unsigned(encoded.length);
    this.bytes(encoded);
  }

  /** What was written so far, as a view. */
  view(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#size);
  }

  #grow(needed: number): void {
    const larger = new Uint8Array(Math.max(needed, 2 * this.#bytes.length));
    larger.set(this.#bytes);
    this.#bytes = larger;
  }
}
