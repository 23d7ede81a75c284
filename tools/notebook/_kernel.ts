/** Deno's Jupyter kernel as a child process, and the messages it understands. */

import { Buffer } from "node:buffer";
import { type ChildProcess, spawn } from "node:child_process";
import { createHmac, randomUUID } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { ZmtpSocket } from "./_zmtp.ts";

const DELIMITER = "<IDS|MSG>";
const START_MS = 30_000;

/** A Jupyter message, as far as a runner reads it. */
export interface Message {
  readonly type: string;
  /** The msg_id of the request that it belongs to. */
  readonly parent: string;
  readonly content: Record<string, unknown>;
}

/** A running kernel. Always `stop()` it. */
export class Kernel {
  readonly #child: ChildProcess;
  readonly #folder: string;
  readonly #key: string;
  readonly #session = randomUUID();
  #shell!: ZmtpSocket;
  #iopub!: ZmtpSocket;
  #errors = "";
  readonly #exited: Promise<number | null>;
  readonly #endWithRunner = () => void this.#child.kill("SIGKILL");

  /** Called with each message of the kernel, replies included, in the order of arrival. */
  onMessage: (message: Message) => void = () => {};
  /** Called once when the kernel cannot be heard any more. */
  onEnd: (reason: Error) => void = () => {};

  private constructor(child: ChildProcess, folder: string, key: string) {
    this.#child = child;
    this.#folder = folder;
    this.#key = key;
    this.#exited = new Promise((resolve) => child.once("exit", resolve));
    child.stderr?.on("data", (chunk: Buffer) => this.#errors = (this.#errors + chunk).slice(-4000));
    process.once("exit", this.#endWithRunner);
  }

  /**
   * Starts a kernel in `cwd` and waits until it answers.
   *
   * @throws {Error} if it ends or stays silent for 30 s; the message holds what it wrote
   */
  static async start(cwd: string): Promise<Kernel> {
    const folder = await mkdtemp(join(tmpdir(), "normlab-kernel-"));
    const key = randomUUID();
    const [shell, iopub, control, stdin, hb] = await freePorts(5);
    const connection = {
      ip: "127.0.0.1",
      transport: "tcp",
      signature_scheme: "hmac-sha256",
      key,
      shell_port: shell,
      iopub_port: iopub,
      control_port: control,
      stdin_port: stdin,
      hb_port: hb,
    };
    const file = join(folder, "connection.json");
    await writeFile(file, JSON.stringify(connection), { mode: 0o600 });
    const child = spawn(process.execPath, ["jupyter", "--kernel", "--conn", file], {
      cwd,
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, NO_COLOR: "1" },
    });
    const kernel = new Kernel(child, folder, key);
    try {
      await kernel.#connect(shell!, iopub!);
    } catch (error) {
      await kernel.stop();
      const said = kernel.#errors.trim() || "nothing";
      throw new Error(
        `Cannot start the kernel as it must answer: current failure is ${
          (error as Error).message
        }, it said ${said}`,
      );
    }
    return kernel;
  }

  /** Sends a request, gives its msg_id. */
  request(type: string, content: Record<string, unknown>): string {
    const id = randomUUID();
    const header = {
      msg_id: id,
      msg_type: type,
      session: this.#session,
      username: "normlab",
      date: new Date().toISOString(),
      version: "5.3",
    };
    const parts = [header, {}, {}, content].map((part) => Buffer.from(JSON.stringify(part)));
    this.#shell.send([Buffer.from(DELIMITER), Buffer.from(this.#sign(parts)), ...parts]);
    return id;
  }

  /** Ends the process, whatever it is doing, and removes what belonged to it. */
  async stop(): Promise<void> {
    this.onEnd = () => {};
    this.#child.kill("SIGKILL");
    await this.#exited;
    this.#shell?.close();
    this.#iopub?.close();
    process.off("exit", this.#endWithRunner);
    await rm(this.#folder, { recursive: true, force: true });
  }

  async #connect(shellPort: number, iopubPort: number): Promise<void> {
    const deadline = Date.now() + START_MS;
    let ended = false;
    void this.#exited.then(() => ended = true);
    const retry = async <T>(attempt: () => Promise<T>): Promise<T> => {
      while (true) {
        try {
          return await attempt();
        } catch (error) {
          if (ended || Date.now() > deadline) throw error;
          await sleep(25);
        }
      }
    };
    this.#shell = await retry(() => ZmtpSocket.connect(shellPort, "DEALER"));
    this.#iopub = await retry(() => ZmtpSocket.connect(iopubPort, "SUB"));
    void this.#listen(this.#shell);
    void this.#listen(this.#iopub);
    // A subscription takes effect some time after it was sent: ask until the answer is heard on both sockets.
    const heard = new Set<string>();
    this.onMessage = ({ type }) => heard.add(type);
    await retry(async () => {
      this.request("kernel_info_request", {});
      await sleep(50);
      if (!heard.has("kernel_info_reply") || !heard.has("status")) throw new Error("no answer");
    });
  }

  async #listen(socket: ZmtpSocket): Promise<void> {
    try {
      while (true) {
        const message = this.#parse(await socket.receive());
        if (message) this.onMessage(message);
      }
    } catch (error) {
      this.onEnd(error as Error);
    }
  }

  /** A message whose signature holds; undefined for anything else. */
  #parse(frames: Buffer[]): Message | undefined {
    const start = frames.findIndex((frame) => frame.toString("latin1") === DELIMITER);
    const parts = frames.slice(start + 2, start + 6);
    if (start < 0 || parts.length < 4 || frames[start + 1]!.toString() !== this.#sign(parts)) {
      return undefined;
    }
    const [header, parent, , content] = parts.map((part) => JSON.parse(part.toString()));
    return { type: header.msg_type, parent: parent.msg_id ?? "", content };
  }

  #sign(parts: readonly Buffer[]): string {
    const mac = createHmac("sha256", this.#key);
    for (const part of parts) mac.update(part);
    return mac.digest("hex");
  }
}

/** Waits. */
export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Ports that nobody listened on a moment ago. */
async function freePorts(count: number): Promise<number[]> {
  const servers: Server[] = [];
  for (let i = 0; i < count; i++) {
    const server = createServer();
    await new Promise<void>((resolve, reject) =>
      server.once("error", reject).listen(0, "127.0.0.1", resolve)
    );
    servers.push(server);
  }
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}
