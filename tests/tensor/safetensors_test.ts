import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  openSafetensors,
  readSafetensors,
  readSafetensorsFile,
  readSafetensorsMetadata,
  type SafetensorsTensor,
  toFloat32,
  writeSafetensors,
} from "../../lib/tensor/safetensors.ts";

const evonorm = new URL("../golden/evonorm/", import.meta.url).pathname;

/** A file from header text (or bytes) and data, as an attacker would write it. */
function forge(header: string | Uint8Array, data: number | Uint8Array = 0, length?: bigint): Uint8Array {
  const text = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const body = typeof data === "number" ? new Uint8Array(data) : data;
  const bytes = new Uint8Array(8 + text.length + body.length);
  new DataView(bytes.buffer).setBigUint64(0, length ?? BigInt(text.length), true);
  bytes.set(text, 8);
  bytes.set(body, 8 + text.length);
  return bytes;
}

const entry = (dtype: string, shape: unknown, start: unknown, end: unknown) =>
  JSON.stringify({ dtype, shape, data_offsets: [start, end] });

/** A file of one tensor "a" with the given header entry and 8 bytes of data. */
const one = (value: string, data: number | Uint8Array = 8) => forge(`{"a":${value}}`, data);

const attacks: Record<string, [file: Uint8Array, message: RegExp]> = {
  "no bytes": [new Uint8Array(0), /at least 8 bytes: current length is 0/],
  "a cut length": [new Uint8Array(7), /at least 8 bytes: current length is 7/],
  "a header of 2^64 - 1 bytes": [forge("{}", 0, 2n ** 64n - 1n), /at most 100000000 bytes/],
  "a header length with the sign bit": [forge("{}", 0, 2n ** 63n), /at most 100000000 bytes/],
  "a header over 100 MB": [
    forge("{}", 0, 100_000_001n),
    /at most 100000000 bytes: current length is 100000001/,
  ],
  "a header beyond the file": [forge("{}", 0, 3n), /within the file, which has 2 bytes: current length is 3/],
  "an empty header": [forge("", 4), /begin with '{': current first byte is missing/],
  "a header that begins with a space": [forge(" {}"), /begin with '{': current first byte is 32/],
  "a header that is not UTF-8": [forge(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d)), /must be UTF-8/],
  "a header that is not JSON": [forge("{a:1}"), /header must be JSON/],
  "a header cut within": [forge('{"a":{"dtype":"F3'), /header must be JSON/],
  "a string that does not end": [forge('{"a\\'), /header must be JSON/],
  "text after the header's object": [forge("{}{}"), /header must be JSON/],
  "zeros after the header's object": [forge("{}\0\0"), /header must be JSON/],
  "deep nesting": [forge('{"a":'.repeat(1_000_000)), /nest at most 3 deep/],
  "deep nesting of arrays": [forge(`{"a":${"[".repeat(1_000_000)}`), /nest at most 3 deep/],
  "a tensor twice": [
    forge(
      `{"a":${entry("F32", [2], 0, 8)},"b":${entry("F32", [0], 8, 8)},"a":${entry("I32", [2], 0, 8)}}`,
      8,
    ),
    /name must occur once: current header repeats "a"/,
  ],
  "a tensor twice, once escaped": [
    forge(`{"a":${entry("F32", [2], 0, 8)},"\\u0061" :${entry("F32", [2], 0, 8)}}`, 8),
    /name must occur once: current header repeats "a"/,
  ],
  "a shape twice": [
    one('{"dtype":"F32","shape":[1],"data_offsets":[0,8],"shape":[2]}'),
    /name must occur once: current header repeats "shape"/,
  ],
  "metadata twice": [forge('{"__metadata__":{},"__metadata__":{}}'), /name must occur once/],
  "a metadata label twice": [forge('{"__metadata__":{"k":"1","k":"2"}}'), /name must occur once/],
  "metadata with a number": [forge('{"__metadata__":{"k":1}}'), /map text to text: current value is {"k":1}/],
  "metadata that are a list": [forge('{"__metadata__":["k"]}'), /map text to text/],
  "metadata that are null": [forge('{"__metadata__":null}'), /map text to text/],
  "an entry that is null": [one("null"), /exactly dtype, shape and data_offsets: current entry is null/],
  "an entry that is a list": [one("[]"), /exactly dtype, shape and data_offsets/],
  "an entry without shape": [one('{"dtype":"F32","data_offsets":[0,8]}'), /exactly dtype, shape and/],
  "an entry with more": [
    one('{"dtype":"F32","shape":[2],"data_offsets":[0,8],"stride":[1]}'),
    /exactly dtype, shape and data_offsets/,
  ],
  "an unknown dtype": [one(entry("F8_E4M3", [8], 0, 8)), /one of I64, .*BOOL: current dtype is "F8_E4M3"/],
  "a dtype of Object's prototype": [one(entry("constructor", [8], 0, 8)), /current dtype is "constructor"/],
  "a dtype that is a list": [
    one('{"dtype":["F32"],"shape":[2],"data_offsets":[0,8]}'),
    /current dtype is \["F32"\]/,
  ],
  "a shape that is a number": [
    one(entry("F32", 2, 0, 8)),
    /integers from 0 to 2\^53 - 1: current shape is 2/,
  ],
  "a negative size": [one(entry("F32", [-1, -2], 0, 8)), /current shape is \[-1,-2\]/],
  "a fractional size": [one(entry("F32", [0.5, 4], 0, 8)), /current shape is \[0.5,4\]/],
  "a size as text": [one(entry("F32", ["2"], 0, 8)), /current shape is \["2"\]/],
  "a size beyond 2^53": [one('{"dtype":"F32","shape":[9007199254740993],"data_offsets":[0,8]}'), /2\^53 - 1/],
  "an infinite size": [one('{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}'), /2\^53 - 1/],
  "a product that overflows 64 bits to 2": [
    one(entry("F32", [2 ** 32, 2 ** 32, 2], 0, 8)),
    /must have the bytes of F32 \[4294967296,4294967296,2\]: current data_offsets \[0,8\] hold 8/,
  ],
  "more elements than bytes": [
    one(entry("F32", [3], 0, 8)),
    /bytes of F32 \[3\]: current data_offsets \[0,8\] hold 8/,
  ],
  "fewer elements than bytes": [one(entry("F32", [1], 0, 8)), /hold 8/],
  "a scalar with two elements": [one(entry("F32", [], 0, 8)), /hold 8/],
  "no elements with bytes": [one(entry("F32", [0], 0, 8)), /hold 8/],
  "bytes that are no whole element": [one(entry("F32", [1], 0, 5)), /hold 5/],
  "offsets backwards": [one(entry("F32", [2], 8, 0)), /0 <= start <= end: current data_offsets are \[8,0\]/],
  "a negative offset": [one(entry("F32", [2], -8, 0)), /current data_offsets are \[-8,0\]/],
  "a fractional offset": [one(entry("F32", [2], 0.5, 8.5)), /current data_offsets are \[0.5,8.5\]/],
  "one offset": [one('{"dtype":"F32","shape":[2],"data_offsets":[8]}'), /current data_offsets are \[8\]/],
  "three offsets": [
    one('{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}'),
    /current data_offsets are \[0,8,8\]/,
  ],
  "an offset beyond 2^53": [
    one('{"dtype":"U8","shape":[0],"data_offsets":[1e300,1e300]}'),
    /data_offsets are/,
  ],
  "data beyond the file": [
    one(entry("F32", [4], 0, 16)),
    /cover the data, which have 8 bytes: current tensors cover 16/,
  ],
  "data beyond the file by far": [one(entry("U8", [2 ** 50], 0, 2 ** 50)), /which have 8 bytes/],
  "bytes after the tensors": [one(entry("F32", [1], 0, 4)), /which have 8 bytes: current tensors cover 4/],
  "bytes without a tensor": [forge("{}", 1), /which have 1 bytes: current tensors cover 0/],
  "bytes before the first tensor": [one(entry("F32", [1], 4, 8)), /without holes: .*"a" starts at 4, not 0/],
  "a hole": [
    forge(`{"a":${entry("U8", [3], 0, 3)},"b":${entry("U8", [4], 4, 8)}}`, 8),
    /without holes: current tensor "b" starts at 4, not 3/,
  ],
  "an overlap": [
    forge(`{"b":${entry("U8", [4], 4, 8)},"a":${entry("U8", [5], 0, 5)}}`, 8),
    /without overlaps: current tensor "b" starts at 4, not 5/,
  ],
  "the same bytes for two tensors": [
    forge(`{"a":${entry("U8", [8], 0, 8)},"b":${entry("U8", [8], 0, 8)}}`, 8),
    /without overlaps/,
  ],
  "an empty tensor inside another": [
    forge(`{"a":${entry("U8", [8], 0, 8)},"b":${entry("U8", [0], 4, 4)}}`, 8),
    /without overlaps: current tensor "b" starts at 4, not 8/,
  ],
  "a boolean of 2": [one(entry("BOOL", [1], 0, 1), Uint8Array.of(2)), /dtype BOOL must hold 0 and 1/],
  "a name of a megabyte": [
    forge(JSON.stringify({ ["\n".repeat(1_000_000)]: null })),
    /^Cannot read safetensors as tensor "[\\n]+\.\.\. must have exactly/,
  ],
};

