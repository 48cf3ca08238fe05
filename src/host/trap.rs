//! `lunatic::trap`: surviving a trap inside the same instance.

use wasmtime::Trap;
use wasmtime_wasi::I32Exit;

use super::{Call, Caller, Linker, Result, waits};

/// The export that runs the protected function.
const CATCH: &str = "_lunatic_catch_trap";

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    waits! { linker, "lunatic::trap";
        "catch" => catch(function: u32, pointer: u32);
    }
    Ok(())
}

/// Calls the export with both arguments. Its result, or 0 if it trapped. What must end the process ends
/// it here, too: `proc_exit` and the end of fuel.
async fn catch(mut call: Call<'_>, function: u32, pointer: u32) -> Result<u32> {
    let export = call
        .caller
        .get_export(CATCH)
        .and_then(wasmtime::Extern::into_func);
    let Some(export) = export else {
        return Err(call.trap(format_args!(
            "the module has no exported function {CATCH:?}"
        )));
    };
    let export = export
        .typed::<(u32, u32), u32>(&call.caller)
        .map_err(|_| call.trap(format_args!("{CATCH:?} is not (i32, i32) -> i32")))?;
    call.descend()?;
    let result = export
        .call_async(&mut call.caller, (function, pointer))
        .await;
    call.ascend();
    match result {
        Ok(result) => Ok(result),
        Err(error) if error.is::<I32Exit>() => Err(error),
        Err(error) if error.downcast_ref::<Trap>() == Some(&Trap::OutOfFuel) => Err(error),
        Err(error) => {
            let text = crate::wasm::trap_text(&error);
            tracing::debug!(pid = %call.state().context.pid(), %text, "trap caught");
            Ok(0)
        }
    }
}
