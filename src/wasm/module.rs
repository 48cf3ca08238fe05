//! A module: its bytes, its native code, and what may be run in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use tidelock_proto::spawn::Param;
use tidelock_proto::{ModuleHash, NodeId, bounded};
use tokio::sync::OnceCell;
use wasmtime::{ExternType, InstancePre, ModuleExport, UnknownImportError, ValType};

use super::compiles::{Counted, Form};
use super::packed::Image;
use super::{CODE_BYTES_MAX, Engine, Flavour, MODULE_BYTES_MAX, OwnTurn, Whose, cache, rewrite};
use crate::host::State;

/// Bytes of a module that are looked at by whoever brings them. A larger one is by a thread for blocking work.
pub(crate) const AT_ONCE_BYTES_MAX: usize = 1 << 20;

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
    /// The compiler itself failed, or what it made could not be loaded just now, and the module may be as good as any.
    #[error("the module could not be compiled: {0}")]
    NotCompiled(String),
    /// There are as many modules as there may be; some can be dropped.
    #[error("no room for another module: {0}")]
    Full(String),
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
    /// Some of the functions that a process may start in, by name, with their parameters.
    entries: HashMap<String, Box<[ValType]>>,
    /// What its memories start with, once one of them is packed.
    image: OnceLock<Image>,
    /// For slots of memory, if `main` is not.
    dense: OnceCell<Native>,
    fuelled: OnceCell<Native>,
}

/// Exported functions of one module that are noted as entries, the bytes of their names, and their parameters.
const ENTRIES_MAX: usize = 64;
const ENTRY_NAME_BYTES: usize = 64;
const ENTRY_PARAMS: usize = 4;
/// Exports looked at for them.
const ENTRIES_LOOKED_AT: usize = 1024;

/// Native code, linked to the host functions.
pub(super) struct Native {
    pub(super) pre: InstancePre<State>,
    pub(super) memory: Option<ModuleExport>,
    counted: Counted,
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

    /// One that is in use, without waiting for those that compile it.
    fn in_use(&self, hash: ModuleHash) -> Option<Arc<Inner>> {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.get(&hash)?.try_lock().ok()?;
        slot.upgrade()
    }
}

impl Module {
    /// Compiles a module, or finds it compiled: in use, then on disk.
    ///
    /// Runs on a thread for blocking work; modules compiled at once are bounded, and several
    /// requests for the same bytes share one compilation. Dropping the future leaves the compilation to
    /// end by itself, its result on disk only.
    pub async fn compile(engine: &Engine, bytes: impl Into<Bytes>) -> Result<Self, ModuleError> {
        Self::compile_for(engine, Whose::Operator, None, bytes.into()).await
    }

    /// As [`Module::compile`], for a spawn that another node asked for. Such modules of one peer are compiled one
    /// at a time, and only while there is room on this node.
    pub async fn compile_for_peer(
        engine: &Engine,
        peer: NodeId,
        bytes: impl Into<Bytes>,
    ) -> Result<Self, ModuleError> {
        Self::compile_for(engine, Whose::Peer(peer), None, bytes.into()).await
    }

    /// As [`Module::compile`], when it is somebody's turn, which the caller may have waited for before.
    pub(crate) async fn compile_for(
        engine: &Engine,
        whose: Whose,
        own: Option<OwnTurn>,
        bytes: Bytes,
    ) -> Result<Self, ModuleError> {
        let (hash, bytes) = named(bytes).await?;
        if let Some(module) = engine.modules().in_use(hash) {
            return Ok(Self(module));
        }
        let compiles = engine.compiles();
        compiles.recall(hash, Form::Main)?;
        // Before the slot: who else wants this module waits for its compilation, and not for turns of others.
        let own = match own {
            Some(own) => own,
            None => compiles.own(whose).await,
        };
        let slot = engine.modules().slot(hash);
        let mut slot = slot.lock_owned().await;
        if let Some(module) = slot.upgrade() {
            return Ok(Self(module));
        }
        compiles.recall(hash, Form::Main)?;
        compiles.check_room(whose, bytes.len())?;
        let turn = compiles.turn(own).await;
        let engine = engine.clone();
        let compiled = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            Self::build(&engine, whose, hash, bytes)
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
        Self::build(engine, Whose::Operator, hash_of(&bytes), bytes)
    }