for (const [title, [file, message]] of Object.entries(attacks)) {
  Deno.test(`hostile file refused: ${title}`, () => {
    assert.throws(() => readSafetensors(file), (error: Error) => {
      assert.equal(error.constructor, SyntaxError);
      assert.match(error.message, message);
      assert.match(error.message, /^Cannot read safetensors as /);
      assert.ok(error.message.length < 500, "a message must not repeat the file");
      return true;
    });
  });
}

Deno.test("any cut of a file and any changed byte of its length or header is refused or read within the file", () => {
  const file = writeSafetensors(
    new Map<string, SafetensorsTensor>([
      ["a", { dtype: "F32", shape: [2], data: Float32Array.of(1, 2) }],
      ["b", { dtype: "U8", shape: [3], data: Uint8Array.of(1, 2, 3) }],
    ]),
  );
  for (let end = 0; end < file.length; end++) {
    assert.throws(() => readSafetensors(file.subarray(0, end)), SyntaxError, `cut to ${end} bytes`);
  }
  let refused = 0;
  const dataStart = file.length - 11;
  for (let i = 0; i < dataStart; i++) {
    for (const flip of [1, 2, 4, 8, 16, 32, 64, 128]) {
      const changed = file.slice();
      changed[i]! ^= flip;
      try {
        const bytes = [...readSafetensors(changed).values()].reduce(
          (sum, { data }) => sum + data.byteLength,
          0,
        );
        assert.equal(bytes, 11);
      } catch (error) {
        assert.equal((error as Error).constructor, SyntaxError);
        refused++;
      }
    }
  }
  assert.ok(refused > dataStart * 6, `only ${refused} of ${dataStart * 8} were refused`);
});

