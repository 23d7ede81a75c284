/**
 * As much of ZMTP 3.0 (rfc.zeromq.org/spec/23) as a Jupyter client needs: a DEALER or SUB socket over TCP to one peer,
 * without authentication.
 */

import { Buffer } from "node:buffer";
import { connect as connectTcp, type Socket } from "node:net";

const MORE = 1;
const LONG = 2;
const COMMAND = 4;

/** Socket types of ZeroMQ that a client of a kernel uses. */
export type SocketType = "DEALER" | "SUB";

/** One connection that exchanges multipart messages. */
export class ZmtpSocket {
  readonly #tcp: Socket;
  readonly #reader: AsyncIterator<Buffer>;
  #pending: Buffer = Buffer.alloc(0);

  private constructor(tcp: Socket) {
    this.#tcp = tcp;
    this.#reader = tcp[Symbol.asyncIterator]();
    tcp.on("error", () => {}); // comes out of the reader as well
  }

  /** Connects and shakes hands; a SUB socket subscribes to everything. */
  static async connect(port: number, type: SocketType): Promise<ZmtpSocket> {
    const tcp = connectTcp(port, "127.0.0.1");
    await new Promise<void>((resolve, reject) => tcp.once("connect", resolve).once("error", reject));
    const socket = new ZmtpSocket(tcp);
    const greeting = Buffer.alloc(64);
    greeting.set([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0]);
    greeting.write("NULL", 12, "latin1");
    tcp.write(greeting);
    const answer = await socket.#read(64);
    if (answer[0] !== 0xff || answer[10]! < 3 || answer.toString("latin1", 12, 17) !== "NULL\0") {
      throw new Error("Cannot talk to the kernel as it must speak ZMTP 3 without authentication");
    }
    socket.#sendFrame(readyCommand(type), COMMAND);
    await socket.#frame(); // the kernel's READY
    if (type === "SUB") socket.#sendFrame(Buffer.of(1), 0);
    return socket;
  }

  /** Sends one multipart message. */
  send(parts: readonly Uint8Array[]): void {
    parts.forEach((part, i) => this.#sendFrame(Buffer.from(part), i < parts.length - 1 ? MORE : 0));
  }

  /** The next multipart message; rejects when the peer is gone. */
  async receive(): Promise<Buffer[]> {
    const parts: Buffer[] = [];
    while (true) {
      const { flags, body } = await this.#frame();
      if (flags & COMMAND) continue;
      parts.push(body);
      if (!(flags & MORE)) return parts;
    }
  }

  close(): void {
    this.#tcp.destroy();
  }

  #sendFrame(body: Buffer, flags: number): void {
    const short = body.length < 256;
    const head = Buffer.alloc(short ? 2 : 9);
    head[0] = short ? flags : flags | LONG;
    if (short) head[1] = body.length;
    else head.writeBigUInt64BE(BigInt(body.length), 1);
    this.#tcp.write(Buffer.concat([head, body]));
  }

  async #frame(): Promise<{ flags: number; body: Buffer }> {
    const flags = (await this.#read(1))[0]!;
    const length = flags & LONG
      ? Number((await this.#read(8)).readBigUInt64BE(0))
      : (await this.#read(1))[0]!;
    return { flags, body: await this.#read(length) };
  }

  async #read(length: number): Promise<Buffer> {
    const chunks = [this.#pending];
    let have = this.#pending.length;
    while (have < length) {
      const { value, done } = await this.#reader.next();
      if (done) {
        throw new Error("Cannot read from the kernel as its connection must hold: current state is closed");
      }
      chunks.push(value);
      have += value.length;
    }
    const all = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
    this.#pending = all.subarray(length);
    return all.subarray(0, length);
  }
}

/** READY with the properties that a peer asks for: names have a one-byte length, values a four-byte one. */
function readyCommand(type: SocketType): Buffer {
  const property = (name: string, value: string) => {
    const size = Buffer.alloc(4);
    size.writeUInt32BE(value.length);
    return Buffer.concat([Buffer.of(name.length), Buffer.from(name), size, Buffer.from(value)]);
  };
  const name = Buffer.from("\x05READY", "latin1");
  return Buffer.concat([name, property("Socket-Type", type), property("Identity", "")]);
}
