// Three linked workers, one of which fails.
//
//   asc workers.ts --outFile workers.wasm -O --use abort=tidelock/abort
//   tidelock run workers.wasm

import { FOREVER, Received, print, read, reason, receive, receivedTag, self, send, spawn, trapExits } from "./tidelock";

function bytes(number: i64): ArrayBuffer {
  const buffer = new ArrayBuffer(8);
  store<i64>(changetype<usize>(buffer), number);
  return buffer;
}

function number(buffer: ArrayBuffer): i64 {
  return load<i64>(changetype<usize>(buffer));
}

/** Squares one number for whoever made it. There is no square of 0 here. */
export function worker(parent: i64): void {
  receive([], FOREVER);
  const given = number(read());
  if (given == 0) unreachable();
  send(parent, receivedTag(), bytes(given * given));
}

export function _start(): void {
  trapExits(true);
  const numbers: StaticArray<i64> = [7, 11, 0];
  for (let at = 0; at < numbers.length; at++) {
    const child = spawn(0, "worker", self(), at + 1);
    send(child, at + 1, bytes(numbers[at]));
  }
  for (let tag: i64 = 1; tag <= numbers.length; tag++) {
    switch (receive([tag], 5000)) {
      case Received.Data:
        print(`worker ${tag}: ${number(read())}`);
        break;
      case Received.LinkDied:
        print(`worker ${tag}: died: ${reason()}`);
        break;
      default:
        assert(false, "nothing came");
    }
  }
  // Told exactly once: nothing else has come.
  assert(receive([], 0) == Received.TimedOut, "told twice");
}