const everyDtype = new Map<string, SafetensorsTensor>([
  ["u8", { dtype: "U8", shape: [3], data: Uint8Array.of(0, 127, 255) }],
  ["bool", { dtype: "BOOL", shape: [1, 3], data: Uint8Array.of(1, 0, 1) }],
  ["i8", { dtype: "I8", shape: [1], data: Int8Array.of(-128) }],
  ["f16", { dtype: "F16", shape: [3], data: Uint16Array.of(0x3c00, 0xfbff, 0x0001) }],
  ["bf16", { dtype: "BF16", shape: [3], data: Uint16Array.of(0x3f80, 0xc049, 0xff80) }],
  ["i16", { dtype: "I16", shape: [1], data: Int16Array.of(-32768) }],
  ["f32", { dtype: "F32", shape: [2, 2], data: Float32Array.of(1, -0, NaN, Infinity) }],
  ["10", { dtype: "I32", shape: [], data: Int32Array.of(-(2 ** 31)) }],
  ["9", { dtype: "I32", shape: [2, 0], data: new Int32Array(0) }],
  ["f64", { dtype: "F64", shape: [2], data: Float64Array.of(Math.PI, -1e300) }],
  ["i64", { dtype: "I64", shape: [2], data: BigInt64Array.of(2n ** 62n, -1n) }],
  ['na"me\n/ä', { dtype: "F32", shape: [1], data: Float32Array.of(5) }],
  ["__proto__", { dtype: "F32", shape: [1], data: Float32Array.of(6) }],
]);

Deno.test("what is written is read back, aligned", () => {
  const file = writeSafetensors(everyDtype, { format: "pt", note: 'a "quoted" ü' });
  const found = readSafetensors(file);
  assert.equal(found.size, everyDtype.size);
  for (const [name, tensor] of everyDtype) {
    assert.deepEqual(found.get(name), tensor);
    assert.equal(found.get(name)!.data.buffer, file.buffer, "aligned data need no copy");
  }
  assert.deepEqual([...readSafetensorsMetadata(file)], [["format", "pt"], ["note", 'a "quoted" ü']]);
  assert.equal(new DataView(file.buffer).getUint32(0, true) % 8, 0);
  assert.deepEqual([...readSafetensors(writeSafetensors(new Map()))], []);
  assert.deepEqual([...readSafetensorsMetadata(writeSafetensors(new Map()))], []);
});

Deno.test("the bytes depend neither on the order of the map nor on that of the metadata", () => {
  const file = writeSafetensors(everyDtype, { a: "1", b: "2", 10: "3", 9: "4" });
  const reversed = new Map([...everyDtype].reverse());
  assert.deepEqual(writeSafetensors(reversed, { b: "2", 9: "4", a: "1", 10: "3" }), file);
});

