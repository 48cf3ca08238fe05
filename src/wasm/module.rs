//! A module: its bytes, its native code, and what may be run in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use tidelock_proto::spawn::Param;
use tidelock_proto::{ModuleHash, bounded};
use tokio::sync::OnceCell;
use wasmtime::{ExternType, InstancePre, ModuleExport, UnknownImportError, ValType};

use super::{CODE_BYTES_MAX, Engine, Flavour, MODULE_BYTES_MAX, cache, rewrite};
use crate::host::State;

/// Why bytes are not a module that can run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// Does not start like a core WebAssembly module.
    #[error("not a WebAssembly module ({0}); expected the output of a compiler for wasm32-wasip1")]
    NotWasm(&'static str),
    /// Above a size limit.
    #[error("module has {bytes} bytes{of}, the limit is {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// Which part was counted.
        of: &'static str,
        /// The limit.
        max: usize,
    },
    /// Imports a function this node does not offer.
    #[error("unknown import {module}::{name}; see the list of imports in docs/abi.md")]
    UnknownImport {
        /// Namespace of the import.
        module: String,
        /// Its name.
        name: String,
    },
    /// Not valid, or not with the proposals that are on.
    #[error("module is not valid: {0}")]
    Invalid(String),
    /// Compiling it was given up at a bound of the node's [`Compiler`](crate::Compiler).
    #[error(
        "compiling the module takes more than {0}; functions that are smaller, or have fewer locals and branches, take less"
    )]
    TooCostly(String),
    /// The compiler itself failed, and the module may be as good as any.
    #[error("the module could not be compiled: {0}")]
    NotCompiled(String),
}

/// Why a function cannot be the entry of a process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// No function of that name is exported.
    #[error("no exported function {name:?}")]
    Missing {
        /// The name asked for.
        name: String,
    },
    /// It takes other parameters, or returns something.
    #[error("function {name:?} is {has}, called with {given}")]
    Signature {
        /// The name asked for.
        name: String,
        /// Its type.
        has: String,
        /// The types of the parameters given.
        given: String,
    },
}

/// A compiled module; cheap to clone. Two modules of the same bytes on one engine are the same one.
#[derive(Clone)]
pub struct Module(Arc<Inner>);

pub(super) struct Inner {
    engine: Engine,
    hash: ModuleHash,
    bytes: Bytes,
    /// What most processes run.
    main: Native,
    /// Whether that is for guarded memory only, and there may be none.
    computes: bool,
    memory_size: Option<(u64, u64)>,
    /// For slots of memory, if `main` is not.
    dense: OnceCell<Result<Native, ModuleError>>,
    fuelled: OnceCell<Result<Native, ModuleError>>,
}

/// Native code, linked to the host functions.
pub(super) struct Native {
    pub(super) pre: InstancePre<State>,
    pub(super) memory: Option<ModuleExport>,
}

/// The modules in use, by content; compiling one holds its lock, so that it happens once.
#[derive(Default)]
pub(super) struct Modules(Mutex<HashMap<ModuleHash, Slot>>);
type Slot = Arc<tokio::sync::Mutex<Weak<Inner>>>;

impl Modules {
    fn slot(&self, hash: ModuleHash) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() % 64 == 63 {
            // Whoever compiles holds a second reference to the slot.
            slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1
                    || slot.try_lock().is_ok_and(|weak| weak.strong_count() > 0)
            });
        }
        slots.entry(hash).or_default().clone()
    }
}