    fn build(
        engine: &Engine,
        whose: Whose,
        hash: ModuleHash,
        bytes: Bytes,
    ) -> Result<Self, ModuleError> {
        let computes = engine.computes(&bytes);
        let flavour = match computes {
            true => engine.computing().map_err(ModuleError::NotCompiled)?,
            false => engine.plain(),
        };
        let main = native(engine, flavour, Form::Main, whose, hash, &bytes)?;
        Ok(Self(Arc::new(Inner {
            engine: engine.clone(),
            hash,
            bytes,
            memory_size: memory_size(main.pre.module()),
            entries: entries(main.pre.module()),
            main,
            computes,
            image: OnceLock::new(),
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

    /// Its bytes, as Wasm and as what most of its processes run.
    pub(crate) fn held_bytes(&self) -> usize {
        self.0.main.counted.bytes()
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
        let noted = self.0.entries.get(name);
        if noted.is_some_and(|takes| fits_all(takes, params)) {
            return Ok(());
        }
        let Some(ExternType::Func(ty)) = self.wasm().get_export(name) else {
            return Err(EntryError::Missing {
                name: bounded(name.to_owned()),
            });
        };
        let takes: Box<[ValType]> = ty.params().collect();
        if fits_all(&takes, params) && ty.results().len() == 0 {
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

    /// What its memories start with.
    pub(super) fn image(&self) -> &Image {
        self.0.image.get_or_init(|| Image::of(&self.0.bytes))
    }

    /// Whether its processes are to get guarded memory.
    pub(super) fn computes(&self) -> bool {
        self.0.computes
    }

    /// The code for a process in guarded memory, or in a slot; the latter is compiled when it is first needed.
    pub(super) async fn native(&self, guarded: bool, whose: Whose) -> Result<&Native, ModuleError> {
        if self.0.computes == guarded {
            return Ok(&self.0.main);
        }
        self.other(&self.0.dense, Form::Dense, whose).await
    }

    /// The same module with fuel counting, compiled when first asked for.
    pub(super) async fn fuelled(&self, whose: Whose) -> Result<&Native, ModuleError> {
        self.other(&self.0.fuelled, Form::Fuelled, whose).await
    }

    /// Compiles it in another way, once.
    async fn other<'a>(
        &'a self,
        made: &'a OnceCell<Native>,
        form: Form,
        whose: Whose,
    ) -> Result<&'a Native, ModuleError> {
        match made.get() {
            Some(native) => Ok(native),
            // In a box: each process has room for what it waits for, and hardly any waits for this.
            None => Box::pin(self.make(made, form, whose)).await,
        }
    }

    async fn make<'a>(
        &'a self,
        made: &'a OnceCell<Native>,
        form: Form,
        whose: Whose,
    ) -> Result<&'a Native, ModuleError> {
        let compiles = self.0.engine.compiles();
        compiles.recall(self.0.hash, form)?;
        let own = compiles.own(whose).await;
        let make = || async {
            compiles.recall(self.0.hash, form)?;
            compiles.check_room(whose, self.0.bytes.len())?;
            let turn = compiles.turn(own).await;
            let module = self.clone();
            let made = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                let Inner {
                    engine,
                    hash,
                    bytes,
                    ..
                } = &*module.0;
                let flavour = match form {
                    Form::Fuelled => engine.fuelled().map_err(ModuleError::NotCompiled)?,
                    Form::Main | Form::Dense => engine.plain(),
                };
                native(engine, flavour, form, whose, *hash, bytes)
            });
            made.await.unwrap_or_else(|_| Err(panicked()))
        };
        // What failed in passing is tried again by the next one.
        made.get_or_try_init(make).await
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

/// The first exported functions without results that take a few parameters which a spawn can give. Of these the engine is asked
/// once: it counts whoever uses a type, which the cores would pass to and fro with each spawn. There are so many of
/// them that nobody has to count what they take.
fn entries(module: &wasmtime::Module) -> HashMap<String, Box<[ValType]>> {
    let given = |ty: &ValType| matches!(ty, ValType::I32 | ValType::I64 | ValType::V128);
    let entry = |export: wasmtime::ExportType<'_>| {
        let ExternType::Func(ty) = export.ty() else {
            return None;
        };
        let is_short = export.name().len() <= ENTRY_NAME_BYTES && ty.params().len() <= ENTRY_PARAMS;
        let is_entry = is_short && ty.results().len() == 0 && ty.params().all(|ty| given(&ty));
        is_entry.then(|| (export.name().to_owned(), ty.params().collect()))
    };
    let looked_at = module.exports().take(ENTRIES_LOOKED_AT);
    looked_at.filter_map(entry).take(ENTRIES_MAX).collect()
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

/// Checks sizes and names the content.
async fn named(bytes: Bytes) -> Result<(ModuleHash, Bytes), ModuleError> {
    let is_small = bytes.len() <= AT_ONCE_BYTES_MAX;
    let name = move || -> Result<_, ModuleError> {
        check_size(&bytes)?;
        Ok((hash_of(&bytes), bytes))
    };
    match is_small {
        true => name(),
        false => {
            let named = tokio::task::spawn_blocking(name).await;
            named.unwrap_or_else(|_| Err(panicked()))
        }
    }
}

/// Loads or compiles for one way of compiling, and links. Remembers what is refused.
fn native(
    engine: &Engine,
    flavour: &Flavour,
    form: Form,
    whose: Whose,
    hash: ModuleHash,
    bytes: &[u8],
) -> Result<Native, ModuleError> {
    let made = linked(engine, flavour, whose, hash, bytes);
    if let Err(error) = &made {
        engine.compiles().remember(hash, form, error);
    }
    made
}

fn linked(
    engine: &Engine,
    flavour: &Flavour,
    whose: Whose,
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
            // It was compiled, so this is a lack of memory or mappings, or the compiler's fault.
            let not_loaded = |e: wasmtime::Error| {
                let text = format!("its native code could not be loaded: {e:#}");
                ModuleError::NotCompiled(bounded(text))
            };
            let loaded = cache::load_compiled(&flavour.engine, &native);
            let module = loaded.map_err(not_loaded)?;
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
    let image = module.image_range();
    let native_bytes = image.end.addr() - image.start.addr();
    Ok(Native {
        pre,
        memory,
        counted: engine.compiles().count(whose, bytes.len() + native_bytes),
    })
}

fn fits_all(takes: &[ValType], params: &[Param]) -> bool {
    let mut both = takes.iter().zip(params);
    takes.len() == params.len() && both.all(|(ty, param)| fits(ty, param))
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

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::*;
    use crate::wasm::{Compiler, EngineConfig, Profile};

    /// An engine whose modules are compiled by this line for a shell, which finds a directory in `$0`.
    fn engine(line: &str, dir: &Path) -> Engine {
        let dir = dir.to_str().unwrap();
        let config = EngineConfig {
            compiler: Some(Compiler {
                program: "/bin/sh".into(),
                args: ["-c", line, dir].map(str::to_owned).to_vec(),
                processor_time_max: Duration::from_secs(10),
                memory_bytes_max: 1 << 30,
            }),
            profile: Profile::Dense,
            ..EngineConfig::default()
        };
        Engine::new(config).unwrap()
    }

    fn temp(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tidelock-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    fn bytes() -> Vec<u8> {
        wat::parse_str(r#"(module (func (export "_start")))"#).unwrap()
    }

    #[tokio::test]
    async fn what_is_refused_is_not_compiled_again() {
        for (code, times) in [(3, 1), (4, 1), (1, 2)] {
            let dir = temp("refused");
            let engine = engine(&format!("echo >>$0/asked; exit {code}"), &dir);
            let first = Module::compile(&engine, bytes()).await.unwrap_err();
            let tenant = Whose::Tenant(tidelock_proto::Environ(7));
            let second = Module::compile_for(&engine, tenant, None, bytes().into()).await;
            assert_eq!(second.unwrap_err(), first);
            let asked = std::fs::read(dir.join("asked")).unwrap();
            assert_eq!(asked.len(), times, "{first}");
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }

    #[tokio::test]
    async fn what_fails_in_passing_is_compiled_by_the_next_one() {
        let dir = temp("passing");
        let engine = engine("cat $0/native", &dir);
        let native = dir.join("native");
        let put = |flavour: &Flavour| {
            let compiled = rewrite::compiled(&flavour.engine, flavour.how, &bytes());
            std::fs::write(&native, compiled.unwrap()).unwrap();
        };
        put(engine.plain());
        let module = Module::compile(&engine, bytes()).await.unwrap();
        std::fs::remove_file(&native).unwrap();
        for _ in 0..2 {
            let error = module.fuelled(Whose::Operator).await.err().unwrap();
            assert!(matches!(error, ModuleError::NotCompiled(_)), "{error}");
        }
        put(engine.fuelled().unwrap());
        assert!(module.fuelled(Whose::Operator).await.is_ok());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn native_code_that_cannot_be_loaded_is_no_fault_of_the_module() {
        let dir = temp("unloadable");
        let engine = engine("cat $0/native", &dir);
        let native = dir.join("native");
        std::fs::write(&native, b"no native code").unwrap();
        let error = Module::compile(&engine, bytes()).await.unwrap_err();
        assert!(
            matches!(&error, ModuleError::NotCompiled(why) if why.contains("could not be loaded")),
            "{error}"
        );
        let plain = engine.plain();
        let compiled = rewrite::compiled(&plain.engine, plain.how, &bytes());
        std::fs::write(&native, compiled.unwrap()).unwrap();
        assert!(Module::compile(&engine, bytes()).await.is_ok());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn few_entries_are_noted_and_all_are_known() {
        let many = "i32 ".repeat(1000);
        let wat = |what: &str| {
            let functions: String = (0..2 * ENTRIES_MAX)
                .map(|number| format!("(export \"{what}{number}\" (func ${what}))"))
                .collect();
            functions
        };
        let text = format!(
            "(module (func $many (param {many})) (func $few (param i32 i64)) (func $result (result i32) (i32.const 1))
                {} {} {})",
            wat("many"),
            wat("result"),
            wat("few"),
        );
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let module = Module::compile_blocking(&engine, wat::parse_str(text).unwrap()).unwrap();
        let entries = &module.0.entries;
        assert_eq!(entries.len(), ENTRIES_MAX);
        assert!(entries.keys().all(|name| name.starts_with("few")));
        let few = [Param::I32(1), Param::I64(2)];
        let many = vec![Param::I32(1); 1000];
        for number in 0..2 * ENTRIES_MAX {
            let name = |what: &str| format!("{what}{number}");
            module.check_entry(&name("few"), &few).unwrap();
            module.check_entry(&name("many"), &many).unwrap();
            for (what, params) in [("few", &many[..]), ("many", &few), ("result", &[])] {
                let refused = module.check_entry(&name(what), params);
                assert!(
                    matches!(refused, Err(EntryError::Signature { .. })),
                    "{refused:?}"
                );
            }
        }
        let missing = module.check_entry("none", &[]);
        assert!(
            matches!(missing, Err(EntryError::Missing { .. })),
            "{missing:?}"
        );
    }
}