Deno.test("a small file has exactly the bytes that the Python package writes", () => {
  // safetensors 0.8.0, save({"w": float32 [[1, 2]], "n": uint8 [7], "h": float16 [1]}).
  const header = '{"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"h":{"dtype":"F16","shape":[1],' +
    '"data_offsets":[8,10]},"n":{"dtype":"U8","shape":[1],"data_offsets":[10,11]}}';
  const data = [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40, 0, 0x3c, 7];
  const expected = forge(header.padEnd(Math.ceil(header.length / 8) * 8), Uint8Array.from(data));
  const tensors = new Map<string, SafetensorsTensor>([
    ["n", { dtype: "U8", shape: [1], data: Uint8Array.of(7) }],
    ["h", { dtype: "F16", shape: [1], data: Uint16Array.of(0x3c00) }],
    ["w", { dtype: "F32", shape: [1, 2], data: Float32Array.of(1, 2) }],
  ]);
  assert.deepEqual(writeSafetensors(tensors), expected);
});

Deno.test("data at odd offsets are read by copying", () => {
  const values = Float64Array.of(1.5, -2.25);
  const body = new Uint8Array(17);
  body[0] = 9;
  body.set(new Uint8Array(values.buffer), 1);
  const file = forge(`{"c":${entry("U8", [1], 0, 1)},"d":${entry("F64", [2], 1, 17)}}`, body);
  for (let shift = 0; shift < 8; shift++) {
    const moved = new Uint8Array(file.length + shift);
    moved.set(file, shift);
    for (const bytes of [moved.subarray(shift), Buffer.from(moved.buffer, shift)]) {
      assert.deepEqual(readSafetensors(bytes).get("d")!.data, values);
    }
  }
});

Deno.test("the entry's keys may come in any order and with spaces", () => {
  const file = forge('{ "a" : { "data_offsets" : [ 0 , 4 ] , "shape" : [ ] , "dtype" : "F32" } }   ', 4);
  assert.deepEqual(readSafetensors(file).get("a"), { dtype: "F32", shape: [], data: new Float32Array(1) });
});

Deno.test("toFloat32 converts every type, every half and every bfloat16", () => {
  const as = (name: string) => [...toFloat32(everyDtype.get(name)!)];
  assert.deepEqual(as("f16"), [1, -65504, 2 ** -24]);
  assert.deepEqual(as("bf16"), [1, -3.140625, -Infinity]);
  assert.deepEqual(as("i64"), [2 ** 62, -1]);
  assert.deepEqual(as("f64"), [Math.fround(Math.PI), -Infinity]);
  assert.deepEqual(as("bool"), [1, 0, 1]);
  assert.deepEqual(as("i8"), [-128]);
  const f32 = everyDtype.get("f32")!;
  assert.equal(toFloat32(f32), f32.data);
  for (const tensor of everyDtype.values()) {
    const room = new Float32Array(tensor.data.length + 3).subarray(1);
    const found = toFloat32(tensor, room);
    assert.deepEqual([...found], [...toFloat32(tensor)]);
    assert.deepEqual([found.buffer, found.byteOffset], [room.buffer, room.byteOffset]);
  }
  assert.throws(() => toFloat32(f32, new Float32Array(0)), {
    name: "RangeError",
    message: /'into' must have/,
  });

  const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const halves = toFloat32({ dtype: "F16", shape: [65536], data: bits });
  const brains = toFloat32({ dtype: "BF16", shape: [65536], data: bits });
  const view = new DataView(new ArrayBuffer(4));
  for (let i = 0; i < 65536; i++) {
    assert.ok(Object.is(halves[i], halfByDefinition(i)), `half ${i.toString(16)} is ${halves[i]}`);
    view.setUint32(0, i * 65536);
    assert.ok(Object.is(brains[i], view.getFloat32(0)), `bfloat16 ${i.toString(16)} is ${brains[i]}`);
  }
});

/** IEEE 754 binary16 from its text: sign, 5 bits of exponent, 10 of fraction. */
function halfByDefinition(bits: number): number {
  const text = bits.toString(2).padStart(16, "0");
  const sign = text[0] === "1" ? -1 : 1;
  const exponent = parseInt(text.slice(1, 6), 2);
  const fraction = parseInt(text.slice(6), 2) / 1024;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -14 : sign * (1 + fraction) * 2 ** (exponent - 15);
}