impl Module {
    /// Compiles a module, or finds it compiled: in use, then on disk.
    ///
    /// Runs on a thread for blocking work; modules compiled at once are bounded, and several
    /// requests for the same bytes share one compilation. Dropping the future leaves the compilation to
    /// end by itself, its result on disk only.
    pub async fn compile(engine: &Engine, bytes: impl Into<Bytes>) -> Result<Self, ModuleError> {
        let bytes = bytes.into();
        check_size(&bytes)?;
        let hash = hash_of(&bytes);
        let slot = engine.modules().slot(hash);
        let mut slot = slot.lock_owned().await;
        if let Some(module) = slot.upgrade() {
            return Ok(Self(module));
        }
        let permit = engine
            .compiles()
            .acquire_owned()
            .await
            .expect("never closed");
        let engine = engine.clone();
        let compiled = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            Self::build(&engine, hash, bytes)
        });
        let module = match compiled.await {
            Ok(module) => module?,
            Err(_) => return Err(panicked()),
        };
        *slot = Arc::downgrade(&module.0);
        Ok(module)
    }

    /// As [`Module::compile`], on the calling thread.
    pub fn compile_blocking(engine: &Engine, bytes: impl Into<Bytes>) -> Result<Self, ModuleError> {
        let bytes = bytes.into();
        check_size(&bytes)?;
        Self::build(engine, hash_of(&bytes), bytes)
    }

    fn build(engine: &Engine, hash: ModuleHash, bytes: Bytes) -> Result<Self, ModuleError> {
        let computes = engine.computes(&bytes);
        let flavour = match computes {
            true => engine.computing().map_err(ModuleError::NotCompiled)?,
            false => engine.plain(),
        };
        let main = native(engine, flavour, hash, &bytes)?;
        Ok(Self(Arc::new(Inner {
            engine: engine.clone(),
            hash,
            bytes,
            memory_size: memory_size(main.pre.module()),
            main,
            computes,
            dense: OnceCell::new(),
            fuelled: OnceCell::new(),
        })))
    }

    /// Names the content.
    pub fn hash(&self) -> ModuleHash {
        self.0.hash
    }

    /// The bytes it was compiled from, as sent to other nodes.
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// The engine it was compiled for.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Names of the exported functions.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        let exports = self.wasm().exports();
        exports
            .filter(|e| matches!(e.ty(), ExternType::Func(_)))
            .map(|e| e.name())
    }

    /// Whether a process may start in this function with these parameters.
    pub fn check_entry(&self, name: &str, params: &[Param]) -> Result<(), EntryError> {
        let Some(ExternType::Func(ty)) = self.wasm().get_export(name) else {
            return Err(EntryError::Missing {
                name: bounded(name.to_owned()),
            });
        };
        let same = ty.params().len() == params.len()
            && ty.params().zip(params).all(|(ty, param)| fits(&ty, param));
        if same && ty.results().len() == 0 {
            return Ok(());
        }
        let given: Vec<_> = params.iter().map(param_type).collect();
        Err(EntryError::Signature {
            name: bounded(name.to_owned()),
            has: bounded(ty.to_string()),
            given: bounded(format!("({})", given.join(" "))),
        })
    }

    /// Least and largest size of its memory in bytes; None without a memory.
    pub(super) fn memory_size(&self) -> Option<(u64, u64)> {
        self.0.memory_size
    }

    pub(super) fn wasm(&self) -> &wasmtime::Module {
        self.0.main.pre.module()
    }

    /// Whether its processes are to get guarded memory.
    pub(super) fn computes(&self) -> bool {
        self.0.computes
    }

    /// The code for a process in guarded memory, or in a slot; the latter is compiled when it is first needed.
    pub(super) async fn native(&self, guarded: bool) -> Result<&Native, ModuleError> {
        if self.0.computes == guarded {
            return Ok(&self.0.main);
        }
        self.other(&self.0.dense, |engine| Ok(engine.plain())).await
    }

    /// The same module with fuel counting, compiled when first asked for.
    pub(super) async fn fuelled(&self) -> Result<&Native, ModuleError> {
        self.other(&self.0.fuelled, Engine::fuelled).await
    }

    /// Compiles it in another way, once.
    async fn other<'a>(
        &'a self,
        made: &'a OnceCell<Result<Native, ModuleError>>,
        flavour: fn(&Engine) -> Result<&Flavour, String>,
    ) -> Result<&'a Native, ModuleError> {
        let make = || async {
            let permit = self
                .0
                .engine
                .compiles()
                .acquire_owned()
                .await
                .expect("never closed");
            let module = self.clone();
            let made = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let engine = &module.0.engine;
                let flavour = flavour(engine).map_err(ModuleError::NotCompiled)?;
                native(engine, flavour, module.0.hash, &module.0.bytes)
            });
            made.await.unwrap_or_else(|_| Err(panicked()))
        };
        made.get_or_init(make).await.as_ref().map_err(Clone::clone)
    }
}

impl PartialEq for Module {
    fn eq(&self, other: &Self) -> bool {
        self.0.hash == other.0.hash
    }
}

impl Eq for Module {}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Module({})", self.0.hash)
    }
}

