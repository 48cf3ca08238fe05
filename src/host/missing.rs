//! Imports that link but do nothing yet: calling one traps, and says so.
//!
//! The only list of them. Whoever writes one of these functions takes its row out.

use wasmtime::{Error, FuncType, ValType};

use super::{Linker, Result};

/// Namespace, name, parameters and result; one letter per value: `i` i32, `l` i64.
const MISSING: &[(&str, &str, &str, &str)] = &[
    (
        "lunatic::distributed",
        "default_server_certificates",
        "iiiii",
        "i",
    ),
    ("lunatic::distributed", "sign_node", "iiiiiii", "i"),
    ("lunatic::distributed", "test_root_cert", "i", "i"),
    ("lunatic::message", "push_tcp_stream", "l", "l"),
    ("lunatic::message", "push_tls_stream", "l", "l"),
    ("lunatic::message", "push_udp_socket", "l", "l"),
    ("lunatic::message", "take_tcp_stream", "l", "l"),
    ("lunatic::message", "take_tls_stream", "l", "l"),
    ("lunatic::message", "take_udp_socket", "l", "l"),
    ("lunatic::networking", "clone_tcp_stream", "l", "l"),
    ("lunatic::networking", "clone_tls_stream", "l", "l"),
    ("lunatic::networking", "clone_udp_socket", "l", "l"),
    ("lunatic::networking", "drop_dns_iterator", "l", ""),
    ("lunatic::networking", "drop_tcp_listener", "l", ""),
    ("lunatic::networking", "drop_tcp_stream", "l", ""),
    ("lunatic::networking", "drop_tls_listener", "l", ""),
    ("lunatic::networking", "drop_tls_stream", "l", ""),
    ("lunatic::networking", "drop_udp_socket", "l", ""),
    ("lunatic::networking", "get_peek_timeout", "l", "l"),
    ("lunatic::networking", "get_read_timeout", "l", "l"),
    ("lunatic::networking", "get_tls_read_timeout", "l", "l"),
    ("lunatic::networking", "get_tls_write_timeout", "l", "l"),
    ("lunatic::networking", "get_udp_socket_broadcast", "l", "i"),
    ("lunatic::networking", "get_udp_socket_ttl", "l", "i"),
    ("lunatic::networking", "get_write_timeout", "l", "l"),
    ("lunatic::networking", "resolve", "iili", "i"),
    ("lunatic::networking", "resolve_next", "liiiii", "i"),
    ("lunatic::networking", "set_peek_timeout", "ll", ""),
    ("lunatic::networking", "set_read_timeout", "ll", ""),
    ("lunatic::networking", "set_tls_read_timeout", "ll", ""),
    ("lunatic::networking", "set_tls_write_timeout", "ll", ""),
    ("lunatic::networking", "set_udp_socket_broadcast", "li", ""),
    ("lunatic::networking", "set_udp_socket_ttl", "li", ""),
    ("lunatic::networking", "set_write_timeout", "ll", ""),
    ("lunatic::networking", "tcp_accept", "lii", "i"),
    ("lunatic::networking", "tcp_bind", "iiiiii", "i"),
    ("lunatic::networking", "tcp_connect", "iiiiili", "i"),
    ("lunatic::networking", "tcp_flush", "li", "i"),
    ("lunatic::networking", "tcp_local_addr", "li", "i"),
    ("lunatic::networking", "tcp_peek", "liii", "i"),
    ("lunatic::networking", "tcp_peer_addr", "li", "i"),
    ("lunatic::networking", "tcp_read", "liii", "i"),
    ("lunatic::networking", "tcp_write_vectored", "liii", "i"),
    ("lunatic::networking", "tls_accept", "lii", "i"),
    ("lunatic::networking", "tls_bind", "iiiiiiiiii", "i"),
    ("lunatic::networking", "tls_connect", "iiiliii", "i"),
    ("lunatic::networking", "tls_flush", "li", "i"),
    ("lunatic::networking", "tls_local_addr", "li", "i"),
    ("lunatic::networking", "tls_read", "liii", "i"),
    ("lunatic::networking", "tls_write_vectored", "liii", "i"),
    ("lunatic::networking", "udp_bind", "iiiiii", "i"),
    ("lunatic::networking", "udp_connect", "liiiiili", "i"),
    ("lunatic::networking", "udp_local_addr", "li", "i"),
    ("lunatic::networking", "udp_peer_addr", "li", "i"),
    ("lunatic::networking", "udp_receive", "liii", "i"),
    ("lunatic::networking", "udp_receive_from", "liiii", "i"),
    ("lunatic::networking", "udp_send", "liii", "i"),
    ("lunatic::networking", "udp_send_to", "liiiiiiii", "i"),
    ("lunatic::sqlite", "bind_value", "lii", ""),
    ("lunatic::sqlite", "column_count", "l", "i"),
    ("lunatic::sqlite", "column_name", "lii", "i"),
    ("lunatic::sqlite", "column_names", "li", "i"),
    ("lunatic::sqlite", "execute", "lii", "i"),
    ("lunatic::sqlite", "last_error", "li", "i"),
    ("lunatic::sqlite", "open", "iii", "l"),
    ("lunatic::sqlite", "query_prepare", "lii", "l"),
    ("lunatic::sqlite", "read_column", "lii", "i"),
    ("lunatic::sqlite", "read_row", "li", "i"),
    ("lunatic::sqlite", "sqlite3_changes", "l", "i"),
    ("lunatic::sqlite", "sqlite3_finalize", "l", ""),
    ("lunatic::sqlite", "sqlite3_step", "l", "i"),
    ("lunatic::sqlite", "statement_reset", "l", ""),
];

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    for &(space, name, params, result) in MISSING {
        let ty = FuncType::new(linker.engine(), values(params), values(result));
        linker.func_new(space, name, ty, move |_, _, _| {
            Err(Error::msg(format!(
                "{space}::{name}: not available in this build"
            )))
        })?;
    }
    Ok(())
}

fn values(letters: &str) -> impl Iterator<Item = ValType> {
    letters.bytes().map(|letter| {
        if letter == b'i' {
            ValType::I32
        } else {
            ValType::I64
        }
    })
}