Deno.test("what cannot be written is refused", () => {
  const write = (name: string, tensor: unknown) =>
    writeSafetensors(new Map([[name, tensor as SafetensorsTensor]]));
  const data = Float32Array.of(1, 2);
  const refusals: [string, unknown, ErrorConstructor, RegExp][] = [
    ["a", { dtype: "F8", shape: [2], data }, TypeError, /'dtype' must be one of .*: current dtype is "F8"/],
    [
      "a",
      { dtype: "F16", shape: [2], data },
      TypeError,
      /data of F16 must be a Uint16Array: .* Float32Array/,
    ],
    ["a", { dtype: "F32", shape: [2] }, TypeError, /must be a Float32Array: current data are missing/],
    ["a", { dtype: "F32", shape: [3], data }, RangeError, /elements of shape \[3\]: current data have 2/],
    ["a", { dtype: "F32", shape: [-1, -2], data }, RangeError, /elements of shape \[-1,-2\]/],
    ["__metadata__", { dtype: "F32", shape: [2], data }, TypeError, /current name is __metadata__/],
  ];
  for (const [name, tensor, type, message] of refusals) {
    assert.throws(() => write(name, tensor), (error: Error) => {
      assert.equal(error.constructor, type);
      assert.match(error.message, message);
      return true;
    });
  }
  assert.throws(
    () => writeSafetensors(new Map(), { k: 1 as unknown as string }),
    /must be text: current value is 1/,
  );
});

Deno.test("every reference file is read, and written and read again", async () => {
  const files = (await readdir(evonorm, { recursive: true })).filter((file) => file.endsWith(".safetensors"));
  assert.ok(files.length >= 8, `${files.length} files`);
  for (const file of files) {
    const tensors = await readSafetensorsFile(join(evonorm, file));
    assert.ok(tensors.size > 0);
    assert.deepEqual(readSafetensors(writeSafetensors(tensors)), tensors);
  }
  const layer = readSafetensors(await readFile(join(evonorm, "layers/small_odd.safetensors")));
  assert.deepEqual(layer.get("x")?.shape, [2, 5, 7, 8]);
  const [x, nchw] = [layer.get("x")!.data as Float32Array, layer.get("x_nchw")!.data as Float32Array];
  assert.equal(x[((1 * 5 + 3) * 7 + 2) * 8 + 6], nchw[((1 * 8 + 6) * 5 + 3) * 7 + 2]);
});

Deno.test("a bad file on disk is named", async () => {
  const folder = await mkdtemp(join(tmpdir(), "normlab-test-"));
  try {
    const path = join(folder, "bad.safetensors");
    await writeFile(path, "not one");
    await assert.rejects(readSafetensorsFile(path), (error: Error) => {
      assert.equal(error.constructor, SyntaxError);
      assert.ok(error.message.startsWith(`${path}: Cannot read safetensors as`));
      return true;
    });
    await assert.rejects(readSafetensorsFile(join(folder, "none")), /ENOENT|No such file/);
  } finally {
    await rm(folder, { recursive: true });
  }
});

Deno.test("tensor by tensor a file gives what it gives as a whole; hostile files are refused alike", async () => {
  const folder = await mkdtemp(join(tmpdir(), "normlab-test-"));
  const path = join(folder, "one.safetensors");
  try {
    await writeFile(path, writeSafetensors(everyDtype, { format: "pt" }));
    const file = await openSafetensors(path);
    assert.deepEqual([...file.metadata], [["format", "pt"]]);
    assert.deepEqual([...file.tensors.keys()].sort(), [...everyDtype.keys()].sort());
    for (const name of [...everyDtype.keys()].reverse()) {
      assert.deepEqual(await file.read(name), everyDtype.get(name));
      assert.deepEqual(file.tensors.get(name)!.shape, everyDtype.get(name)!.shape);
    }
    await assert.rejects(file.read("none"), { name: "RangeError", message: /current name is "none"/ });
    await truncate(path, (await readFile(path)).length - 1);
    const last = [...file.tensors.keys()].at(-1)!;
    await assert.rejects(file.read(last), { name: "SyntaxError", message: /is cut off now/ });
    await file.close();

    for (const [title, [bytes, message]] of Object.entries(attacks)) {
      await writeFile(path, bytes);
      const read = async () => {
        const file = await openSafetensors(path);
        try {
          for (const name of file.tensors.keys()) await file.read(name);
        } finally {
          await file.close();
        }
      };
      await assert.rejects(read, (error: Error) => {
        assert.equal(error.constructor, SyntaxError, title);
        assert.match(error.message.slice(`${path}: `.length), message);
        assert.ok(error.message.startsWith(`${path}: Cannot read safetensors as`));
        return true;
      });
    }
  } finally {
    await rm(folder, { recursive: true });
  }
});
