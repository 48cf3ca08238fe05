//! Processes, links and messages for Zig.
//!
//! A thin layer over the imports of docs/abi.md. Nothing is allocated and nothing is hidden. Copy the file
//! into your project.
//!
//! A *process* runs one exported function of this module and shares nothing with any other. It is named by
//! a number that is unique over all nodes and all time. What waits suspends the calling process only.

/// The name of a process; 0 is nobody.
pub const Pid = u64;

/// Waits for ever.
pub const forever: u64 = ~@as(u64, 0);

const abi = struct {
    extern "lunatic::process" fn process_id() Pid;
    extern "lunatic::process" fn die_when_link_dies(die: i32) void;
    extern "lunatic::process" fn kill(pid: Pid) void;
    extern "lunatic::message" fn create_data(tag: i64, capacity: u64) void;
    extern "lunatic::message" fn write_data(bytes: [*]const u8, len: usize) u32;
    extern "lunatic::message" fn read_data(into: [*]u8, len: usize) u32;
    extern "lunatic::message" fn send(to: Pid) i32;
    extern "lunatic::message" fn receive(tags: [*]const i64, count: usize, timeout_ms: u64) i32;
    extern "lunatic::message" fn get_tag() i64;
    extern "tidelock" fn spawn(node: u64, link: i64, config: i64, module: i64, name: [*]const u8, name_len: usize, params: [*]const u8, params_len: usize, timeout_ms: u64, id: *u64) i32;
    extern "tidelock" fn monitor(pid: Pid) i64;
    extern "tidelock" fn died_pid() Pid;
    extern "tidelock" fn exit_reason(into: [*]u8, len: usize) u32;
};

/// The calling process.
pub fn self() Pid {
    return abi.process_id();
}

/// `true`: from now on a linked process that fails sends a message; `false`, as it is at first: it ends this
/// process, too.
pub fn trapExits(trap: bool) void {
    abi.die_when_link_dies(if (trap) 0 else 1);
}

/// Ends a process, wherever it lives. One that is gone is silence.
pub fn kill(pid: Pid) void {
    abi.kill(pid);
}

/// Sends one `down` when the process ends, at once if it is gone. The number tells this monitor from others.
pub fn monitor(pid: Pid) i64 {
    return abi.monitor(pid);
}

/// Why no process was made. It did not run and never will.
pub const SpawnError = error{ Unreachable, NoModule, NoFunction, Full, NotPermitted, OutOfMemory, TimedOut };

/// How a child is tied to its parent.
pub const Link = union(enum) {
    /// Not at all.
    none,
    /// Linked before it executes anything; a message about its failure has this tag, 0 is no tag.
    tagged: i64,
};

/// Makes a process of the exported function `name`, which takes one i64, on a node; 0 is this one.
pub fn spawn(node: u64, name: []const u8, param: i64, link: Link) SpawnError!Pid {
    // One record: a type, and sixteen bytes of value.
    var record = [_]u8{0x7E} ++ [_]u8{0} ** 16;
    const bytes: [8]u8 = @bitCast(param);
    @memcpy(record[1..9], &bytes);
    const tag = switch (link) {
        .none => -1,
        .tagged => |tag| tag,
    };
    var id: u64 = 0;
    return switch (abi.spawn(node, tag, -1, -1, name.ptr, name.len, &record, record.len, forever, &id)) {
        0 => id,
        1 => error.Unreachable,
        2 => error.NoModule,
        3 => error.NoFunction,
        4 => error.Full,
        5 => error.NotPermitted,
        6 => error.OutOfMemory,
        else => error.TimedOut,
    };
}

/// Sends bytes; tag 0 is no tag. A process that is gone is silence; what one process is sent arrives in order.
pub fn send(to: Pid, tag: i64, bytes: []const u8) void {
    abi.create_data(tag, bytes.len);
    _ = abi.write_data(bytes.ptr, bytes.len);
    _ = abi.send(to);
}

/// What has come.
pub const Received = enum {
    /// A message: `read`, `receivedTag`.
    data,
    /// A linked process failed: `receivedTag` is the link's; `died`, `reason`.
    link_died,
    /// A process that was monitored ended: `died`, `reason`.
    down,
    /// The session with a node that was monitored ended: `reason`.
    node_down,
};

/// Waits for what comes first, or for what has one of `tags`; `null`: nothing, in time. What is passed over
/// keeps its place.
pub fn receive(tags: []const i64, timeout_ms: u64) ?Received {
    return switch (abi.receive(tags.ptr, tags.len, timeout_ms)) {
        0 => .data,
        1 => .link_died,
        2 => .down,
        3 => .node_down,
        else => null,
    };
}

/// Copies bytes of what was received and steps over them; returns what was filled.
pub fn read(into: []u8) []u8 {
    return into[0..abi.read_data(into.ptr, into.len)];
}

/// The tag of what was received; 0 if it has none.
pub fn receivedTag() i64 {
    return abi.get_tag();
}

/// Who ended.
pub fn died() Pid {
    return abi.died_pid();
}

/// Why, cut at the length of `into`.
pub fn reason(into: []u8) []u8 {
    return into[0..@min(into.len, abi.exit_reason(into.ptr, into.len))];
}
