// Processes, links and messages for AssemblyScript.
//
// A thin layer over the imports of docs/abi.md. Copy the file into your project.
//
// A *process* runs one exported function of this module and shares nothing with any other. It is named by
// a number that is unique over all nodes and all time. What waits suspends the calling process only.

// prettier-ignore
namespace abi {
  // @ts-ignore: decorator
  @external("lunatic::process", "process_id")
  export declare function processId(): u64;
  // @ts-ignore: decorator
  @external("lunatic::process", "die_when_link_dies")
  export declare function dieWhenLinkDies(die: i32): void;
  // @ts-ignore: decorator
  @external("lunatic::process", "kill")
  export declare function kill(pid: u64): void;
  // @ts-ignore: decorator
  @external("lunatic::message", "create_data")
  export declare function createData(tag: i64, capacity: u64): void;
  // @ts-ignore: decorator
  @external("lunatic::message", "write_data")
  export declare function writeData(bytes: usize, len: usize): u32;
  // @ts-ignore: decorator
  @external("lunatic::message", "read_data")
  export declare function readData(into: usize, len: usize): u32;
  // @ts-ignore: decorator
  @external("lunatic::message", "data_size")
  export declare function dataSize(): u64;
  // @ts-ignore: decorator
  @external("lunatic::message", "send")
  export declare function send(to: u64): i32;
  // @ts-ignore: decorator
  @external("lunatic::message", "receive")
  export declare function receive(tags: usize, count: usize, timeoutMs: u64): i32;
  // @ts-ignore: decorator
  @external("lunatic::message", "get_tag")
  export declare function getTag(): i64;
  // @ts-ignore: decorator
  @external("tidelock", "spawn")
  export declare function spawn(node: u64, link: i64, config: i64, module: i64, name: usize, nameLen: usize, params: usize, paramsLen: usize, timeoutMs: u64, id: usize): i32;
  // @ts-ignore: decorator
  @external("tidelock", "monitor")
  export declare function monitor(pid: u64): i64;
  // @ts-ignore: decorator
  @external("tidelock", "died_pid")
  export declare function diedPid(): u64;
  // @ts-ignore: decorator
  @external("tidelock", "exit_reason")
  export declare function exitReason(into: usize, len: usize): u32;
  // @ts-ignore: decorator
  @external("wasi_snapshot_preview1", "fd_write")
  export declare function fdWrite(fd: i32, iovs: usize, count: usize, written: usize): i32;
  // @ts-ignore: decorator
  @external("wasi_snapshot_preview1", "proc_exit")
  export declare function procExit(code: i32): void;
}

/** The name of a process; 0 is nobody. */
export type Pid = u64;

/** Waits for ever. */
export const FOREVER: u64 = u64.MAX_VALUE;

/** The link of `spawn` for a child that is not linked. */
export const UNLINKED: i64 = -1;

/** What `receive` says has come. */
export enum Received {
  /** A message: `read`, `receivedTag`. */
  Data = 0,
  /** A linked process failed: `receivedTag` is the link's; `died`, `reason`. */
  LinkDied = 1,
  /** A process that was monitored ended: `died`, `reason`. */
  Down = 2,
  /** The session with a node that was monitored ended: `reason`. */
  NodeDown = 3,
  /** Nothing, in time. */
  TimedOut = 9027,
}

/** The calling process. */
export function self(): Pid {
  return abi.processId();
}

/** `true`: a linked process that fails sends a message; `false`, as it is at first: it ends this one, too. */
export function trapExits(trap: bool): void {
  abi.dieWhenLinkDies(trap ? 0 : 1);
}

/** Ends a process, wherever it lives. One that is gone is silence. */
export function kill(pid: Pid): void {
  abi.kill(pid);
}

/** Sends one `Down` when the process ends, at once if it is gone. The number tells this monitor from others. */
export function monitor(pid: Pid): i64 {
  return abi.monitor(pid);
}

/**
 * Makes a process of the exported function `name`, which takes one i64, on a node; 0 is this one.
 *
 * `link`: the tag that a message about its failure carries, 0 for none: the child is linked before it
 * executes anything. `UNLINKED`: it is not. Ends this process if none could be made, with the code of docs/abi.md.
 */
export function spawn(node: u64, name: string, param: i64, link: i64): Pid {
  // One record: a type, and sixteen bytes of value.
  const record = new StaticArray<u8>(17);
  record[0] = 0x7e;
  store<i64>(changetype<usize>(record) + 1, param);
  const entry = String.UTF8.encode(name);
  const id = new StaticArray<u64>(1);
  const code = abi.spawn(node, link, -1, -1, changetype<usize>(entry), entry.byteLength,
    changetype<usize>(record), 17, FOREVER, changetype<usize>(id));
  assert(code == 0, `no process was made: ${code}`);
  return id[0];
}

/** Sends bytes; tag 0 is no tag. A process that is gone is silence; what one is sent arrives in order. */
export function send(to: Pid, tag: i64, bytes: ArrayBuffer): void {
  abi.createData(tag, bytes.byteLength);
  abi.writeData(changetype<usize>(bytes), bytes.byteLength);
  abi.send(to);
}

/** Waits for what comes first, or for what has one of `tags`. What is passed over keeps its place. */
export function receive(tags: StaticArray<i64>, timeoutMs: u64): Received {
  return <Received>abi.receive(changetype<usize>(tags), tags.length, timeoutMs);
}

/** All bytes of what was received. */
export function read(): ArrayBuffer {
  const bytes = new ArrayBuffer(<i32>abi.dataSize());
  abi.readData(changetype<usize>(bytes), bytes.byteLength);
  return bytes;
}

/** The tag of what was received; 0 if it has none. */
export function receivedTag(): i64 {
  return abi.getTag();
}

/** Who ended. */
export function died(): Pid {
  return abi.diedPid();
}

/** Why. */
export function reason(): string {
  const text = new ArrayBuffer(1024);
  const len = abi.exitReason(changetype<usize>(text), text.byteLength);
  return String.UTF8.decode(text.slice(0, min<i32>(len, text.byteLength)));
}

/** Writes a line to the standard output. */
export function print(line: string): void {
  const text = String.UTF8.encode(line + "\n");
  const iov = new StaticArray<usize>(3);
  iov[0] = changetype<usize>(text);
  iov[1] = text.byteLength;
  abi.fdWrite(1, changetype<usize>(iov), 1, changetype<usize>(iov) + 8);
}

/** What `--use abort=tidelock/abort` calls: says what went wrong and ends this process. */
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  print(`${message ? message : "abort"} at ${file ? file : "?"}:${line}:${column}`);
  abi.procExit(255);
}
