/* Three linked workers, one of which fails.
 *
 *   zig cc -target wasm32-wasi -Os -o workers.wasm workers.c
 *   tidelock run workers.wasm
 */
#include "tidelock.h"
#include <stdio.h>

/* Squares one number for whoever made it. There is no square of 0 here. */
TL_ENTRY("worker") void worker(int64_t parent) {
  int64_t number = 0;
  tl_receive(0, TL_FOREVER);
  tl_read(&number, sizeof number);
  if (number == 0)
    __builtin_trap();
  number *= number;
  tl_send((tl_pid)parent, tl_tag(), &number, sizeof number);
}

int main(void) {
  const int64_t numbers[] = {7, 11, 0};
  tl_die_when_link_dies(0);
  for (int64_t tag = 1; tag <= 3; tag++) {
    tl_pid child;
    int32_t code = tl_spawn(0, "worker", 6, (int64_t)tl_self(), tag, &child);
    if (code != 0)
      return code;
    tl_send(child, tag, &numbers[tag - 1], sizeof numbers[0]);
  }
  for (int64_t tag = 1; tag <= 3; tag++) {
    int64_t square = 0;
    char why[1024];
    switch (tl_receive(tag, 5000)) {
    case TL_DATA:
      tl_read(&square, sizeof square);
      printf("worker %d: %lld\n", (int)tag, (long long)square);
      break;
    case TL_LINK_DIED: {
      uint32_t len = tl_reason(why, sizeof why);
      printf("worker %d: died: %.*s\n", (int)tag, (int)len, why);
      break;
    }
    default:
      return 1;
    }
  }
  /* Told exactly once: nothing else has come. */
  return tl_receive(0, 0) == TL_TIMEOUT ? 0 : 2;
}
