#!/usr/bin/env bash
# Makes this machine able to compile guests to WebAssembly. Running it again costs nothing.
#
#   xtask/guest-toolchain.sh [TARGET...]     wasm32-wasip1 wasm32-unknown-unknown if none is named
#
# Tried in this order:
#   1. the active toolchain has the targets: done
#   2. `rustup target add`
#   3. Debian's compiler and its own library sources (root, or sudo): the standard library is
#      compiled once and linked into rustup as the toolchain `tidelock-guest`
#
# The last line on stdout is the cargo to use: `cargo`, or `cargo +tidelock-guest`.
# GUEST_TOOLCHAIN=rustup forbids the third way, GUEST_TOOLCHAIN=debian asks for it.
set -euo pipefail

way=${GUEST_TOOLCHAIN:-any}
name=tidelock-guest
home=${XDG_CACHE_HOME:-$HOME/.cache}/tidelock/guest-toolchain
targets=("$@")
[ $# -gt 0 ] || targets=(wasm32-wasip1 wasm32-unknown-unknown)

note() { echo "guest toolchain: $*" >&2; }
fail() { note "error: $*"; exit 1; }

# Whether a compiler, given as a command, has the standard library and that of tests for every target.
has_targets() {
  local root target
  root=$("$@" --print sysroot 2>/dev/null) || return 1
  for target in "${targets[@]}"; do
    compgen -G "$root/lib/rustlib/$target/lib/libstd-*.rlib" >/dev/null || return 1
    compgen -G "$root/lib/rustlib/$target/lib/libtest-*.rlib" >/dev/null || return 1
  done
}

# Compiles and links the smallest program for a target, given after the compiler.
links() {
  local target=${*: -1} work status=0
  work=$(mktemp -d)
  echo 'fn main() { println!("{}", std::env::args().count()); }' >"$work/a.rs"
  "${@:1:$#-1}" --target "$target" -O -o "$work/a.wasm" "$work/a.rs" >&2 || status=1
  rm -rf "$work"
  return $status
}

finish() { # the cargo to use, then the compiler that goes with it
  local cargo=$1 target
  shift
  for target in "${targets[@]}"; do
    links "$@" "$target" || fail "$target is installed, but a program does not link"
  done
  note "ready: ${targets[*]}"
  echo "$cargo"
  exit 0
}

if [ "$way" != debian ]; then
  if has_targets rustc; then finish cargo rustc; fi
  if command -v rustup >/dev/null; then
    note "rustup target add ${targets[*]}"
    # Bounded, because without a network this waits for a very long time.
    if timeout 300 rustup target add "${targets[@]}" >&2 && has_targets rustc; then
      finish cargo rustc
    fi
  fi
  [ "$way" = any ] || fail "rustup cannot supply ${targets[*]}"
fi

# --- Debian ---------------------------------------------------------------------------------
command -v rustup >/dev/null || fail "the way over Debian links a toolchain into rustup, which is not here"
command -v apt-get >/dev/null || fail "rustup cannot supply ${targets[*]}, and this is no Debian"
if has_targets rustc "+$name"; then finish "cargo +$name" rustc "+$name"; fi

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
note "installing Debian's rustc-web, its sources and wasi-libc"
"${as_root[@]}" apt-get update -qq >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends rustc-web cargo-web rust-web-src wasi-libc >&2

sources=$(dpkg -L rust-web-src | grep -E '^/usr/src/rustc-[^/]+/library$') \
  || fail "rust-web-src holds no standard library"
host=$(/usr/bin/rustc -vV | sed -n 's/^host: //p')
linker=$(rustc --print sysroot)/lib/rustlib/$host/bin/rust-lld
[ -x "$linker" ] || fail "the active toolchain has no rust-lld to link with"

# A sysroot of our own: Debian's library for this machine, the linker, and room for the targets.
root=$home/root
rustlib=$root/lib/rustlib
rm -rf "$home"
mkdir -p "$root/bin" "$rustlib/$host/bin"
ln -s "/usr/lib/rustlib/$host/lib" "$rustlib/$host/lib"
ln -s "$linker" "$rustlib/$host/bin/rust-lld"
ln -s /usr/bin/cargo "$root/bin/cargo"
for tool in rustc rustdoc; do
  printf '#!/bin/sh\nexec /usr/bin/%s --sysroot "%s" "$@"\n' "$tool" "$root" >"$root/bin/$tool"
  chmod +x "$root/bin/$tool"
done

for target in "${targets[@]}"; do
  note "$target: compiling the standard library, about a minute"
  seed=$home/seed-$target
  mkdir -p "$seed/src" "$rustlib/$target/lib/self-contained"
  : >"$seed/src/lib.rs"
  printf '[package]\nname = "seed"\nversion = "0.0.0"\nedition = "2021"\n\n[workspace]\n' >"$seed/Cargo.toml"
  if [ "$target" = wasm32-wasip1 ]; then
    # The C library goes where rustc looks for its own copy of it.
    cp /usr/lib/wasm32-wasi/{crt1-command.o,crt1-reactor.o,libc.a} "$rustlib/$target/lib/self-contained/"
  fi
  (
    cd "$seed"
    unset RUSTUP_TOOLCHAIN RUSTC_WRAPPER CARGO_BUILD_TARGET CARGO_ENCODED_RUSTFLAGS
    # Bitcode stays in, or guests could not use link-time optimisation across std.
    RUSTC_BOOTSTRAP=1 RUSTC="$root/bin/rustc" RUSTFLAGS="-C embed-bitcode=yes" \
      __CARGO_TESTS_ONLY_SRC_ROOT="$sources" CARGO_TARGET_DIR="$seed/target" \
      /usr/bin/cargo build --quiet --release -Z build-std=std,panic_abort,test --target "$target" >&2
  )
  cp "$seed/target/$target/release/deps/"*.{rlib,rmeta} "$rustlib/$target/lib/"
  rm -rf "$rustlib/$target/lib/"libseed-* "$seed"
done

rustup toolchain link "$name" "$root" >&2
finish "cargo +$name" rustc "+$name"
