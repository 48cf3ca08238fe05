//! Three linked workers, one of which fails.
//!
//!   zig build-exe workers.zig -target wasm32-wasi -O ReleaseSmall -rdynamic
//!   tidelock run workers.wasm

const std = @import("std");
const tidelock = @import("tidelock.zig");

/// Squares one number for whoever made it. There is no square of 0 here.
export fn worker(parent: i64) void {
    var number: i64 = 0;
    _ = tidelock.receive(&.{}, tidelock.forever);
    _ = tidelock.read(std.mem.asBytes(&number));
    if (number == 0) @trap();
    number *= number;
    tidelock.send(@bitCast(parent), tidelock.receivedTag(), std.mem.asBytes(&number));
}

pub fn main() !void {
    var buffer: [1024]u8 = undefined;
    var stdout = std.fs.File.stdout().writer(&buffer);
    const out = &stdout.interface;

    tidelock.trapExits(true);
    const numbers = [_]i64{ 7, 11, 0 };
    for (numbers, 1..) |number, at| {
        const tag: i64 = @intCast(at);
        const child = try tidelock.spawn(0, "worker", @bitCast(tidelock.self()), .{ .tagged = tag });
        tidelock.send(child, tag, std.mem.asBytes(&number));
    }
    for (1..numbers.len + 1) |at| {
        const tag: i64 = @intCast(at);
        switch (tidelock.receive(&.{tag}, 5000) orelse return error.TimedOut) {
            .data => {
                var square: i64 = 0;
                _ = tidelock.read(std.mem.asBytes(&square));
                try out.print("worker {d}: {d}\n", .{ tag, square });
            },
            .link_died => {
                var why: [1024]u8 = undefined;
                try out.print("worker {d}: died: {s}\n", .{ tag, tidelock.reason(&why) });
            },
            else => return error.Unexpected,
        }
    }
    try out.flush();
    // Told exactly once: nothing else has come.
    if (tidelock.receive(&.{}, 0) != null) return error.ToldTwice;
}