fn memory_size(module: &wasmtime::Module) -> Option<(u64, u64)> {
    let needs = module.resources_required();
    let min = needs.max_initial_memory_size.unwrap_or(0) << 16;
    let mut exported = module.exports().filter_map(|export| match export.ty() {
        ExternType::Memory(ty) => ty.maximum(),
        _ => None,
    });
    (needs.num_memories > 0).then(|| (min, exported.next().unwrap_or(1 << 16) << 16))
}

fn panicked() -> ModuleError {
    ModuleError::NotCompiled("the compiler panicked".into())
}

fn hash_of(bytes: &[u8]) -> ModuleHash {
    ModuleHash(*blake3::hash(bytes).as_bytes())
}

/// Loads or compiles for one way of compiling, and links.
fn native(
    engine: &Engine,
    flavour: &Flavour,
    hash: ModuleHash,
    bytes: &[u8],
) -> Result<Native, ModuleError> {
    let kept = engine
        .cache()
        .and_then(|c| c.load(&flavour.engine, &flavour.key, &hash));
    let module = match kept {
        Some(module) => module,
        None => {
            let invalid = |e: wasmtime::Error| ModuleError::Invalid(bounded(format!("{e:#}")));
            let native = match engine.compiler() {
                Some(compiler) => compiler.compile(flavour.how, bytes)?,
                None => rewrite::compiled(&flavour.engine, flavour.how, bytes).map_err(invalid)?,
            };
            let module = cache::load_compiled(&flavour.engine, &native).map_err(invalid)?;
            if let Some(cache) = engine.cache() {
                cache.store(&flavour.key, &hash, &native);
            }
            module
        }
    };
    let pre = flavour
        .linker
        .instantiate_pre(&module)
        .map_err(|error| match error.downcast_ref::<UnknownImportError>() {
            Some(unknown) => ModuleError::UnknownImport {
                module: bounded(unknown.module().to_owned()),
                name: bounded(unknown.name().to_owned()),
            },
            None => ModuleError::Invalid(bounded(format!("{error:#}"))),
        })?;
    let is_memory = matches!(module.get_export("memory"), Some(ExternType::Memory(_)));
    let memory = is_memory
        .then(|| module.get_export_index("memory"))
        .flatten();
    Ok(Native { pre, memory })
}

fn fits(ty: &ValType, param: &Param) -> bool {
    matches!(
        (ty, param),
        (ValType::I32, Param::I32(_))
            | (ValType::I64, Param::I64(_))
            | (ValType::V128, Param::V128(_))
    )
}

fn param_type(param: &Param) -> &'static str {
    match param {
        Param::I32(_) => "i32",
        Param::I64(_) => "i64",
        Param::V128(_) => "v128",
    }
}

/// Refuses by size before anything is parsed for good.
fn check_size(bytes: &[u8]) -> Result<(), ModuleError> {
    let too_large = |bytes, of, max| Err(ModuleError::TooLarge { bytes, of, max });
    if bytes.len() > MODULE_BYTES_MAX {
        return too_large(bytes.len(), "", MODULE_BYTES_MAX);
    }
    match bytes.get(..8) {
        Some(b"\0asm\x01\0\0\0") => {}
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => {
            return Err(ModuleError::NotWasm("it is a component"));
        }
        _ => return Err(ModuleError::NotWasm("its first bytes are not those of one")),
    }
    let code = code_bytes(&bytes[8..]);
    if code > CODE_BYTES_MAX {
        return too_large(code, " without custom sections", CODE_BYTES_MAX);
    }
    Ok(())
}

/// Bytes in sections that are not custom. Stops at the first malformed one: the compiler says where.
fn code_bytes(mut rest: &[u8]) -> usize {
    let mut total = 0;
    while let Some((&id, after)) = rest.split_first() {
        let Some((len, used)) = leb_u32(after) else {
            break;
        };
        let len = len as usize;
        let Some(next) = after.get(used..).and_then(|body| body.get(len..)) else {
            // A section that claims more than there is: count what there is.
            return total + after.len();
        };
        if id != 0 {
            total += len;
        }
        rest = next;
    }
    total
}

fn leb_u32(bytes: &[u8]) -> Option<(u32, usize)> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(value).ok()?, i + 1));
        }
    }
    None
}
