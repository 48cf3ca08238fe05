//! Socket addresses as they cross the interface.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::super::{Call, Result};

/// Reads an address, which is five arguments of a call; traps if it is none.
pub(super) fn read(
    call: &mut Call<'_>,
    kind: u32,
    ptr: u32,
    raw_port: u32,
    flow: u32,
    scope: u32,
) -> Result<SocketAddr> {
    let port = port(call, raw_port)?;
    match kind {
        4 => {
            let ip = Ipv4Addr::from(octets::<4>(call, ptr)?);
            Ok(SocketAddrV4::new(ip, port).into())
        }
        6 => {
            let ip = Ipv6Addr::from(octets::<16>(call, ptr)?);
            Ok(SocketAddrV6::new(ip, port, flow, scope).into())
        }
        other => Err(call.trap(format_args!("addr_type: {other} is neither 4 nor 6"))),
    }
}

pub(super) fn port(call: &Call<'_>, port: u32) -> Result<u16> {
    u16::try_from(port).map_err(|_| call.trap(format_args!("port: {port} is above 65535")))
}

fn octets<const N: usize>(call: &mut Call<'_>, ptr: u32) -> Result<[u8; N]> {
    let bytes = call.bytes("addr_u8_ptr", ptr, N as u32)?;
    Ok(bytes.try_into().expect("as many as were asked for"))
}

/// Where `resolve_next` puts the parts of an address.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub(super) kind: u32,
    pub(super) addr: u32,
    pub(super) port: u32,
    pub(super) flow: u32,
    pub(super) scope: u32,
}

impl Places {
    /// Traps unless every part has room, so that an address is written whole or stays.
    pub(super) fn check(self, call: &mut Call<'_>, address: SocketAddr) -> Result<()> {
        call.room("addr_type_u32_ptr", self.kind, 4)?;
        call.room("port_u16_ptr", self.port, 2)?;
        match address {
            SocketAddr::V4(_) => call.room("addr_u8_ptr", self.addr, 4),
            SocketAddr::V6(_) => {
                call.room("addr_u8_ptr", self.addr, 16)?;
                call.room("flow_info_u32_ptr", self.flow, 4)?;
                call.room("scope_id_u32_ptr", self.scope, 4)
            }
        }
    }

    pub(super) fn write(self, call: &mut Call<'_>, address: SocketAddr) -> Result<()> {
        match address {
            SocketAddr::V4(v4) => {
                call.put_u32("addr_type_u32_ptr", self.kind, 4)?;
                call.put("addr_u8_ptr", self.addr, &v4.ip().octets())?;
            }
            SocketAddr::V6(v6) => {
                call.put_u32("addr_type_u32_ptr", self.kind, 6)?;
                call.put("addr_u8_ptr", self.addr, &v6.ip().octets())?;
                call.put_u32("flow_info_u32_ptr", self.flow, v6.flowinfo())?;
                call.put_u32("scope_id_u32_ptr", self.scope, v6.scope_id())?;
            }
        }
        call.put("port_u16_ptr", self.port, &address.port().to_le_bytes())
    }
}
