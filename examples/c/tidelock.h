/* Processes, links and messages for C.
 *
 * A thin layer over the imports of docs/abi.md: a constant or two for numbers, and a pointer and a length
 * for bytes. Nothing is allocated and nothing is hidden. Copy the file into your project.
 *
 * A *process* runs one exported function of this module and shares nothing with any other. It is named by a
 * number that is unique over all nodes and all time; 0 is nobody. What waits suspends the calling process only.
 */
#ifndef TIDELOCK_H
#define TIDELOCK_H

#include <stddef.h>
#include <stdint.h>

#define TL_IMPORT(space, name) __attribute__((import_module(space), import_name(name)))
/* Marks a function that a process can be made of: TL_ENTRY("worker") void worker(int64_t number) { … } */
#define TL_ENTRY(name) __attribute__((export_name(name)))

typedef uint64_t tl_pid;

/* What tl_receive says has come. */
enum {
  TL_DATA = 0,      /* a message: tl_read, tl_tag */
  TL_LINK_DIED = 1, /* a linked process failed: tl_tag is the link's; tl_died, tl_reason */
  TL_DOWN = 2,      /* a process that was monitored ended: tl_died, tl_reason */
  TL_NODE_DOWN = 3, /* the session with a node that was monitored ended: tl_reason */
  TL_TIMEOUT = 9027 /* nothing, in time */
};

#define TL_FOREVER UINT64_MAX
/* Neither linked nor told of anything. */
#define TL_UNLINKED ((int64_t)-1)

/* ---- the imports ------------------------------------------------------------------------------- */

TL_IMPORT("lunatic::process", "process_id") tl_pid tl_self(void);
/* 0: a link's failure becomes a message; 1, as it is at first: it ends this process, too. */
TL_IMPORT("lunatic::process", "die_when_link_dies") void tl_die_when_link_dies(int32_t die);
/* Ends a process, wherever it lives. One that is gone is silence. */
TL_IMPORT("lunatic::process", "kill") void tl_kill(tl_pid pid);
/* Returns a number that tells this monitor from others; its message comes once, at once if pid is gone. */
TL_IMPORT("tidelock", "monitor") int64_t tl_monitor(tl_pid pid);

TL_IMPORT("lunatic::message", "create_data") void tl_message_new(int64_t tag, uint64_t capacity);
TL_IMPORT("lunatic::message", "write_data") uint32_t tl_message_write(const void *bytes, size_t len);
TL_IMPORT("lunatic::message", "send") int32_t tl_message_send(tl_pid to);
TL_IMPORT("lunatic::message", "receive")
int32_t tl_message_receive(const int64_t *tags, size_t count, uint64_t timeout_ms);

/* Copies bytes of the message that was received and steps over them; returns how many, 0 at the end. */
TL_IMPORT("lunatic::message", "read_data") uint32_t tl_read(void *into, size_t len);
/* The tag of what was received, 0 if it has none. */
TL_IMPORT("lunatic::message", "get_tag") int64_t tl_tag(void);
/* Who ended, after TL_LINK_DIED or TL_DOWN. */
TL_IMPORT("tidelock", "died_pid") tl_pid tl_died(void);
/* Copies why, cut at len, without a 0 at its end; returns its whole length. */
TL_IMPORT("tidelock", "exit_reason") uint32_t tl_reason(char *into, size_t len);

TL_IMPORT("tidelock", "spawn")
int32_t tl_spawn_on(uint64_t node, int64_t link, int64_t config, int64_t module, const char *name,
                    size_t name_len, const void *params, size_t params_len, uint64_t timeout_ms,
                    uint64_t *id);

/* ---- and a little comfort ---------------------------------------------------------------------- */

/* Makes a process of the exported function `name`, which takes one int64_t.
 *
 * `node`: 0 is this one. `tag`: 0 or what a message about the child's failure carries: the child is linked
 * before it executes anything. TL_UNLINKED: it is not linked. Returns 0 and the child's id at `id`, or a code of
 * docs/abi.md: then it did not run and never will, and the id of an error is at `id`. */
static inline int32_t tl_spawn(uint64_t node, const char *name, size_t name_len, int64_t param,
                               int64_t tag, tl_pid *id) {
  /* One record: a type, and sixteen bytes of value. */
  unsigned char record[17] = {0x7E};
  __builtin_memcpy(record + 1, &param, sizeof param);
  return tl_spawn_on(node, tag, -1, -1, name, name_len, record, sizeof record, TL_FOREVER, id);
}

/* Sends bytes. A process that is gone is silence; bytes to one process arrive in the order they were sent. */
static inline void tl_send(tl_pid to, int64_t tag, const void *bytes, size_t len) {
  tl_message_new(tag, len);
  tl_message_write(bytes, len);
  tl_message_send(to);
}

/* Waits for whatever comes first, or for what has `tag` if that is not 0. What is passed over keeps its place. */
static inline int32_t tl_receive(int64_t tag, uint64_t timeout_ms) {
  return tl_message_receive(&tag, tag != 0, timeout_ms);
}

#endif
